"""A forgetting that fails, or whose process is killed, is made good by the same call again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, RemoveMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.checkpoint import SQLAlchemySaver, rewriting, writing
from deltamem_agents.checkpoint.database import Database
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph import facts as graph_facts
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.router import FactStore, HybridRouter
from tests.graph.test_graph_changes import joined, state_of, told_nowhere

SECRET = "XK-4471-Q"
WHERE: Any = {"configurable": {"thread_id": "t"}}


def agent(model: Any, saver: Any, store: Any = None, schema: Any = None) -> Any:
    router = HybridRouter(store) if store is not None else None
    middleware = [DeltaMemMiddleware(router=router)]
    return create_agent(
        model, tools=[], middleware=middleware, checkpointer=saver, state_schema=schema
    )


def told(graph: Any, turns: int = 5, secret: int = 1) -> str:
    for turn in range(turns):
        text = f"my badge is {SECRET}" if turn == secret else f"fact {turn}: {turn * 7}"
        graph.invoke({"messages": [HumanMessage(text)]}, WHERE)
    found = [m for m in graph.get_state(WHERE).values["messages"] if SECRET in m.text]
    return str(found[0].id)


def replayed(model: Any, messages: Any) -> Any:
    return model.engine.read(None, [to_dict(message) for message in messages])


def known(store: FactStore) -> list[str]:
    """What the store tells in any branch."""
    scope = store.branch("t")
    every = type(scope)(scope.tenant, scope.thread)
    return [fact.value for fact in store.facts(every, closed=True)]


def is_forgotten(graph: Any, model: Any, store: FactStore | None, folder: Path | None) -> None:
    told_nowhere(graph.checkpointer)
    for one in graph.get_state_history(WHERE):
        assert not [m for m in one.values.get("messages", []) if SECRET in m.text]
    now = graph.get_state(WHERE).values
    fresh = replayed(model, now["messages"])
    assert now["delta_memory"].ledger == fresh.ledger
    np.testing.assert_allclose(now["delta_memory"].state, fresh.state, atol=1e-5, rtol=0)
    if store is not None:
        assert SECRET not in known(store)
    for part in folder.iterdir() if folder else ():
        assert SECRET.encode() not in part.read_bytes(), part.name


class Planned(Exception):
    """The failure that a test plans."""


def failing(real: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Fails at its n-th call, before doing anything."""
    calls = []

    def fails(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Planned
        return real(*arguments, **options)

    return fails


# Where a forgetting can be cut off: what, which call of it, and whether the text is then gone.
CUTS: dict[str, tuple[Any, str, int, bool]] = {
    "facts apart": (FactStore, "forget", 1, False),
    "facts beside": (graph_facts, "erase", 1, False),
    "first checkpoint": (writing, "put_checkpoint", 1, False),
    "fifth checkpoint": (writing, "put_checkpoint", 5, False),
    "collecting blobs": (rewriting, "collect", 1, False),
    "emptying the log": (Database, "purge", 1, True),
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("chosen", ["id", "predicate"])
def test_a_failure_at_any_step_is_made_good(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chosen: str
) -> None:
    model = tiny(context_window=480, low_water=300)
    where, what, call, text_gone = CUTS[name]
    apart = name == "facts apart"
    saver = SQLAlchemySaver(tmp_path / "agent.db")
    elsewhere = SQLAlchemySaver(tmp_path / "facts.db") if apart else saver
    with saver, elsewhere:
        store = FactStore(elsewhere)
        graph = agent(model, saver, store)
        badge = told(graph)
        memory = ThreadMemory(graph, WHERE)
        goes: Any = badge if chosen == "id" else lambda message: SECRET in message.text
        with monkeypatch.context() as patch:
            patch.setattr(where, what, failing(getattr(where, what), call))
            with pytest.raises(Planned):
                memory.forget(goes)
        held = [m for m in graph.get_state(WHERE).values["messages"] if SECRET in m.text]
        assert bool(held) is not text_gone
        assert (SECRET in known(store)) is not text_gone, "text and fact go together"
        report = memory.forget(goes)
        assert report.purged
        assert bool(report.message_ids) is not text_gone
        is_forgotten(graph, model, store, tmp_path)
        assert memory.forget(badge).message_ids == (), "and once more"
        with pytest.raises(ThreadHistoryError, match="is a message of the thread"):
            memory.forget([badge, "no such id"])


def test_facts_of_another_database_are_gone_before_the_text_and_tell_of_repeats(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(context_window=480, low_water=300)
    with SQLAlchemySaver(tmp_path / "a.db") as saver, SQLAlchemySaver(tmp_path / "f.db") as apart:
        store = FactStore(apart)
        graph = agent(model, saver, store)
        dog = graph.invoke({"messages": [HumanMessage("my dog is called Rex")]}, WHERE)
        later = graph.invoke({"messages": [HumanMessage("Rex barks")]}, WHERE)["messages"][-2].id
        assert "Rex" in known(store)
        memory = ThreadMemory(graph, WHERE)
        with monkeypatch.context() as patch:
            patch.setattr(writing, "put_checkpoint", failing(writing.put_checkpoint, 2))
            with pytest.raises(Planned):
                memory.forget(dog["messages"][0].id)
        assert "Rex" not in known(store)
        report = memory.forget(dog["messages"][0].id)
        assert later in [repeat.message_id for repeat in report.repeats]


@pytest.mark.parametrize("changes", [False, True], ids=["lists", "changes"])
@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_a_saver_without_transactions_is_made_good_too(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, call: int, changes: bool
) -> None:
    model = tiny()
    saver = InMemorySaver()
    schema = state_of(joined) if changes else None
    assert not changes or isinstance(
        agent(model, saver, schema=schema).channels["messages"], DeltaChannel
    )
    graph = agent(model, saver, schema=schema)
    badge = told(graph)
    oldest = graph.get_state(WHERE).values["messages"][:4]
    gone = [RemoveMessage(str(message.id)) for message in oldest]
    graph.update_state(WHERE, {"messages": gone}, as_node="model")
    heard = [message for message in oldest if message.id != badge][:-1]
    graph.invoke({"messages": [HumanMessage("and more")]}, WHERE)
    memory = ThreadMemory(graph, WHERE)
    with monkeypatch.context() as patch:
        patch.setattr(saver, "put", failing(saver.put, call))
        with pytest.raises(Planned):
            memory.forget(badge)
    report = memory.forget(badge)
    assert badge in report.message_ids
    now = graph.get_state(WHERE).values
    fresh = replayed(model, [*heard, *now["messages"]])
    assert now["delta_memory"].ledger == fresh.ledger
    np.testing.assert_allclose(now["delta_memory"].state, fresh.state, atol=1e-5, rtol=0)
    for one in graph.get_state_history(WHERE):
        assert not [m for m in one.values.get("messages", []) if SECRET in m.text]


def _killed(cut: str, folder: Path, make: Callable[..., Any], badge: str) -> None:
    """A process that dies in the middle of a forgetting."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    where, what, call, _ = CUTS[cut]
    saver = SQLAlchemySaver(folder / "agent.db")
    graph = agent(make(context_window=480, low_water=300), saver, FactStore(saver))
    real, calls = getattr(where, what), []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return die() if len(calls) == call else real(*arguments, **options)

    setattr(where, what, counted)
    ThreadMemory(graph, WHERE).forget(badge)


def make_tiny(folders: tuple[Path, Path], **options: Any) -> Any:
    from deltamem_agents.chat import ChatDeltaMem

    backbone, adapter = folders
    return ChatDeltaMem(model=str(backbone), adapter=str(adapter), max_tokens=4, **options)


@pytest.mark.parametrize("cut", ["fifth checkpoint", "emptying the log"])
def test_a_killed_process_is_made_good(
    tiny: Any, tiny_folders: tuple[Path, Path], tmp_path: Path, cut: str
) -> None:
    from functools import partial

    model = tiny(context_window=480, low_water=300)
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        badge = told(agent(model, saver, FactStore(saver)))
    arguments = (cut, tmp_path, partial(make_tiny, tiny_folders), badge)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        store = FactStore(saver)
        graph = agent(model, saver, store)
        assert (SECRET in known(store)) is (cut == "fifth checkpoint")
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        is_forgotten(graph, model, store, tmp_path)
