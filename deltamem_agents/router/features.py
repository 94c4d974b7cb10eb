"""What a routing decision rests on: how the question reads and how the found facts fit it.

| feature | meaning (all between 0 and 1) |
|---|---|
| `lookup` | the text asks for something (1) or tells or chats (0) |
| `compose` | it asks for a text to be written |
| `open_ended` | it asks for an opinion, a story, a summary, advice |
| `slot_asked` | it names an attribute of somebody or something ("my sister's badge number") |
| `self_asked` | it asks for something about the user ("where do I live") |
| `telling` | it states something itself |
| `found` | the search found a fact at all |
| `coverage` | share of the question's words, by their rarity, that stand in the best fact |
| `subject` | share of the best fact's subject that the question names |
| `attribute` | the best fact's attribute is asked for, in its words or by an alias |
| `named` | the question holds subject and attribute of the best fact as one phrase |
| `kind` | the question asks for the best fact's kind of value ("when" - a date) |
| `gap` | how far the best fact's score lies above that of the next other value |
| `reverse` | the question holds the best fact's value |
| `conflict` | another active value stands against the best fact's |
| `cosine` | of the best fact's embedding; 0 without an embedder |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from deltamem_agents.router.analyze import aliases, content, names_self, tokens
from deltamem_agents.router.asked import names
from deltamem_agents.router.facts import Fact, Hit
from deltamem_agents.router.phrases import PEOPLE
from deltamem_agents.router.plain import statements
from deltamem_agents.router.typed import typed_values

_LOOKUP = re.compile(
    r"^\W*(?:(?:hey|hi|so|okay|ok|well|oh|listen|please|quick question|sorry)\b[,:;. ]*)*"
    r"(?:what(?:['’]?s)?|which|who(?:se|m|['’]s)?|where(?:['’]s)?|when(?:['’]s)?"
    r"|how (?:much|many|old|long|do|does|is|are|can|far|tall)"
    r"|(?:on|in|at|to|from|by|with|for|under|until) (?:which|what|whom|when)"
    r"|(?:can|could|would|will) you (?:please )?(?:tell|give|remind|look|recall|show|find|state"
    r"|spell|repeat|quote|read|list|name|confirm|check|fetch|get|retrieve|return|pull|bring|dig|print)"
    r"|do you (?:still )?(?:know|remember|recall|have)|have I (?:told|given)|did I (?:tell|mention)"
    r"|(?:please |just )*(?:tell me|remind me|give me|hand me|show|look up|find|recall|state|spell"
    r"|repeat|quote|read|list|confirm|check|fetch|get|retrieve|return|pull up|bring up|print"
    r"|answer)"
    r"|I (?:need|forgot|cannot recall|can['’]t recall|cannot remember|can['’]t remember|lost))\b",
    re.IGNORECASE,
)
_RECALLS = re.compile(
    r"\b(?:my memory|my mind|remember|recall|remind|forgot(?:ten)?|forget|lost|on file|on record"
    r"|have .{0,20}noted)\b",
    re.IGNORECASE,
)
_NAMED_THING = re.compile(
    r"^\W*(?:(?:hey|so|okay|well|oh|listen)[, ]+)*(?:my|our|the)\s[^.!]{2,60}\?$", re.I
)
_OPEN = re.compile(
    r"\b(?:think|feel|feeling|opinion|advice|suggest|recommend|summari[sz]e|summary|story|poem|joke"
    r"|explain|describe|why|help me (?:with|to|decide|choose|calm|understand|relax|find|learn|be)"
    r"|how should|what should|should I|brainstorm|ideas|chat|plan"
    r"|compare|mood|in general|overall|everything|anything|talk about|mean to"
    r"|what kind of person|how am I|get along|going on|happened|been up to)\b",
    re.IGNORECASE,
)
_SLOT_ASKED = re.compile(
    r"(?<!\bwhat)(?<!\bwho)(?<!\bhow)(?<!\blet)(?<!\bthat)(?<!\bit)(?<!\bwhere)(?<!\bwhen)"
    r"(?<!\bhere)['’]s?\s+(?!(?:is|was|are|not|a|an|the|my|your|up|on|in|get|go|play|talk)\b)[a-z]"
    r"|\bthe\s+[\w -]+?\s+(?:of|for)\s+(?:(?:my|our|the)\s|(?-i:[A-Z])\w)",
    re.IGNORECASE,
)
_OWN_SLOT = re.compile(r"\b(?:my|our)\s+([a-z][\w-]*)((?:\s+[\w-]+){0,2})", re.IGNORECASE)
_SELF_ASKED = re.compile(
    r"\b(?:what|where|which|when|who|how (?:much|many|old|long|tall))\b.*"
    r"\b(?:do|did|does|am|was|were|have)\s+(?:I|we)\b",
    re.IGNORECASE,
)
_COMPOSE = re.compile(
    r"^\W*(?:please |can you |could you )*(?:write|draft|compose|prepare|make me|create"
    r"|put together|fill in|fill out|formulate|generate|explain|phrase|word)\b",
    re.IGNORECASE,
)
_TALK = frozenset(
    [
        "conversation",
        "chat",
        "chats",
        "talk",
        "talks",
        "friendship",
        "dialogue",
        "discussion",
        "place",
    ]
)
_BESIDE = frozenset(
    ["for", "about", "to", "with", "without", "from", "of", "on", "at", "in", "like", "than", "by"]
)
_VALUE_NOUNS = frozenset(
    [
        "number",
        "numbers",
        "code",
        "address",
        "name",
        "date",
        "id",
        "plate",
        "size",
        "type",
        "colour",
        "color",
        "city",
        "birthday",
    ]
)
_WHERE = re.compile(r"\bwhere\b", re.IGNORECASE)
_PLACES = frozenset(("home city", "region", "address", "location"))
_ASKED_WAY = (
    (re.compile(r"\bwhen\b", re.I), ("date", "time")),
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

    lookup: float = 0.0
    compose: float = 0.0
    open_ended: float = 0.0
    slot_asked: float = 0.0
    self_asked: float = 0.0
    telling: float = 0.0
    found: float = 0.0
    coverage: float = 0.0
    subject: float = 0.0
    attribute: float = 0.0
    named: float = 0.0
    kind: float = 0.0
    gap: float = 0.0
    reverse: float = 0.0
    conflict: float = 0.0
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
    asks = _LOOKUP.match(query) or _RECALLS.search(query) or _NAMED_THING.match(query.strip())
    lookup = bool(asks) or "?" in query
    basis = Features(
        lookup=float(lookup),
        open_ended=float(bool(_OPEN.search(query))),
        slot_asked=float(_asks_slot(query)),
        self_asked=float(bool(_SELF_ASKED.search(query))),
        telling=float(any(True for _ in statements(query, typed_values(query)))),
        compose=float(bool(_COMPOSE.search(query))),
    )
    if not hits:
        return basis
    best = hits[0]
    words = set(content(query))
    other = next((h.bm25 for h in hits[1:] if h.fact.value.lower() != best.fact.value.lower()), 0.0)
    return replace(
        basis,
        found=1.0,
        named=float(names(query, best.fact)),
        coverage=best.keyword,
        subject=_subject_fits(best.fact, query, words),
        attribute=_attribute_fits(best.fact, query, words),
        gap=max(1.0 - other / best.bm25, 0.0) if best.bm25 > 0 else 0.0,
        kind=_kind_fits(best.fact, query),
        reverse=float(set(tokens(best.fact.value)) <= set(tokens(query))),
        conflict=float(bool(conflicts)),
        cosine=max(best.cosine or 0.0, 0.0),
    )


def _asks_slot(query: str) -> bool:
    if _SLOT_ASKED.search(query):
        return True
    return any(map(_is_slot, _OWN_SLOT.finditer(query)))


def asks_owned(query: str) -> bool:
    """Whether it names somebody's attribute: "my order number", "Anna's badge number"."""
    owned = any("'" in m.group() or "’" in m.group() for m in _SLOT_ASKED.finditer(query))
    return owned or any(map(_is_slot, _OWN_SLOT.finditer(query)))


