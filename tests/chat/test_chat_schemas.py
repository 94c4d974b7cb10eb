"""Schemas while decoding: thoughts before them, and numbers that can be kept (plumbing only)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.runtime.grammar import Rules
from deltamem_agents.runtime.template import ChatTemplate, shipped
from deltamem_agents.testing import byte_tokenizer, save_tiny, scripted, tiny_engine

# As Qwen3's templates are: the model decides; the prompt opens a thought; the prompt closes one.
CLOSED = "{%- if enable_thinking is defined and enable_thinking is false %}"
OPENS = shipped("qwen3").replace(
    "{{- boundary + '<|im_start|>assistant\\n' }}\n    " + CLOSED,
    "{{- boundary + '<|im_start|>assistant\\n<think>\\n' }}\n    {%- if false %}",
)
NEVER = shipped("qwen3").replace(CLOSED, "{%- if true %}")
TEMPLATES = {"qwen3": "free", OPENS: "open", NEVER: "none", "chatml": "none", "smollm3": "free"}

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>'
PERSON = '{"name": "Ann", "age": 5}'


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def look(at: str) -> str:
    """Look at a place."""
    return at


WANTED = {
    "type": "json_schema",
    "json_schema": {"schema": Person.model_json_schema()},
}


def script(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2]
    if "<tool_response>" in last:
        return f"I have seen it.\n</think>\n\n{PERSON}" if "open" in last else PERSON
    thought = "" if "open" in last else "<think>\n"
    return f"{thought}I must look.\n</think>\n\n{CALL}"


@pytest.fixture(scope="module")
def thinker():
    return ChatDeltaMem(model=scripted(tiny_engine(template="qwen3", window=4096), script))


@pytest.mark.parametrize("name", TEMPLATES)
def test_whether_a_model_thinks_follows_from_its_template(name):
    template = ChatTemplate(byte_tokenizer(name))
    assert template.thought() == TEMPLATES[name]
    if name in ("qwen3", "smollm3"):
        assert template.thought(thinking=False) == "none"
        assert template.thought(thinking=True) == "free"
    quiet = [{"role": "system", "content": "/no_think"}]
    assert template.thought(quiet) == ("none" if name == "smollm3" else TEMPLATES[name])


def test_a_thinking_model_calls_a_tool_before_it_answers_by_a_schema(thinker):
    """`thinking` is not set: the thought comes first, and after it the call that it asks for."""
    bound = thinker.bind_tools([look], response_format=WANTED)
    reply = bound.invoke("who?", max_tokens=200)
    assert reply.additional_kwargs["reasoning_content"] == "I must look."
    assert [call["args"] for call in reply.tool_calls] == [{"at": "a"}]
    forced = thinker.bind_tools([look], tool_choice="any").invoke("who?", max_tokens=200)
    assert forced.additional_kwargs["reasoning_content"] == "I must look."
    assert [call["args"] for call in forced.tool_calls] == [{"at": "a"}]
    quiet = bound.invoke("who?", max_tokens=200, thinking=False)
    assert "reasoning_content" not in quiet.additional_kwargs


def test_a_thought_that_the_prompt_opens_is_ended_and_not_opened_again():
    engine = scripted(tiny_engine(template=OPENS, window=4096), script)
    bound = ChatDeltaMem(model=engine).bind_tools([look], response_format=WANTED)
    reply = bound.invoke("who? (open)", max_tokens=200)
    assert reply.additional_kwargs["reasoning_content"] == "I must look."
    assert [call["args"] for call in reply.tool_calls] == [{"at": "a"}]


def test_an_agent_with_a_provider_strategy_thinks_calls_and_answers(thinker):
    agent = create_agent(thinker, [look], response_format=ProviderStrategy(Person))
    state = agent.invoke({"messages": [HumanMessage("who?")]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][1].additional_kwargs["reasoning_content"] == "I must look."
    assert state["structured_response"] == Person(name="Ann", age=5)


@pytest.mark.parametrize("schema", [Person, Person.model_json_schema()])
def test_what_max_tokens_cut_is_closed_and_told_of(schema, caplog):
    """The grammar closes a reply that is cut; the raw message and a warning say so."""
    long = PERSON.replace("Ann", "Ann " * 40)
    engine = scripted(tiny_engine(window=4096), lambda prompt: long)
    model, short = ChatDeltaMem(model=engine), ChatDeltaMem(model=engine, max_tokens=60)
    assert model.with_structured_output(schema).invoke("who?") == (
        Person.model_validate_json(long) if schema is Person else json.loads(long)
    )
    assert "max_tokens" not in caplog.text
    answer = short.with_structured_output(schema, include_raw=True).invoke("who?")
    assert answer["raw"].response_metadata["finish_reason"] == "length"
    assert answer["parsed"] is not None
    assert "max_tokens cut a reply" in caplog.text


@pytest.mark.parametrize("schema", [Person, {"title": "Person", **Person.model_json_schema()}])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_what_cannot_be_parsed_is_an_error_in_every_method(schema, method):
    """A call that max_tokens cut, JSON too short to close, JSON ended by a stop string."""
    long = PERSON.replace("Ann", "Ann " * 40)
    call = f'<tool_call>\n{{"name": "Person", "arguments": {long}}}\n</tool_call>'
    by_call = method == "function_calling"
    engine = scripted(tiny_engine(window=4096), lambda prompt: call if by_call else long)
    model = ChatDeltaMem(model=engine)
    whole = Person.model_validate_json(long) if schema is Person else json.loads(long)
    bound = model.with_structured_output(schema, method=method)
    assert bound.invoke("who?") == list(bound.stream("who?"))[-1] == whole
    cuts = [{"max_tokens": 100}] if by_call else [{"max_tokens": 3}, {"stop": "Ann Ann"}]
    for cut in cuts:
        bound = model.with_structured_output(schema, method=method, **cut)
        with pytest.raises(OutputParserException, match="finish_reason"):
            bound.invoke("who?")
        with pytest.raises(OutputParserException, match="all of it is there"):
            list(bound.stream("who?"))
        both = model.with_structured_output(schema, method=method, include_raw=True, **cut)
        answer = await both.ainvoke("who?")
        assert isinstance(answer["parsing_error"], OutputParserException)
        assert answer["parsing_error"].llm_output == answer["raw"].text
        assert answer["parsed"] is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_noise_keeps_to_the_schema_and_comes_to_an_end(name, tmp_path):
    """A checkpoint that knows nothing, sampled: what follows the thought is a person."""
    backbone, adapter = map(str, save_tiny(tmp_path, template=name))
    model = ChatDeltaMem(model=backbone, adapter=adapter)
    bound = model.bind(response_format=WANTED, temperature=1.0, max_tokens=120)
    thoughts = 0
    for seed in range(3):
        reply = bound.invoke([SystemMessage("s"), HumanMessage("who?")], seed=seed)
        if reply.response_metadata["finish_reason"] == "stop":
            assert set(json.loads(reply.content)) == {"name", "age"}
        else:
            assert reply.content == "" or reply.content.startswith('{"')
        thoughts += "reasoning_content" in reply.additional_kwargs
    assert thoughts == 3 if TEMPLATES[name] == "open" else True
    assert not thoughts or TEMPLATES[name] != "none"


HUGE = {
    "exponent": "1e400", "digits": "1" + "0" * 60, "negative": "-2e999", "list": "[1, 3e400]",
    "object": '{"deep": [-1e400]}', "small": "0.25",
}  # fmt: skip


def wish(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2]
    kind, _, way = last.partition("<|im_end|>")[0].partition(" ")
    value = f'{{"x": {HUGE[kind]}}}'
    if way == "content":
        return value
    return f'<tool_call>\n{{"name": "keep", "arguments": {value}}}\n</tool_call>'


def keep(x: Any) -> str:
    """Keep a value."""
    return str(x)


def measure(x: float) -> str:
    """Take a measure."""
    return str(x)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def arguments(reply: Any) -> Any:
    """Those of a call; where the script ran on and was cut, less the bracket that breaks it."""
    if reply.tool_calls:
        return reply.tool_calls[0]["args"]
    assert reply.response_metadata["finish_reason"] == "length"
    return json.loads(reply.invalid_tool_calls[0]["args"][:-1])


def said(model: Any, schema: Any, prompt: str, **options: Any) -> Any:
    """The content of a reply that follows a schema, cut or whole."""
    bound = model.with_structured_output(schema, include_raw=True, **options)
    return json.loads(bound.invoke(prompt)["raw"].text)


@pytest.mark.parametrize("kind", HUGE)
def test_numbers_of_any_schema_can_be_kept(kind):
    """The script wants infinities and integers of many digits, as a value of any type."""
    model = ChatDeltaMem(model=scripted(tiny_engine(window=4096), wish), max_tokens=200)
    serde = JsonPlusSerializer()
    pieces = list(model.bind_tools([keep]).stream(f"{kind} call"))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    forms = [
        arguments(model.bind_tools([keep]).invoke(f"{kind} call")),
        arguments(whole),
        said(
            model,
            {"title": "t", "type": "object", "properties": {"x": {}}, "required": ["x"]},
            f"{kind} content",
        ),
        said(model, {"title": "t", "type": "object"}, f"{kind} content", method="json_mode"),
    ]
    for form in forms:
        found = numbers(form)
        assert found
        assert all(math.isfinite(number) and abs(number) < 2**63 for number in found)
        assert serde.loads_typed(serde.dumps_typed(form)) == form
    if kind == "small":
        assert forms == [{"x": 0.25}] * 4


def test_floats_of_a_call_are_bounded_and_keep_their_digits():
    model = ChatDeltaMem(model=scripted(tiny_engine(window=4096), wish), max_tokens=200)
    forced = model.bind_tools([measure], tool_choice="measure")
    assert math.isfinite(forced.invoke("exponent call").tool_calls[0]["args"]["x"])


def test_bounds_of_a_schema_stay_as_they_are():
    engine = tiny_engine()
    for schema, fits, not_ in (
        ({"type": "number", "minimum": 0}, "7.5", "-1"),
        ({"type": "number", "exclusiveMaximum": 3}, "-2.5", "3.5"),
        ({"type": ["number", "null"]}, "null", "true"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, '{"a": 1}', '{"a": ""}'),
        ({"enum": [1e300, "b"]}, '"b"', '"c"'),
    ):
        whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
        rules = Rules(calls="never", schema=whole)
        for text, wanted in ((fits, True), (not_, False)):
            assert follows(engine, rules, f'{{"x": {text}}}') is wanted


def test_a_definition_of_the_users_keeps_its_name():
    schema = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/anything"}, "m": {"$ref": "#/$defs/anything_"}},
        "required": ["n", "m"],
        "additionalProperties": True,
        "$defs": {"anything": {"type": "integer"}, "anything_": {"type": "boolean"}},
    }
    engine, rules = tiny_engine(), Rules(calls="never", schema=schema)
    assert follows(engine, rules, '{"n": 1, "m": true, "x": "free"}')
    assert not follows(engine, rules, '{"n": "no", "m": true}')
    assert not follows(engine, rules, '{"n": 1, "m": "no"}')


def follows(engine, rules: Rules, text: str) -> bool:
    """Whether a reply may be this text."""
    matcher = engine.grammars.compile(rules)()
    for token in engine.tokenizer(text, add_special_tokens=False)["input_ids"]:
        if not bool(matcher.allowed(1000)[token]):
            return False
        matcher.accept(token)
    return bool(matcher.allowed(1000)[engine.tokenizer.eos_token_id])


def test_a_grammar_is_compiled_once_and_serves_many_replies(monkeypatch):
    import llguidance

    engine, made = tiny_engine(), []
    build = llguidance.LLMatcher
    monkeypatch.setattr(llguidance, "LLMatcher", Counted := type("Counted", (), {}))
    Counted.__new__ = lambda _, *a, **k: made.append(a[1]) or build(*a, **k)
    Counted.validate_grammar_with_warnings = build.validate_grammar_with_warnings
    rules = Rules(calls="never", schema=Person.model_json_schema())
    one, other = engine.grammars.compile(rules)(), engine.grammars.compile(rules)()
    tokens = engine.tokenizer('{"name": "A', add_special_tokens=False)["input_ids"]
    first = other.allowed(1000).clone()
    for token in tokens:
        assert bool(one.allowed(1000)[token])
        one.accept(token)
    assert len(made) == 1
    assert bool((other.allowed(1000) == first).all())  # it has not moved with the first one
    assert not bool((one.allowed(1000) == first).all())
    for number in range(100):
        engine.grammars.compile(Rules(calls="never", schema={"enum": [number]})).prepare()
    assert len(engine.grammars._compiled) == 64
    engine.grammars.compile(rules).prepare()
    assert len(made) == 102
