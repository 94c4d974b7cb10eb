"""The engine beside plain `model.generate`: one stream, eight sessions at once, long histories.

    python benchmarks/chat.py [--model builtin,qwen3-0.6b] [--only single,batch,history]
                              [--tokens 64] [--rounds 3] [--longest 32768]

Contestants take their turns in every round, so that a busy machine is busy for both; the best round
counts, by the clock and by the processor's time, which a busy machine disturbs less. `qwen3-0.6b`
has that model's shape and random weights; of its embedding, rows that are no printable ASCII are
zero, so that replies are texts that the tokenizer would cut as they were made, as a trained model's
nearly always are. Whole replies are compared with `generate`, streamed ones with `generate` and a
TextIteratorStreamer.

In the history part both sides keep their keys and values alive: the engine's window is full, the
plain backbone sees everything. What the keys hold makes no difference to the time, so the plain
side's are drawn at random, and of the engine's history only the window is read; the rest it knows
by the digests in the ledger, as a memory that has lived through it. `qwen3-0.6b` has 4 of its 28
layers there: the plain keys and values of 32,768 tokens would take 7.5 GB. The curve's points
are kept in results/chat_history.json, and drawn from there.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.history import read_history
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.sampling import Sampler, Sampling

RESULTS = Path(__file__).parent / "results"
WINDOW = {"builtin": 512, "qwen3-0.6b": 1024}


def engine_of(name: str, layers: int = 28, **options: Any) -> Engine:
    if name == "builtin":
        return load_engine(device="cpu", **options)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from deltamem_agents.adapter import DeltaMemConfig, attach
    from deltamem_agents.testing import byte_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, vocab_size=151936,
        tie_word_embeddings=True,
    )  # fmt: skip
    backbone = Qwen3ForCausalLM(config).eval()
    tokenizer = byte_tokenizer()
    printable = tokenizer.convert_tokens_to_ids([chr(code) for code in range(33, 127)])
    with torch.no_grad():
        silent = torch.ones(config.vocab_size, dtype=torch.bool)
        silent[printable] = False
        backbone.get_input_embeddings().weight[silent] = 0.0
    model = attach(backbone, DeltaMemConfig())
    return load_engine(model, tokenizer=tokenizer, **options)


def plain(engine: Engine) -> Any:
    """The same backbone without memory, sharing the weights."""
    import copy

    from deltamem_agents.adapter import detach

    kept = {id(tensor): tensor for tensor in engine.model.parameters()}
    model = detach(copy.deepcopy(engine.model, memo=kept)).eval()
    engine.model.eval()  # the copy had packed the adapter's matrices for itself
    return model


class Best(NamedTuple):
    """Seconds of a contestant's best round, by the clock and by the processor."""

    wall: float
    cpu: float


def timed(contestant: Callable[[], Any]) -> Best:
    wall, cpu = time.perf_counter(), time.process_time()
    contestant()
    return Best(time.perf_counter() - wall, time.process_time() - cpu)


def best(rounds: int, *contestants: Callable[[], Any]) -> list[Best]:
    """The best of each, taking turns; of several rounds the first is for warming up."""
    found: list[list[Best]] = [[] for _ in contestants]
    for number in range(rounds + (rounds > 1)):
        for place, contestant in enumerate(contestants):
            taken = timed(contestant)
            if number or rounds == 1:
                found[place].append(taken)
    return [Best(min(t.wall for t in all_), min(t.cpu for t in all_)) for all_ in found]


def report(title: str, tokens: int, names: tuple[str, str], one: Best, other: Best) -> None:
    rates = f"{names[0]} {tokens / one.wall:.1f} tokens/s, {names[1]} {tokens / other.wall:.1f}"
    ratios = f"ratio {other.wall / one.wall:.2f}, by processor time {other.cpu / one.cpu:.2f}"
    print(f"{title}: {rates}, {ratios}", flush=True)


def no_end(engine: Engine) -> None:
    """Let replies run to their full length, on both sides."""
    engine.__dict__["end_tokens"] = frozenset()


def answer(
    engine: Engine, state: Any, history: list[dict[str, Any]], tokens: int, pieces: bool = False
) -> Any:
    options = Options(sampling=Sampling(max_tokens=tokens), pieces=pieces)
    *_, final = engine.generate(state, history, options=options)
    return final


def single(engine: Engine, tokens: int, rounds: int) -> None:
    from transformers import TextIteratorStreamer

    model = plain(engine)
    history = [{"role": "user", "content": "Tell me about the sea. " * 4}]
    ids = torch.tensor([[t for p in engine.template.render(history, generate=True) for t in p.ids]])
    fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    @torch.inference_mode()
    def theirs(**streamer: Any) -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), **fixed, **streamer)

    def streamed() -> None:
        streamer = TextIteratorStreamer(engine.tokenizer, skip_prompt=True)
        thread = threading.Thread(target=theirs, kwargs={"streamer": streamer})
        thread.start()
        for _ in streamer:
            pass
        thread.join()

    answer(engine, None, history, 2)  # touch the weights and compile
    with torch.inference_mode():
        model(ids)
    whole, whole_plain, pieces, pieces_plain = best(
        rounds,
        lambda: answer(engine, None, history, tokens),
        theirs,
        lambda: answer(engine, None, history, tokens, pieces=True),
        streamed,
    )
    title = f"single stream, {ids.shape[1]} tokens in, {tokens} out"
    report(title, tokens, ("engine", "plain generate"), whole, whole_plain)
    report(f"{title}, streamed", tokens, ("engine", "plain"), pieces, pieces_plain)