def _is_slot(match: re.Match[str]) -> bool:
    """Whether "my ..." is an attribute ("my badge number"), not a person or an aside."""
    words = [match.group(1).lower(), *match.group(2).lower().split()]
    if words[0] in PEOPLE or words[0] in _TALK:
        return False
    before = match.string[: match.start()].split()
    beside = bool(before) and before[-1].lower() in _BESIDE
    return not beside or any(word in _VALUE_NOUNS for word in words)


def fit(query: str, fact: Fact) -> float:
    """How well name, subject, attribute and kind of a fact fit a question: breaks ties.

    A value that stands in the question is not what it asks for.
    """
    words = set(content(query))
    return (
        4.0 * names(query, fact)
        - 3.0 * bool(set(tokens(fact.value)) <= set(tokens(query)))
        + _subject_fits(fact, query, words)
        + _attribute_fits(fact, query, words)
        + _kind_fits(fact, query) * (not fact.subject)
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
        return _kind_fits(fact, query)
    if words & set(aliases(fact.attribute)):
        return 1.0
    if fact.attribute in _PLACES and _WHERE.search(query):
        return 1.0
    if not fact.subject and _kind_fits(fact, query):
        return 1.0
    return len(named & words) / len(named) if named else 0.0


def _kind_fits(fact: Fact, query: str) -> float:
    """The word that asks ("when", "how much") outweighs the nouns beside it."""
    asked = [kinds for form, kinds in _ASKED_WAY if form.search(query)]
    if asked:
        return float(any(fact.kind in kinds for kinds in asked))
    return float(any(form.search(query) and fact.kind in kinds for form, kinds in _ASKED_KIND))
