"""A chat model as a value: caches, copies, bindings, and where its memory goes (plumbing only)."""

from __future__ import annotations

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache

from deltamem_agents.chat import ChatDeltaMem, MemorySlot
from deltamem_agents.testing import tiny_engine


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(template="qwen3", window=2048)


@pytest.fixture
def cached():
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


OTHERS = (
    {"max_tokens": 4}, {"temperature": 2.0, "seed": 1}, {"temperature": 2.0, "seed": 2},
    {"temperature": 2.0, "seed": 1, "top_p": 0.5}, {"temperature": 2.0, "seed": 1, "top_k": 9},
    {"repetition_penalty": 9.0}, {"stop": "a"}, {"stop": ["b"]}, {"thinking": False},
)  # fmt: skip


@pytest.mark.usefixtures("cached")
def test_a_cache_tells_models_of_other_parameters_apart(engine):
    """Each answers as it would without a cache, and a second time from the cache."""
    models = [ChatDeltaMem(model=engine, **{"max_tokens": 9, **other}) for other in ({}, *OTHERS)]
    first = [model.invoke("Tell me") for model in models]
    assert [reply.content for reply in first] == [
        model.model_copy(update={"cache": False}).invoke("Tell me").content for model in models
    ]
    assert all("total_cost" not in (reply.usage_metadata or {}) for reply in first)
    assert [model.invoke("Tell me").usage_metadata["total_cost"] for model in models] == [0] * 10


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("cache", [None, True, InMemoryCache()])
def test_a_call_with_a_memory_is_never_answered_from_a_cache(engine, cache):
    model = ChatDeltaMem(model=engine, max_tokens=4, cache=cache)
    model.invoke("Tell me")
    assert "total_cost" in model.invoke("Tell me").usage_metadata
    slots = MemorySlot(), MemorySlot()
    for slot in slots:
        assert "total_cost" not in model.with_memory(slot).invoke("Tell me").usage_metadata
    assert slots[0].after == slots[1].after
    session = model.session()
    session.invoke("Tell me")
    assert session.memory == slots[0].after
