"""Replies that follow grammars: calls, thoughts and what few tokens leave of them."""

from __future__ import annotations

import json
import threading

import pytest
from langchain_core.utils.json import parse_partial_json

from deltamem_agents.errors import MessageError
from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.closing import FORMATS
from deltamem_agents.runtime.grammar import Grammars, Rules
from deltamem_agents.runtime.reply import CallPart
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.runtime.template import shipped
from deltamem_agents.testing import scripted, tiny_engine

CALL = '<tool_call>\n{"name": "send", "arguments": {"body": "a b", "n": 3}}\n</tool_call>'
SEND = {
    "type": "function",
    "function": {
        "name": "send",
        "parameters": {
            "type": "object",
            "properties": {"body": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["body"],
        },
    },
}
REPLY = [""]
PROMPT = "<|im_start|>assistant\\n' }}"
OPENS = shipped("qwen3").replace(PROMPT, PROMPT.replace("' }}", "<think>\\n' }}"))


@pytest.fixture(scope="module")
def engine():
    return scripted(tiny_engine(template="qwen3", window=4096), lambda _: REPLY[0])


def answer(engine, reply, *, stop=(), max_tokens=300, **rules):
    """Let the script say something; the final event and the parts before it."""
    REPLY[0] = reply
    given = Rules(**{"tools": (SEND,), **rules})
    options = Options(
        sampling=Sampling(max_tokens=max_tokens),
        stop=stop,
        constraint=engine.grammars.compile(given),
        parse_tools=bool(given.tools),
        parse_arguments=parse_partial_json,  # the most lenient reader there is
    )
    asked = [{"role": "user", "content": "q"}]
    *parts, final = engine.generate(None, asked, tools=list(given.tools), options=options)
    assert isinstance(final, Final)
    return final, parts


def arguments(message):
    return [call["function"]["arguments"] for call in message.get("tool_calls", ())]


def test_a_thought_may_mention_the_mark_of_calls(engine):
    final, _ = answer(engine, "<think>\nI may use <tool_call> here.\n</think>\n\nHello.")
    assert final.message["reasoning_content"] == "I may use <tool_call> here."
    assert final.message["content"] == "Hello."
    assert final.finish_reason == "stop"
    final, _ = answer(engine, f"<think>\nlike {CALL} so\n</think>\n\n{CALL}")
    assert final.message["reasoning_content"] == f"like {CALL} so"
    assert arguments(final.message) == [{"body": "a b", "n": 3}]


def test_a_thought_that_the_prompt_opened_may_mention_it_too():
    engine = scripted(tiny_engine(template=OPENS, window=4096), lambda _: REPLY[0])
    final, _ = answer(engine, "I may use <tool_call> here.\n</think>\n\nHello.")
    assert final.message["reasoning_content"] == "I may use <tool_call> here."
    assert final.message["content"] == "Hello."


def test_a_call_after_the_thought_follows_its_schema(engine):
    wrong = CALL.replace("3", '"three"')
    final, _ = answer(engine, f"<think>\nhm\n</think>\n\n{wrong}")
    given = arguments(final.message)
    assert given
    assert all(isinstance(one.get("n", 0), int) for one in given)


LONG = CALL.replace("a b", "Dear all, we will not pay the bill until Friday. " * 4)
MAIL = {"type": "object", "properties": {"body": {"type": "string"}}, "required": ["body"]}


@pytest.mark.parametrize("calls", ["free", "only"])
@pytest.mark.parametrize("most", [60, 100])
def test_a_call_that_is_cut_is_none_to_run(engine, calls, most):
    final, parts = answer(engine, LONG, max_tokens=most, calls=calls)
    assert final.finish_reason == "length"
    assert "tool_calls" not in final.message
    [wrong] = final.message["invalid_tool_calls"]
    assert wrong["name"] == "send"
    assert wrong["args"].startswith('{"body": "Dear')
    assert not isinstance(parse_partial_json(wrong["args"]), dict)
    assert "".join(part.arguments for part in parts if isinstance(part, CallPart)) == wrong["args"]


def test_calls_before_the_cut_are_whole(engine):
    final, _ = answer(engine, f"{CALL}\n{LONG}", max_tokens=140)
    assert arguments(final.message) == [{"body": "a b", "n": 3}]
    assert len(final.message["invalid_tool_calls"]) == 1
    assert final.finish_reason == "length"


def test_a_call_that_just_fits_is_whole(engine):
    """One that the model ends itself, within the tokens that are kept for an end."""
    needed = len(engine.tokenizer(CALL, add_special_tokens=False)["input_ids"]) + 1
    for most in (needed, needed + 1, needed + 20):
        for calls in ("free", "only"):
            final, _ = answer(engine, CALL, max_tokens=most, calls=calls)
            assert arguments(final.message) == [{"body": "a b", "n": 3}]
            assert final.finish_reason == "tool_calls"


def test_content_that_is_cut_says_so_and_uses_its_tokens(engine):
    text = json.dumps({"body": "Dear all, we will not pay the bill until Friday."})
    final, _ = answer(engine, text, tools=(), calls="never", schema=MAIL, max_tokens=40)
    assert final.finish_reason == "length"
    assert final.usage.output_tokens == 40
    body = json.loads(final.message["content"])["body"]
    assert body == "Dear all, we will not pay the bill until Friday."[: len(body)]
    assert len(body) == 40 - len('{"body": ""}') - 1
    final, _ = answer(engine, '{"body": "a"}', tools=(), calls="never", schema=MAIL, max_tokens=14)
    assert (final.message["content"], final.finish_reason) == ('{"body": "a"}', "stop")


def test_stop_strings_end_text_and_no_calls(engine):
    final, _ = answer(engine, f"Let me see. {CALL}", stop=['"n"', " pay", "\n"])
    assert arguments(final.message) == [{"body": "a b", "n": 3}]
    assert final.finish_reason == "tool_calls"
    final, _ = answer(engine, f"{CALL}\nI will pay. No.", stop=[" pay"], tools=())
    assert final.message["content"].endswith("I will")
    assert final.finish_reason == "stop"


def taking(schema, name="take"):
    shape = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    return {"type": "function", "function": {"name": name, "parameters": shape}}


SET = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


@pytest.mark.parametrize(
    "schema",
    [
        *({"type": "string", "format": f} for f in ("path", "password", "binary", "regex", "odd")),
        {"type": "string", "format": "ipvanyaddress"},
        SET,
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"not": {"type": "string"}},
        {"type": "string", "if": {"const": "a"}, "then": {"minLength": 1}},
    ],
)
def test_types_of_arguments_that_no_grammar_can_enforce_whole(engine, schema):
    engine.grammars.compile(Rules(tools=(taking(schema),))).prepare()


