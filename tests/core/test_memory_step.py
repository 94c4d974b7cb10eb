"""The fused decode step against unpacking and scanning, for every way a projection can be read."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from deltamem_agents.core.reference import delta_scan_reference
from deltamem_agents.core.scan import delta_scan
from deltamem_agents.core.step import (
    UPDATES,
    StepRule,
    layer_step,
    memory_step,
    step_torch,
    unpack,
)
from deltamem_agents.errors import ConfigError, StateError

RULES = [
    StepRule(heads, 4, heads if scalar else heads * 4, update, coupled, normal)
    for heads, scalar, update, coupled, normal in product(
        (1, 3), (False, True), UPDATES, (True, False), (True, False)
    )
]


def inputs(rule: StepRule, batch: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, rule.width, generator=draw),
        torch.randn(batch, rule.heads, rule.rank, rule.rank, generator=draw),
    ]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_equal_to_unpacking_and_scanning(rule: StepRule) -> None:
    projected, state = inputs(rule, 3)
    copies = projected.clone(), state.clone()
    reads, after = memory_step(projected, state, rule, 2.0)
    truth = delta_scan_reference(*unpack(projected[:, None].double(), rule), state.double())
    torch.testing.assert_close(reads.double(), 2 * truth[0][:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.double(), truth[1], rtol=1e-5, atol=1e-5)
    plain = step_torch(projected, state, rule, 2.0)
    torch.testing.assert_close(plain, (reads, after), rtol=1e-5, atol=1e-5)
    assert torch.equal(projected, copies[0])
    assert torch.equal(state, copies[1])


def layer(rule: StepRule, hidden: int = 20, width: int = 11) -> list[Tensor]:
    """Matrices of a layer: inward, bias, outward."""
    draw = torch.Generator().manual_seed(1)
    shapes = ((rule.width, hidden), (rule.width,), (width, rule.heads * rule.rank))
    return [torch.randn(shape, generator=draw) / 4 for shape in shapes]


def run_layer(rule: StepRule, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    step = layer_step(*layer(rule), rule, 2.0)
    assert step is not None
    result = torch.empty(hidden.shape[0], 1, step.width, dtype=hidden.dtype)
    after = torch.empty_like(state)
    step.bind(state, after, result, torch.empty(step.scratch))(hidden.data_ptr())
    return result, after


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_layer_in_one_call_is_its_two_matrices_and_the_step(rule: StepRule) -> None:
    hidden, state = torch.randn(3, 1, 20), inputs(rule, 3)[1]
    copies = hidden.clone(), state.clone()
    result, after = run_layer(rule, hidden, state)
    inward, bias, outward = (x.double() for x in layer(rule))
    sequence = unpack(hidden.double() @ inward.T + bias, rule)
    reads, want = delta_scan_reference(*sequence, state.double())
    torch.testing.assert_close(after.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        result.double(), 2 * reads.flatten(-2) @ outward.T, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(hidden, copies[0])
    assert torch.equal(state, copies[1])


def test_a_layer_reads_and_answers_bfloat16_as_torch_rounds_it() -> None:
    rule = StepRule(2, 8, 16)
    hidden, state = torch.randn(64, 1, 20).bfloat16(), inputs(rule, 64)[1]
    result, after = run_layer(rule, hidden, state)
    exact, same = run_layer(rule, hidden.float(), state)
    assert result.dtype == torch.bfloat16
    assert torch.equal(after, same)
    assert torch.equal(result, exact.bfloat16())
    state[5, 0, 3] = float("nan")
    state[6, 0, 3] = float("inf")
    result, _ = run_layer(rule, hidden, state)
    assert result[5].isnan().all()
    assert not result[6].isfinite().any()
    assert result[7:].isfinite().all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b, a, r, s: (b[:1], a, r, s),
        lambda b, a, r, s: (b, a[..., :2], r, s),
        lambda b, a, r, s: (b, a, r[..., :5], s),
        lambda b, a, r, s: (b, a, r.half(), s),
        lambda b, a, r, s: (b.double(), a, r, s),
        lambda b, a, r, s: (b, a, r, s[1:]),
        lambda b, a, r, s: (b.transpose(-1, -2), a, r, s),
        lambda b, a, r, s: (b, a.to("meta"), r, s),
    ],
)
def test_a_layer_takes_nothing_that_does_not_fit(spoil: object) -> None:
    rule = StepRule(2, 4, 8)
    step, state = layer_step(*layer(rule), rule, 2.0), inputs(rule, 2)[1]
    assert step is not None
    given = (state, torch.empty_like(state), torch.empty(2, 1, 11), torch.empty(step.scratch))
    step.bind(*given)
    with pytest.raises(StateError):
        step.bind(*spoil(*given))  # type: ignore[operator]


def test_a_layer_elsewhere_than_on_the_cpu_has_no_such_call() -> None:
    rule = StepRule(2, 4, 8)
    assert layer_step(*(x.to("meta") for x in layer(rule)), rule, 2.0) is None


def test_unpacking_is_equations_4_and_5() -> None:
    rule = StepRule(2, 3, 2, "lambda_outside", coupled=False)
    row = inputs(rule, 1)[0][0]
    q, k, v, keep, erase, write = (x[0, 0] for x in unpack(row[None, None], rule))
    for head in range(2):
        for got, begin in ((q, 0), (k, 6)):
            raw = row[begin + 3 * head : begin + 3 * head + 3].tanh()
            torch.testing.assert_close(got[head], raw / raw.norm())
        torch.testing.assert_close(v[head], row[12 + 3 * head : 15 + 3 * head])
        beta, kept = torch.sigmoid(row[18 + head]), torch.sigmoid(row[20 + head])
        torch.testing.assert_close(write[head], beta.expand(3))
        torch.testing.assert_close(keep[head], kept.expand(3))
        torch.testing.assert_close(erase[head], (kept * beta).expand(3))


def test_step_by_step_equals_the_scan_of_all() -> None:
    rule = StepRule(2, 8, 16)
    state = inputs(rule, 2)[1]
    projected = torch.stack([inputs(rule, 2, seed)[0] for seed in range(40)], 1)
    reads, after = delta_scan(*unpack(projected, rule), state)
    parts = []
    for t in range(40):
        part, state = memory_step(projected[:, t], state, rule)
        parts.append(part)
    torch.testing.assert_close(torch.stack(parts, 1), reads, rtol=0, atol=1e-5)
    torch.testing.assert_close(state, after, rtol=0, atol=1e-5)


def test_views_are_read_as_they_lie() -> None:
    rule = StepRule(2, 4, 2)
    projected, state = inputs(rule, 3)
    wide = torch.zeros(3, 2 * rule.width)
    wide[:, ::2] = projected
    turned = state.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not turned.is_contiguous()
    want = memory_step(projected, state, rule)
    assert all(map(torch.equal, want, memory_step(wide[:, ::2], turned, rule)))


def test_a_zero_query_stays_zero_and_gates_saturate_cleanly() -> None:
    rule = StepRule(1, 4, 4)
    projected = torch.zeros(1, rule.width)
    projected[:, 12:] = torch.tensor([200.0, -200.0, 90.0, -90.0])
    reads, after = memory_step(projected, torch.ones(1, 1, 4, 4), rule)
    assert (reads == 0).all()
    want = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None].expand(4, 4)
    torch.testing.assert_close(after[0, 0], want, rtol=0, atol=1e-30)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y, s: (y[:, 1:], s),
        lambda y, s: (y[:, None], s),
        lambda y, s: (y, s[:1]),
        lambda y, s: (y, s[:, :1]),
        lambda y, s: (y.bfloat16(), s),
        lambda y, s: (y, s.double()),
        lambda y, s: (y, s.to("meta")),
        lambda y, s: (y.requires_grad_(), s),
    ],
)
def test_what_does_not_fit_is_refused(spoil: object) -> None:
    rule = StepRule(2, 4, 8)
    with pytest.raises(StateError):
        memory_step(*spoil(*inputs(rule, 2)), rule)  # type: ignore[operator]


@pytest.mark.parametrize("fields", [(0, 8, 8), (1, 0, 1), (2, 8, 8), (1, 8, 8, "other")])
def test_a_rule_that_makes_no_sense_is_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        StepRule(*fields)  # type: ignore[arg-type]
