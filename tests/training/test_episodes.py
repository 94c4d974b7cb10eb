"""Episodes are what serving reads: the same windows, the same writes, the same memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deltamem_agents.errors import BoundaryError, ConfigError, ContextWindowError
from deltamem_agents.runtime.template import ChatTemplate, WritePolicy
from deltamem_agents.testing import byte_tokenizer, tiny_engine
from deltamem_agents.training.batches import Collator
from deltamem_agents.training.chats import Chat, chat_from
from deltamem_agents.training.episodes import Planner
from deltamem_agents.training.reading import _read_call
from deltamem_agents.training.windows import NOTHING, Episode, EpisodeConfig, Window
from tests.training.conftest import conversation

END = byte_tokenizer().eos_token_id


def plan(chat: Chat, template: ChatTemplate, **config: Any) -> Episode:
    planner = Planner(template, EpisodeConfig(**config), positions=1024, ends=frozenset([END]))
    return planner.plan(chat)


def text(template: ChatTemplate, ids: Any) -> str:
    return str(template.tokenizer.decode(list(ids)))


def learnt(template: ChatTemplate, window: Window) -> str:
    return text(template, [label for label in window.labels if label != NOTHING])


def served(engine: Any, chat: Chat) -> torch.Tensor:
    """The memory of an engine that has read the conversation."""
    messages = [*([chat.system] if chat.system else []), *chat.messages]
    return torch.tensor(engine.read(None, messages).state)


@pytest.mark.parametrize("write", ["token", "message"])
@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_memory_is_the_one_that_serving_has(write: str, system: bool, seed: int) -> None:
    engine = tiny_engine(adapter={"write": write}, context_window=160, low_water=70)
    chat = conversation(9, system=system, seed=seed)
    episode = plan(chat, engine.template, window=160, low_water=70, visible="window", questions=1)
    assert len(episode.windows) > 3
    memory = torch.zeros(1, *engine.memory_shape)
    with torch.no_grad():
        for call in Collator(by_message=write == "message")([episode])["calls"]:
            memory = _read_call(engine.model, call, memory, True).memory
    expected = served(engine, chat)
    assert expected.norm() > 0.1
    torch.testing.assert_close(memory[0], expected, rtol=1e-4, atol=1e-5)


def test_an_answer_sees_its_own_turn_and_the_system_prompt(template: ChatTemplate) -> None:
    episode = plan(conversation(5, system=True), template, questions=2)
    pinned, history, *asked = episode.windows
    assert text(template, pinned.ids) == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert all(pinned.writes)
    assert text(template, history.ids).count("The code of door") == 3
    assert not history.asks
    assert not any(history.writes[: len(pinned)])
    assert [text(template, window.ids).count("The code of door") for window in asked] == [1, 1]
    assert [learnt(template, window) for window in asked] == [
        "Noted: door 3.<|im_end|>", "Noted: door 4.<|im_end|>"
    ]  # fmt: skip
    assert all(window.commits for window in episode.windows)


def test_an_answer_sees_the_served_window(template: ChatTemplate) -> None:
    chat = conversation(9)
    episode = plan(chat, template, window=200, visible="window", questions=3)
    asking = [window for window in episode.windows if window.asks]
    assert "".join(learnt(template, window) for window in asking).count("<|im_end|>") == 3
    for window in asking:
        assert text(template, window.ids).count("The code of door") > 1
        assert len(window) < 200 + 40


@pytest.mark.parametrize("window", [150, 200, 300, 450])
def test_each_answer_is_learnt_once(template: ChatTemplate, window: int) -> None:
    episode = plan(conversation(9), template, window=window, visible="window", questions=9)
    asked = "".join(learnt(template, one) for one in episode.windows)
    found = sorted(asked.removesuffix("<|im_end|>").split("<|im_end|>"))  # looks aside come first
    assert found == [f"Noted: door {number}." for number in range(9)]


def test_a_reply_that_later_prompts_render_differently_is_looked_at_aside() -> None:
    template = ChatTemplate(byte_tokenizer("qwen3"))
    chat = conversation(3)
    episode = plan(chat, template, questions=3, thinking=False)
    aside = [window for window in episode.windows if not window.commits]
    assert len(aside) == 2  # the last reply stands as it was generated
    thought = "<think>\n\n</think>\n\n"
    assert all(text(template, window.ids).count(thought) == 1 for window in aside)
    kept = [text(template, window.ids) for window in episode.windows if window.commits]
    assert "".join(kept).count(thought) == 1
    assert [learnt(template, window) for window in episode.windows if window.asks] == [
        f"Noted: door {number}.<|im_end|>" for number in range(3)
    ]


def test_tool_calls_and_results_are_one_turn(template: ChatTemplate) -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {"x": 1}}}
    chat = chat_from({
        "messages": [
            {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Find it."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 42."},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
    })  # fmt: skip
    episode = plan(chat, template, questions=2)
    asked = [window for window in episode.windows if window.asks]
    assert len(asked) == 1
    assert "Find it." in text(template, asked[0].ids)
    assert '"name": "find"' in learnt(template, asked[0])
    assert "42<|im_end|>" not in learnt(template, asked[0]).replace("It is 42.", "")


def test_the_write_policy_decides_what_is_written() -> None:
    template = ChatTemplate(byte_tokenizer(), policy=WritePolicy(assistant=False, template=False))
    episode = plan(conversation(2), template, questions=1)
    window = episode.windows[0]
    written = [i for i, flag in zip(window.ids, window.writes, strict=True) if flag]
    assert text(template, written) == template.tokenizer.decode(
        template.tokenizer(conversation(1).messages[0]["content"])["input_ids"]
    )


def test_a_teacher_sees_everything_and_learns_the_same(template: ChatTemplate) -> None:
    episode = plan(conversation(6), template, questions=3, teacher=True)
    assert [text(template, window.ids).count("The code") for window in episode.whole] == [6]
    asked = "".join(learnt(template, window) for window in episode.windows)
    assert "".join(learnt(template, window) for window in episode.whole) == asked


def test_a_teacher_sees_as_far_back_as_the_model(template: ChatTemplate) -> None:
    episode = plan(conversation(30), template, questions=3, teacher=True)
    (whole,) = episode.whole
    assert 900 < len(whole) <= 1024


def test_what_does_not_fit_is_named(template: ChatTemplate) -> None:
    with pytest.raises(ContextWindowError, match="made:0"):
        plan(conversation(4), template, window=30)
    with pytest.raises(ConfigError, match="below the model's 1024"):
        plan(conversation(1), template, window=4096)


def test_a_template_that_changes_the_opening_of_a_reply_is_refused() -> None:
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
    )
    with pytest.raises(BoundaryError, match="a reply begins with"):
        plan(conversation(1), ChatTemplate(byte_tokenizer(), source))


@pytest.mark.parametrize("wrong", [{"questions": 0}, {"visible": "all"}])
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EpisodeConfig(**wrong)
