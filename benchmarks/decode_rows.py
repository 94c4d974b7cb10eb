"""A decode step of several sessions: their memories one by one in native code, or all together.

    python benchmarks/decode_rows.py [--layers 4] [--pairs 25] [--heads 1] [--dtypes fp32,bf16]

Shape of Qwen3-0.6B, random weights, one thread. What is compared is the CPU time that a layer's
hooks take inside a whole step, where the backbone has swept the caches; both ways take turns.
`adapter.decoding.FEW` is the number of sessions up to which they are read one by one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from adapter_overhead import DTYPES, interval, make_backbone

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, attach, decoding
from deltamem_agents.adapter.layer import AttentionEntry, AttentionExit, ProjectionExit

ALL = 10**6


@contextmanager
def hooks_timed() -> Iterator[list[int]]:
    """Nanoseconds of this thread that are spent in the hooks."""
    spent, real = [0], {}

    def timed(call: Any) -> Any:
        def run(self: Any, *arguments: Any) -> Any:
            start = time.thread_time_ns()
            try:
                return call(self, *arguments)
            finally:
                spent[0] += time.thread_time_ns() - start

        return run

    for kind in (AttentionEntry, AttentionExit, ProjectionExit):
        real[kind] = kind.__call__
        kind.__call__ = timed(kind.__call__)  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        for kind, call in real.items():
            kind.__call__ = call


@torch.inference_mode()
def compare(model: torch.nn.Module, batch: int, pairs: int, layers: int) -> str:
    cache = MemoryCache(model)
    model(torch.randint(0, 1000, (batch, 16)), past_key_values=cache, logits_to_keep=1)
    one, times = torch.randint(0, 1000, (batch, 1)), []
    with hooks_timed() as spent:
        for i in range(pairs + 2):
            pair = {}
            for few in (0, ALL) if i % 2 else (ALL, 0):
                decoding.FEW, spent[0] = few, 0
                model.get_submodule("model")(one, past_key_values=cache)
                pair[few] = spent[0] / layers / 1000
            times.append((pair[ALL], pair[0]))
    times = times[2:]
    alone, together = (statistics.median(each) for each in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    low, high = interval(ratios)
    return (
        f"{batch:3d} sessions: {alone:6.0f} us a layer one by one, {together:6.0f} together, "
        f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--dtypes", default="fp32,bf16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for dtype in options.dtypes.split(","):
        backbone = make_backbone(options.layers, DTYPES[dtype])
        model = attach(backbone, DeltaMemConfig(rank=8, heads=options.heads)).eval()
        for batch in map(int, options.batches.split(",")):
            print(dtype, compare(model, batch, options.pairs, options.layers), flush=True)


if __name__ == "__main__":
    main()
