from __future__ import annotations

import json

import pytest

from deltamem_agents.errors import BoundaryError, ConfigError, MessageError
from deltamem_agents.runtime.messages import digest, normalise
from deltamem_agents.runtime.template import SHIPPED, ChatTemplate, WritePolicy, shipped
from deltamem_agents.testing import byte_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def call(name, **arguments):
    return {"id": "c1", "name": name, "args": arguments}


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Köln and Bonn?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "two calls",
        "tool_calls": [call("weather", city="Köln"), call("weather", city="Bonn")],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    {"role": "tool", "content": '{"sun": true}', "tool_call_id": "c2"},
    {"role": "assistant", "content": "Rain in Köln.", "reasoning_content": "done"},
    {"role": "user", "content": "Thanks  \n"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "?"},
]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("thinking", [None, False])
def test_parts_joined_equal_the_whole(name, tools, start, thinking):
    tokenizer = byte_tokenizer(name)
    template = ChatTemplate(tokenizer)
    cases = 0
    for end in range(start + 1, len(TALK) + 1):
        for generate in (False, True):
            parts = template.render(TALK[start:end], tools, thinking=thinking, generate=generate)
            whole = tokenizer.apply_chat_template(
                normalise(TALK[start:end]),
                tools=tools,
                add_generation_prompt=generate,
                return_dict=False,
                **({} if thinking is None else {"enable_thinking": thinking}),
            )
            assert [token for part in parts for token in part.ids] == whole
            assert all(len(part.writes) == len(part.ids) for part in parts)
            cases += 1
    assert cases == 2 * (len(TALK) - start)


def test_text_of_the_built_in_format():
    template = ChatTemplate(byte_tokenizer("chatml"))
    parts = template.render(TALK[:5], [TOOL], generate=True)
    texts = [template.tokenizer.decode(part.ids) for part in parts]
    assert [part.role for part in parts] == [
        "system", "user", "assistant", "tool", "tool", "assistant",
    ]  # fmt: skip
    assert texts[0].startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert json.dumps(TOOL, ensure_ascii=False) in texts[0]
    assert texts[1] == "<|im_start|>user\nWeather in Köln and Bonn?<|im_end|>\n"
    assert texts[2] == (
        "<|im_start|>assistant\nLet me see."
        '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
        "<|im_end|>\n"
    )
    assert texts[3] == "<|im_start|>user\n<tool_response>\nrain\n</tool_response>"
    assert texts[4] == '\n<tool_response>\n{"sun": true}\n</tool_response><|im_end|>\n'
    assert texts[5] == "<|im_start|>assistant\n"


def test_reasoning_is_seen_in_the_loop_and_not_by_the_next_question():
    template = ChatTemplate(byte_tokenizer("qwen3"))
    inside = template.render(TALK[:5])[2]
    later = template.render(TALK[:7])[2]
    assert "two calls" in template.tokenizer.decode(inside.ids)
    assert "two calls" not in template.tokenizer.decode(later.ids)


def test_write_policy_leaves_out_roles_and_template_tokens():
    policy = WritePolicy(system=False, tool=False, template=False)
    template = ChatTemplate(byte_tokenizer(), policy=policy)
    parts = template.render(TALK[:6], [TOOL])
    written = [
        template.tokenizer.decode([i for i, w in zip(part.ids, part.writes, strict=True) if w])
        for part in parts
    ]
    assert written[0] == written[3] == written[4] == ""
    assert written[1] == "Weather in Köln and Bonn?"
    assert written[5] == "Rain in Köln."
    assert all(all(p.writes) for p in ChatTemplate(byte_tokenizer()).render(TALK, [TOOL]))


FOREIGN = (
    "{{ '<|endoftext|>' }}{% for m in messages %}{{ '[' + m.role + ']\n' + m.content + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)


def test_foreign_template_is_cut_at_its_messages():
    template = ChatTemplate(byte_tokenizer(FOREIGN))
    parts = template.render([*TALK[:2], {"role": "assistant", "content": "x"}], generate=True)
    assert [template.tokenizer.decode(part.ids) for part in parts] == [
        "<|endoftext|>[system]\nBe brief.\n",
        "[user]\nWeather in Köln and Bonn?\n",
        "[assistant]\nx\n",
        "[assistant]\n",
    ]
    with pytest.raises(ConfigError, match="marks contents"):
        ChatTemplate(byte_tokenizer(FOREIGN), policy=WritePolicy(template=False))


def test_foreign_template_that_rewrites_the_past_is_refused():
    rewriting = "{{ messages | length }}" + FOREIGN
    with pytest.raises(BoundaryError, match="what follows it"):
        ChatTemplate(byte_tokenizer(rewriting)).render(TALK[1:3], generate=True)


def test_own_templates_are_recognised():
    plain = shipped("qwen3").replace("message_boundary", "unused")
    assert ChatTemplate(byte_tokenizer(plain)).source == shipped("qwen3")
    plain = shipped("chatml").replace("message_boundary", "unused")
    assert ChatTemplate(byte_tokenizer(plain)).source == shipped("chatml")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has a chat template"):
        ChatTemplate(tokenizer)


def test_digest_ignores_ids_and_reasoning_but_not_content():
    one, two, three = normalise(
        [
            {"role": "assistant", "content": "a", "tool_calls": [call("f", x=1)]},
            {
                "role": "assistant",
                "content": "a",
                "reasoning_content": "hm",
                "tool_calls": [{"id": "z", "function": {"name": "f", "arguments": '{"x": 1}'}}],
            },
            {"role": "assistant", "content": "b"},
        ]
    )
    assert digest(one) == digest(two) != digest(three)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "human", "content": "x"}], "role is one of"),
        ([{"role": 3, "content": "x"}], "role is one of"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content is text"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "stands at"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], "names its tool"),
    ],
)
def test_malformed_messages_are_refused(messages, words):
    with pytest.raises(MessageError, match=words):
        ChatTemplate(byte_tokenizer()).render(messages)


def test_leading_system_messages_become_one():
    merged = normalise([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}])
    assert [entry["content"] for entry in merged] == ["a\n\nb"]
