"""Reads statements: which slot a sentence names, and which words of it are the slot's value.

Two log-linear models choose among what the sentence offers: where the slot's name ends, and which
span is its value (or that none is). They see word classes, marks and places, never a particular
name or value, so that a phrasing nobody foresaw is read by its shape. Fitted by
`python -m deltamem_agents.evaluation.tasks.router_reading_fit`; the weights are shipped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from deltamem_agents.router.slots import Features, Slot, slots
from deltamem_agents.router.typed import Typed
from deltamem_agents.router.words import Token, cut, shape, word_class

LONGEST = 10  # tokens of a value
NEAR = 40  # tokens between a slot and where its value begins: what is offered stays in proportion
# How much likelier "states nothing" must be: a missed update leaves an old value standing, while a
# needless fact is only met by a question that names its slot.
MARGIN = 1.0
SURE = 0.6  # of a value: below, the statement stands beside what was told before and closes nothing
LEAST = 0.15  # of any value: below, nothing is stated
# Of any value: below, and without a typed value beside the slot, the slot is spoken of in passing.
PASSING = 0.03
OTHER = 0.05  # of a name's end: another slot that the sentence may mean
Value = tuple[int, int] | None  # tokens[start:end]
Weights = Mapping[str, float]
# Words before a slot, in its part of the sentence, that take the claim away.
_DENIED = re.compile(
    r"\b(?:if|whether|not|never|doubt|unless|suppose|imagine|wondered?|wish|hope|maybe|perhaps"
    r"|might|what|which|who|how|why)\b|n['’]t\b",
    re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:not|never|no longer)\b|n['’]t\b", re.IGNORECASE)
_KEPT_IN_MIND = re.compile(r"\b(?:do not|don['’]t|never) forget\b", re.IGNORECASE)
_PARTS = re.compile(r"[,;:–—(]|\s-\s|\b(?:but|and)\b")


@dataclass(frozen=True, eq=False)  # compared by identity: the key of caches
class Models:
    """The weights of the readers, by feature.

    Attributes:
        ends: where the name of a slot ends in a statement.
        values: which span of a statement is the slot's value.
        asked: whether a question that holds a fact's name asks for that fact (`asked`).
        aims: what a text is for (`aims`).
    """

    ends: Weights
    values: Weights
    asked: Weights
    aims: Weights


def models_of(loaded: Mapping[str, Any]) -> Models:
    """The weights of what `reading.json` holds."""
    return Models(loaded["ends"], loaded["values"], loaded["asked"], loaded["aims"])


@cache
def _shipped() -> Models:
    text = files("deltamem_agents.router").joinpath("reading.json").read_text("utf-8")
    return models_of(json.loads(text))


_trial: ContextVar[Models | None] = ContextVar("trial", default=None)


def models() -> Models:
    """The shipped weights, or those on trial."""
    return _trial.get() or _shipped()


@contextmanager
def on_trial(given: Models) -> Iterator[None]:
    """Reads with other weights in this context: for fitting."""
    token = _trial.set(given)
    try:
        yield
    finally:
        _trial.reset(token)


@dataclass(frozen=True)
class Told:
    """A statement as the fitted reader sees it.

    Attributes:
        slot: what it is about.
        at: where the slot stands in the text.
        start, end: of the value in the text.
        article: whether an article precedes the value.
        sure: the probability that this value is stated.
        others: slots of a longer or shorter name that it may be about instead.
        mention: the slot is spoken of, and what is said of it could not be read: start and end are
            the sentence's.
    """

    slot: Slot
    at: int
    start: int
    end: int
    article: bool
    sure: float
    others: tuple[Slot, ...]
    mention: bool = False


def read(text: str, start: int, end: int, typed: Sequence[Typed]) -> Iterator[Told]:
    """The statements of one sentence.

    Args:
        text: a message's.
        start: of the sentence.
        end: of the sentence.
        typed: typed values of the whole text.
    """
    tokens = cut(text, start, end, typed)
    weights = models()
    groups = slots(tokens, text)
    likely = [shares([score(slot.features, weights.ends) for slot in group]) for group in groups]
    named = [group[_most(p)] for group, p in zip(groups, likely, strict=True)]
    taken: set[int] = {at for slot in named for at in range(slot.start, slot.end)}
    stated = [_stated(tokens, slot, taken, weights.values) for slot in named]
    # The surest first: "my mistake, my port is 80" tells of the port. But somebody's first of all:
    # "my port is at the top of the page, it's 80" tells of my port, not of the page's top.
    owned = [named[n].owned and stated[n][1] >= SURE for n in range(len(named))]
    for place in sorted(range(len(named)), key=lambda n: (not owned[n], -stated[n][1])):
        slot, p = named[place], likely[place]
        value, sure, any_value = _stated(tokens, slot, taken, weights.values)
        others = tuple(
            o for o, q in zip(groups[place], p, strict=True) if q > OTHER and o is not slot
        )
        at = tokens[slot.start].start
        if value is None or any_value < LEAST or denied(text, start, tokens, slot, value):
            beside = {n for n, t in enumerate(tokens) if t.typed} - taken
            if beside or any_value >= PASSING:
                yield Told(slot, at, start, end, False, 0.0, others, mention=True)
            continue
        taken |= set(range(*value))
        left, right = tokens[value[0]].start, tokens[value[1] - 1].end
        article = bool(value[0]) and tokens[value[0] - 1].low in ("a", "an")
        yield Told(slot, at, left, right, article, sure, others)


def slots_of(text: str, start: int, end: int, typed: Sequence[Typed]) -> list[Slot]:
    """The slots that a sentence names, each by its likeliest end; arguments as for `read`."""
    groups = slots(cut(text, start, end, typed), text)
    return [best(group, models().ends) for group in groups]


def _stated(
    tokens: Sequence[Token], slot: Slot, taken: set[int], weights: Weights
) -> tuple[Value, float, float]:
    """The likeliest value, its probability, and the probability that there is any."""
    given = offers(tokens, slot, taken)
    if len(given) == 1:
        return None, 0.0, 0.0
    scores = [score(features, weights) for _, features in given]
    chances = shares([scores[0] - MARGIN, *scores[1:]])
    place = 1 + _most(chances[1:])
    return given[place][0], chances[place], 1.0 - chances[0]


def best(group: Sequence[Slot], ends: Weights) -> Slot:
    """The likeliest end of a slot's name."""
    return max(group, key=lambda slot: score(slot.features, ends))


