"""The scope of a call, from LangGraph's config and state; never from a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from deltamem_agents.checkpoint.identifiers import checked_thread
from deltamem_agents.router.facts import Scope

if TYPE_CHECKING:
    from deltamem_agents.router.documents import RetrieverStore
    from deltamem_agents.router.store import FactStore

HEAD_KEY = "fact_head"
"""The state's channel (and the config's key) that keeps the head of the branch."""


def scope_of(
    store: FactStore | RetrieverStore,
    config: RunnableConfig | None,
    state: Mapping[str, Any] | None = None,
) -> Scope:
    """Reads thread and branch of a running call.

    Args:
        store: its tenant is the scope's.
        config: names the thread.
        state: the graph's state. Without it (and without the config's own `fact_head`) every
            branch of the thread is in view.

    Raises:
        MissingThreadError: there is no thread id.
    """
    values = (config or {}).get("configurable") or {}
    thread = checked_thread(values.get("thread_id"))
    checkpoint = str((values.get("checkpoint_map") or {}).get("") or "")
    head = (state or {}).get(HEAD_KEY) or values.get(HEAD_KEY)
    if head or state is not None:
        return store.branch(thread, str(head or ""), checkpoint)
    return Scope(store.tenant, thread, None, checkpoint)
