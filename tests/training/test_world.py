"""The made-up world keeps its test side out of training and repeats itself from a seed."""

from __future__ import annotations

import itertools
import random
import re

from deltamem_agents.training.phrasing import Phraser, everyday, filled, third_person
from deltamem_agents.training.subjects import Subject, held_out, lexicon, sentence, subjects
from deltamem_agents.training.values import Drawn
from deltamem_agents.training.world import World


def tell(world: World, conversations: int) -> list[tuple[str, str, str]]:
    triples = []
    for _ in range(conversations):
        _, truth = world.history(3, 1)
        triples += [(s.entity, s.attribute, v) for s, v in truth.items()]
    return triples


def test_training_never_sees_a_held_out_triple() -> None:
    world = World(5)
    by_name = {(s.entity, s.attribute): s for s in subjects()}
    told = tell(world, 300)
    assert len(told) == 900
    assert not any(held_out(by_name[entity, name], value) for entity, name, value in told)


def test_the_test_side_draws_held_out_triples() -> None:
    by_name = {(s.entity, s.attribute): s for s in subjects()}
    told = tell(World(5, "test"), 300)
    kept_out = [held_out(by_name[e, a], v) for e, a, v in told]
    # A revision of a subject that has only one held-out value takes another.
    assert sum(kept_out) / len(kept_out) > 0.98


def test_held_out_phrasings_are_never_drawn_in_training() -> None:
    words = lexicon()
    asked = set()
    world = World(3)
    for _ in range(200):
        _, truth = world.history(2, 0)
        asked |= {t.user.lower() for t in itertools.islice(world.questions(truth, 0.0), 2)}
    openings = [p.split("{s}")[0].strip() for p in words["questions_held_out"]]
    openings = [o for o in openings if o]
    assert openings
    assert len(asked) > 300
    assert not any(f"{o} " in text for o in openings for text in asked)


def kept_apart(subject: Subject, value: str) -> set[str]:
    """Every held-out wording about a subject, filled."""
    words, world = lexicon(), World(0, "test")
    own = [listed[-1:] for listed in world._specific(subject) if len(listed) > 2]
    shared = [words[f"{name}_held_out"] for name in ("statements", "updates", "questions")]
    return {world._fill(p, subject, value).lower() for ps in (*own, *shared) for p in ps}


def test_held_out_wordings_never_come_out_of_the_composed_ones() -> None:
    phraser, drawn, seen = Phraser(random.Random(6)), Drawn(random.Random(6), "all"), set()
    for subject in [s for s in subjects() if s.entity in ("me", "sister", "billing")]:
        value = drawn.listed(subject.kind)
        apart = kept_apart(subject, value)
        assert len(apart) >= 8
        for _ in range(800):
            said = {phraser.question(subject), phraser.statement(subject, value),
                    phraser.update(subject, value)}  # fmt: skip
            assert not [one for text in said for one in apart if one in text.lower()]
            assert not [text for text in said if "{" in text or "~" in text]
            seen |= said
    assert len(seen) > 60_000


def test_a_verb_follows_its_entity() -> None:
    me, sister = (Subject(entity, "home city", "city") for entity in ("me", "sister"))
    pattern = "{e} ~be at home in {v}, {e} ~have {poss} flat there, ask {obj}"
    assert filled(pattern, me, "Oslo") == "I am at home in Oslo, I have my flat there, ask me"
    assert filled(pattern, sister, "Oslo") == (
        "my sister is at home in Oslo, my sister has my sister's flat there, ask my sister"
    )
    assert [third_person(v) for v in ("go", "carry", "say", "watch")] == [
        "goes", "carries", "says", "watches"
    ]  # fmt: skip


def test_pronouns_and_auxiliaries_agree_with_their_entity() -> None:
    said = "what {do} {e} call {their} home, where {is} {e}, {has} {they} told {them}"
    by = {
        name: filled(said, Subject(name, "codename", "codename"))
        for name in ("me", "aunt", "son", "billing")
    }
    assert by["me"] == "what do I call my home, where am I, have I told me"
    assert by["aunt"] == ("what does my aunt call her home, where is my aunt, has she told her")
    assert by["son"].endswith("has he told him")
    assert by["billing"].endswith("has it told it")


def test_everyday_wordings_name_their_entity_and_their_value_once() -> None:
    told = {(g, n): own for g, names in everyday().items() for n, own in names.items()}
    groups = lexicon()["attributes"]
    assert set(told) == {(group, name) for group in groups for name in groups[group]}
    for about, own in told.items():
        assert min(len(own["told"]), len(own["asked"])) >= 35, about
        for pattern in own["told"] + own["asked"]:
            assert pattern.count("{v}") == (pattern in own["told"]), (about, pattern)
            assert {"{e}", "{obj}", "{poss}"} & set(re.findall(r"{\w+}", pattern)), (about, pattern)


def test_values_of_any_shape_belong_to_training_only() -> None:
    def told(world: World) -> set[str]:
        [me] = [s for s in world.pool if (s.entity, s.attribute) == ("me", "home city")]
        return {world.value(me) for _ in range(300)}

    cities = set(lexicon()["values"]["city"])
    assert told(World(1)) - cities
    assert told(World(1, values="known")) <= cities
    assert told(World(1, "test")) <= cities


def test_a_seed_repeats_and_another_does_not() -> None:
    first, again, other = (World(seed).history(4, 4)[0] for seed in (9, 9, 10))
    assert first == again
    assert first != other


def test_what_holds_at_the_end_is_the_last_value_told() -> None:
    world = World(1)
    changed = 0
    for _ in range(50):
        turns, truth = world.history(3, 2, updates=1.0)
        for subject, value in truth.items():
            said = [t.assistant for t in turns if f"{sentence(subject, None)[:-24]}" in t.assistant]
            assert sentence(subject, value) in said[-1]
            changed += len(said) > 1
    assert changed == 150


def test_questions_about_what_was_not_told_are_about_other_subjects() -> None:
    world = World(2)
    _, truth = world.history(4, 0)
    asked = list(itertools.islice(world.questions(truth, 0.5), 60))
    unknown = [t for t in asked if t.kind == "unknown"]
    assert 10 < len(unknown) < 50
    assert all(t.subjects[0] not in truth for t in unknown)
    assert all(lexicon()["unknown"] in t.assistant for t in unknown)


def test_invented_values_are_not_words_of_the_lexicon() -> None:
    world = World(4, values="invented")
    known = {w for ws in lexicon()["values"].values() for w in ws}
    _, truth = world.history(12, 0)
    assert len(truth) == 12
    assert not set(truth.values()) & known
