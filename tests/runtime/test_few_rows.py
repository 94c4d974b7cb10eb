"""Few rows times large matrices: the same numbers, by another way."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from deltamem_agents.runtime import few_rows as module
from deltamem_agents.runtime.few_rows import FewRows, few_rows, gains_from_few_rows
from deltamem_agents.runtime.session import Feed
from deltamem_agents.testing import tiny_backbone


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(8, 1), (1, 20), (7,), (2, 3, 4), (3, 1), (80, 1)])
def test_products_are_the_same(monkeypatch, bias, shape):
    ways: list[tuple[int, ...]] = []
    left = module._from_the_left
    monkeypatch.setattr(module, "_from_the_left", lambda *a: ways.append(a[0].shape) or left(*a))
    torch.manual_seed(0)
    large, small = nn.Linear(512, 640, bias=bias), nn.Linear(512, 64, bias=bias)
    x = torch.randn(*shape, 512)
    with torch.inference_mode():
        expected = large(x), small(x)
        with FewRows():
            found = large(x), small(x)
            halves = nn.Linear(512, 640, dtype=torch.bfloat16)(x.bfloat16())
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert halves.dtype == torch.bfloat16
    assert len(ways) == (7 <= x.numel() // 512 <= 64)


def test_small_models_and_other_numbers_of_rows_go_without():
    assert isinstance(few_rows(8), FewRows)
    assert all(isinstance(few_rows(rows), nullcontext) for rows in (1, 6, 65))
    wide = tiny_backbone(hidden=512, layers=1)
    assert gains_from_few_rows(wide)
    assert not gains_from_few_rows(tiny_backbone())
    assert not gains_from_few_rows(wide.bfloat16())


def test_a_wide_batch_equals_each_alone():
    from deltamem_agents.adapter import DeltaMemConfig, attach
    from deltamem_agents.runtime.loading import load_engine
    from deltamem_agents.testing import byte_tokenizer

    model = attach(tiny_backbone(hidden=512, layers=2), DeltaMemConfig(rank=4, heads=2))
    engine = load_engine(model, tokenizer=byte_tokenizer())

    def read(number: int):
        session = engine.new_session(engine.empty_state().state)
        ids = [5 + number + n for n in range(3 + number)]
        engine.runner.forward([Feed(session, ids, [True] * len(ids))])
        session.length = len(ids)
        return session

    alone = [engine.runner.forward([Feed(read(n), [7], [True])])[0] for n in range(9)]
    sessions = [read(n) for n in range(9)]
    together = engine.runner.forward([Feed(session, [7], [True]) for session in sessions])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
