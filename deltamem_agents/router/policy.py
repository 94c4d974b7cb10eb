"""From a question and what the store found to a route.

The evidence decides, not the question's wording alone: the store is always asked first, and the
features say how well the best fact fits what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deltamem_agents.router.analyze import aliases, content, names_self, tokens
from deltamem_agents.router.facts import Citation, Fact, Hit

Route = Literal["neural", "exact", "both", "abstain"]

_LOOKUP = re.compile(
    r"^\W*(?:(?:hey|hi|so|okay|ok|well|oh|listen|please|quick question|sorry)\b[,:;. ]*)*"
    r"(?:what(?:['’]?s)?|which|who(?:se|m|['’]s)?|where(?:['’]s)?|when(?:['’]s)?"
    r"|how (?:much|many|old|long|do|does|is|are|can|far|tall)"
    r"|(?:on|in|at|to|from|by|with|for|under|until) (?:which|what|whom|when)"
    r"|(?:can|could|would|will) you (?:please )?(?:tell|give|remind|look|recall|show|find)"
    r"|do you (?:still )?(?:know|remember|recall|have)|have I (?:told|given)|did I (?:tell|mention)"
    r"|(?:please )?(?:tell me|remind me|give me|show me|look up|find|recall)"
    r"|I (?:need|forgot|cannot recall|can['’]t recall|cannot remember|can['’]t remember|lost))\b",
    re.IGNORECASE,
)
_NAMED_THING = re.compile(
    r"^\W*(?:(?:hey|so|okay|well|oh|listen)[, ]+)*(?:my|our|the)\s[^.!]{2,60}\?$", re.I
)
_OPEN = re.compile(
    r"\b(?:think|feel|feeling|opinion|advice|suggest|recommend|summari[sz]e|summary|story|poem|joke"
    r"|explain|describe|why|help me|how should|what should|should I|brainstorm|ideas?|chat|plan"
    r"|compare|write|translate|mood|in general|overall|everything|anything|talk about|mean to"
    r"|what kind of person|how am I|get along|going on|happened|been up to)\b",
    re.IGNORECASE,
)
_PERSONAL = re.compile(
    r"\b(?:my|our)\b|['’]s\s|\bthe\s+[\w -]+?\s+of\b|\b(?:I|me)\b|\bthe\s+\w+", re.IGNORECASE
)
_ASKED_KIND = (
    (re.compile(r"\bwhen\b|\b(?:what|which) (?:date|day)\b", re.I), ("date", "time")),
    (re.compile(r"\b(?:what|which) time\b", re.I), ("time",)),
    (re.compile(r"\bhow (?:much|many)\b|\bcosts?\b|\bprice\b", re.I), ("amount", "number")),
    (re.compile(r"\be-?mail\b", re.I), ("email",)),
    (re.compile(r"\burl\b|\blink\b|\bwebsite\b", re.I), ("url",)),
    (re.compile(r"\bip\b|\bhost\b", re.I), ("ip",)),
    (re.compile(r"\bversion\b|\brelease\b", re.I), ("version",)),
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
    """What the decision rests on; all between 0 and 1.

    Attributes:
        lookup: the text asks for something (1) or tells or chats (0).
        open_ended: it asks for an opinion, a story, a summary, ...
        personal: it names somebody's or something's attribute.
        coverage: share of the question's words (by their rarity) that stand in the best fact.
        subject: the best fact's subject is the one asked about.
        attribute: the best fact's attribute is asked for, by its words or by an alias.
        gap: how far the best fact's score is above that of the next other value.
        kind: the question asks for the best fact's kind of value.
        reverse: the question holds the best fact's value and asks what it belongs to.
        conflict: another active value stands against the best fact's.
        cosine: of the best fact's embedding; 0 without an embedder.
    """

    lookup: float = 0.0
    open_ended: float = 0.0
    personal: float = 0.0
    coverage: float = 0.0
    subject: float = 0.0
    attribute: float = 0.0
    gap: float = 0.0
    kind: float = 0.0
    reverse: float = 0.0
    conflict: float = 0.0
    cosine: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Name -> value."""
        return asdict(self)


