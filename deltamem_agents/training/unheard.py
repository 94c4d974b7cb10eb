"""Words never heard: what is told has to be understood from the words that are left.

A verb that training never used has a vector that means nothing, and a small model takes it for some
other attribute's: "my son was hired as a florist" became a pet. Yet a florist can only be a job. So
in a part of what is told, words that are neither entity nor value are given such a vector (see
`objective.embedded`), and the values alone tell the attributes.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from deltamem_agents.training.subjects import Subject, lexicon, subjects

_WORD = re.compile(r"[A-Za-z]+")
# Words that say nothing of an attribute and are in every sentence: they stay.
_SMALL = frozenset(
    ("a", "an", "the", "i", "me", "my", "mine", "we", "us", "our", "you", "your", "it", "its", "is",
     "am", "are", "was", "were", "be", "been", "has", "have", "had", "do", "does", "of", "in", "on",
     "at", "to", "for", "from", "by", "with", "as", "and", "or", "that", "this", "what", "s", "not",
     "so")
)  # fmt: skip


@cache
def _telling() -> frozenset[tuple[bool, str]]:
    """Kinds of listed values that one attribute alone has: (whether of services, kind)."""
    services = lexicon()["services"]
    counted = Counter({(s.entity in services, s.attribute, s.kind) for s in subjects()})
    kinds = Counter((service, kind) for service, _, kind in counted)
    return frozenset(key for key, attributes in kinds.items() if attributes == 1)


@cache
def _only_listed(service: bool) -> dict[str, frozenset[str]]:
    """Per kind the values that no other kind of the same group has: violet is also a flower."""
    words = lexicon()
    kinds = {_list_of(s.kind) for s in subjects() if (s.entity in words["services"]) == service}
    lists = {kind: words["values"][kind] for kind in kinds if kind in words["values"]}
    counted = Counter(value for listed in lists.values() for value in set(listed))
    return {k: frozenset(v for v in listed if counted[v] == 1) for k, listed in lists.items()}


def _list_of(kind: str) -> str:
    return "name" if kind == "fullname" else kind


@cache
def _entities() -> frozenset[str]:
    words = lexicon()
    return frozenset([*words["people"], *words["services"], "service"])


class Unheard:
    """Chooses words.

    Args:
        chooser: the generator of the conversation's world.
        share: the chance that a telling has such words. Nothing is drawn for it at 0.
    """

    def __init__(self, chooser: random.Random, share: float) -> None:
        self.random, self.share = chooser, share

    def told(self, text: str, told: Sequence[tuple[Subject, str]]) -> tuple[str, tuple[str, ...]]:
        """A telling, some of its words made up, and those that are never heard; see `asked`."""
        if not self.share or not all(self._speaks(*one) for one in told):
            return text, ()
        return self.asked(text, [value for _, value in told])

    def asked(self, text: str, values: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Any text, with words that are not of a value, an entity or small, changed.

        Half of those that are chosen get a made-up spelling, as a long word that the tokenizer
        does not have falls into pieces; the others are returned, for their vectors to be changed.
        Of these an attribute that is one token with its entity is heard after all.
        """
        if not self.share or self.random.random() >= self.share:
            return text, ()
        kept = {part.lower() for value in values for part in _WORD.findall(value)}
        kept |= _SMALL | _entities()
        found = sorted({w for w in _WORD.findall(text) if w.lower() not in kept})
        part = self.random.choice((0.4, 0.7, 1.0))
        chosen = [word for word in found if self.random.random() < part]
        made_up = {word: self._made_up() for word in chosen if self.random.random() < 0.5}
        text = _WORD.sub(lambda match: made_up.get(match[0], match[0]), text)
        return text, tuple(word for word in chosen if word not in made_up)

    def _made_up(self) -> str:
        """A word that there is not, of one to four syllables and letters."""
        lists, choose = lexicon()["values"], self.random.choice
        parts = [
            choose(lists["syllables"] if self.random.random() < 0.7 else lists["letters"]).lower()
            for _ in range(self.random.randint(1, 4))
        ]
        return "".join(parts) + choose(("", "s", "ed", "ing"))

    def _speaks(self, subject: Subject, value: str) -> bool:
        """Whether the value alone says which attribute is meant."""
        service = subject.entity in lexicon()["services"]
        listed = _only_listed(service).get(_list_of(subject.kind), frozenset())
        return value in listed and (service, subject.kind) in _telling()