def batch(engine: Engine, tokens: int, rounds: int, count: int = 8) -> None:
    histories = [[{"role": "user", "content": f"Session {n}. " * 6}] for n in range(count)]

    def together() -> None:
        threads = [
            threading.Thread(target=answer, args=(engine, None, history, tokens))
            for history in histories
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def in_turn() -> None:
        for history in histories:
            answer(engine, None, history, tokens)

    one, other = best(rounds, together, in_turn)
    size = engine.count_tokens(histories[0])
    title = f"{count} sessions, {size} tokens in, {tokens} out each"
    report(title, count * tokens, ("at once", "one after another"), one, other)


class _EnoughError(Exception):
    """The first token is there."""


def first_token(engine: Engine, state: Any, talk: list[dict[str, Any]]) -> None:
    """Answer up to the choice of the first token; the live session stays as it was."""

    def choose(*_: Any) -> int:
        raise _EnoughError

    kept, Sampler.choose = Sampler.choose, choose  # type: ignore[method-assign]
    try:
        list(engine.generate(state, talk))
    except _EnoughError:
        return
    finally:
        Sampler.choose = kept  # type: ignore[method-assign]
    raise AssertionError("no token was chosen")


def lived(engine: Engine, talk: list[dict[str, Any]], window: int) -> Any:
    """A memory whose window is full of the newest turns, with a live session; see above."""
    visible, size = 0, 0
    while visible < len(talk):
        size += engine.count_tokens(talk[len(talk) - visible - 2 :][:2], generate=False)
        if size > window - 64:  # the question and its generation prompt fit too
            break
        visible += 2
    gone = talk[: len(talk) - visible]
    read = engine.read(None, talk[len(gone) :])
    session = engine.live.take(read)
    assert session is not None
    session.history = read_history(talk)[1]
    ledger = replace(
        read.ledger, evicted=session.history.rolled[len(gone)], evicted_count=len(gone)
    )
    state = replace(read, ledger=ledger)
    engine.live.put(state, session)
    return state


def filled(model: Any, length: int) -> DynamicCache:
    """A plain cache of a length."""
    config = model.config
    shape = (1, config.num_key_value_heads, length, config.head_dim)
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        cache.update(torch.randn(shape), torch.randn(shape), layer)
    return cache


def history(engine: Engine, name: str, longest: int, rounds: int) -> list[dict[str, float]]:
    """Time to the first token of a follow-up turn, both sides live."""
    model, points, window = plain(engine), [], WINDOW[name]
    filler = "The harbour was quiet and the boats came home one by one before the rain. "
    pair = [
        {"role": "user", "content": filler * (4 if name == "builtin" else 1)},
        {"role": "assistant", "content": "I see."},
    ]
    size = engine.count_tokens(pair, generate=False)
    question = {"role": "user", "content": "What did I say last?"}
    ids = [t for p in engine.template.render([question], generate=True) for t in p.ids]
    tokens = torch.tensor([ids])
    print(f"{name}, window of {window}, question of {len(ids)} tokens: tokens of history | engine, "
          "ms by the clock, by the processor | plain with its cache, the same")  # fmt: skip
    length = 1024
    while length <= longest:
        talk = [dict(message) for _ in range(length // size) for message in pair]
        state, cache = lived(engine, talk, window), filled(model, length)
        follow_up = [*talk, question]

        @torch.inference_mode()
        def theirs(cache: DynamicCache = cache) -> None:
            out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            int(out.logits[0, -1].argmax())
            cache.crop(-len(ids))

        one, other = best(rounds, lambda s=state, t=follow_up: first_token(engine, s, t), theirs)
        clock = {"engine by the clock": one.wall, "plain by the clock": other.wall}
        points.append({"tokens": length, "engine": one.cpu, "plain": other.cpu, **clock})
        seconds = (one.wall, one.cpu, other.wall, other.cpu)
        print(f"{length:>7} | " + " | ".join(f"{1e3 * s:>8.1f}" for s in seconds), flush=True)
        length *= 2
        del state, cache, theirs  # the next ones are twice as large
    return points


def keep(name: str, points: list[dict[str, float]]) -> None:
    """Keep a curve and draw all that are there."""
    from matplotlib.figure import Figure

    file = RESULTS / "chat_history.json"
    curves = json.loads(file.read_text()) if file.exists() else {}
    curves[name] = points
    file.write_text(json.dumps(curves, indent=1) + "\n")
    figure = Figure(figsize=(5.5 * len(curves), 4), layout="constrained")
    for axes, (title, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0],
                                    sorted(curves.items()), strict=True):  # fmt: skip
        for side, style in (("engine", "o-"), ("plain", "s--")):
            axes.plot([p["tokens"] for p in curve], [p[side] * 1e3 for p in curve], style,
                      label={"engine": "engine, window full", "plain": "plain, whole history"}[side])  # fmt: skip  # noqa: E501
        axes.set(
            title=title,
            xlabel="tokens of history",
            ylabel="ms of processor time to the first token",
            ylim=0,
        )
        axes.set_xscale("log", base=2)
        axes.legend()
    figure.savefig(RESULTS / "chat_history.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin,qwen3-0.6b")
    parser.add_argument("--only", default="single,batch,history")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longest", type=int, default=32768)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = arguments.only.split(",")
    for name in arguments.model.split(","):
        print(f"-- {name}, load {os.getloadavg()[0]:.1f}", flush=True)
        if {"single", "batch"} & set(parts):
            engine = engine_of(name, context_window=WINDOW[name])
            no_end(engine)
            if "single" in parts:
                single(engine, arguments.tokens, arguments.rounds)
            if "batch" in parts:
                batch(engine, arguments.tokens, arguments.rounds)
            del engine
        if "history" in parts:
            engine = engine_of(name, layers=4, context_window=WINDOW[name])
            keep(name, history(engine, name, arguments.longest, arguments.rounds))
        print(f"-- load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
