"""The fused step against unpacking and scanning, for every way a projection can be read."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from deltamem_agents.core.reference import delta_scan_reference
from deltamem_agents.core.step import UPDATES, StepRule, memory_step, step_torch, unpack
from deltamem_agents.errors import ConfigError, StateError

RULES = [
    StepRule(heads, 4, heads if scalar else heads * 4, update, coupled, normal)
    for heads, scalar, update, coupled, normal in product(
        (1, 3), (False, True), UPDATES, (True, False), (True, False)
    )
]


def inputs(rule: StepRule, batch: int, tokens: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, tokens, rule.width, generator=draw) * 0.7,
        torch.randn(rule.width - 3 * rule.heads * rule.rank, generator=draw),
        torch.randn(batch, rule.heads, rule.rank, rule.rank, generator=draw),
    ]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_equal_to_unpacking_and_scanning(rule: StepRule) -> None:
    for tokens in (1, 7):
        values = inputs(rule, 2, tokens)
        want = step_torch(*values, rule)
        got = memory_step(*values, rule)
        for one, other in zip(want, got, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_unpacking_is_equations_4_and_5() -> None:
    rule = StepRule(2, 3, 2, "lambda_outside", coupled=False)
    projected, bias, _ = inputs(rule, 1, 1)
    row = projected[0, 0]
    q, k, v, keep, erase, write = (x[0, 0] for x in unpack(projected, bias, rule))
    for head in range(2):
        for got, begin in ((q, 0), (k, 6)):
            raw = row[begin + 3 * head : begin + 3 * head + 3].tanh()
            torch.testing.assert_close(got[head], raw / raw.norm())
        torch.testing.assert_close(v[head], row[12 + 3 * head : 15 + 3 * head])
        beta, lambd = (
            torch.sigmoid(row[18 + head] + bias[head]),
            torch.sigmoid(row[20 + head] + bias[2 + head]),
        )
        torch.testing.assert_close(write[head], beta.expand(3))
        torch.testing.assert_close(keep[head], lambd.expand(3))
        torch.testing.assert_close(erase[head], (lambd * beta).expand(3))


def test_tokens_that_are_masked_or_do_not_write() -> None:
    rule = StepRule(2, 4, 8)
    values = inputs(rule, 3, 12)
    draw = torch.Generator().manual_seed(1)
    mask, writes = torch.rand(2, 3, 12, generator=draw) > 0.4
    for here, there in ((mask, None), (None, writes), (mask, writes)):
        want = step_torch(*values, rule, here, there)
        got = memory_step(*values, rule, here, there)
        for one, other in zip(want, got, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    reads, after = memory_step(*values, rule, None, torch.zeros_like(writes))
    assert torch.equal(after, values[2])
    truth, _ = delta_scan_reference(*unpack(*values[:2], rule), values[2])
    torch.testing.assert_close(reads[:, :1], truth[:, :1], rtol=1e-5, atol=1e-5)
    assert (memory_step(*values, rule, mask)[0][~mask] == 0).all()


def test_token_by_token_equals_all_at_once() -> None:
    rule = StepRule(2, 8, 16)
    projected, bias, state = inputs(rule, 2, 40)
    reads, after = memory_step(projected, bias, state, rule)
    parts = []
    for t in range(40):
        part, state = memory_step(projected[:, t : t + 1], bias, state, rule)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), reads, rtol=0, atol=1e-6)
    torch.testing.assert_close(state, after, rtol=0, atol=1e-6)


def test_a_zero_query_stays_zero_and_gates_saturate_cleanly() -> None:
    rule = StepRule(1, 4, 4)
    projected = torch.zeros(1, 2, rule.width)
    projected[..., 12:] = torch.tensor([200.0, -200.0, 90.0, -90.0])
    reads, after = memory_step(projected, torch.zeros(4), torch.ones(1, 1, 4, 4), rule)
    assert (reads == 0).all()
    want = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None].expand(4, 4)
    torch.testing.assert_close(after[0, 0], want, rtol=0, atol=1e-30)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y, b, s: (y[..., 1:], b, s),
        lambda y, b, s: (y, b[1:], s),
        lambda y, b, s: (y, b, s[:1]),
        lambda y, b, s: (y.bfloat16(), b, s),
        lambda y, b, s: (y.requires_grad_(), b, s),
    ],
)
def test_what_does_not_fit_is_refused(spoil: object) -> None:
    rule = StepRule(2, 4, 8)
    with pytest.raises(StateError):
        memory_step(*spoil(*inputs(rule, 2, 3)), rule)  # type: ignore[operator]
    with pytest.raises(StateError):
        memory_step(*inputs(rule, 2, 3), rule, torch.ones(2, 3))


@pytest.mark.parametrize("fields", [(0, 8, 8), (1, 0, 1), (2, 8, 8), (1, 8, 8, "other")])
def test_a_rule_that_makes_no_sense_is_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        StepRule(*fields)  # type: ignore[arg-type]
