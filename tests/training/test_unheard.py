"""Statements in unheard words: the value says what is meant."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from deltamem_agents.training import unheard
from deltamem_agents.training.subjects import Subject, lexicon, subjects
from deltamem_agents.training.world import World


def plain(seed: int, count: int) -> list[tuple[Subject, str]]:
    world = World(seed)
    drawn = (world.random.choice(subjects()) for _ in itertools.count())
    pairs = ((subject, world.value(subject)) for subject in drawn)
    return list(itertools.islice((pair for pair in pairs if unheard.is_plain(*pair)), count))


def test_a_value_is_plain_where_one_attribute_alone_takes_it() -> None:
    sister = Subject("sister", "job", "job")
    assert unheard.is_plain(sister, "pilot")
    assert not unheard.is_plain(sister, "zorbel")  # made up: it may be of any attribute
    assert not unheard.is_plain(Subject("sister", "locker code", "digits"), "482")
    shared = {"Tokyo", "Seoul", "Mumbai", "Jakarta"}  # of regions too, but a service has no home
    assert all(unheard.is_plain(Subject("boss", "home city", "city"), city) for city in shared)
    for subject, value in plain(1, 200):
        assert value in lexicon()["values"][subject.kind]


def test_a_statement_names_its_owner_and_its_value() -> None:
    chooser = random.Random(0)
    for subject, value in plain(2, 300):
        said = unheard.statement(chooser, subject, value)
        owner = "I" if subject.entity == "me" else subject.holder("my")
        assert f" {owner} " in f" {said} "
        assert value in said
        assert "{" not in said
        assert subject.attribute not in said


def test_no_held_out_statement_comes_out() -> None:
    """Of each attribute the last of three or more wordings is kept for tests."""
    chooser = random.Random(3)
    kept: dict[str, Any] = {
        name: told[-1]
        for group in lexicon()["attributes"].values()
        for name, (_, told, _) in group.items()
        if len(told) > 2
    }
    world = World(0)
    for subject, value in plain(4, 4000):
        if subject.attribute in kept:
            held = world._fill(kept[subject.attribute], subject, value)
            assert unheard.statement(chooser, subject, value) != held


def test_the_share_of_them_is_the_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    plainly = unheard.statement

    def noted(*given: Any) -> str:
        told.append(plainly(*given))
        return told[-1]

    monkeypatch.setattr(unheard, "statement", noted)
    pairs = plain(6, 400)
    for share, least, most in ((0.0, 0, 0), (0.35, 100, 180)):
        world = World(5, strange=share)
        turns = [world.fact(*pair) for pair in pairs]
        assert least <= len(told) <= most
        said = [turn.user.casefold() for turn in turns]
        assert all(any(text.casefold() in one for one in said) for text in told[:5])