def _most(chances: Sequence[float]) -> int:
    return max(range(len(chances)), key=chances.__getitem__)


def shares(scores: Sequence[float]) -> list[float]:
    """Scores as probabilities."""
    top = max(scores)
    raised = [math.exp(one - top) for one in scores]
    whole = sum(raised)
    return [one / whole for one in raised]


def score(features: Features, weights: Weights) -> float:
    """The sum of the features' weights."""
    return sum(weights.get(feature, 0.0) for feature in features)


def denied(text: str, start: int, tokens: Sequence[Token], slot: Slot, value: Value) -> bool:
    """Whether the sentence takes back what it seems to say: "I doubt that my gate is B"."""
    assert value is not None
    first, last = min(slot.start, value[0]), max(slot.start, value[0])
    before = _PARTS.split(_KEPT_IN_MIND.sub("", text[start : tokens[first].start]))[-1]
    between = _PARTS.split(text[tokens[first].start : tokens[last].start])[-1]
    return bool(_DENIED.search(before) or _DENIES.search(between))


def offers(tokens: Sequence[Token], slot: Slot, taken: set[int]) -> list[tuple[Value, Features]]:
    """All spans near the slot that could be its value, and None, each with its features."""
    typed = sum(bool(token.typed) for token in tokens)
    typed -= sum(bool(token.typed) for token in tokens[slot.start : slot.end])
    free = [_holds(token) and at not in taken for at, token in enumerate(tokens)]
    found: list[tuple[Value, Features]] = [(None, _without(tokens, slot))]
    for start in range(max(slot.start - NEAR, 0), min(slot.end + NEAR, len(tokens))):
        if not (free[start] or _capital(tokens, start, taken)):
            continue
        for end in range(start + 1, min(start + LONGEST, len(tokens)) + 1):
            if end - 1 in taken or _breaks(tokens, start, end - 1):
                break
            if free[end - 1]:
                found.append(((start, end), _features(tokens, slot, start, end, typed)))
    return found


