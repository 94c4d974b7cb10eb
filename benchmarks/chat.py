"""The engine beside plain `model.generate`: one stream, eight sessions at once, long histories.

    python benchmarks/chat.py [--model builtin|qwen3-0.6b] [--only single,batch,history]
                              [--tokens 64] [--rounds 3] [--longest 8192]

Contestants take their turns in every round, so that a busy machine is busy for both, and the best
round counts. `qwen3-0.6b` has that model's shape and random weights. In the history part both sides
keep their keys and values alive: the engine's window is full, the plain backbone sees everything.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.sampling import Sampling


def engine_of(name: str, **options: Any) -> Engine:
    if name == "builtin":
        return load_engine(device="cpu", **options)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from deltamem_agents.adapter import DeltaMemConfig, attach
    from deltamem_agents.testing import byte_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, vocab_size=151936,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = attach(Qwen3ForCausalLM(config).eval(), DeltaMemConfig())
    return load_engine(model, tokenizer=byte_tokenizer(), **options)


def plain(engine: Engine) -> Any:
    """The same backbone without memory, sharing the weights."""
    import copy

    from deltamem_agents.adapter import detach

    kept = {id(tensor): tensor for tensor in engine.model.parameters()}
    return detach(copy.deepcopy(engine.model, memo=kept)).eval()


def best(rounds: int, *contestants: Callable[[], float]) -> list[float]:
    """The best time of each, taking turns."""
    times: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds + 1):
        for place, contestant in enumerate(contestants):
            times[place].append(contestant())
    return [min(found[1:]) for found in times]


def no_end(engine: Engine) -> None:
    """Let replies run to their full length, on both sides."""
    engine.__dict__["end_tokens"] = frozenset()


def answer(engine: Engine, state: Any, history: list[dict[str, Any]], tokens: int) -> Any:
    options = Options(sampling=Sampling(max_tokens=tokens))
    *_, final = engine.generate(state, history, options=options)
    return final


def single(engine: Engine, tokens: int, rounds: int) -> None:
    model = plain(engine)
    history = [{"role": "user", "content": "Tell me about the sea. " * 4}]
    ids = torch.tensor([[t for p in engine.template.render(history, generate=True) for t in p.ids]])

    def ours() -> float:
        start = time.perf_counter()
        answer(engine, None, history, tokens)
        return time.perf_counter() - start

    @torch.inference_mode()
    def theirs() -> float:
        start = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
            min_new_tokens=tokens, do_sample=False,
        )  # fmt: skip
        return time.perf_counter() - start

    mine, other = best(rounds, ours, theirs)
    print(
        f"single stream, {ids.shape[1]} tokens in, {tokens} out: engine {tokens / mine:.1f} "
        f"tokens/s, plain generate {tokens / other:.1f}, ratio {other / mine:.2f}"
    )


def batch(engine: Engine, tokens: int, rounds: int, count: int = 8) -> None:
    histories = [[{"role": "user", "content": f"Session {n}. " * 6}] for n in range(count)]

    def together() -> float:
        start = time.perf_counter()
        threads = [
            threading.Thread(target=answer, args=(engine, None, history, tokens))
            for history in histories
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def in_turn() -> float:
        start = time.perf_counter()
        for history in histories:
            answer(engine, None, history, tokens)
        return time.perf_counter() - start

    one, other = best(rounds, together, in_turn)
    rate = count * tokens
    print(
        f"{count} sessions, {tokens} tokens each: at once {rate / one:.1f} tokens/s, one after "
        f"another {rate / other:.1f}, ratio {other / one:.2f}"
    )


def history(engine: Engine, longest: int) -> None:
    """Time to the first token of a follow-up turn, both sides live."""
    model, cache = plain(engine), DynamicCache(config=engine.model.config)
    state, talk, read = None, [], 0
    filler = "The harbour was quiet and the boats came home one by one before the rain. "
    mark = 1024
    print("history tokens | engine, ms | plain backbone with its cache, ms")
    while mark <= longest:
        while read < mark:
            talk += [
                {"role": "user", "content": filler * 3},
                {"role": "assistant", "content": "I see."},
            ]
            ids = [t for p in engine.template.render(talk[-2:]) for t in p.ids]
            with torch.inference_mode():
                model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            read += len(ids)
            state = engine.read(state, talk)
        question = {"role": "user", "content": "What did I say last?"}
        ids = [t for p in engine.template.render([question], generate=True) for t in p.ids]
        mine, theirs = [], []
        for _ in range(3):
            state = engine.read(state, talk)  # the live session is back, as after a turn
            start = time.perf_counter()
            answer(engine, state, [*talk, question], 1)
            mine.append(time.perf_counter() - start)
            engine.read(state, talk)
            length = cache.get_seq_length()
            start = time.perf_counter()
            with torch.inference_mode():
                model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            theirs.append(time.perf_counter() - start)
            cache.crop(length - cache.get_seq_length())
        print(f"{read:>14} | {min(mine) * 1e3:>10.1f} | {min(theirs) * 1e3:>10.1f}", flush=True)
        mark *= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin", choices=["builtin", "qwen3-0.6b"])
    parser.add_argument("--only", default="single,batch,history")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longest", type=int, default=8192)
    arguments = parser.parse_args()
    engine = engine_of(arguments.model)
    no_end(engine)
    parts = arguments.only.split(",")
    if "single" in parts:
        single(engine, arguments.tokens, arguments.rounds)
    if "batch" in parts:
        batch(engine, arguments.tokens, arguments.rounds)
    if "history" in parts:
        history(engine, arguments.longest)


if __name__ == "__main__":
    main()
