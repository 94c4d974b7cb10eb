"""ChatDeltaMem: what LangChain users rely on, beyond the standard tests."""

from __future__ import annotations

import asyncio
import json

import pytest
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelInvalidRequestError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from deltamem_agents.chat import ChatDeltaMem, ChatSession, MemorySlot
from deltamem_agents.chat.messages import to_dict, to_dicts
from deltamem_agents.errors import ModelNotFoundError, StateError
from deltamem_agents.testing import scripted, tiny_engine

REPLIES = {
    "think": "<think>\nLet me see.\n</think>\n\nForty-two.",
    "two calls": "Both:\n"
    '<tool_call>\n{"name": "look", "arguments": {"at": "a", "n": 1}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {"at": "b", "n": 2}}\n</tool_call>',
    "one call": '<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>',
    "broken call": '<tool_call>\n{"name": "look", "arguments": ["at"]}\n</tool_call>',
    "person": '{"name": "Ann", "age": 5}',
    "count": "one two three four five",
    "long": "word " * 200,
}


def script(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2]
    return next((text for key, text in REPLIES.items() if key in last), "Hello.")


@pytest.fixture(scope="module")
def engine():
    return scripted(tiny_engine(template="qwen3", window=4096), script)


@pytest.fixture
def model(engine):
    return ChatDeltaMem(model=engine, max_tokens=200)


def look(at: str, n: int = 0) -> str:
    """Look at a place."""
    return f"{at}{n}"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


def merged(chunks):
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


def test_stream_and_invoke_say_the_same_in_all_parts(model):
    for said in ("think", "two calls", "hello"):
        bound = model.bind_tools([look], temperature=0)
        slots = MemorySlot(), MemorySlot()
        plain = model.with_memory(slots[0]).bind_tools([look]).invoke(said)
        pieces = list(model.with_memory(slots[1]).bind_tools([look]).stream(said))
        whole = merged(pieces)
        assert whole.content == plain.content
        assert whole.additional_kwargs == plain.additional_kwargs
        for one, other in zip(whole.tool_calls, plain.tool_calls, strict=True):
            assert (one["name"], one["args"]) == (other["name"], other["args"])
        assert [c["args"] for c in whole.invalid_tool_calls] == [
            c["args"] for c in plain.invalid_tool_calls
        ]
        assert whole.usage_metadata == plain.usage_metadata
        assert whole.response_metadata == plain.response_metadata
        assert slots[0].after == slots[1].after
        assert pieces[-1].chunk_position == "last"
        # The history that comes back next time is the one the memory has read.
        again = [HumanMessage(said), plain, HumanMessage("hello")]
        after = MemorySlot(slots[0].after)
        model.with_memory(after).bind_tools([look]).invoke(again)
        other = MemorySlot(slots[1].after)
        model.with_memory(other).bind_tools([look]).invoke([again[0], whole, again[2]])
        assert after.after.ledger == other.after.ledger
        assert bound.invoke(said).content == plain.content


def test_reasoning_and_usage_details(model):
    reply = model.invoke("think")
    assert reply.content == "Forty-two."
    assert reply.additional_kwargs["reasoning_content"] == "Let me see."
    blocks = [block["type"] for block in reply.content_blocks]
    assert blocks == ["reasoning", "text"]
    details = reply.usage_metadata["output_token_details"]
    assert 10 <= details["reasoning"] <= 25
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.response_metadata["model_provider"] == "deltamem"


def test_parallel_calls_and_a_tool_loop(model):
    bound = model.bind_tools([look])
    question = HumanMessage("two calls")
    reply = bound.invoke([question])
    assert reply.content == "Both:"
    assert [c["args"] for c in reply.tool_calls] == [{"at": "a", "n": 1}, {"at": "b", "n": 2}]
    assert len({c["id"] for c in reply.tool_calls}) == 2
    assert reply.response_metadata["finish_reason"] == "tool_calls"
    results = [
        ToolMessage([{"type": "text", "text": "seen"}], tool_call_id=reply.tool_calls[0]["id"]),
        ToolMessage("gone", tool_call_id=reply.tool_calls[1]["id"], status="error"),
    ]
    assert bound.invoke([question, reply, *results]).content != ""


