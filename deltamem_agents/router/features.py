"""What a routing decision rests on: how the question reads and how the found facts fit it.

| feature | meaning (all between 0 and 1) |
|---|---|
| `asks` | probability that the text asks for something told (`aims`) |
| `writes` | that it wants a text written |
| `talks` | that it chats, or asks for an opinion, a story, advice |
| `tells` | that it states something itself |
| `slot_asked` | it names an attribute of somebody or something ("my sister's badge number") |
| `found` | the search found a fact at all |
| `coverage` | share of the question's words, by their rarity, that stand in the best fact |
| `subject` | share of the best fact's subject that the question names |
| `attribute` | the best fact's attribute is asked for, in its words or by an alias |
| `named` | probability that the best fact's name in the question asks for it (`asked`) |
| `kind` | the question asks for the best fact's kind of value ("when" - a date) |
| `misfit` | the question asks for another kind of value ("when" - an order number) |
| `gap` | how far the best fact's score lies above that of the next other value |
| `reverse` | the question holds the best fact's value |
| `conflict` | another active value stands against the best fact's |
| `sure` | how surely the best fact was read from its message |
| `cosine` | of the best fact's embedding; 0 without an embedder |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from deltamem_agents.router.aims import Aim, aims
from deltamem_agents.router.analyze import aliases, content, names_self, tokens
from deltamem_agents.router.asked import names
from deltamem_agents.router.extract import extract
from deltamem_agents.router.facts import Draft, Fact, Hit
from deltamem_agents.router.kept import kept
from deltamem_agents.router.phrases import is_person
from deltamem_agents.router.reading import SURE, best, models
from deltamem_agents.router.slots import Slot, slots
from deltamem_agents.router.typed import typed_values
from deltamem_agents.router.words import cut

_WHERE = re.compile(r"\bwhere\b", re.IGNORECASE)
_PLACES = frozenset(("home city", "region", "address", "location"))
_ASKED_WAY = (
    # "When I told you my port, what did I say?" asks for no date.
    (re.compile(r"^(?!.*\b(?:what|which|who)\b).*\bwhen\b", re.I | re.S), ("date", "time")),
    (re.compile(r"\b(?:what|which) (?:date|day)\b", re.I), ("date",)),
    (re.compile(r"\b(?:what|which) time\b", re.I), ("time",)),
    (re.compile(r"\bhow (?:much|many)\b", re.I), ("amount", "number")),
    (_WHERE, ("url", "ip")),
)
_ASKED_KIND = (
    (re.compile(r"\bcosts?\b|\bprice\b", re.I), ("amount", "number")),
    (re.compile(r"\be-?mail\b", re.I), ("email",)),
    (re.compile(r"\burl\b|\blink\b|\bweb ?site\b|\bpage\b", re.I), ("url",)),
    (re.compile(r"\bip\b|\bhost\b", re.I), ("ip",)),
    (re.compile(r"\bversion\b|\brelease\b", re.I), ("version",)),
    (re.compile(r"\b(?:write to|reach|contact)\b", re.I), ("email", "phone")),
    (re.compile(r"\biban\b|\baccount\b", re.I), ("iban",)),
    (re.compile(r"\bphone\b|\bcall\b", re.I), ("phone",)),
    (re.compile(r"\buuid\b", re.I), ("uuid",)),
    (re.compile(r"\bport\b|\bhow many\b|\bnumber\b", re.I), ("number",)),
    (
        re.compile(r"\b(?:id|code|ticket|order|build|reference|identifier)\b", re.I),
        ("id", "number"),
    ),
    (re.compile(r"\bcommand\b|\bsnippet\b", re.I), ("code",)),
    (re.compile(r"\bquote\b|\btitle\b|\bcalled\b", re.I), ("quote",)),
)


@dataclass(frozen=True)
class Features:
    """The features by name; see the table above."""

    asks: float = 0.0
    writes: float = 0.0
    talks: float = 0.0
    tells: float = 0.0
    slot_asked: float = 0.0
    found: float = 0.0
    coverage: float = 0.0
    subject: float = 0.0
    attribute: float = 0.0
    named: float = 0.0
    kind: float = 0.0
    misfit: float = 0.0
    gap: float = 0.0
    reverse: float = 0.0
    conflict: float = 0.0
    sure: float = 0.0
    cosine: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Name -> value."""
        return asdict(self)


