"""A conversation in a folder: its messages, and the memory that has read these and no others."""

from __future__ import annotations

import os

import pytest
from langchain_core.messages import HumanMessage, ToolMessage

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.chat.conversation import ChatSession
from deltamem_agents.errors import SerializationError
from deltamem_agents.testing import tiny_engine


@pytest.fixture(scope="module")
def model():
    return ChatDeltaMem(model=tiny_engine(), max_tokens=4)


@pytest.fixture
def saved(model, tmp_path):
    session = model.session()
    session.invoke("My name is Bo.")
    session.save(tmp_path)
    return session


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_conversation_takes_the_place_of_another(model, saved, tmp_path):
    model.session().save(tmp_path)
    loaded = ChatSession.load(model, tmp_path)
    assert loaded.messages == []
    assert loaded.memory is None
    saved.save(tmp_path)
    again = ChatSession.load(model, tmp_path)
    assert (again.memory, again.messages) == (saved.memory, saved.messages)
    assert set(contents(tmp_path)) == {"memory.safetensors", "messages.json"}


def test_what_cannot_be_saved_changes_nothing(saved, tmp_path):
    before = contents(tmp_path)
    saved.invoke("I like tea.")
    for odd in (object(), "\ud800"):
        saved.messages[-2] = HumanMessage("I like tea.", additional_kwargs={"at": odd})
        with pytest.raises(SerializationError, match="additional_kwargs"):
            saved.save(tmp_path)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("broken", [0, 1])
def test_a_save_that_breaks_off_leaves_no_memory_of_other_messages(
    model, saved, tmp_path, monkeypatch, broken
):
    """At either of the renames that put the new files in their places."""
    old = list(saved.messages)
    saved.invoke("I like tea.")
    calls, replace = [], os.replace

    def replacing(source, target):
        if str(source).endswith(".new"):
            calls.append(target)
            if len(calls) > broken:
                raise OSError("the disk is gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    with pytest.raises(OSError, match="disk is gone"):
        saved.save(tmp_path)
    monkeypatch.undo()
    loaded = ChatSession.load(model, tmp_path)
    assert loaded.messages == (saved.messages if broken else old)
    assert loaded.memory is None
    loaded.invoke("Who am I?")
    saved.save(tmp_path)
    assert ChatSession.load(model, tmp_path).memory == saved.memory


def test_artifacts_are_kept_where_json_holds_them(model, tmp_path):
    session = model.session()
    session.messages = [
        HumanMessage("x"),
        ToolMessage("r", tool_call_id="1", artifact=object()),
        ToolMessage("r", tool_call_id="2", artifact={"page": 3}),
    ]
    session.save(tmp_path)
    loaded = ChatSession.load(model, tmp_path).messages
    assert [message.artifact for message in loaded[1:]] == [None, {"page": 3}]
    assert loaded[0] == session.messages[0]