def _holds(token: Token) -> bool:
    """A word that a value may begin and end with; "Friday" is one, though no part of a name."""
    return token.open or word_class(token.low) == "day"


def _capital(tokens: Sequence[Token], at: int, taken: set[int]) -> bool:
    """A title's "The", a blood group's "A"."""
    token = tokens[at]
    return at > 0 and at not in taken and token.text[0].isupper() and token.low != "i"


def _breaks(tokens: Sequence[Token], start: int, at: int) -> bool:
    """Whether a value ends before this token for sure."""
    token = tokens[at]
    if at == start or not token.mark:
        return False
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    joined = token.text in "/&-+'’" or (token.text == "," and after and after.text[0].isupper())
    return not joined


def _features(tokens: Sequence[Token], slot: Slot, start: int, end: int, typed: int) -> Features:
    """What the reader sees of tokens[start:end]; typed: typed values beside the slot."""
    side = "after" if start >= slot.end else "before"
    gap = range(slot.end, start) if side == "after" else range(end, slot.start)
    between = [shape(tokens, at) for at in gap]
    before = "slot" if start == slot.end else shape(tokens, start - 1)
    after = "slot" if end == slot.start else shape(tokens, end)
    inner = [shape(tokens, at) for at in range(start + 1, end - 1) if not tokens[at].open]
    kinds = [token for token in tokens[start:end] if token.typed]
    outside = typed > len(kinds)
    form = f"typed {len(kinds)} of {min(end - start, 3)}" if kinds else "plain"
    features = [
        f"first {shape(tokens, start)}",
        f"last {shape(tokens, end - 1)}",
        f"first two {shape(tokens, start)} {shape(tokens, start + 1)}",
        f"{before} | {shape(tokens, start)}",
        f"{shape(tokens, end - 1)} | {after}",
        f"{side} before {before}",
        f"{side} after {after}",
        f"{side} after that {shape(tokens, end + 1)}",
        f"{side} before that {shape(tokens, start - 2)}",
        f"{side} gap {min(len(between), 6)}",
        f"{side} open words between {min(sum(w[:1] == '-' for w in between), 3)}",
        f"{side} slot's neighbours {shape(tokens, slot.start - 1)} {side == 'before'}",
        f"length {min(end - start, 5)}",
        form,
        f"{form} elsewhere {outside}",
    ]
    features += [f"{side} between {word}" for word in dict.fromkeys(between)]
    classes = [word_class(word) for word in between]
    features += [f"{side} between a {name}" for name in dict.fromkeys(classes)]
    features += [
        f"{side} through {' '.join(classes[:4])}",
        f"{side} before a {word_class(before)}",
        f"{side} after a {word_class(after)}",
    ]
    features += [f"inner {word}" for word in inner]
    if side == "after" and between:
        features.append(f"slot then {between[0]}")
    return tuple(features)


def _without(tokens: Sequence[Token], slot: Slot) -> Features:
    typed = any(t.typed for at, t in enumerate(tokens) if not slot.start <= at < slot.end)
    return (
        "none",
        f"none typed {typed}",
        f"none then {shape(tokens, slot.end)}",
        f"none then {shape(tokens, slot.end)} {shape(tokens, slot.end + 1)}",
        f"none then a {word_class(shape(tokens, slot.end))}",
        f"none from {shape(tokens, slot.start - 1)} {typed}",
        f"none at {'front' if slot.start == 0 else 'inside'}",
        f"none begins {shape(tokens, 0)}",
        f"none last {tokens[-1].text if tokens[-1].mark else ''}",
    )