def features_of(query: str, hits: Sequence[Hit], conflicts: Sequence[Fact] = ()) -> Features:
    """Measures how the found facts fit the question.

    Args:
        query: the question.
        hits: of the search, best first.
        conflicts: active facts that stand against the first hit.
    """
    aim = _aims(query)
    basis = Features(
        asks=aim["ask"],
        writes=aim["write"],
        talks=aim["talk"],
        tells=aim["tell"],
        slot_asked=float(bool(slots_asked(query))),
    )
    if not hits:
        return basis
    first = hits[0]
    words = set(content(query))
    other = next(
        (h.bm25 for h in hits[1:] if h.fact.value.lower() != first.fact.value.lower()), 0.0
    )
    return replace(
        basis,
        found=1.0,
        named=names(query, first.fact),
        coverage=first.keyword,
        subject=_subject_fits(first.fact, query, words),
        attribute=_attribute_fits(first.fact, query, words),
        gap=max(1.0 - other / first.bm25, 0.0) if first.bm25 > 0 else 0.0,
        kind=kind_fits(first.fact, query),
        misfit=float(_misfits(first.fact, query)),
        reverse=float(set(tokens(first.fact.value)) <= set(tokens(query))),
        conflict=float(bool(conflicts)),
        sure=first.fact.sure,
        cosine=max(first.cosine or 0.0, 0.0),
    )


def _aims(query: str) -> dict[Aim, float]:
    """The aims; where nothing is stated ("The lady wants my port."), those that are left."""
    found = aims(query)
    left = 1.0 - found["tell"]
    if left > 0.5 or any(map(_states, extract(query))):
        return found
    rest = {aim: chance / max(left, 1e-9) for aim, chance in found.items()}
    return {**rest, "tell": 0.0}


def _states(draft: Draft) -> bool:
    return draft.sure >= SURE and (draft.kind != "plain" or bool(draft.subject))


@kept(1024)
def slots_asked(query: str) -> tuple[Slot, ...]:
    """The attributes that a question names: "my badge number", not "my sister"."""
    tokens = cut(query, 0, len(query), typed_values(query))
    named = [best(group, models().ends) for group in slots(tokens, query)]
    return tuple(s for s in named if s.subject != "I" or not is_person(s.attribute))


def asks_owned(query: str) -> bool:
    """Whether it names somebody's attribute: "my order number", "Anna's badge number"."""
    return any(slot.owned for slot in slots_asked(query))


def held_by(query: str, fact: Fact) -> bool:
    """Whether a word of the question stands in the fact or its sentence as it is, not an alias."""
    said = {*tokens(fact.subject), *tokens(fact.attribute), *tokens(fact.quote)}
    return not said.isdisjoint(content(query))


def fit(query: str, fact: Fact) -> float:
    """How well name, subject, attribute and kind of a fact fit a question: breaks ties.

    A value that stands in the question is not what it asks for.
    """
    words = set(content(query))
    return (
        4.0 * names(query, fact)
        - 3.0 * bool(set(tokens(fact.value)) <= set(tokens(query)))
        - 3.0 * _misfits(fact, query)
        + _subject_fits(fact, query, words)
        + _attribute_fits(fact, query, words)
        + kind_fits(fact, query) * (not fact.subject)
    )


def _subject_fits(fact: Fact, query: str, words: set[str]) -> float:
    if fact.subject == "user":
        return float(names_self(query))
    named = set(content(fact.subject.removeprefix("user's ")))
    if not named:
        return 1.0
    return len(named & words) / len(named)


def _attribute_fits(fact: Fact, query: str, words: set[str]) -> float:
    named = set(content(fact.attribute))
    if not fact.subject and any(form.search(query) for form, _ in _ASKED_WAY):
        return kind_fits(fact, query)
    if words & set(aliases(fact.attribute)):
        return 1.0
    if fact.attribute in _PLACES and _WHERE.search(query):
        return 1.0
    if not fact.subject and kind_fits(fact, query):
        return 1.0
    return len(named & words) / len(named) if named else 0.0


def _misfits(fact: Fact, query: str) -> bool:
    """Whether the word that asks wants another kind of value than the fact has."""
    asked = {kind for form, kinds in _ASKED_WAY if form.search(query) for kind in kinds}
    held = {value.kind for value in typed_values(fact.value)}
    return bool(asked and held) and not _WHERE.search(query) and asked.isdisjoint(held)


def kind_fits(fact: Fact, query: str) -> float:
    """Whether the question asks for the fact's kind of value, 0 or 1.

    The word that asks ("when", "how much") outweighs the nouns beside it.
    """
    asked = [kinds for form, kinds in _ASKED_WAY if form.search(query)]
    if asked:
        return float(any(fact.kind in kinds for kinds in asked))
    return float(any(form.search(query) and fact.kind in kinds for form, kinds in _ASKED_KIND))
