"""Whether a question that holds a fact's name asks for that fact: "my sister's badge number".

The name has to stand there word by word, with its owner: "my badge number" is not my sister's.
Whether the phrase goes on ("my badge number plate"), is part of another ("the photo of my badge")
or is what is asked for ("quote my badge number back to me"), a fitted log-linear model says by what
stands around it. Features of an occurrence:

| feature | meaning |
|---|---|
| `before ...` | the three words before the phrase and its determiner, or their classes |
| `after ...` | the two words after it, their forms and their classes |
| `verb ...` | the auxiliary that awaits a verb ("what did my port *turn* ...") with what follows |
| `of` | the owner follows: "the badge number of my sister" |
| `unmarked` | the owner has no 's: "my sisters badge number" |
| `short` | the last noun was left out: "her email" for "her email address" |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deltamem_agents.router.analyze import stem
from deltamem_agents.router.facts import Fact
from deltamem_agents.router.kept import kept
from deltamem_agents.router.reading import Models, models, score
from deltamem_agents.router.slots import Features, holder, slots
from deltamem_agents.router.words import Token, cut, shape, word_class

# Head nouns that people leave out: "her email" for "her email address".
LIGHT = frozenset(stem(w) for w in ["address", "number", "code", "name", "id", "date", "day"])
_OWN = frozenset(["my", "our"])
_DETERMINERS = _OWN | {"the", "a", "an", "your", "his", "her", "their", "its", "this", "that"}
_AWAIT_WORDS = """
do does did will would can could shall should may might must
"""
_AWAITS = frozenset(_AWAIT_WORDS.split())


@kept(1024)
def slots_in(question: str) -> frozenset[tuple[str, str]]:
    """Subjects and attributes that a question may name, however its phrases end."""
    groups = slots(_tokens(question), question)
    return frozenset((holder(one.subject), one.attribute) for group in groups for one in group)


@dataclass(frozen=True)
class Occurrence:
    """A fact's name in a text, at tokens[start:end], with the features of its surroundings."""

    start: int
    end: int
    features: Features


@kept(1024)
def _tokens(text: str) -> tuple[Token, ...]:
    return tuple(cut(text, 0, len(text), ()))


@kept(4096)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(stem(token.low) for token in _tokens(text) if not token.owns)


def names(question: str, fact: Fact) -> float:
    """How likely the question asks for the fact by its name, 0 to 1.

    "What is my sister's badge number?" names (user's sister, badge number), and neither
    (user, badge number) nor (user's sister, badge).
    """
    if not fact.attribute or (not fact.slot and not fact.subject):
        return 0.0
    return _named(question, fact.subject, fact.attribute, models())


@kept(8192)
def _named(question: str, subject: str, attribute: str, weights: Models) -> float:
    found = occurrences(_tokens(question), subject, attribute)
    return max((_chance(score(one.features, weights.asked)) for one in found), default=0.0)


def _chance(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(min(score, 50.0), -50.0)))


def occurrences(tokens: Sequence[Token], subject: str, attribute: str) -> Iterator[Occurrence]:
    """Where a subject's attribute is named.

    Args:
        tokens: of the question.
        subject: as in a fact: "user", "user's sister", "billing service".
        attribute: as in a fact.
    """
    own = subject == "user" or subject.startswith("user's ")
    held = _stems("" if subject == "user" else subject.removeprefix("user's "))
    full = tuple(word for word in _stems(attribute) if word not in ("the", "a", "an", "of"))
    places = [at for at, token in enumerate(tokens) if not token.owns]  # of the words
    words = [stem(tokens[at].low) for at in places]
    for short in (False, True):
        if not full or (short and (len(full) < 2 or full[-1] not in LIGHT)):
            continue
        named = full[:-1] if short else full
        for at in range(len(words)):
            front = (*held, *named)
            end = at + len(front)
            if _runs(words, at, front) and _bound(tokens, places[at], own):
                if _goes_on(tokens, places[end - 1] + 1, short):
                    continue
                marked = not held or _owned(tokens, places[at + len(held) - 1])
                yield _occurrence(tokens, places, at, end, short, "" if marked else "unmarked")
            back = _back(words, at + len(named), held, own) if held else 0
            if back and _runs(words, at, named):
                yield _occurrence(tokens, places, at, back, short, "of")


def _runs(words: Sequence[str], at: int, wanted: Sequence[str]) -> bool:
    return tuple(words[at : at + len(wanted)]) == tuple(wanted)


def _back(words: Sequence[str], at: int, held: Sequence[str], own: bool) -> int:
    """Where "of my sister" ends, 0 if that does not follow."""
    if at >= len(words) or words[at] not in ("of", "for"):
        return 0
    at += 1
    first = at
    while at < len(words) and words[at] in _DETERMINERS:
        at += 1
    bound = (at > first and words[at - 1] in _OWN) if own else True
    return at + len(held) if bound and _runs(words, at, held) else 0


def _owned(tokens: Sequence[Token], at: int) -> bool:
    return at + 1 < len(tokens) and tokens[at + 1].owns


def _goes_on(tokens: Sequence[Token], at: int, short: bool) -> bool:
    """Whether something else is asked for: "my manager's band"; short: "my locker combination"."""
    after = tokens[at] if at < len(tokens) else None
    return after is not None and (after.owns or (short and after.open))


def _bound(tokens: Sequence[Token], at: int, own: bool) -> bool:
    """Whether the phrase begins where its owner says so."""
    before = tokens[at - 1] if at else None
    if own:
        return before is not None and before.low in _OWN
    if before is None or before.low in _OWN:
        return before is None
    return not before.owns or not tokens[at - 2].open  # "what's Anna's", not "Tom's Anna's"


def _occurrence(
    tokens: Sequence[Token], places: Sequence[int], first: int, last: int, short: bool, form: str
) -> Occurrence:
    start, end = places[first], places[last - 1] + 1
    front = start
    while front and tokens[front - 1].low in _DETERMINERS:
        front -= 1
    b1, b2 = shape(tokens, front - 1), shape(tokens, front - 2)
    r1, r2 = shape(tokens, end), shape(tokens, end + 1)
    c1, c2 = word_class(r1), word_class(r2)
    b3 = shape(tokens, front - 3)
    awaits = any(token.low in _AWAITS for token in tokens[:front])
    features = [
        "named",
        f"before {b1}",
        f"before {b2} {b1}",
        f"before a {word_class(b2)} {word_class(b1)}",
        f"before a {word_class(b3)} {word_class(b2)} {b1}",
        f"after {r1}",
        f"after {r1} {r2}",
        f"after a {c1}",
        f"after a {c1} {c2}",
        f"verb {awaits} {c1}",
        f"verb {awaits} {c1} {c2}",
        f"at {'front' if not front else 'inside'} {c1}",
    ]
    if end < len(tokens) and not tokens[end].vague and tokens[end].open:
        features.append(f"after word {tokens[end].low}")
    if front and not tokens[front - 1].vague and tokens[front - 1].low in ("of", "for"):
        features.append(f"of what {tokens[front - 2].low if front > 1 else '^'}")
    features += [form] if form else []
    return Occurrence(start, end, tuple(features + [f"short {c1}"] * short))