@pytest.mark.parametrize(
    "schema", [{"type": "string", "format": "path"}, SET, {"oneOf": [{"type": "integer"}, {}]}]
)
def test_content_may_have_annotations(engine, schema):
    engine.grammars.compile(Rules(calls="never", schema=schema)).prepare()


def test_formats_that_grammars_know_are_kept(engine):
    formats = [{"type": "string", "format": name} for name in sorted(FORMATS)]
    shape = {"type": "object", "properties": dict(zip("abcdefghij", formats, strict=True))}
    engine.grammars.compile(Rules(calls="never", schema=shape)).prepare()


def test_the_error_names_the_tool_that_is_too_much(engine):
    good, bad = taking(SET), taking({"type": "string", "pattern": r"\bfoo\b"}, "search")
    with pytest.raises(MessageError, match="search: ") as caught:
        engine.grammars.compile(Rules(tools=(good, bad, SEND))).prepare()
    assert "json_mode" not in str(caught.value)


async def test_a_grammar_is_compiled_off_the_event_loop(monkeypatch):
    engine, here = scripted(tiny_engine(template="qwen3", window=4096), lambda _: CALL), []
    build = Grammars._compile
    seen = threading.get_ident()
    monkeypatch.setattr(
        Grammars, "_compile", lambda *a: here.append(threading.get_ident() == seen) or build(*a)
    )
    options = Options(constraint=engine.grammars.compile(Rules(tools=(SEND,))))
    asked = [{"role": "user", "content": "q"}]
    async for event in engine.agenerate(None, asked, tools=[SEND], options=options):
        last = event
    assert arguments(last.message) == [{"body": "a b", "n": 3}]
    assert here
    assert not any(here)
    assert options.constraint.ready


