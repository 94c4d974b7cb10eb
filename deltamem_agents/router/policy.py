"""From features to a route.

The evidence decides, not the question's wording alone: the store is always asked first, and the
features say how well the best fact fits what was asked. Their weights are those of a softmax
regression, fitted by `python -m deltamem_agents.evaluation.tasks.router_fit` and shipped beside
this file; what is not safe by rule is never "exact", whatever the weights say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from deltamem_agents.errors import FileFormatError
from deltamem_agents.router.facts import Citation, Fact, Hit
from deltamem_agents.router.features import Features, asks_owned, features_of, held_by
from deltamem_agents.router.reading import SURE as READ

Route = Literal["neural", "exact", "both", "abstain"]
ROUTES: tuple[Route, ...] = ("neural", "exact", "both", "abstain")
SURE = 0.6  # below this the facts go to the model: a needless fact costs less than a wrong answer
# Below this a text that names somebody's attribute is not left to the memory alone: a needless word
# that nothing was told costs less than a value that the model makes up.
IDLE = 0.9
# Products of features that matter together; a linear model cannot see them otherwise.
PRODUCTS: tuple[tuple[str, ...], ...] = (
    ("asks", "named"),
    ("writes", "named"),
    ("talks", "named"),
    ("tells", "named"),
    ("asks", "slot_asked"),
    ("writes", "slot_asked"),
    ("talks", "slot_asked"),
    ("asks", "coverage", "subject"),
    ("asks", "coverage", "subject", "attribute"),
    ("asks", "coverage", "kind"),
    ("named", "conflict"),
    ("named", "sure"),
)


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
        conflicts: active facts that stand against one of those found.
        best: the fact that was found first, whatever the route.
        error: what failed, if the route is "neural" because of a failure.
    """

    route: Route
    query: str
    facts: tuple[Hit, ...] = ()
    reason: str = ""
    confidence: float = 1.0
    features: Features = field(default_factory=Features)
    conflicts: tuple[Fact, ...] = ()
    best: Fact | None = None
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


@dataclass(frozen=True)
class Classifier:
    """Softmax regression with calibrated probabilities.

    Attributes:
        weights: route -> input -> weight; inputs are features, products ("a*b") and "bias".
        temperature: by which the scores are divided, fitted on threads of their own.
    """

    weights: Mapping[str, Mapping[str, float]]
    temperature: float

    def probabilities(self, found: Features) -> dict[Route, float]:
        """The probability of each route."""
        given = inputs_of(found)
        scores = {
            route: sum(weight * given[name] for name, weight in self.weights[route].items())
            / self.temperature
            for route in ROUTES
        }
        most = max(scores.values())
        shares = {route: math.exp(score - most) for route, score in scores.items()}
        whole = sum(shares.values())
        return {route: share / whole for route, share in shares.items()}


def undecided() -> Classifier:
    """Finds every route equally likely: for fitting, before there are weights."""
    return Classifier({route: {} for route in ROUTES}, 1.0)


def inputs_of(found: Features) -> dict[str, float]:
    """Features, their products and the bias, by name."""
    given = found.as_dict()
    for names in PRODUCTS:
        given["*".join(names)] = math.prod(given[name] for name in names)
    return {**given, "bias": 1.0}


@cache
def classifier() -> Classifier:
    """The shipped one.

    Raises:
        FileFormatError: the file does not fit this version's features.
    """
    text = files("deltamem_agents.router").joinpath("weights.json").read_text("utf-8")
    loaded = json.loads(text)
    wanted = set(inputs_of(Features()))
    for route in ROUTES:
        if set(loaded["weights"].get(route, {})) != wanted:
            raise FileFormatError(
                "the router's weights are those of its features",
                got=route,
                remedy="Run `python -m deltamem_agents.evaluation.tasks.router_fit`.",
            )
    return Classifier(loaded["weights"], float(loaded["temperature"]))


def decide(
    query: str,
    hits: Sequence[Hit],
    conflicts: Sequence[Fact] = (),
    judge: Classifier | None = None,
) -> Decision:
    """Chooses the route.

    Args:
        query: the question.
        hits: of the search, best first.
        conflicts: active facts that stand against one of the hits.
        judge: weighs the features; the shipped one if None.
    """
    found = features_of(query, hits, [c for c in conflicts if c.disputes(hits[0].fact)])
    chances = (judge or classifier()).probabilities(found)
    route = max(ROUTES, key=lambda name: chances[name])
    reason = _REASONS[route]
    bar, at_stake = (IDLE, found.slot_asked) if route == "neural" else (SURE, bool(hits))
    if route == "exact" and not safe(query, found, hits):
        route, reason = "both", "a fact fits, but not safely enough to answer by itself"
    elif route != "both" and at_stake and chances[route] < bar:
        route, reason = "both", f"unsure between {_close(chances)}"
    if route == "both" and not hits:
        route, reason = "abstain", _REASONS["abstain"]
    if found.tells > 0.5 and route != "neural":  # an update must not be answered with the old value
        route, reason = "neural", "something is told and nothing is asked for"
    facts = tuple(hits) if route in ("exact", "both") else ()
    best = hits[0].fact if hits else None
    return Decision(route, query, facts, reason, chances[route], found, tuple(conflicts), best)


def safe(query: str, found: Features, hits: Sequence[Hit]) -> bool:
    """Whether the best fact may answer by itself: read for sure, what was asked, and undisputed."""
    if (
        not hits
        or found.sure < READ
        or found.conflict
        or found.misfit
        or hits[0].fact.kind == "document"
    ):
        return False
    if found.named > 0.5:
        return True
    if not hits[0].fact.subject and found.coverage <= 0.5:
        return False  # a time by itself, and the question is on something else
    whole = found.coverage >= 0.999 and held_by(query, hits[0].fact)
    if found.named == 0.0 and asks_owned(query) and not whole:
        return False  # somebody's order number is asked for, and this is not it
    return bool(found.subject >= 0.999 and max(found.attribute, found.kind) > 0.5)


def _close(chances: Mapping[Route, float]) -> str:
    first, second = sorted(chances, key=lambda name: -chances[name])[:2]
    return f"{first} and {second}"


_REASONS: dict[Route, str] = {
    "neural": "no stored fact is asked for",
    "exact": "one stored fact is what was asked for",
    "both": "stored facts take part in the answer",
    "abstain": "a fact is asked for that was not told",
}