def test_decoding_keeps_calls_well_formed(model):
    """The script wants a call that the tool's schema forbids, and runs on until it is cut."""
    reply = model.bind_tools([look]).invoke("broken call", max_tokens=160)
    assert reply.tool_calls == []
    [cut] = reply.invalid_tool_calls
    assert cut["name"] == "look"
    assert isinstance(json.loads(cut["args"][:-1])["at"], str)
    assert reply.response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize(
    "choice", ["any", "required", True, "look", {"function": {"name": "look"}}]
)
def test_a_wanted_call_is_made(model, choice):
    reply = model.bind_tools([look, Person], tool_choice=choice).invoke("hello", max_tokens=160)
    made = [*reply.tool_calls, *reply.invalid_tool_calls]
    assert len(made) == 1
    assert made[0]["name"] in ({"look"} if choice not in ("any", "required", True) else {"look", "Person"})  # fmt: skip  # noqa: E501


def test_an_unwanted_call_is_not_made(model):
    reply = model.bind_tools([look], tool_choice="none").invoke("two calls", max_tokens=40)
    assert reply.tool_calls == []
    assert "<tool_call>" not in reply.content


@pytest.mark.parametrize("schema", [Person, PersonDict, Person.model_json_schema()])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(model, schema, method):
    said = "person" if method != "function_calling" else "hello"
    result = model.with_structured_output(schema, method=method, include_raw=True).invoke(
        said, max_tokens=160
    )
    if method != "function_calling":
        assert result["parsing_error"] is None
        values = result["parsed"]
        values = values.model_dump() if schema is Person else values
        assert values == {"name": "Ann", "age": 5}
    else:
        [cut] = result["raw"].invalid_tool_calls  # the script wants no call, and runs on in this
        assert cut["name"] in ("Person", "PersonDict")
        assert set(json.loads(cut["args"][:-1])) == {"name", "age"}
        assert result["parsed"] is None
        assert isinstance(result["parsing_error"], OutputParserException)


def test_a_schema_together_with_tools(model):
    bound = model.bind_tools(
        [look],
        response_format={
            "type": "json_schema", "json_schema": {"schema": Person.model_json_schema()}
        },
        strict=True,
    )  # fmt: skip
    assert json.loads(bound.invoke("person").content) == {"name": "Ann", "age": 5}
    assert bound.invoke("one call").tool_calls[0]["args"] == {"at": "a"}


def test_stops_limits_and_counts(model, engine):
    reply = model.invoke("count", stop=["three"])
    assert (reply.content, reply.response_metadata["finish_reason"]) == ("one two ", "stop")
    reply = model.invoke("count", max_tokens=7)
    assert (reply.content, reply.response_metadata["finish_reason"]) == ("one two", "length")
    assert reply.usage_metadata["output_tokens"] == 7
    messages = [SystemMessage("s"), HumanMessage("count")]
    counted = model.get_num_tokens_from_messages(messages, tools=[look])
    used = model.bind_tools([look]).invoke(messages).usage_metadata["input_tokens"]
    assert counted == used > model.get_num_tokens_from_messages(messages)
    assert model.get_num_tokens("abc") == 3
    assert model.profile["max_input_tokens"] == engine.context_window
    assert model.profile["structured_output"] is True


async def test_cancelling_a_task_leaves_the_memory(model, engine):
    slot = MemorySlot()
    task = asyncio.create_task(model.with_memory(slot).ainvoke("long"))
    while not engine.runner.batch.sessions:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slot.after is None
    whole = MemorySlot()
    stream = model.with_memory(whole).astream("count")
    await stream.__anext__()
    await stream.aclose()
    assert whole.after is None
    assert (await model.ainvoke("count")).content == REPLIES["count"]


def test_a_slot_serves_one_call(model):
    slot = MemorySlot()
    model.with_memory(slot).invoke("hello")
    assert slot.after.tokens_written > 0
    with pytest.raises(StateError, match="one call"):
        model.with_memory(slot).invoke("hello")
    assert model.with_memory(slot).engine is model.engine
    assert model.with_memory(slot).cache is False


