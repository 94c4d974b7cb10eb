"""Words taken for words never heard: which they are, where they stand, what the model sees."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
import torch

from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.backbone import build_backbone
from deltamem_agents.training.instructions import Instructor, tools
from deltamem_agents.training.objective import embedded
from deltamem_agents.training.rows import Tokeniser
from deltamem_agents.training.subjects import Subject
from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.unheard import Unheard
from deltamem_agents.training.world import Turn, World

JOB = Subject("son", "job", "job")
TOLD = Turn(
    "By the way, my son was hired as a florist.", "Noted. Your son's job is florist.", "fact",
    ("florist",), (JOB,), ("hired", "florist's", "Noted"),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(ChatTemplate(build_tokenizer(0, conversations=500), "chatml"))


def changed(text: str, subject: Subject, value: str) -> tuple[set[str], set[str]]:
    """The words that are never heard, and the texts with made-up words, of many drawings."""
    unheard, words, texts = Unheard(random.Random(1), 1.0), set(), set()
    for _ in range(60):
        said, never = unheard.told(text, ((subject, value),))
        words |= set(never)
        texts.add(said)
    return words, texts


def test_neither_entity_nor_value_nor_small_words_are_changed() -> None:
    words, texts = changed("by the way, my son was hired as a florist", JOB, "florist")
    assert words == {"way", "hired"}
    assert len(texts) > 20
    assert all(re.fullmatch(r"by the \w+, my son was \w+ as a florist", one) for one in texts)


def test_a_value_that_could_be_several_attributes_is_told_in_words_that_are_heard() -> None:
    locker = Subject("son", "locker code", "digits")
    for text, subject, value in (
        ("my son opens the locker with 482", locker, "482"),
        ("my son was hired as a Bazo", JOB, "Bazo"),
    ):
        assert changed(text, subject, value) == (set(), {text})
    colour = Subject("son", "favourite colour", "colour")
    assert changed("my son likes violet", colour, "violet")[0] == set()  # a flower, too
    assert changed("my son likes teal", colour, "teal")[0] == {"likes"}
    region = Subject("billing", "region", "region")
    words, _ = changed("we deployed the billing service to Ohio", region, "Ohio")
    assert words == {"deployed"}


def test_without_a_share_nothing_is_drawn() -> None:
    chooser, text = random.Random(3), "my son was hired as a florist"
    before = chooser.getstate()
    assert Unheard(chooser, 0.0).told(text, ((JOB, "florist"),)) == (text, ())
    assert chooser.getstate() == before


def test_a_tool_is_asked_for_in_any_words_where_they_can_only_mean_it() -> None:
    def heard(name: str, alone: bool) -> bool:
        chooser = random.Random(5)
        instructor = Instructor(chooser, unheard=Unheard(chooser, 1.0))
        [tool] = [tool for tool in tools() if tool.name == name]
        return not any(instructor.turn(tool, alone=alone).unheard for _ in range(40))

    assert not heard("get_weather", alone=True)
    assert heard("get_weather", alone=False)
    assert heard("check_service", alone=True)


def test_a_world_has_about_the_share_that_is_asked_for() -> None:
    world, turns = World(2, unheard=0.5), []
    for _ in range(800):
        turns += world.history(2, 0, pairs=0.3)[0]
    marked = [turn for turn in turns if turn.unheard]
    assert 0.1 < len(marked) / len(turns) < 0.25  # half of what can be told so, made-up words aside
    # They stand in it as they were chosen, a message's first word with a capital.
    chosen = [(word, turn.user) for turn in marked for word in turn.unheard]
    gone = [(word, text) for word, text in chosen if word not in re.findall("[A-Za-z]+", text)]
    assert len(gone) < len(chosen) / 8
    assert all(text.startswith(word.capitalize()) for word, text in gone)
    assert not any(turn.unheard for turn in World(2).history(30, 0)[0])


def test_the_tokens_are_marked_in_what_the_user_says_alone(tokeniser: Tokeniser) -> None:
    rows = tokeniser.rows([[TOLD, TOLD]], [1])
    decode = tokeniser.template.tokenizer.decode
    assert decode(rows.ids[0][rows.unheard[0]]) == " hired hired"
    first = tokeniser.rows([[replace(TOLD, user="Hired as a florist was my son.")]], [1])
    assert decode(first.ids[0][first.unheard[0]]) == "Hired"
    assert rows.unheard.shape == rows.ids.shape


def test_such_a_word_has_the_vector_of_a_stranger(tokeniser: Tokeniser) -> None:
    torch.manual_seed(0)
    model = build_backbone(
        len(tokeniser.template.tokenizer), hidden=32, layers=1, heads=2, key_value_heads=1, head=16,
        intermediate=48,
    )  # fmt: skip
    rows = tokeniser.rows([[TOLD] * 200], [1])
    strangers = torch.arange(3000, 3400)
    own = embedded(model, rows, None)
    seen = embedded(model, rows, strangers)
    assert torch.equal(seen[~rows.unheard], own[~rows.unheard])
    drawn, table = seen[rows.unheard], model.model.embed_tokens.weight[strangers]
    assert len(drawn) == 200
    torch.testing.assert_close(drawn.mean(0), table.mean(0), rtol=0, atol=0.2)
    torch.testing.assert_close(drawn.std(0), table.std(0), rtol=0, atol=0.15)
    seen[rows.unheard].sum().backward()  # type: ignore[no-untyped-call]
    gradient = model.model.embed_tokens.weight.grad
    assert gradient is None or not gradient.any()
    heard = replace(rows, unheard=torch.zeros_like(rows.unheard))
    assert torch.equal(embedded(model, heard, strangers), own)
