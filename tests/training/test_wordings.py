"""The benchmark's sentences of somebody else: whole, and none of training's but those marked."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.training.phrasing import Phraser
from deltamem_agents.training.subjects import held_out, lexicon, sentence, subjects

FILE = Path(__file__).parents[2] / "benchmarks" / "wordings.py"


@pytest.fixture(scope="module")
def wordings() -> Any:
    spec = importlib.util.spec_from_file_location("wordings", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wordings"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def test_every_fact_is_told_with_its_value_and_asked_for_without(wordings: Any) -> None:
    facts = wordings.wordings()
    assert len(facts) == 120
    assert len({fact.told for fact in facts}) == len({fact.asked for fact in facts}) == 120
    for fact in facts:
        assert fact.value in fact.told
        assert fact.value not in fact.asked


def test_values_of_lists_are_held_out_of_training(wordings: Any) -> None:
    by = {sentence(s, "X"): s for s in subjects()}
    listed = {v for kind, vs in lexicon()["values"].items() if kind != "syllables" for v in vs}
    checked = 0
    for fact in wordings.wordings():
        subject = by[fact.truth.replace(f"is {fact.value}.", "is X.")]
        if fact.value in listed:
            assert held_out(subject, fact.value), fact
            checked += 1
    assert checked >= 70


def test_training_draws_none_that_is_not_marked(wordings: Any) -> None:
    by = {sentence(s, "X"): s for s in subjects()}
    phraser, met = Phraser(random.Random(5)), set()
    for fact in wordings.wordings():
        subject = by[fact.truth.replace(f"is {fact.value}.", "is X.")]
        told, asked = plain(fact.told), plain(fact.asked)
        for _ in range(400):
            if plain(phraser.statement(subject, fact.value)) == told:
                met.add("told")
                assert "told" in fact.known, fact
            if plain(phraser.question(subject)) == asked:
                met.add("asked")
                assert "asked" in fact.known, fact
    assert met == {"told", "asked"}  # some that are marked do come out