A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}
MAYBE = {"type": "object", "properties": {"a": {"type": "integer"}}}
DEFS = {"$defs": {"A": A, "B": B}}
OF_BOTH: dict[str, dict[str, object]] = {
    "all of": {"allOf": [A, B]},
    "all of an object": {"type": "object", "allOf": [A, B]},
    "optional": {"allOf": [MAYBE, {"type": "object", "properties": {"b": {}}}]},
    "beside properties": {**A, "allOf": [B]},
    "closed as a whole": {**MAYBE, "properties": {"a": {}, "b": {}}, "additionalProperties": False,
                          "allOf": [A, B]},
    "references": {"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], **DEFS},
    "a reference beside properties": {"$ref": "#/$defs/A", **B, **DEFS},
    "either beside properties": {**A, "anyOf": [B, {"type": "object", "properties": {"c": {}}}]},
    "one of beside properties": {**A, "oneOf": [B, {"properties": {"c": {}}, "required": ["c"]}]},
    "required apart": {"allOf": [MAYBE, B, {"required": ["a"]}]},
    "required and nowhere described": {"type": "object", "properties": {"a": {}},
                                       "required": ["a", "b"]},
    "patterns": {"allOf": [A, {"type": "object", "patternProperties": {"^b": {"type": "string"}}}]},
}  # fmt: skip


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("kind", OF_BOTH)
def test_parts_of_one_object_let_each_others_properties_be(engine, kind, within):
    """And nobody's else: what the script says is kept to where it fits, and put aside elsewhere."""
    schema, form = OF_BOTH[kind], "%s"
    if within:
        schema = {"type": "object", "properties": {"in": schema}, "required": ["in"], **DEFS}
        form = '{"in": %s}'
    grammar = engine.grammars.compile(Rules(schema=schema))
    fits = ('{"a": 4, "b": "x"}', '{"b": "x", "a": 4}')  # an own property comes before others'
    assert any(_follows(engine, grammar, form % text) for text in fits)
    for wrong in ('{"a": 4, "z": "x"}', '{"a": 4, "b": "x", "z": 1}'):
        assert not _follows(engine, grammar, form % wrong)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{**A, "additionalProperties": False}, B]},
        {"allOf": [A, {**B, "additionalProperties": False}]},
        {"allOf": [{"type": "integer"}, {"type": "string"}]},
        {"type": "object", "properties": []},
        {"type": "integer", "minimum": "a"},
        {"type": "object", "properties": {"a": 3}},
    ],
)
def test_what_nothing_fits_is_refused(engine, schema):
    with pytest.raises(MessageError, match="can be enforced while decoding"):
        engine.grammars.compile(Rules(schema=schema)).prepare()


@pytest.mark.parametrize(
    "part",
    [{"$ref": "#/$defs/N"}, {"allOf": [A, {"$ref": "#/$defs/M"}]}, {"anyOf": [B, {"$ref": "#"}]}],
)
def test_a_reference_that_never_leads_to_a_value_is_refused(engine, part):
    """The thread that runs the model for all would look for its first token without end."""
    schema = {"$ref": "#/$defs/N", "$defs": {"N": part, "M": {"$ref": "#/$defs/N"}}}
    for whole in (schema, {**schema, "properties": {"z": {}}}):
        with pytest.raises(MessageError, match="comes to a value"):
            engine.grammars.compile(Rules(schema=whole))
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    assert _follows(engine, engine.grammars.compile(Rules(schema=tree)), '{"kids": [{"kids": []}]}')


def test_a_schema_that_is_no_json_is_refused(engine):
    with pytest.raises(MessageError, match="a schema is JSON"):
        engine.grammars.compile(Rules(schema={"const": {1, 2}}))


def _follows(engine, grammar, text):
    """Whether a grammar lets a reply say a text and end."""
    matcher = grammar()
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    for token in (*ids, engine.tokenizer.eos_token_id):
        if not matcher.allowed(1000)[token]:
            return False
        matcher.accept(token)
    return True
