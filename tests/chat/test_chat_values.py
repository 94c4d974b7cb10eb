"""Parameters, choices and schemas of any type and form (plumbing only)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, RootModel

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.chat.schemas import is_object
from deltamem_agents.chat.tools import resolve_choice, tool_schemas
from deltamem_agents.testing import scripted, tiny_engine

REPLY = [""]


@pytest.fixture(scope="module")
def model():
    engine = scripted(tiny_engine(template="qwen3", window=4096), lambda prompt: REPLY[0])
    return ChatDeltaMem(model=engine, max_tokens=200)


@pytest.fixture(scope="module")
def noise():
    return ChatDeltaMem(model=tiny_engine(), max_tokens=3)


# Schemas


class Node(BaseModel):
    """A node."""

    v: int
    kids: list[Node] = []


class Tree(BaseModel):
    """A tree."""

    top: Node


class Numbers(RootModel[list[int]]):
    """Some numbers."""


ROW = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ROOTS = {
    "array": ({"type": "array", "items": {"type": "integer"}}, [1, 2]),
    "types": ({"type": ["object", "null"], "properties": {"a": {"type": "integer"}}}, {"a": 3}),
    "nullable": ({"anyOf": [ROW, {"type": "null"}]}, None),
    "one of": ({"oneOf": [{"type": "string"}, ROW]}, "b"),
    "all of": ({"type": "object", "allOf": [ROW]}, {"a": 3}),
    "reference": ({"$ref": "#/$defs/X", "$defs": {"X": ROW}}, {"a": 3}),
    "enum": ({"enum": ["a", "b"]}, "b"),
    "constant": ({"const": 5}, 5),
    "map": ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": 1, "y": 2}),
    "untitled": (ROW, {"a": 3}),
}


@pytest.mark.parametrize("kind", ROOTS)
def test_a_json_schema_is_taken_as_it_stands(model, kind):
    """The model follows it; what does not fit it is put aside by decoding."""
    schema, value = ROOTS[kind]
    for titled in (schema, {"title": "T", "description": "D.", **schema}):
        bound = model.with_structured_output(titled, include_raw=True)
        REPLY[0] = json.dumps(value)
        assert json.loads(bound.invoke("q")["raw"].content) == value
        REPLY[0] = '{"wrong": true}'
        assert bound.invoke("q", max_tokens=40)["raw"].content != REPLY[0]


@pytest.mark.parametrize("kind", ROOTS)
def test_a_call_has_an_object_of_arguments_or_is_refused(model, kind):
    schema, value = ROOTS[kind]
    titled = {"title": "T", "description": "D.", **schema}
    if isinstance(value, dict):
        bound = model.with_structured_output(titled, method="function_calling")
        call = json.dumps({"name": "T", "arguments": value})
        REPLY[0] = f"<tool_call>\n{call}\n</tool_call>"
        assert bound.invoke("q") == value
    else:
        with pytest.raises(ModelInvalidRequestError, match="arguments are an object"):
            model.with_structured_output(titled, method="function_calling")


def test_which_schemas_are_of_objects():
    assert is_object({"$ref": "#/$defs/X", "$defs": {"X": {"$ref": "#/$defs/Y"}, "Y": ROW}})
    assert is_object({"anyOf": [ROW, {"properties": {}}]})
    for not_ in ({"$ref": "#"}, {"$ref": "#/$defs/X"}, {"anyOf": []}, {"not": ROW}, {"type": "null"}):  # fmt: skip  # noqa: E501
        assert not is_object(not_)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("kind", [Node, Tree])
def test_a_recursive_class_is_followed_at_any_depth(model, kind, method):
    value = {"v": 1, "kids": [{"v": 2, "kids": [{"v": 3, "kids": [{"v": 4, "kids": []}]}]}]}
    wrong = {"v": 1, "kids": [{"v": 2, "kids": [{"v": 3, "kids": ["no node"]}]}]}
    bound = model.with_structured_output(kind, method=method, include_raw=True, max_tokens=200)
    for each in (value, wrong):
        text = json.dumps(each if kind is Node else {"top": each})
        if method == "function_calling":
            text = f'<tool_call>\n{{"name": "{kind.__name__}", "arguments": {text}}}\n</tool_call>'
        REPLY[0] = text
        found = bound.invoke("q")
        if each is value:
            assert found["parsed"] == kind.model_validate(value if kind is Node else {"top": value})
        raw = found["raw"]
        said = json.dumps([raw.content, raw.tool_calls, raw.invalid_tool_calls])
        assert "kids" in said
        assert "no node" not in said



def test_recursion_of_a_tools_arguments_stays():
    @tool
    def plant(node: Node) -> str:
        """Plant a tree."""
        return ""

    [shown] = tool_schemas([plant])
    assert shown["function"]["parameters"]["$defs"]["Node"]["properties"]["kids"]["items"] == {
        "$ref": "#/$defs/Node"
    }
    assert shown["function"]["description"] == "Plant a tree."


def test_a_root_that_is_a_list(model):
    REPLY[0] = "[1, 2]"
    assert model.with_structured_output(Numbers).invoke("q") == Numbers([1, 2])
    with pytest.raises(ModelInvalidRequestError, match="arguments are an object"):
        model.with_structured_output(Numbers, method="function_calling")
    with pytest.raises(ModelInvalidRequestError, match="a schema is"):
        model.with_structured_output({"foo": 3})


def look(at: str) -> str:
    """Look at a place."""
    return at


@pytest.mark.parametrize("schema", [Node, ROW])
def test_none_where_a_tool_is_called_before_the_answer(model, schema):
    REPLY[0] = '<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>'
    assert model.with_structured_output(schema, tools=[look]).invoke("q") is None
    bound = model.with_structured_output(schema, tools=[look], include_raw=True)
    found = bound.invoke("q")
    assert found["raw"].tool_calls[0]["args"] == {"at": "a"}
    assert found["parsed"] is found["parsing_error"] is None
    REPLY[0] = '{"a": 3}' if schema is ROW else '{"v": 3}'
    assert bound.invoke("q")["parsed"] == (Node(v=3) if schema is Node else {"a": 3})
    streamed = list(model.with_structured_output(schema, tools=[look]).stream("q"))
    assert streamed[-1] == (Node(v=3) if schema is Node else {"a": 3})


# Choices

SCHEMAS = tool_schemas([look, Node])


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ({"type": "tool", "name": "Node"}, ("any", "Node")),
        ({"type": "function", "name": "Node"}, ("any", "Node")),
        ({"name": "Node"}, ("any", "Node")),
        ({"type": "function", "function": {"name": "look"}}, ("any", "look")),
        ({"type": "any"}, ("any", None)), ({"type": "required"}, ("any", None)),
        ({"type": "auto"}, ("auto", None)), ({"type": "none"}, ("none", None)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", None)),
    ],
)  # fmt: skip
def test_choices_of_other_providers(choice, meant):
    assert resolve_choice(choice, SCHEMAS) == meant


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "tool", "name": "zzz"}, {"type": "function", "function": {"name": "zzz"}},
        {"name": "zzz"}, {"type": "tool"}, {"type": "function"}, {}, {"function": {}},
        {"type": "allowed_tools", "mode": "auto"}, {"type": ["any"]}, ["look"], 3, {"name": ["a"]},
    ],
)  # fmt: skip
def test_choices_that_name_nothing(model, choice):
    with pytest.raises(ModelInvalidRequestError, match="tool_choice is"):
        model.bind_tools([look], tool_choice=choice)


# Parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.5"), ("temperature", float("inf")), ("temperature", float("nan")),
        ("temperature", 1e-40), ("temperature", 1e40), ("temperature", 10**400),
        ("temperature", True), ("top_p", "1"), ("top_p", float("nan")), ("top_k", 2.5),
        ("top_k", "2"), ("repetition_penalty", float("inf")), ("repetition_penalty", "2"),
        ("repetition_penalty", 1e-40), ("seed", 2**70), ("seed", -(2**70)), ("seed", "a"),
        ("seed", 0.5), ("max_tokens", 2.5), ("max_tokens", "2"), ("max_tokens", 0),
        ("timeout", "5"), ("timeout", (1, 2)), ("timeout", float("nan")), ("thinking", "x"),
        ("parallel_tool_calls", "yes"), ("stop", 5), ("stop", [1]),
    ],
)  # fmt: skip
def test_values_of_another_type_or_out_of_reach(noise, name, value):
    parameters = {"temperature": 1.0, name: value}
    with pytest.raises(ModelInvalidRequestError, match=f"^{name}"):
        noise.invoke("a", **parameters)


def test_values_that_are_taken(noise):
    """NumPy's numbers; extremes; and None, which is the model's own value."""
    for name, value in (
        ("temperature", np.float32(0.5)), ("seed", np.int64(3)), ("top_k", 2**70), ("top_k", 5),
        ("seed", 2**64 - 1), ("seed", -(2**63)), ("temperature", 1e-10), ("temperature", 1e10),
        ("max_tokens", np.int32(2)), ("timeout", 60), ("repetition_penalty", 1e-10),
    ):  # fmt: skip
        reply = noise.invoke("a", **{"temperature": 1.0, "seed": 1, name: value})
        assert reply.usage_metadata["output_tokens"] <= 3
    warm = noise.model_copy(update={"temperature": 1.5, "seed": 3, "stop": "zz"})
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "max_tokens",
             "timeout", "thinking", "stop")  # fmt: skip
    none = warm.invoke("a", **dict.fromkeys(names))
    assert none.content == warm.invoke("a").content
    assert none.usage_metadata["output_tokens"] <= 3
    assert ChatDeltaMem(model=noise.engine, temperature=None, top_p=None).temperature == 0.0


LONE = "a\ud800b"


def test_lone_surrogates_are_refused_wherever_text_comes_from(noise):
    call = {"name": "look", "args": {"at": [LONE]}, "id": "1", "type": "tool_call"}

    def odd(at: str) -> str:
        return at

    odd.__doc__ = LONE
    for ask in (
        lambda: noise.invoke(LONE),
        lambda: list(noise.stream(LONE)),
        lambda: noise.invoke([HumanMessage([{"type": "text", "text": LONE}])]),
        lambda: noise.invoke([HumanMessage("a"), AIMessage("", tool_calls=[call])]),
        lambda: noise.invoke([HumanMessage("a", name=LONE)]),
        lambda: noise.get_num_tokens_from_messages([HumanMessage(LONE)]),
        lambda: noise.get_num_tokens(LONE),
        lambda: noise.bind_tools([odd]),
    ):
        with pytest.raises(ModelInvalidRequestError, match="lone surrogates") as caught:
            ask()
        str(caught.value).encode()
    assert noise.invoke("a\U0001f600b")
