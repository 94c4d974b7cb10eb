"""What a store and a router are made of is looked at when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConfigError
from deltamem_agents.router import FactStore, HybridRouter


@pytest.mark.parametrize("given", [None, "sqlite:///facts.db", object()])
def test_a_store_is_a_savers(given: Any) -> None:
    with pytest.raises(ConfigError, match="kept by a saver"):
        FactStore(given)


@pytest.mark.parametrize("given", ["minilm", object()])
def test_embeddings_are_langchains(given: Any) -> None:
    with SQLAlchemySaver(":memory:") as saver, pytest.raises(ConfigError, match="LangChain's"):
        FactStore(saver, embeddings=given)


@pytest.mark.parametrize("given", [None, "facts.db", object()])
def test_a_router_has_a_store(given: Any) -> None:
    with pytest.raises(ConfigError, match="in a store"):
        HybridRouter(given)
