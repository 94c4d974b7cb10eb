"""Tools, schemas and their errors in every form that LangChain users bring (plumbing only)."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from deltamem_agents import testing
from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.chat.messages import to_dict
from deltamem_agents.testing import scripted, tiny_engine

ARGUMENTS = '{"name": "look", "arguments": {"at": "a", "n": 1}}'
CALL = f"<tool_call>\n{ARGUMENTS}\n</tool_call>"
BROKEN = '<tool_call>\n{"name": "look", "arguments": {"at": oops}}\n</tool_call>'
PROMPTS: list[str] = []


def script(prompt: str) -> str:
    PROMPTS.append(prompt)
    last = prompt.rpartition("<|im_start|>user\n")[2]
    if "<tool_response>" in last:
        return "Thank you."
    return BROKEN if "broken" in last else f"{CALL}\n{CALL}" if "twice" in last else CALL


@pytest.fixture(scope="module")
def model():
    return ChatDeltaMem(model=scripted(tiny_engine(window=4096), script), max_tokens=300)


def look(at: str, n: int = 0) -> str:
    """Look at a place."""
    return f"{at}{n}"


async def alook(at: str, n: int = 0) -> str:
    """Look at a place."""
    return f"{at}{n}"


class Look(BaseModel):
    """Look at a place."""

    at: str
    n: int = Field(default=0, description="how often")


class LookDict(TypedDict):
    """Look at a place."""

    at: str
    n: int


SCHEMA = {
    "title": "look",
    "description": "Look at a place.",
    "type": "object",
    "properties": {"at": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["at"],
}
OPENAI = {"name": "look", "description": "Look.", "parameters": {**SCHEMA}}
ANTHROPIC = {"name": "look", "description": "Look.", "input_schema": {**SCHEMA}}
KINDS = {
    "function": look,
    "coroutine": alook,
    "pydantic class": Look,
    "TypedDict": LookDict,
    "decorated": tool("look")(look),
    "structured tool": StructuredTool.from_function(coroutine=alook, name="look"),
    "runnable": RunnableLambda(lambda given: given["at"]).as_tool(
        arg_types={"at": str, "n": int}, name="look", description="Look at a place."
    ),
    "JSON schema": SCHEMA,
    "OpenAI's function": OPENAI,
    "OpenAI's tool": {"type": "function", "function": OPENAI},
    "Anthropic's tool": ANTHROPIC,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tool_is_shown_and_called(model, kind):
    PROMPTS.clear()
    reply = model.bind_tools([KINDS[kind]], tool_choice="any").invoke("go")
    assert '"at"' in PROMPTS[-1].partition("\n</tools>")[0]
    [call] = reply.tool_calls
    assert call["name"].lower() in ("look", "lookdict", "alook")
    if call["name"] == "look":  # the script's own name; else the grammar put another in its place
        assert call["args"] == {"at": "a", "n": 1}


def test_calls_come_in_pieces_that_join(model):
    pieces = list(model.bind_tools([look]).stream("twice"))
    chunks = [chunk for piece in pieces for chunk in piece.tool_call_chunks]
    assert [chunk["name"] for chunk in chunks if chunk["name"]] == ["look", "look"]
    assert len({chunk["id"] for chunk in chunks if chunk["id"]}) == 2
    for index in (0, 1):
        mine = [chunk["args"] for chunk in chunks if chunk["index"] == index]
        assert len(mine) > 5
        assert "".join(mine) == '{"at": "a", "n": 1}'


def test_one_call_where_parallel_ones_are_not_wanted(model):
    one = model.bind_tools([look], parallel_tool_calls=False).invoke("twice")
    assert len(one.tool_calls) == 1
    assert len(model.bind_tools([look]).invoke("twice").tool_calls) == 2


def test_a_malformed_call_is_an_invalid_one(monkeypatch):
    """Where the tokenizer has no marks of calls, no grammar can hold the model to the schema."""
    monkeypatch.setattr(testing, "ADDED_TOKENS", ())
    model = ChatDeltaMem(model=scripted(tiny_engine(window=4096), script), max_tokens=200)
    bound = model.bind_tools([look])
    reply = bound.invoke("broken")
    assert reply.tool_calls == []
    [wrong] = reply.invalid_tool_calls
    assert (wrong["name"], wrong["args"]) == ("look", '{"at": oops}')
    assert bound.invoke("go").tool_calls[0]["args"] == {"at": "a", "n": 1}
    again = bound.invoke([HumanMessage("broken"), reply, HumanMessage("go")])
    assert again.tool_calls  # the malformed call can stand in a history


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("text", "text"), ("", ""), (["a", "b"], "ab"), ([{"type": "text", "text": "t"}], "t"),
        ([{"type": "json", "json": {"x": 1}}], "{'x': 1}"), ([{"json": [1]}], "[1]"),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "r"}]}], "r"),
        ([{"type": "text", "text": "a"}, "b"], "ab"),
    ],
)  # fmt: skip
def test_tool_messages_in_all_forms(model, content, shown):
    call = {"name": "look", "args": {"at": "a"}, "id": "1", "type": "tool_call"}
    message = ToolMessage(content, tool_call_id="1", artifact={"kept": "out"}, status="error")
    assert to_dict(message)["content"] == shown
    PROMPTS.clear()
    talk = [HumanMessage("go"), AIMessage("", tool_calls=[call]), message]
    assert model.bind_tools([look]).invoke(talk).content == "Thank you."
    assert f"<tool_response>\n{shown}\n</tool_response>" in PROMPTS[-1]


def nested(**schema):
    return {"title": "t", "type": "object", "properties": {"x": schema}, "required": ["x"]}


@pytest.mark.parametrize(
    "schema",
    [
        nested(type="nothing"),
        nested(type="integer", minimum=5, maximum=3),
        nested(type="string", pattern="(["),
        nested(type="number", minimum=2, exclusiveMaximum=2),
        nested(enum=[]),
        nested(**{"$ref": "#/$defs/missing"}),
    ],
)
def test_schemas_that_cannot_be_met_or_enforced(model, schema):
    """An error before a token is generated, of the kind that LangChain users expect."""
    with pytest.raises(ModelInvalidRequestError, match="schema") as caught:
        model.with_structured_output(schema).invoke("hello")
    assert isinstance(caught.value, ValueError)
    described = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}  # fmt: skip  # noqa: E501
    with pytest.raises(ModelInvalidRequestError, match="schema"):
        model.bind_tools([described]).invoke("hello")


def test_what_a_schema_forbids_is_refused_for_content_and_left_to_a_tool(model):
    schema = nested(**{"not": {"type": "string"}})
    with pytest.raises(ModelInvalidRequestError, match="schema"):
        model.with_structured_output(schema).invoke("hello")
    described = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}  # fmt: skip  # noqa: E501
    assert model.bind_tools([described]).invoke("hello").tool_calls


def test_roles_that_are_no_roles(model):
    odd = ChatMessage.model_construct(content="a", role=3)
    for each in (odd, ChatMessage("a", role="")):
        with pytest.raises(ModelInvalidRequestError, match="role is one of"):
            model.invoke([each])
        with pytest.raises(ModelInvalidRequestError, match="role is one of"):
            asyncio.run(model.ainvoke([each]))
