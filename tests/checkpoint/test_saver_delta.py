"""DeltaChannels: a value kept as writes along the parent chain survives whatever is removed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from deltamem_agents.checkpoint import SQLAlchemySaver
from tests.checkpoint.helpers import config


def _extend(current: list[str], updates: list[list[str]]) -> list[str]:
    for update in updates:
        current = operator.add(current, update)
    return current


class State(TypedDict):
    log: Annotated[list[str], DeltaChannel(_extend, snapshot_frequency=5)]
    turn: int


def _graph(saver: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("one", lambda state: {"log": [f"one{state['turn']}"]})
    builder.add_node("two", lambda state: {"log": [f"two{state['turn']}"]})
    builder.add_node("join", lambda state: {"log": [f"join{state['turn']}"]})
    builder.add_edge(START, "one")
    builder.add_edge(START, "two")
    builder.add_edge(["one", "two"], "join")
    builder.add_edge("join", END)
    return builder.compile(checkpointer=saver)


def _run(saver: Any, turns: int, thread: str = "t", first: int = 0) -> Any:
    graph = _graph(saver)
    for turn in range(first, first + turns):
        graph.invoke(
            {"turn": turn, "log": [f"in{turn}"]},
            {**config(thread), "metadata": {"run_id": f"run{turn}"}},
        )
    return graph


def _log(graph: Any, thread: str = "t") -> list[str]:
    log: list[str] = graph.get_state(config(thread)).values["log"]
    return log


def _expected(turns: int) -> list[str]:
    return [
        word
        for turn in range(turns)
        for word in (f"in{turn}", f"one{turn}", f"two{turn}", f"join{turn}")
    ]


def test_the_channel_is_the_same_as_in_memory(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        ours, theirs = _run(saver, 4), _run(InMemorySaver(), 4)
        assert _log(ours) == _log(theirs) == _expected(4)
        for one, two in zip(
            ours.get_state_history(config()), theirs.get_state_history(config()), strict=True
        ):
            assert one.values == two.values


REMOVALS: dict[str, Callable[[SQLAlchemySaver], None]] = {
    "prune": lambda saver: saver.prune(["t"]),
    "retain": lambda saver: saver.retain(keep_last=2) and None,  # type: ignore[func-returns-value]
    "runs": lambda saver: saver.delete_for_runs(["run0", "run1", "run2"]),
    "copy": lambda saver: [  # type: ignore[func-returns-value]
        saver.copy_thread("t", "u"),
        saver.delete_thread("t"),
        saver.copy_thread("u", "t"),
        saver.delete_thread("u"),
    ][0],
}


@pytest.mark.parametrize("how", REMOVALS)
@pytest.mark.parametrize("turns", [1, 3, 4])
def test_the_chain_is_not_cut(database: Callable[[str], str], how: str, turns: int) -> None:
    with SQLAlchemySaver(database("sqlite")) as saver:
        graph = _run(saver, turns)
        REMOVALS[how](saver)
        if how == "runs" and turns < 4:
            assert list(saver.list(None)) == []
            return
        assert _log(graph) == _expected(turns)
        if how == "prune":
            assert len(list(saver.list(config()))) == 1
        _run(saver, 2, first=turns)
        assert _log(graph) == _expected(turns + 2)
        REMOVALS[how](saver)
        assert _log(graph) == _expected(turns + 2)
        saver.delete_thread("t")
        stats = saver.stats()
        assert (stats.checkpoints, stats.hidden, stats.writes, stats.blobs) == (0, 0, 0, 0)


def test_the_chain_is_not_cut_on_any_database(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        graph = _run(saver, 3)
        saver.copy_thread("t", "u")
        saver.prune(["t"])
        assert _log(graph) == _log(graph, "u") == _expected(3)
        assert saver.stats().hidden > 0
        hidden = saver._tables.checkpoints
        with saver.engine.connect() as connection:
            rows = connection.execute(hidden.select().where(hidden.c.hidden == 1)).all()
        for row in rows:
            assert saver.get_tuple(config("t", row.checkpoint_id)) is None


def test_what_is_hidden_goes_when_nothing_needs_it(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        graph = _run(saver, 1)
        saver.prune(["t"])
        first = saver.stats().hidden
        assert first > 0
        for turn in range(1, 6):  # snapshots come in between
            _run(saver, 1, first=turn)
            saver.prune(["t"])
            assert _log(graph) == _expected(turn + 1)
            assert saver.stats().hidden <= 25
        assert saver.stats().checkpoints == 1


def test_a_fork_reads_its_own_past(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        graph = _run(saver, 2)
        past = [entry for entry in graph.get_state_history(config()) if not entry.next]
        assert past[1].values["log"] == _expected(1)
        graph.invoke({"turn": 9, "log": ["forked"]}, past[1].config)
        assert _log(graph) == [*_expected(1), "forked", "one9", "two9", "join9"]


async def test_async_graphs_read_the_same(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        graph = _graph(saver)
        for turn in range(3):
            await graph.ainvoke({"turn": turn, "log": [f"in{turn}"]}, config())
        assert (await graph.aget_state(config())).values["log"] == _expected(3)
        await saver.aprune(["t"])
        assert (await graph.aget_state(config())).values["log"] == _expected(3)
