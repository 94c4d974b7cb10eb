"""Statements in words that nobody has heard: what they tell follows from the value alone.

People say "hired as a pilot", "flies as a pilot", "made it to pilot"; no list of wordings holds all
of them. Where only one attribute takes pilots for values, that is enough to know what was meant.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache

from deltamem_agents.training.phrasing import phrasings
from deltamem_agents.training.subjects import Subject, lexicon

_FRAMES = (
    "{e} {w} {p}{v}", "{e} {w} {p}{v}", "{e} {w} {w} {p}{v}", "{e} was {w} {p}{v}",
    "{e} is {w} {p}{v}", "in the {w} {e} {w} {v}", "for {w} {e} always {w} {v}",
    "at the {w} {e} {w} {p}{v}", "{e} {w} a {w} {w} in {v}", "{v} is what {e} {w}",
    "no {w} {w} {e} like {v}", "it is {v} that {e} {w} {w}", "as {w} goes, {e} {w} {v}",
    "{e} {w} out {p}{v}", "the {w} {e} {w} is {v}",
)  # fmt: skip
_JOINTS = ("", "", "", "in ", "as a ", "a ", "on the ", "to ", "at ", "for ", "with ", "the ")
_ENDINGS = ("", "s", "s", "ed", "ed", "ing", "es")


def group_of(subject: Subject) -> str:
    """Whether it is of a service or of a person."""
    return "service" if subject.entity in lexicon()["services"] else "person"


def is_plain(subject: Subject, value: str) -> bool:
    """Whether the value alone says which attribute is meant."""
    kinds = Counter(spec[0] for spec in lexicon()["attributes"][group_of(subject)].values())
    lists = lexicon()["values"]
    listed = [kind for kind in kinds if value in lists.get(kind, ())]
    return listed == [subject.kind] and kinds[subject.kind] == 1


def statement(chooser: random.Random, subject: Subject, value: str) -> str:
    """The user tells a value in words that mean nothing, or something else.

    Args:
        chooser: the generator of the conversation's world.
        subject: of whom what.
        value: one that `is_plain`.
    """
    text = chooser.choice(_FRAMES).replace("{p}", chooser.choice(_JOINTS))
    while "{w}" in text:
        text = text.replace("{w}", _word(chooser), 1)
    entity = "I" if subject.entity == "me" else subject.holder("my")
    return text.replace("{e}", entity).replace("{v}", value)


def _word(chooser: random.Random) -> str:
    """A word of some other clause, or one made up."""
    if chooser.random() < 0.4:
        return chooser.choice(_words())
    parts = lexicon()["values"]["syllables"] + lexicon()["values"]["letters"]
    made = "".join(chooser.choices(parts, k=chooser.choice((1, 2, 2, 3)))).lower()
    return made + chooser.choice(_ENDINGS)


@cache
def _words() -> list[str]:
    """Words of what is told of any attribute."""
    groups = phrasings()["attributes"].values()
    clauses = [clause for group in groups for own in group.values() for clause in own["told"]]
    found = {word for clause in clauses for word in re.findall(r"[a-z]{3,}", clause)}
    return sorted(found - {"poss", "obj"})
