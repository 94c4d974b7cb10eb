"""Whether a question names a fact's subject and attribute: "my sister's badge number"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from deltamem_agents.router.analyze import STOP, stem
from deltamem_agents.router.facts import Fact
from deltamem_agents.router.slots import WRAPPERS
from deltamem_agents.router.words import CLOSED

_WORD = re.compile(r"([^\W_]+(?:[-./:@+#_&][^\W_]+)*)((?:['’]s?)?)(?![^\W_])(\s*[,.;:?!)])?")
# Head nouns that people leave out: "her email" for "her email address".
_LIGHT = frozenset(stem(w) for w in ["address", "number", "code", "name", "id", "date", "day"])
_OWN = frozenset(["my", "our", "mine"])
_THEIR = frozenset(["your", "his", "her", "their", "its"])


# "A record of my badge number" is about the badge number.
_MENTIONS = frozenset((*WRAPPERS, "copy", "note", "mention", "memory", "idea", "track", "sight"))


@dataclass(frozen=True)
class _Said:
    """A word of the question."""

    word: str
    stem: str
    owns: bool  # followed by 's
    ends: bool  # followed by a mark

    @property
    def weak(self) -> bool:
        action = len(self.word) > 5 and self.word.endswith(("ed", "ing"))
        return action or self.word in STOP | CLOSED or self.word in _AFTER


# What may follow a slot without becoming part of it, beside stop words.
_AFTER_WORDS = """
mentions contains includes states shows says giving stating matters written works used using
because since until before after during against matter means belongs comes stands reads looks
exactly precisely anyway actually really correct right wrong still
"""
_AFTER = frozenset(_AFTER_WORDS.split())


@lru_cache(maxsize=4096)
def said(question: str) -> tuple[_Said, ...]:
    """The question's words, each with whether it owns the next."""
    return tuple(
        _Said(
            match.group(1).lower(),
            stem(match.group(1).lower()),
            bool(match.group(2)) and match.group(1).lower() not in CLOSED,
            bool(match.group(3)),
        )
        for match in _WORD.finditer(question)
    )


def names(question: str, fact: Fact) -> bool:
    """Whether subject and attribute of the fact stand in the question, as one phrase.

    "What is my sister's badge number?" names (user's sister, badge number), and neither
    (user, badge number) nor (user's sister, badge).
    """
    if not fact.attribute or (not fact.slot and not fact.subject):
        return False
    words = said(question)
    return any(_named(words, fact.subject, one) for one in _attributes(fact.attribute))


def _attributes(attribute: str) -> list[list[str]]:
    full = [item.stem for item in said(attribute) if not _filler(item)]
    return [full, full[:-1]] if len(full) > 1 and full[-1] in _LIGHT else [full]


def _filler(item: _Said) -> bool:
    return item.word in ("the", "a", "an", "of")


def _named(words: Sequence[_Said], subject: str, attribute: list[str]) -> bool:
    if not attribute:
        return False
    own = subject == "user" or subject.startswith("user's ")
    held = [
        item.stem for item in said("" if subject == "user" else subject.removeprefix("user's "))
    ]
    for start in range(len(words)):
        before = words[start - 1] if start else None
        if _runs(words, start, [*held, *attribute]):
            end = start + len(held) + len(attribute)
            owned = not held or words[start + len(held) - 1].owns
            whole = owned and _bound(before, own) and not _nested(words, start)
            if whole and _ends(words, end):
                return True
        if held and _runs(words, start, attribute) and not _nested(words, start):
            at = start + len(attribute)
            at, linked = _over(words, at)
            bound = linked and _runs(words, at, held) and _bound(words[at - 1], own)
            if bound and _ends(words, at + len(held)):
                return True
    return False


def _runs(words: Sequence[_Said], start: int, wanted: list[str]) -> bool:
    part = words[start : start + len(wanted)]
    return len(part) == len(wanted) and all(w.stem == x for w, x in zip(part, wanted, strict=True))


def _over(words: Sequence[_Said], at: int) -> tuple[int, bool]:
    """Passes "of my", "for the"."""
    if at >= len(words) or words[at].word not in ("of", "for"):
        return at, False
    at += 1
    while at < len(words) and words[at].word in _OWN | _THEIR | {"the", "a"}:
        at += 1
    return at, True


def _bound(before: _Said | None, own: bool) -> bool:
    """Whether the phrase begins where its owner says so."""
    if own:
        return before is not None and before.word in _OWN
    if before is None:
        return True
    return not before.owns and before.word not in _OWN | _THEIR


def _nested(words: Sequence[_Said], start: int) -> bool:
    """Whether something of it is asked for: "the admin page of the server for Anna"."""
    at = start - 1
    while at > 0 and words[at].word in _OWN | _THEIR | {"the", "a"}:
        at -= 1
    return at > 0 and words[at].word == "of" and words[at - 1].word not in _MENTIONS


def _ends(words: Sequence[_Said], at: int) -> bool:
    """Whether the phrase is over: what follows is no noun of a longer one."""
    if at and words[at - 1].owns:
        return at < len(words) and words[at].word in ("is", "was")
    return at >= len(words) or words[at].weak or (at > 0 and words[at - 1].ends)
