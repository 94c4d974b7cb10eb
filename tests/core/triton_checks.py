"""The Triton kernels against the slow truth. Run as a script, under the interpreter or on a GPU.

Usage: python triton_checks.py cpu | cuda | compile
"""

from __future__ import annotations

import sys
import warnings
from itertools import product

import torch
from torch import Tensor

from deltamem_agents.core import scan_triton as scan_module
from deltamem_agents.core.reference import delta_scan_reference
from deltamem_agents.core.step import UPDATES, StepRule, unpack
from deltamem_agents.core.step_triton import step_triton

# batch, tokens, heads, rank, masked, tokens of a segment
CASES = [
    (1, 1, 1, 8, False, 64),
    (2, 19, 1, 8, True, 8),
    (1, 16, 1, 4, False, 4),
    (1, 9, 2, 5, True, 4),
    (1, 3, 1, 32, False, 2),
]


def draw(batch: int, tokens: int, heads: int, rank: int) -> list[Tensor]:
    """q, k, v, keep, erase, write, state; keep exactly 0 and exactly 1 among its values."""
    shape = (batch, tokens, heads, rank)
    q, k = (torch.nn.functional.normalize(torch.randn(shape), dim=-1) for _ in range(2))
    gates = [torch.sigmoid(3 * torch.randn(shape)) for _ in range(3)]
    gates[0][:, ::5], gates[0][:, 1::5] = 0.0, 1.0
    return [q, k, torch.randn(shape), *gates, torch.randn(batch, heads, rank, rank)]


def run(
    scan: object, values: list[Tensor], mask: Tensor | None, weights: list[Tensor]
) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in values]
    reads, state = scan(*leaves, mask)  # type: ignore[operator]
    loss = (reads * weights[0].to(reads)).sum() + (state * weights[1].to(state)).sum()
    loss.backward()
    return [reads.detach(), state.detach(), *(x.grad for x in leaves)]  # type: ignore[list-item]


def check_scan(device: str) -> None:
    for batch, tokens, heads, rank, masked, segment in CASES:
        scan_module.SEGMENT = segment
        values = draw(batch, tokens, heads, rank)
        weights = [torch.randn_like(values[0]), torch.randn_like(values[6])]
        mask = torch.rand(batch, tokens) > 0.3 if masked else None
        truth = run(delta_scan_reference, [x.double() for x in values], mask, weights)
        if mask is not None:  # what a masked token holds must not matter
            values = [
                x if x is values[6] else x.masked_fill(~mask[:, :, None, None], float("nan"))
                for x in values
            ]
        there = None if mask is None else mask.to(device)
        found = run(scan_module.scan_triton, [x.to(device) for x in values], there, weights)
        for number, (want, got) in enumerate(zip(truth, found, strict=True)):
            error = float((got.cpu().double() - want).abs().max())
            assert error <= 1e-5 * max(1.0, float(want.abs().max())), (tokens, rank, number, error)
        print("scan", batch, tokens, heads, rank, masked, "agrees")


def check_step(device: str) -> None:
    count = 0
    heads = 2
    for scalar, update, coupled in product((False, True), UPDATES, (True, False)):
        gates = heads if scalar else heads * 5
        rule = StepRule(heads, 5, gates, update, coupled, normalize=count % 2 == 0)
        projected = torch.randn(2, rule.width)
        projected[1] *= 1e-4
        state = torch.randn(2, heads, 5, 5)
        truth = delta_scan_reference(*unpack(projected[:, None].double(), rule), state.double())
        reads, after = step_triton(projected.to(device), state.to(device), rule, 2.0)
        torch.testing.assert_close(reads.cpu().double(), 2 * truth[0][:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after.cpu().double(), truth[1], rtol=1e-5, atol=1e-5)
        count += 1
    print("step", count, "rules agree")


def compile_for_h100() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deltamem_agents.core import kernels_triton as kernels
    from deltamem_agents.core import step_triton

    sizes = {"R": 8, "W": 8, "L": 64, "MASKED": True}
    rule = {"COUPLED": True, "NORMALIZE": True, "OUTSIDE": False, "KEEP_ALL": False}
    jobs = [
        (kernels.find_maps, sizes | {"P": 16, "BACK": True}),
        (kernels.find_maps, sizes | {"P": 16, "BACK": False}),
        (kernels.chain_maps, {"W": 8, "P": 16, "BACK": False}),
        (kernels.run_segments, sizes),
        (kernels.recompute, sizes),
        (kernels.undo_segments, sizes),
        (step_triton._step, {"H": 1, "R": 8, "W": 8, "G": 8} | rule),
    ]
    kinds = {"T": "i32", "H": "i32", "S": "i32", "width": "i32", "scale": "fp32", "mask": "*u8"}
    for kernel, constants in jobs:
        names = [parameter.name for parameter in kernel.params]
        signature = {n: "constexpr" if n in constants else kinds.get(n, "*fp32") for n in names}
        done = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": 1, "enable_fp_fusion": True},
        )
        assert done.asm["cubin"]
        print("compiled", kernel.__name__)


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.manual_seed(0)
    if sys.argv[1] == "compile":
        compile_for_h100()
    else:
        check_scan(sys.argv[1])
        check_step(sys.argv[1])
