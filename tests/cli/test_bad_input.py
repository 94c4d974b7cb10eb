"""Bad input at the command line: one typed error that says what to do, and nothing overwritten."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from deltamem_agents.cli.app import run
from deltamem_agents.errors import DeltaMemError, MissingThreadError, ThreadHistoryError


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with status 2 and no traceback; what it said."""
    status = run([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert status == 2, shown.out + shown.err
    assert "Traceback" not in shown.err
    return " ".join(shown.err.split())


def chat(folder: Path, database: Path) -> list[object]:
    model = ["--model", folder / "backbone", "--adapter", folder / "adapter"]
    return ["chat", "--db", database, *model]


def test_a_missing_model_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    said = refused(capsys, *chat(tmp_path / "nowhere", database))
    assert said.startswith("ModelNotFoundError:")
    assert "nowhere" in said
    assert "Check the path" in said
    assert not database.exists()


def test_a_missing_adapter_folder(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    (tiny / "adapter").rename(tiny / "elsewhere")
    said = refused(capsys, *chat(tiny, tiny / "chat.db"))
    assert said.startswith("ModelNotFoundError:")
    assert "Give a folder with an adapter in it" in said


def test_an_adapter_of_another_backbone(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    from deltamem_agents.testing import byte_tokenizer, tiny_backbone

    tiny_backbone(hidden=64).save_pretrained(tiny / "backbone")
    byte_tokenizer().save_pretrained(tiny / "backbone")
    said = refused(capsys, *chat(tiny, tiny / "chat.db"))
    assert said.startswith("UnsupportedModelError:")
    assert "Load it into the backbone it was trained on" in said


@pytest.mark.parametrize("kept", [0, 40, 0.5])
@pytest.mark.parametrize(
    "name", ["adapter/deltamem_adapter.safetensors", "backbone/model.safetensors"]
)
def test_a_truncated_safetensors_file(
    capsys: pytest.CaptureFixture[str], tiny: Path, name: str, kept: float
) -> None:
    whole = (tiny / name).read_bytes()
    part = whole[: int(kept * len(whole)) if isinstance(kept, float) else kept]
    (tiny / name).write_bytes(part)
    said = refused(capsys, *chat(tiny, tiny / "chat.db"))
    assert said.startswith("FileFormatError:"), said
    assert (tiny / name).read_bytes() == part
    assert not (tiny / "chat.db").exists()


def test_a_changed_adapter_file(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    path = tiny / "adapter/deltamem_adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    said = refused(capsys, *chat(tiny, tiny / "chat.db"))
    assert said.startswith("FileFormatError:")
    assert "Fetch or save the adapter again" in said


def test_a_database_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    for command in (["db", "stats"], ["db", "upgrade"], ["db", "vacuum"], ["inspect"]):
        said = refused(capsys, *command, path)
        assert said.startswith("DatabaseNotFoundError:")
        assert "deltamem db init" in said
        assert not path.exists()


def test_a_file_that_is_no_database(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.db"
    path.write_bytes(b"this is a letter, not a database\n" * 200)
    before = path.read_bytes()
    said = refused(capsys, "db", "stats", path)
    assert said.startswith("CorruptStorageError:")
    assert path.read_bytes() == before


def test_a_truncated_database(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "half.db"
    assert run(["db", "init", str(path)]) == 0
    capsys.readouterr()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = path.read_bytes()
    said = refused(capsys, "db", "stats", path)
    assert said.startswith("CorruptStorageError:"), said
    assert path.read_bytes() == before


def test_an_unknown_kind_of_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "db", "stats", "oracle://nowhere/db").startswith("ConfigError:")


def test_a_thread_without_an_id(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from deltamem_agents import SQLAlchemySaver, ThreadMemory

    path = tmp_path / "some.db"
    with SQLAlchemySaver(f"sqlite:///{path}") as saver:
        with pytest.raises(MissingThreadError, match="thread_id"):
            saver.get_tuple({"configurable": {}})
        with pytest.raises(ThreadHistoryError, match="thread_id"):
            ThreadMemory(object(), {"configurable": {}}, saver=saver)
    said = refused(capsys, "inspect", path, "--thread", "nobody")
    assert said.startswith("ThreadHistoryError:")
    assert "nobody" in said


def test_an_agent_called_without_a_thread(tiny: Path) -> None:
    from langchain.agents import create_agent

    from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver

    model = ChatDeltaMem(model=str(tiny / "backbone"), adapter=str(tiny / "adapter"))
    with SQLAlchemySaver(tiny / "agent.db") as saver:
        agent = create_agent(model, middleware=[DeltaMemMiddleware()], checkpointer=saver)
        said = {"messages": [("user", "Hello")]}
        with pytest.raises(ValueError, match="thread_id"):  # LangGraph's own, before the saver
            agent.invoke(said, {"configurable": {}})
        with pytest.raises(DeltaMemError, match="thread"):
            agent.invoke(said, {"configurable": {"thread_id": ""}})
        assert saver.stats().checkpoints == 0


def test_an_empty_thread_id(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    assert run(["db", "init", str(path)]) == 0
    assert "thread" in refused(capsys, "facts", "list", path, "")


def test_a_thread_that_is_not_there_is_told_from_one_without_facts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from deltamem_agents import SQLAlchemySaver
    from tests.checkpoint.helpers import config, put

    path = tmp_path / "some.db"
    assert run(["db", "init", str(path)]) == 0
    capsys.readouterr()
    for command in (["facts", "list", path, "alcie"], ["inspect", path, "--thread", "alcie"]):
        said = refused(capsys, *command)
        assert said.startswith("ThreadHistoryError: a thread is in the database; got 'alcie'")
        assert "tenant 'default' has none" in said
        assert "deltamem chat --db" in said
    with SQLAlchemySaver(path) as saver:
        for thread in ("alice", "bob", *"cdefgh"):
            put(saver, config(thread), {"n": 1})
    for command in (
        ["facts", "list", path, "alcie"],
        ["facts", "search", path, "alcie", "what is my code?"],
        ["facts", "forget", path, "alcie", "12345678"],
        ["inspect", path, "--thread", "alcie"],
    ):
        said = refused(capsys, *command)
        assert "'alcie', which is none of the 8 of tenant 'default'" in said
        assert "There is 'alice' and 7 more; `deltamem inspect DATABASE` lists them" in said
    assert "and 3 more;" in refused(capsys, "facts", "list", path, "someone else")
    assert "tenant 'other' has none" in refused(
        capsys, "facts", "list", path, "alice", "--tenant", "other"
    )
    assert run(["facts", "list", str(path), "alice"]) == 0
    assert capsys.readouterr().out == "No facts.\n"


def test_everything_that_is_missing_is_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Missing arguments 'database' and 'thread'." in refused(capsys, "facts", "list")
    said = refused(capsys, "facts", "forget")
    assert "Missing arguments 'database', 'thread' and 'fact_id'." in said
    assert "Missing argument 'question'." in refused(capsys, "facts", "search", "a.db", "t")
    assert "No such option" in refused(capsys, "facts", "list", "--nonsense")


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--max-tokens", 0, "max_tokens is at least 1"),
        ("--temperature", -1, "temperature is at least 0"),
        ("--window", 5, "the window holds the shortest message"),
        ("--window", 0, "context_window is at least 1"),
        ("--thread", "", "thread_id"),
        ("--db", "", "a database is named by"),
        ("--db", "no/such/folder/chat.db", "a file in a folder that is there"),
        ("--db", "oracle://nowhere/db", "the database is SQLite, PostgreSQL"),
    ],
)
def test_chat_refuses_an_option_before_the_first_turn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path,
    option: str, value: object, rule: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello.\n"))
    said = refused(capsys, *chat(tiny, tiny / "chat.db"), option, value)
    assert rule in said
    assert "Hello" not in said
    if option != "--thread":  # which the database has to be asked about
        assert not (tiny / "chat.db").exists()


def test_chat_refuses_a_thread_of_another_model_before_the_first_turn(
    capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    from deltamem_agents import SQLAlchemySaver
    from tests.checkpoint.helpers import config, memory, put

    with SQLAlchemySaver(tiny / "chat.db") as saver:
        put(saver, config("chat"), {"delta_memory": memory()})
    said = refused(capsys, *chat(tiny, tiny / "chat.db"))
    assert said.startswith("StateError: a thread goes on with the model that wrote its memory")
    assert "begin another --thread" in said


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command" in refused(capsys, "remember")


def test_the_demo_does_not_touch_a_database_that_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "agent.db").write_bytes(b"mine")
    said = refused(capsys, "demo", "--folder", tmp_path)
    assert said.startswith("ConfigError:")
    assert (tmp_path / "agent.db").read_bytes() == b"mine"


def test_every_error_of_ours_says_rule_and_remedy() -> None:
    error = DeltaMemError("a rule holds", got="something else", remedy="Do this.")
    assert str(error) == "a rule holds; got something else. Do this."


def test_a_folder_that_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    said = refused(capsys, "demo", "--folder", taken)
    assert "taken" in said
    assert taken.read_text() == "mine"