def test_batch_is_one_forward_call_a_token(model, engine):
    widths = []
    step = engine.runner.batch.step
    engine.runner.batch.step = lambda feeds: widths.append(len(feeds)) or step(feeds)
    replies = model.batch(["count"] * 12)
    engine.runner.batch.step = step
    assert [reply.content for reply in replies] == [REPLIES["count"]] * 12
    assert max(widths) > 8


def test_a_session_is_saved_loaded_and_forked(model, tmp_path):
    session = model.session()
    assert session.invoke("count").content == REPLIES["count"]
    assert merged(session.stream("think")).content == "Forty-two."
    session.save(tmp_path / "talk")
    loaded = ChatSession.load(model, tmp_path / "talk")
    assert loaded.memory == session.memory
    assert loaded.messages == session.messages
    branch = session.fork()
    branch.invoke("person")
    session.invoke("hello")
    assert len(branch.messages) == len(session.messages) == 6
    assert branch.memory != session.memory
    assert len(loaded.messages) == 4
    with pytest.raises(ModelNotFoundError, match=r"messages\.json"):
        ChatSession.load(model, tmp_path / "nothing")


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one message"),
        ([HumanMessage([IMAGE])], "content is text"),
        ([ToolMessage([{"type": "file", "base64": ""}], tool_call_id="1")], "content is text"),
        ([HumanMessage("a"), SystemMessage("b")], "stands at the beginning"),
        ([ChatMessage("a", role="narrator")], "role is one of"),
        ([RemoveMessage("x")], "role is one of"),
    ],
)
def test_bad_messages(model, messages, words):
    with pytest.raises(ModelInvalidRequestError, match=words) as caught:
        model.invoke(messages)
    assert isinstance(caught.value, ValueError)


def test_bad_parameters(model):
    invalid = ModelInvalidRequestError
    with pytest.raises(invalid, match="tool_choice is auto"):
        model.bind_tools([look], tool_choice="unknown")
    with pytest.raises(invalid, match="only where there are tools"):
        model.bind_tools([], tool_choice="any")
    with pytest.raises(invalid, match="a tool is"):
        model.bind_tools([3])
    with pytest.raises(invalid, match="enforced"):
        model.with_structured_output(
            {"title": "x", "type": "object", "properties": {"a": {"type": "nothing"}}}
        ).invoke("hello")
    with pytest.raises(invalid, match="method is one of"):
        model.with_structured_output(Person, method="magic")
    with pytest.raises(invalid, match="parameters are"):
        model.invoke("hello", temprature=1)
    with pytest.raises(invalid, match="temperature is at least 0"):
        model.invoke("hello", temperature=-1)
    with pytest.raises(invalid, match="was made with"):
        model.invoke("hello", model="gpt-4")
    with pytest.raises(ContextOverflowError, match="context_window"):
        model.invoke("x" * 5000)
    with pytest.raises(ModelTimeoutError, match="timeout"):
        model.invoke("long", timeout=0.0)
    with pytest.raises(ValidationError, match="temprature"):
        ChatDeltaMem(model=model.engine, temprature=1)
    with pytest.raises(ModelNotFoundError, match="folder or a name"):
        ChatDeltaMem(model="/no/such/folder")


def test_all_forms_of_content():
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "a"},
        "b",
        {"type": "tool_use", "id": "1", "name": "f", "input": {}},
    ]
    call = {"name": "f", "args": {"x": 1}, "id": "1", "type": "tool_call"}
    broken = {"name": "g", "args": "{", "id": "2", "error": None, "type": "invalid_tool_call"}
    entry = to_dict(AIMessage(blocks, tool_calls=[call], invalid_tool_calls=[broken]))
    assert entry["content"] == "ab"
    assert entry["reasoning_content"] == "hm"
    assert entry["tool_calls"] == [{"id": "1", "name": "f", "args": {"x": 1}}]
    assert entry["invalid_tool_calls"] == [{"name": "g", "args": "{"}]
    summary = HumanMessage("s", additional_kwargs={"lc_source": "summarization"})
    roles = to_dicts([SystemMessage("x"), summary, ChatMessage("y", role="developer")])
    assert [m["role"] for m in roles] == ["system", "user", "system"]
    assert roles[1]["summary"] is True
