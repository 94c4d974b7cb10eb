"""Databases of the official savers are taken over: history, writes and all."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import ormsgpack
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.takeover import Imported
from deltamem_agents.cli.app import run
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, FileFormatError
from tests.checkpoint.helpers import checkpoint, config, memory

sqlite_saver = pytest.importorskip("langgraph.checkpoint.sqlite")
postgres_saver = pytest.importorskip("langgraph.checkpoint.postgres")


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    count: Annotated[int, operator.add]
    matrix: Any
    word: str


def _answer(state: State) -> dict[str, Any]:
    step = state["count"]
    return {
        "messages": [AIMessage(f"answer {step}", id=f"a{step}")],
        "count": 1,
        "matrix": np.full((3, 8, 8), step, np.float32),
        "word": "w" * step,
    }


def _ask(state: State) -> dict[str, Any]:
    return {"word": interrupt("which word?")} if state["count"] == 3 else {}


def _graph(saver: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("answer", _answer)
    builder.add_node("ask", _ask)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=saver)


def _talk(graph: Any, first: int, last: int, thread: str = "t") -> None:
    for step in range(first, last):
        said = [HumanMessage(f"question {step}", id=f"q{step}")]
        graph.invoke({"messages": said, "count": 0}, config(thread))


def _plain(value: Any) -> Any:
    return {
        name: entry.tolist() if isinstance(entry, np.ndarray) else entry
        for name, entry in value.items()
    }


@contextmanager
def _official(kind: str, folder: Path, database: Callable[..., str]) -> Iterator[Any]:
    """An official saver, and what to import it from."""
    if kind == "sqlite":
        connection = sqlite3.connect(folder / "official.db", check_same_thread=False)
        saver = sqlite_saver.SqliteSaver(connection)
        yield saver, folder / "official.db"
        connection.close()
        return
    url = database("postgresql", fresh=True)
    with postgres_saver.PostgresSaver.from_conn_string(
        url.replace("postgresql+psycopg", "postgresql")
    ) as saver:
        saver.setup()
        yield saver, url


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("target", ["sqlite", "postgresql", "mariadb"])
def test_the_same_graph_goes_on_after_an_import(
    tmp_path: Path, database: Callable[..., str], kind: str, target: str
) -> None:
    with _official(kind, tmp_path, database) as (theirs, source):
        old = _graph(theirs)
        _talk(old, 0, 3)  # the third turn stops at an interrupt
        _talk(old, 0, 1, "other")
        with SQLAlchemySaver(database(target)) as ours:
            report = ours.import_checkpoints(source)
            assert report.threads == 2
            assert report.checkpoints == len(list(theirs.list(None)))
            again = ours.import_checkpoints(source)
            assert again == report
            assert ours.stats().checkpoints == report.checkpoints
            new = _graph(ours)
            for one, two in zip(
                old.get_state_history(config()), new.get_state_history(config()), strict=True
            ):
                assert _plain(one.values) == _plain(two.values)
                assert one.config == two.config
                assert one.parent_config == two.parent_config
                assert one.next == two.next
                assert {**one.metadata} == {**two.metadata}  # type: ignore[dict-item]
            for graph in (old, new):
                assert graph.get_state(config()).next == ("ask",)
                graph.invoke(Command(resume="resumed"), config())
            _talk(old, 3, 5)
            _talk(new, 3, 5)
            assert _plain(old.get_state(config()).values) == _plain(new.get_state(config()).values)
            assert new.get_state(config()).values["count"] == 5


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_memory_is_one_here_too(
    tmp_path: Path, database: Callable[..., str], kind: str, url: str
) -> None:
    """The official savers keep it as a dataclass in msgpack; here it has rows of its own."""
    with _official(kind, tmp_path, database) as (theirs, source):
        graph = _graph(theirs)
        graph.update_state(config(), {"matrix": memory(5), "word": "w"}, as_node="answer")
        place = graph.update_state(config(), {"word": "v"}, as_node="answer")
        theirs.put_writes(place, [("matrix", memory(6)), ("word", [memory(6)])], "task")
        with SQLAlchemySaver(url) as ours:
            for _ in range(2):
                assert ours.import_checkpoints(source).checkpoints == 2
                listed = list(ours.list(None))
                values = [entry.checkpoint["channel_values"]["matrix"] for entry in listed]
                assert values == [memory(5)] * 2
                assert [ours.memory_at(entry.config) for entry in listed] == values
                found = ours.memories("t")
                assert [record.tokens_written for record in found] == [7, 7]
                assert ours.stats().memories == 2
                assert listed[0].pending_writes == [
                    ("task", "matrix", memory(6)),
                    ("task", "word", [memory(6)]),
                ]
        assert theirs.get_tuple(place).checkpoint["channel_values"]["matrix"] == memory(5)


def test_what_only_begins_like_a_memory_is_copied_as_it_is(
    tmp_path: Path, database: Callable[..., str]
) -> None:
    def fields(**changed: Any) -> ormsgpack.Ext:
        name = (MemoryState.__module__, MemoryState.__name__)
        return ormsgpack.Ext(2, ormsgpack.packb((*name, {"tokens_written": 1, **changed})))

    values = [fields(), [fields()], ormsgpack.packb(fields())]
    with _official("sqlite", tmp_path, database) as (theirs, source):
        for number, value in enumerate(values):
            packed = ormsgpack.packb({"v": 4, "channel_values": {"x": value}, "id": str(number)})
            theirs.setup()
            theirs.conn.execute(
                "INSERT INTO checkpoints VALUES ('t', '', ?, NULL, 'msgpack', ?, '{}')",
                (str(number), packed),
            )
        theirs.conn.commit()
        with SQLAlchemySaver(tmp_path / "ours.db") as ours:
            assert ours.import_checkpoints(source) == Imported(1, 3, 0)
            read = [entry.checkpoint["channel_values"]["x"] for entry in ours.list(None)]
            assert read[::-1] == [{"tokens_written": 1}, [{"tokens_written": 1}], values[2]]
            assert ours.memories("t") == []


def test_pending_sends_of_an_older_langgraph_come_along(database: Callable[..., str]) -> None:
    """Before version 4 of the format they were writes of the parent; its saver moves them."""
    with (
        _official("postgresql", Path(), database) as (theirs, source),
        SQLAlchemySaver("sqlite://") as ours,
    ):
        place: Any = config()
        for step, tasks in enumerate((["b", "a"], [], ["c"])):
            old = checkpoint({"x": step}, {"x": f"{step}", "y": "0"})
            old["v"] = 3
            place = theirs.put(place, old, {"step": step}, old["channel_versions"])
            for task in tasks:
                sends = [("__pregel_tasks", Send(task, {"k": number})) for number in range(2)]
                theirs.put_writes(place, sends, task)
        ours.import_checkpoints(source)
        for one, two in zip(theirs.list(None), ours.list(None), strict=True):
            assert two.checkpoint["channel_values"] == one.checkpoint["channel_values"]
            assert two.checkpoint["channel_versions"] == one.checkpoint["channel_versions"]
        first, second, third = (entry.checkpoint["channel_values"] for entry in ours.list(None))
        assert [send.node for send in second["__pregel_tasks"]] == ["a", "a", "b", "b"]
        assert "__pregel_tasks" not in {**first, **third}


def test_an_import_into_the_same_file_under_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "official.db"
    connection = sqlite3.connect(path, check_same_thread=False)
    _talk(_graph(sqlite_saver.SqliteSaver(connection)), 0, 2)
    connection.close()
    with SQLAlchemySaver(path, prefix="deltamem_") as ours:
        assert ours.import_checkpoints(path).checkpoints == 8
        assert _graph(ours).get_state(config()).values["count"] == 2


def test_an_import_encrypts_for_a_tenant_with_a_key(tmp_path: Path) -> None:
    path = tmp_path / "official.db"
    connection = sqlite3.connect(path, check_same_thread=False)
    _talk(_graph(sqlite_saver.SqliteSaver(connection)), 0, 2)
    connection.close()
    with SQLAlchemySaver(tmp_path / "ours.db", encryption_key=bytes(32)) as ours:
        ours.import_checkpoints(path)
        assert _graph(ours).get_state(config()).values["messages"][0].content == "question 0"
    assert b"question" in path.read_bytes()
    assert b"question" not in (tmp_path / "ours.db").read_bytes()


def test_the_command_takes_a_database_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = sqlite3.connect(tmp_path / "official.db", check_same_thread=False)
    old = _graph(sqlite_saver.SqliteSaver(connection))
    _talk(old, 0, 3)
    before = old.get_state(config())
    connection.close()
    ours = str(tmp_path / "ours.db")
    assert run(["db", "import", ours, str(tmp_path / "official.db")]) == 0
    assert "1 threads, 11 checkpoints" in " ".join(capsys.readouterr().out.split())
    with SQLAlchemySaver(ours) as saver:
        after = _graph(saver).get_state(config())
        assert _plain(after.values) == _plain(before.values)
        assert after.tasks[0].interrupts == before.tasks[0].interrupts
        _graph(saver).invoke(Command(resume="resumed"), config())
        assert _graph(saver).get_state(config()).values["word"] == "resumed"


def test_what_is_no_official_database_is_refused(tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "ours.db") as ours:
        with pytest.raises(ConfigError, match="is a file"):
            ours.import_checkpoints(tmp_path / "missing.db")
        assert not (tmp_path / "missing.db").exists()
        sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE notes (x)").connection.close()
        with pytest.raises(FileFormatError, match="LangGraph's SQLite or PostgreSQL"):
            ours.import_checkpoints(tmp_path / "empty.db")
        with pytest.raises(FileFormatError):
            ours.import_checkpoints(tmp_path / "ours.db")
