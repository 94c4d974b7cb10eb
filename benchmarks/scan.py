"""The scan beside the token loop that the released code uses, in one run on one thread.

    python benchmarks/scan.py [--device cuda] [--rounds 3]

All contestants take their turn in every round. On a CPU, CPU time of the one thread is measured,
so that other work on the machine does not count; on a GPU, wall time between synchronisations.
Medians; the ratio is loop over form. Forward runs without gradients, as in inference;
"and backward" is a forward with gradients to all seven inputs, and the backward.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from deltamem_agents.core.scan import delta_scan
from deltamem_agents.core.scan_chunked import scan_chunked

SHAPES = [(1, 1, 1), (1, 1, 256), (1, 1, 2048), (1, 1, 8192), (8, 4, 2048)]  # B, H, T
RANK = 8


def token_loop(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, erase: Tensor, write: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """What the released code does on a CPU: a Python step a token, heads folded into the batch."""
    batch, tokens, heads, rank = q.shape
    q, k, v, keep, erase, write = (
        x.transpose(1, 2).reshape(batch * heads, tokens, rank)
        for x in (q, k, v, keep, erase, write)
    )
    state = state.reshape(batch * heads, rank, rank)
    reads = []
    for t in range(tokens):
        reads.append(torch.einsum("bij,bj->bi", state, q[:, t]))
        known = torch.einsum("bij,bj->bi", state, k[:, t])
        change = write[:, t] * v[:, t] - erase[:, t] * known
        state = keep[:, t].unsqueeze(-1) * state + change.unsqueeze(-1) * k[:, t].unsqueeze(1)
    together = torch.stack(reads, 1).reshape(batch, heads, tokens, rank).transpose(1, 2)
    return together, state.reshape(batch, heads, rank, rank)


FORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "loop": token_loop,
    "delta_scan": delta_scan,
    "plain torch": scan_chunked,
}


def inputs(batch: int, heads: int, tokens: int, device: str) -> list[Tensor]:
    """As a fresh adapter has them: unit queries and keys, gates about .18."""
    shape = (batch, tokens, heads, RANK)
    q, k = (torch.nn.functional.normalize(torch.randn(shape).tanh(), dim=-1) for _ in range(2))
    beta = torch.sigmoid(0.3 * torch.randn(shape) - 1.5)
    state = torch.randn(batch, heads, RANK, RANK)
    values = [q, k, torch.randn(shape), 1 - beta, beta, beta.clone(), state]
    return [x.to(device) for x in values]


def forward(form: Callable[..., tuple[Tensor, Tensor]], values: list[Tensor]) -> None:
    with torch.no_grad():
        form(*values)


def forward_and_backward(form: Callable[..., tuple[Tensor, Tensor]], values: list[Tensor]) -> None:
    leaves = [x.detach().requires_grad_() for x in values]
    reads, state = form(*leaves)
    (reads.sum() + state.sum()).backward()


def seconds(work: Callable[[], None], repeats: int, device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        for _ in range(repeats):
            work()
        return (time.process_time() - start) / repeats
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def compare(shape: tuple[int, int, int], rounds: int, device: str) -> str:
    values = inputs(*shape, device)
    with torch.no_grad():
        want = token_loop(*values)
        for form in FORMS.values():
            torch.testing.assert_close(form(*values), want, rtol=1e-4, atol=1e-4)
    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds):
        for name, form in FORMS.items():
            for both, task in ((False, forward), (True, forward_and_backward)):
                repeats = 1 if name == "loop" and shape[2] > 256 else max(3, 2048 // shape[2])
                if name == "delta_scan":
                    repeats = max(repeats, 10)
                    task(form, values)
                spent = seconds(lambda f=form, t=task: t(f, values), repeats, device)
                times.setdefault((name, both), []).append(spent)
    middle = {key: 1000 * median(value) for key, value in times.items()}
    cells = [", ".join(map(str, shape))]
    for name in FORMS:
        cells.append(f"{middle[name, False]:.3f} / {middle[name, True]:.3f}")
        if name != "loop":
            ratios = [middle["loop", both] / middle[name, both] for both in (False, True)]
            cells.append(f"{ratios[0]:.3g}x / {ratios[1]:.3g}x")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("ms, forward / forward and backward; rank", RANK)
    print("| B, H, T | token loop | delta_scan | faster | plain torch | faster |")
    print("|---|---|---|---|---|---|")
    for shape in SHAPES:
        print(compare(shape, options.rounds, options.device), flush=True)


if __name__ == "__main__":
    main()
