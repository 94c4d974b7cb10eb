"""Chat data is checked where it is read, and what is wrong is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.errors import DataNotFoundError, DeltaMemError, FileFormatError, MessageError
from deltamem_agents.training.chats import chat_from, read_chats

USER = {"role": "user", "content": "Hello"}
REPLY = {"role": "assistant", "content": "Hi"}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_good_lines_are_read_and_other_keys_ignored(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    line = json.dumps({"messages": [system, USER, REPLY], "source": "somewhere"})
    tools = json.dumps({"messages": [USER, REPLY], "tools": [{"type": "function"}]})
    first, second = read_chats([written(tmp_path, line, "", tools)])
    assert (first.system or {})["content"] == "Be kind."
    assert [entry["role"] for entry in first.messages] == ["user", "assistant"]
    assert first.name.endswith("data.jsonl:1")
    assert second.name.endswith("data.jsonl:3")
    assert second.tools == ({"type": "function"},)


def test_weights_say_what_is_learnt() -> None:
    turns = [USER, {**REPLY, "weight": 0}, USER, {**REPLY, "weight": 0.5}, USER, REPLY]
    assert chat_from({"messages": turns}).answers(4) == {3: 0.5}
    plain = chat_from({"messages": [USER, REPLY] * 3})
    assert plain.answers(2) == {3: 1.0, 5: 1.0}
    assert plain.answers(9) == {1: 1.0, 3: 1.0, 5: 1.0}


BAD: list[tuple[Any, type[DeltaMemError], str]] = [
    ("{", FileFormatError, "JSON object"),
    ("[1]", FileFormatError, "at least one message"),
    ({"messages": []}, FileFormatError, "at least one message"),
    ({"messages": ["Hello"]}, FileFormatError, "at least one message"),
    ({"messages": [USER]}, FileFormatError, "has a reply"),
    ({"messages": [USER, {**REPLY, "weight": 0}]}, FileFormatError, "has a reply"),
    ({"messages": [REPLY, USER]}, FileFormatError, "begins with the user"),
    ({"messages": [{"role": "system", "content": "x"}]}, FileFormatError, "begins with the user"),
    ({"messages": [USER, REPLY], "tools": "all"}, FileFormatError, "tools is a list"),
    ({"messages": [{"role": "robot", "content": "x"}]}, MessageError, "role is one of"),
    ({"messages": [{"role": "user", "content": [1]}, REPLY]}, MessageError, "content is text"),
    ({"messages": [USER, {**REPLY, "weight": -1}]}, MessageError, "weight is a number"),
    ({"messages": [USER, {**REPLY, "weight": True}]}, MessageError, "weight is a number"),
    ({"messages": [{**USER, "weight": 1}, REPLY]}, MessageError, "of the assistant"),
]


@pytest.mark.parametrize(("line", "error", "rule"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, error: type[Exception], rule: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    good = json.dumps({"messages": [USER, REPLY]})
    with pytest.raises(error, match=rule) as caught:
        read_chats([written(tmp_path, good, text)])
    assert "data.jsonl:2" in str(caught.value)


def test_a_missing_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="deltamem data build"):
        read_chats([tmp_path / "none.jsonl"])
    with pytest.raises(FileFormatError, match="holds a conversation"):
        read_chats([written(tmp_path, "")])


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xff\xfe\x00\x01\n")
    with pytest.raises(FileFormatError, match=r"data.jsonl:1"):
        read_chats([path])
