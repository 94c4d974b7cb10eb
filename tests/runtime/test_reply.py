"""Replies taken apart, text that grows, stops, sampling: independent of how they are cut."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.utils.json import parse_partial_json

from deltamem_agents.errors import ConfigError
from deltamem_agents.runtime.reply import CallPart, ReasoningPart, ReplyParser, TextPart
from deltamem_agents.runtime.sampling import Sampler, Sampling
from deltamem_agents.runtime.text import Detokenizer, StopStrings
from deltamem_agents.testing import byte_tokenizer

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "a}\\"b", "y": [1, {"z": 2}]}}\n</tool_call>'
REPLIES = {
    "text": ("Hello.\n", {"content": "Hello.\n"}),
    "thought": (
        "<think>\nhm\nso\n</think>\n\nYes.",
        {"content": "Yes.", "reasoning_content": "hm\nso"},
    ),
    "empty thought": ("<think>\n\n</think>\n\nYes.", {"content": "Yes."}),
    "endless thought": ("<think>\nand then", {"content": "", "reasoning_content": "and then"}),
    "call": (CALL, {"content": "", "tool_calls": 1}),
    "text and calls": (f"See:\n{CALL}\n{CALL}", {"content": "See:", "tool_calls": 2}),
    "thought and call": (
        f"<think>\nhm\n</think>\n\n{CALL}",
        {"content": "", "reasoning_content": "hm", "tool_calls": 1},
    ),
    "broken arguments": (
        '<tool_call>\n{"name": "f", "arguments": {"x": oops}}\n</tool_call>',
        {"content": "", "invalid_tool_calls": [{"name": "f", "args": '{"x": oops}'}]},
    ),
    "no call at all": (
        "<tool_call>\nhello\n</tool_call>",
        {"content": "", "invalid_tool_calls": [{"name": None, "args": "hello"}]},
    ),
    "no name": (
        '<tool_call>\n{"x": 1}\n</tool_call>',
        {"content": "", "invalid_tool_calls": [{"name": None, "args": '"{\\"x\\": 1}"'}]},
    ),
    "unfinished": (
        'A\n<tool_call>\n{"name": "f", "arguments": {"x": "unfi',
        {"content": "A", "invalid_tool_calls": [{"name": "f", "args": '{"x": "unfi'}]},
    ),
    "a bracket": ("1 <tool and <think> 2", {"content": "1 <tool and <think> 2"}),
}


def parse(text: str, cuts: list[int]):
    parser = ReplyParser(reasons=True)
    parts, start = [], 0
    for cut in [*sorted(cuts), len(text)]:
        parts += parser.push(text[start:cut])
        start = cut
    parts += parser.flush()
    return parser.message(), parts


@pytest.mark.parametrize("name", REPLIES)
def test_replies_are_split_the_same_however_they_arrive(name):
    text, wanted = REPLIES[name]
    draw = random.Random(name)
    every = list(range(1, len(text)))
    ways = [[], every, *(draw.sample(every, len(every) // 3) for _ in range(8))]
    for cuts in ways:
        message, parts = parse(text, cuts)
        assert message["content"] == wanted["content"]
        assert message.get("reasoning_content") == wanted.get("reasoning_content")
        assert len(message.get("tool_calls", ())) == wanted.get("tool_calls", 0)
        for call in message.get("tool_calls", ()):
            assert call["function"] == {
                "name": "f", "arguments": {"x": 'a}"b', "y": [1, {"z": 2}]}
            }  # fmt: skip
        invalid = [
            {"name": c["name"], "args": c["args"]} for c in message.get("invalid_tool_calls", ())
        ]
        assert invalid == wanted.get("invalid_tool_calls", [])
        assert "".join(p.text for p in parts if isinstance(p, TextPart)) == message["content"]
        thought = "".join(p.text for p in parts if isinstance(p, ReasoningPart))
        assert thought == message.get("reasoning_content", "")
        check_calls(message, [p for p in parts if isinstance(p, CallPart)])


def check_calls(message, parts):
    """What was streamed is what the message says."""
    streamed = {}
    for part in parts:
        entry = streamed.setdefault(part.index, {"id": part.id, "name": part.name, "args": ""})
        entry["args"] += part.arguments
    names = {entry["id"]: entry for entry in streamed.values()}
    for call in message.get("tool_calls", ()):
        assert json.loads(names[call["id"]]["args"]) == call["function"]["arguments"]
        assert names[call["id"]]["name"] == call["function"]["name"]
    for call in message.get("invalid_tool_calls", ()):
        assert names[call["id"]]["args"] == call["args"]


@given(st.text(max_size=40), st.data())
def test_stop_strings_of_any_length_in_any_pieces(text, data):
    stops = data.draw(st.lists(st.text(min_size=1, max_size=6), max_size=3))
    if text and data.draw(st.booleans()):
        first = data.draw(st.integers(0, len(text) - 1))
        stops.append(text[first : first + data.draw(st.integers(1, 9))])
    finder, shown, start = StopStrings(stops), "", 0
    while start < len(text) and not finder.found:
        size = data.draw(st.integers(1, 5))
        shown += finder.push(text[start : start + size])
        start += size
    if not finder.found:
        shown += finder.flush()
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if finder.found:
        # A stop string that is complete earlier wins, even where a longer one began before it.
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
        assert text.startswith(shown)
    else:
        assert not places
        assert shown == text


@given(st.text(max_size=30))
def test_text_comes_out_whole_token_by_token(text):
    tokenizer = byte_tokenizer()
    growing = Detokenizer(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(growing.push(token) for token in ids) + growing.flush() == text


def test_sampling_follows_its_parameters():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    assert Sampler(Sampling()).choose(logits) == 0
    assert Sampler(Sampling(), seen=[0]).choose(logits) == 0
    assert Sampler(Sampling(repetition_penalty=4.0), seen=[0]).choose(logits) == 1
    allowed = torch.tensor([False, False, True, True])
    assert Sampler(Sampling()).choose(logits, allowed) == 2

    def drawn(**settings):
        sampler = Sampler(Sampling(temperature=1.0, seed=7, **settings))
        return [sampler.choose(logits) for _ in range(400)]

    assert drawn() == drawn()
    assert set(drawn()) == {0, 1, 2, 3}
    assert set(drawn(top_k=2)) == {0, 1}
    assert set(drawn(top_p=0.5)) == {0}
    assert set(drawn(top_p=0.8)) == {0, 1}
    share = drawn().count(0) / 400
    assert abs(share - float(logits.softmax(0)[0])) < 0.08


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1},
        {"repetition_penalty": 0}, {"max_tokens": 0}, {"temperature": float("nan")},
    ],
)  # fmt: skip
def test_impossible_sampling_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (f"{CALL}\nand more\n\ntext ", "and more\n\ntext "),
        (f"See:\n{CALL}\n and  more", "See:\n and  more"),
        (f"{CALL}\n\n{CALL}\n \n", ""),
    ],
)
def test_white_space_after_a_call_is_kept_within_text(text, content):
    for cuts in ([], list(range(1, len(text)))):
        message, parts = parse(text, cuts)
        assert message["content"] == content
        assert "".join(part.text for part in parts if isinstance(part, TextPart)) == content


@pytest.mark.parametrize(
    "arguments",
    ["", '{"x": "un', '{"x": "a\\', '{"x": ', '{"x": [1, {"y": 2', '{"x": [1, [', '{"x": 1}, "z']
)
def test_no_reader_completes_the_arguments_of_a_call_that_is_cut(arguments):
    parser = ReplyParser(parse=parse_partial_json)
    parts = parser.push(f'<tool_call>\n{{"name": "f", "arguments": {arguments}')
    if arguments.count("}") == 1:  # whole, and its end alone is missing
        parts += parser.flush()
        assert parser.message()["tool_calls"][0]["function"]["arguments"] == {"x": 1}
        return
    parts += parser.flush()
    message = parser.message()
    [wrong] = message["invalid_tool_calls"]
    assert "tool_calls" not in message
    assert "ended within this call" in wrong["error"]
    assert not isinstance(parse_partial_json(wrong["args"]), dict)
    check_calls(message, [part for part in parts if isinstance(part, CallPart)])
