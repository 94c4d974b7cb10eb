"""System prompts: refusals and tools as the template shows them, and what training never has."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch

from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.curriculum import DRILLED, Curriculum
from deltamem_agents.training.instructions import (
    Instruction,
    Instructor,
    ToolTurn,
    kept_out,
    refusal,
    tools,
)
from deltamem_agents.training.rows import PINNED, Kind, Tokeniser
from deltamem_agents.training.subjects import Subject, lexicon
from deltamem_agents.training.tokenizer import build_tokenizer, subject_tokens
from deltamem_agents.training.world import Turn, World

NAME, PET = Subject("me", "name", "name"), Subject("me", "pet", "animal")
UNKNOWN = Turn("What is my name?", "Your name is not known to me yet.", "unknown", (), (NAME,))
KNOWN = Turn("What is my pet?", "Your pet is dog.", "question", ("dog",), (PET,))


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(ChatTemplate(build_tokenizer(0, conversations=500), "chatml"))


def words(tokeniser: Tokeniser, turn: Turn, kind: Kind) -> str:
    ids, kinds = tokeniser.turn(turn)
    chosen = [i for i, k in zip(ids, kinds, strict=True) if k == kind]
    return str(tokeniser.template.tokenizer.decode(chosen))


def test_a_refusal_takes_the_place_of_the_usual_one_and_of_nothing_else() -> None:
    prompt = Instruction("If you do not know, say: Sorry, no.", refusal="Sorry, no.")
    assert prompt.obeyed(UNKNOWN).assistant == "Sorry, no."
    assert prompt.obeyed(KNOWN) is KNOWN
    assert Instruction("Be brief.").obeyed(UNKNOWN) is UNKNOWN


def test_the_first_word_of_a_refusal_is_the_decision(tokeniser: Tokeniser) -> None:
    prompt = Instruction("If you do not know, say: Sorry, no.", refusal="Sorry, no.")
    said = prompt.obeyed(UNKNOWN)
    whole = words(tokeniser, said, Kind.DECLINE) + words(tokeniser, said, Kind.CONFIRMED_VALUE)
    assert whole == "Sorry, no."
    assert "Sorry, no.".startswith(words(tokeniser, said, Kind.DECLINE))


def test_unseen_refusals_share_no_part_with_those_of_training() -> None:
    listed, chooser = lexicon()["instructions"], random.Random(0)
    seen = {refusal(chooser) for _ in range(3000)}
    unseen = {refusal(chooser, unseen=True) for _ in range(500)}
    assert len(seen) > 2000
    assert len(unseen) == 16
    assert not unseen & seen
    for body in listed["bodies"][-4:]:
        assert not any(body in sentence for sentence in seen)


def test_a_call_carries_the_value_that_the_user_named() -> None:
    instructor, checked = Instructor(random.Random(1)), 0
    for _ in range(200):
        for tool in instructor.instruction(2).tools:
            turn = instructor.turn(tool)
            name, arguments = turn.call["function"]["name"], turn.call["function"]["arguments"]
            [value] = json.loads(arguments).values()
            assert name == tool.name
            assert str(value) in turn.user
            assert isinstance(value, int) == (tool.kind == "integer")
            assert not kept_out(tool.name, str(value))
            checked += 1
    assert checked > 150


def test_the_test_side_asks_in_words_and_for_values_that_training_never_has() -> None:
    instructor = Instructor(random.Random(1), "test")
    for tool in tools():
        turn = instructor.turn(tool)
        [value] = json.loads(turn.call["function"]["arguments"]).values()
        assert kept_out(tool.name, str(value))
        last = tool.asked[-1].format(v=value, f=tool.name)
        assert turn.user.lower().startswith(last.lower())


def test_a_tool_turn_is_read_as_it_is_served(tokeniser: Tokeniser) -> None:
    [tool] = [t for t in tools() if t.name == "get_weather"]
    turn = Instructor(random.Random(2)).turn(tool)
    assert isinstance(turn, ToolTurn)
    tokenizer = tokeniser.template.tokenizer
    prompt = Instruction("Be brief.", (tool,))
    rows = tokeniser.rows([[prompt, turn]], [1])
    whole = tokenizer.apply_chat_template(
        [*prompt.messages(), *turn.messages()], tools=prompt.schemas(),
        chat_template=tokeniser.template.source, tokenize=False,
    )  # fmt: skip
    assert tokenizer.decode(rows.ids[0]) == whole
    assert words(tokeniser, turn, Kind.CONFIRMED_VALUE) == turn.values[0]


def test_every_block_sees_the_system_prompt_and_counts_from_its_end(tokeniser: Tokeniser) -> None:
    prompt = Instruction("Be brief.")
    rows = tokeniser.rows([[prompt, KNOWN, UNKNOWN], [KNOWN]], [1, 1])
    pinned = rows.blocks[0] == PINNED
    length = int(pinned.sum())
    assert length == len(tokeniser.turn(prompt)[0])
    seen = rows.attention_mask()[0, 0] == 0
    last = len(tokeniser.turn(KNOWN)[0]) + length
    assert bool(seen[last, :length].all())
    assert not bool(seen[last, length:last].any())
    assert rows.positions[0, length].item() == rows.positions[0, last].item() == length
    assert rows.positions[1, 0].item() == 0
    padding = rows.blocks[1] < 0
    assert not bool((rows.attention_mask()[1, 0] == 0)[padding][:, ~padding].any())


def test_a_share_of_the_conversations_is_instructed(tokeniser: Tokeniser) -> None:
    shares = []
    for share in (0.0, 0.5, 1.0):
        curriculum = Curriculum(World(4), tokeniser, tokens=2000, instructed=share)
        marked = [(curriculum.batch(memory=True).blocks == PINNED).any(1) for _ in range(12)]
        shares.append(torch.cat(marked).float().mean().item())
    assert shares[0] == 0.0
    assert 0.15 < shares[1] < 0.85
    assert shares[2] == 1.0


def test_a_drill_is_small_tasks_with_the_prompt_in_view(tokeniser: Tokeniser) -> None:
    curriculum = Curriculum(World(4), tokeniser, tokens=1500, thorough=True)
    decided = blocks = 0
    for _ in range(6):
        rows = curriculum.drill()
        assert rows.turns.tolist() == [1 + DRILLED] * len(rows.turns)
        assert bool((rows.blocks == PINNED).any(1).all())
        blocks += int(rows.blocks.max(1).values.sum())
        decided += int((rows.kinds == Kind.DECLINE).sum())
        seen = rows.attention_mask()[:, 0] == 0
        across = (rows.blocks[:, :, None] > 1) & (rows.blocks[:, None, :] == 1)
        assert not bool((seen & across).any())
    assert blocks > 30
    assert decided > blocks


def test_where_refusing_was_possible_an_answer_counts_as_much(tokeniser: Tokeniser) -> None:
    plain = Instruction("If you do not know, say: No.", refusal="No.")
    weighed = Instruction("If you do not know, say: No.", refusal="No.", weighed=True)
    assert words(tokeniser, plain.obeyed(KNOWN), Kind.DECLINE) == ""
    assert words(tokeniser, weighed.obeyed(KNOWN), Kind.DECLINE) == "Your"
    assert words(tokeniser, weighed.obeyed(KNOWN), Kind.ANSWERED_VALUE) == " dog"
    assert weighed.obeyed(UNKNOWN) == plain.obeyed(UNKNOWN)


def test_what_is_asked_and_known_is_foreseen_before_the_reply(tokeniser: Tokeniser) -> None:
    unknown = replace(UNKNOWN, subjects=(Subject("sister", "locker code", "digits"),))
    rows = tokeniser.rows([[Turn("Hello.", "Good day.", "chat"), KNOWN, unknown]], [1])
    place = (rows.foreseen[0] >= 0).nonzero().flatten()
    decode = tokeniser.template.tokenizer.decode
    seen = [(decode(rows.ids[0, i]), decode(rows.foreseen[0, i])) for i in place]
    header = ["<|im_end|>", "\n", "<|im_start|>", "assistant"] * 2
    code = " sister's locker code"
    said = [" pet", " pet", " dog", " dog", code, code, " not", " not"]
    assert seen == list(zip(header, said, strict=True))
    assert decode(rows.ids[0, place[3] + 1 :])[:6] == "\nYour "


def test_made_up_tools_take_every_kind_of_value_where_it_is_thorough() -> None:
    kinds: list[set[str]] = []
    for thorough in (False, True):
        instructor = Instructor(random.Random(3), thorough=thorough)
        drawn = [instructor.instruction(2).tools for _ in range(300)]
        kinds.append({tool.kind for tools_ in drawn for tool in tools_})
    assert "drink" not in kinds[0]
    assert kinds[1] > kinds[0] | {"drink", "sport", "month", "animal"}


def test_a_subject_of_several_words_is_one_token(tokeniser: Tokeniser) -> None:
    encode = tokeniser.template.tokenizer
    assert len(subject_tokens()) > 500
    for entity, name in (("sister", "locker code"), ("billing", "port"), ("me", "home city")):
        subject = Subject(entity, name, "")
        ids = encode(f" {subject.named('your')} is", add_special_tokens=False).input_ids
        assert len(ids) == 3
        assert encode.decode(ids) == f" {subject.named('your')} is"
