"""What the memory costs over the plain backbone: prefill, decoding, peak memory.

    python benchmarks/adapter_overhead.py [--pairs 15] [--layers 28] [--dtypes fp32,bf16]
    python benchmarks/adapter_overhead.py --memory [--tokens 32768] [--runs 3]

Shape of Qwen3-0.6B, random weights, batch 1, one thread. Backbone and backbone with memory share
their weights and take turns, the order swapped at each pair; times are CPU time of this process, so
that another process on the machine does not count. The interval is the one of order statistics that
holds the median with at least 95 %. Peak memory is the largest resident set of a process of its own
that reads a long text in chunks with 4 layers of that shape; both kinds import the same modules and
have the kernels ready, so that what differs is the memory itself.
"""

from __future__ import annotations

import argparse
import copy
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, attach

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def shape(layers: int) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True,
        max_position_embeddings=40960,
    )  # fmt: skip


def make_backbone(layers: int, dtype: torch.dtype) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return Qwen3ForCausalLM(shape(layers)).eval()
    finally:
        torch.set_default_dtype(previous)


def with_memory(backbone: Qwen3ForCausalLM) -> torch.nn.Module:
    """The same weights, with an adapter."""
    shared = {id(parameter): parameter for parameter in backbone.parameters()}
    model = copy.deepcopy(backbone, shared)
    return attach(model, DeltaMemConfig(rank=8, heads=1, corrections="qo")).eval()


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def interval(values: list[float]) -> tuple[float, float]:
    """Order statistics around the median, at least 95 %."""
    ordered, n = sorted(values), len(values)
    low = 0
    while low + 1 < n / 2 and 2 * sum(math.comb(n, i) for i in range(low + 1)) / 2**n <= 0.05:
        low += 1
    low = max(low - 1, 0)
    return ordered[low], ordered[n - 1 - low]


def compare(pairs: int, plain: Callable[[], object], memory: Callable[[], object]) -> str:
    """Overhead in % over interleaved pairs, and the milliseconds behind it."""
    for run in (plain, memory):
        run()
    times: list[tuple[float, float]] = []
    for i in range(pairs):
        if i % 2:
            second, first = seconds(memory), seconds(plain)
        else:
            first, second = seconds(plain), seconds(memory)
        times.append((first, second))
    over = [100 * (b / a - 1) for a, b in times]
    low, high = interval(over)
    base = 1000 * statistics.median(a for a, _ in times)
    return f"{statistics.median(over):+5.1f} % [{low:+5.1f}, {high:+5.1f}]  ({base:.1f} ms plain)"


@torch.inference_mode()
def speed(layers: int, pairs: int, dtype: str, prefill: int, steps: int) -> None:
    backbone = make_backbone(layers, DTYPES[dtype])
    model = with_memory(backbone)
    ids = torch.randint(0, 150_000, (1, prefill))
    one = torch.randint(0, 150_000, (1, 1))

    def read(which: torch.nn.Module, cache: DynamicCache) -> DynamicCache:
        which(ids, past_key_values=cache, logits_to_keep=1)
        return cache

    def fresh(which: torch.nn.Module) -> DynamicCache:
        return MemoryCache(model) if which is model else DynamicCache(config=backbone.config)

    if prefill:
        line = compare(
            pairs, lambda: read(backbone, fresh(backbone)), lambda: read(model, fresh(model))
        )
        print(f"{dtype}  prefill of {prefill}, {layers} layers: {line}", flush=True)
    if steps:
        ids = ids[:, :64] if prefill else torch.randint(0, 150_000, (1, 64))
        plain, memory = read(backbone, fresh(backbone)), read(model, fresh(model))

        def decode(which: torch.nn.Module, cache: DynamicCache) -> None:
            for _ in range(steps):
                which(one, past_key_values=cache)

        line = compare(pairs, lambda: decode(backbone, plain), lambda: decode(model, memory))
        print(f"{dtype}  decoding {steps} tokens, {layers} layers: {line}", flush=True)


@torch.inference_mode()
def read_long(kind: str, tokens: int, chunk: int) -> None:
    """A process of its own: read a long text in chunks, print the peak in MiB."""
    model: torch.nn.Module = make_backbone(4, torch.float32)
    warm = with_memory(Qwen3ForCausalLM(Qwen3Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=16, intermediate_size=16, vocab_size=32,
    )))  # fmt: skip
    for length in (8, 1):  # compile or load the kernels in both kinds of process
        warm(torch.ones(1, length, dtype=torch.long))
    if kind == "memory":
        attach(model, DeltaMemConfig(rank=8, heads=1, corrections="qo"))
    cache = MemoryCache(model) if kind == "memory" else DynamicCache(config=model.config)
    ids = torch.randint(0, 150_000, (1, tokens))
    for start in range(0, tokens, chunk):
        model(ids[:, start : start + chunk], past_key_values=cache, logits_to_keep=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_memory(tokens: int, chunk: int, runs: int) -> None:
    peaks: dict[str, list[float]] = {"backbone": [], "memory": []}
    for _ in range(runs):
        for kind, values in peaks.items():
            command = [sys.executable, __file__, "--child", kind]
            command += ["--tokens", str(tokens), "--chunk", str(chunk)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            values.append(float(done.stdout.split()[-1]))
    plain, memory = (statistics.median(peaks[kind]) for kind in peaks)
    print(
        f"peak of a {tokens}-token prefill in chunks of {chunk}, 4 layers fp32, median of {runs}: "
        f"{memory:.0f} MiB with memory, {plain:.0f} MiB without: {memory / plain:.3f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", choices=["backbone", "memory"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        read_long(options.child, options.tokens, options.chunk)
    elif options.memory:
        peak_memory(options.tokens, options.chunk, options.runs)
    else:
        for dtype in options.dtypes.split(","):
            speed(options.layers, options.pairs, dtype, options.prefill, options.steps)


if __name__ == "__main__":
    main()