@dataclass(frozen=True)
class Decision:
    """Where a question goes.

    Attributes:
        route: "exact" (the store's best fact answers, verbatim), "both" (the model answers with
            the facts at hand), "abstain" (a fact is asked for that was not told), "neural" (the
            model answers from its memory).
        query: the question.
        facts: what was found, best first; the first answers an exact question.
        reason: why, in words.
        confidence: of the route, 0 to 1.
        features: what it rests on.
        conflicts: active facts that stand against the first one.
        error: what failed, if the route is "neural" because of a failure.
    """

    route: Route
    query: str
    facts: tuple[Hit, ...] = ()
    reason: str = ""
    confidence: float = 1.0
    features: Features = field(default_factory=Features)
    conflicts: tuple[Fact, ...] = ()
    error: str = ""

    @property
    def fact(self) -> Fact | None:
        """The fact that answers an exact question."""
        return self.facts[0].fact if self.route == "exact" and self.facts else None

    @property
    def value(self) -> str | None:
        """The exact answer, verbatim as it was told."""
        return self.fact.value if self.fact else None

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Sources of the facts that take part in the answer."""
        if self.route == "exact":
            return tuple(hit.fact.citation for hit in self.facts[:1])
        if self.route == "both":
            return tuple(hit.fact.citation for hit in self.facts)
        return ()

    def as_dict(self) -> dict[str, Any]:
        """For `response_metadata`: JSON types only."""
        return {
            "route": self.route,
            "reason": self.reason,
            "confidence": round(self.confidence, 4),
            "citations": [citation.as_dict() for citation in self.citations],
            **({"error": self.error} if self.error else {}),
        }


def features_of(query: str, hits: Sequence[Hit], conflicts: Sequence[Fact] = ()) -> Features:
    """Measures how the found facts fit the question.

    Args:
        query: the question.
        hits: of the search, best first.
        conflicts: active facts that stand against the first hit.
    """
    lookup = bool(_LOOKUP.match(query) or _NAMED_THING.match(query.strip()) or "?" in query)
    basis = Features(
        lookup=float(lookup),
        open_ended=float(bool(_OPEN.search(query))),
        personal=float(bool(_PERSONAL.search(query))),
    )
    if not hits:
        return basis
    best = hits[0]
    words = set(content(query))
    other = next((h.bm25 for h in hits[1:] if h.fact.value.lower() != best.fact.value.lower()), 0.0)
    return Features(
        lookup=basis.lookup,
        open_ended=basis.open_ended,
        personal=basis.personal,
        coverage=best.keyword,
        subject=_subject_fits(best.fact, query, words),
        attribute=_attribute_fits(best.fact, words),
        gap=max(1.0 - other / best.bm25, 0.0) if best.bm25 > 0 else 0.0,
        kind=_kind_fits(best.fact, query),
        reverse=float(bool(words & set(tokens(best.fact.value)))),
        conflict=float(bool(conflicts)),
        cosine=max(best.cosine or 0.0, 0.0),
    )


def fit(query: str, fact: Fact) -> float:
    """How well subject, attribute and kind of a fact fit a question, 0 to 3: breaks ties."""
    words = set(content(query))
    return (
        _subject_fits(fact, query, words)
        + _attribute_fits(fact, words)
        + _kind_fits(fact, query) * (not fact.subject)
    )


def _subject_fits(fact: Fact, query: str, words: set[str]) -> float:
    if fact.subject == "user":
        return float(names_self(query))
    named = set(content(fact.subject.removeprefix("user's ")))
    if not named:
        return 1.0
    return len(named & words) / len(named)


def _attribute_fits(fact: Fact, words: set[str]) -> float:
    named = set(content(fact.attribute))
    if words & set(aliases(fact.attribute)):
        return 1.0
    return len(named & words) / len(named) if named else 0.0


def _kind_fits(fact: Fact, query: str) -> float:
    return float(any(form.search(query) and fact.kind in kinds for form, kinds in _ASKED_KIND))


def decide(query: str, hits: Sequence[Hit], conflicts: Sequence[Fact] = ()) -> Decision:
    """Chooses the route.

    Args:
        query: the question.
        hits: of the search, best first.
        conflicts: active facts that stand against the first hit.
    """
    found = features_of(query, hits, conflicts)
    route, reason = _route(found, hits)
    facts = tuple(hits) if route in ("exact", "both") else ()
    return Decision(route, query, facts, reason, 1.0, found, tuple(conflicts))


def _route(found: Features, hits: Sequence[Hit]) -> tuple[Route, str]:
    if not found.lookup:
        return "neural", "nothing is asked for"
    if found.open_ended:
        return "neural", "an open question"
    if hits and found.subject >= 0.999 and found.coverage >= 0.999:
        return _fitting(found, hits[0].fact)
    if hits and found.subject >= 0.999 and found.coverage >= 0.5:
        return "both", "stored facts fit in part"
    if found.personal:
        return "abstain", "asks for a fact that was not told"
    return "neural", "no stored fact fits"


def _fitting(found: Features, fact: Fact) -> tuple[Route, str]:
    if found.conflict:
        return "both", "stored values stand against each other"
    if fact.slot and found.attribute >= 0.999:
        return "exact", "the question names a stored subject and attribute"
    if not fact.slot and max(found.kind, found.attribute) >= 0.999 and found.gap > 0:
        return "exact", "the question fits one stored value"
    return "both", "stored facts hold the question's words"
