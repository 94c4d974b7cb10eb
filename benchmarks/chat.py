"""The engine beside plain `model.generate`: one stream, eight sessions at once, long histories.

    python benchmarks/chat.py [--model builtin,qwen3-0.6b] [--only single,batch,history]
                              [--tokens 64] [--rounds 3] [--longest 32768] [--layers 28]

Contestants take their turns in every round, so that a busy machine is busy for both; the best round
counts, by the clock and by the processor's time, which a busy machine disturbs less. What is
printed is Markdown for results/chat.md. `qwen3-0.6b`
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
import os
import threading
from typing import Any

import torch
from chat_parts.history import follow_ups, keep
from chat_parts.models import WINDOW, engine_of, no_end, plain
from chat_parts.timing import HEAD, best, report

from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.sampling import Sampling


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="builtin,qwen3-0.6b", help="one or both, by commas (default: both)"
    )
    parser.add_argument(
        "--only", default="single,batch,history", help="parts, by commas (default: all three)"
    )
    parser.add_argument(
        "--layers", type=int, default=28,
        help="of qwen3-0.6b in single and batch; fewer take less time (default: 28); history has 4",
    )  # fmt: skip
    parser.add_argument(
        "--tokens", type=int, default=64, help="of a reply, in single and batch (default: 64)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3,
        help="of which the best counts; above 1, one more goes first for warming up (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--longest", type=int, default=32768,
        help="history of the curve's last point, in tokens; it begins at 1,024 (default: 32768)",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = arguments.only.split(",")
    for name in arguments.model.split(","):
        print(f"\n{name}, load {os.getloadavg()[0]:.1f}", flush=True)
        if {"single", "batch"} & set(parts):
            print(HEAD, flush=True)
            engine = engine_of(name, arguments.layers, context_window=WINDOW[name])
            no_end(engine)
            if "single" in parts:
                single(engine, arguments.tokens, arguments.rounds)
            if "batch" in parts:
                batch(engine, arguments.tokens, arguments.rounds)
            del engine
        if "history" in parts:
            engine = engine_of(name, 4, context_window=WINDOW[name])
            keep(name, follow_ups(engine, name, arguments.longest, arguments.rounds))
        print(f"\nload afterwards {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
