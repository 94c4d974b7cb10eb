"""Replies that follow grammars: calls, thoughts and what few tokens leave of them."""

from __future__ import annotations

import pytest
from langchain_core.utils.json import parse_partial_json

from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.grammar import Rules
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
