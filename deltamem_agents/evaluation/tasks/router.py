"""How well the router routes: answers verbatim, abstains, keeps out of the way, leaks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.embeddings import Embeddings

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.evaluation.tasks.router_world import Case, Query, RouterWorld, Split
from deltamem_agents.router import Decision, Fact, FactStore, HybridRouter, Scope
from deltamem_agents.router.asked import names
from deltamem_agents.router.policy import Classifier
from deltamem_agents.router.quoting import standing

TENANT, OTHER = "eval", "eval-other"


@dataclass(frozen=True)
class Outcome:
    """One question and what became of it.

    Attributes:
        leaked: facts of another tenant or thread among the retrieved.
        valid: every citation names a stored fact, and its span holds the value.
        best: the fact that was found first, whatever the route.
    """

    query: Query
    decision: Decision
    leaked: int
    valid: bool
    best: Fact | None = None

    @property
    def correct(self) -> bool:
        """The store answered, with the truth, verbatim."""
        return self.decision.value is not None and self.decision.value == self.query.truth

    @property
    def at_hand(self) -> bool:
        """The truth was answered, or given to the model among the facts."""
        given = self.decision.route in ("exact", "both")
        return given and any(h.fact.value == self.query.truth for h in self.decision.facts)

    @property
    def stale(self) -> bool:
        """A value that no longer holds was answered, or shown to the model without the newer."""
        return self._old and not any(self._newer(fact) for fact in self._shown)

    @property
    def disputed(self) -> bool:
        """The model was given the old value and the new one, each with its date."""
        return self._old and not self.stale

    def _newer(self, fact: Fact) -> bool:
        """Whether it is the true value, or a sentence on the slot in which that stands."""
        truth = self.query.truth or ""
        said = fact.kind == "mention" and standing(truth, fact.value) is not None
        return said or fact.value == truth

    @property
    def _shown(self) -> list[Fact]:
        facts = [hit.fact for hit in self.decision.facts]
        return facts[:1] if self.decision.route == "exact" else [*facts, *self.decision.conflicts]

    @property
    def _old(self) -> bool:
        asked = [fact for fact in self._shown if names(self.query.text, fact) > 0.5]
        return any(fact.value in self.query.stale for fact in asked)


@dataclass(frozen=True)
class RouterReport:
    """Rates over the generated questions, by kind."""

    outcomes: tuple[Outcome, ...]
    hits_after_forget: int
    rows: dict[str, Any] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Outcome]:
        """The outcomes of some kinds."""
        return [o for o in self.outcomes if o.query.kind in kinds]

    def summary(self) -> dict[str, float]:
        """The figures by name; rates are between 0 and 1."""
        exact, revised = self.of("exact"), self.of("revised")
        mixed, absent = self.of("mixed"), self.of("absent", "foreign")
        diffuse = self.of("diffuse")
        routes = Counter(o.decision.route for o in diffuse)
        cited = [o for o in self.outcomes if o.decision.citations]
        return {
            "queries": len(self.outcomes),
            "probes that failed": sum(bool(o.decision.error) for o in self.outcomes),
            "exact answered verbatim": _rate(o.correct for o in exact),
            "exact answered or at hand": _rate(o.correct or o.at_hand for o in exact),
            "revised answered with the new value": _rate(o.correct for o in revised),
            "revised answered with an old value": _rate(o.stale for o in revised),
            "revised: old and new at hand, dated": _rate(o.disputed for o in revised),
            "mixed: fact at hand": _rate(o.at_hand for o in mixed),
            "absent or another tenant's: abstains": _rate(
                o.decision.route == "abstain" for o in absent
            ),
            "absent: answered with a value": _rate(o.decision.value is not None for o in absent),
            "diffuse: needless retrieval": (routes["exact"] + routes["both"])
            / max(len(diffuse), 1),
            "diffuse: needless abstention": routes["abstain"] / max(len(diffuse), 1),
            "citations valid": _rate(o.valid for o in cited),
            "hits across tenants": float(sum(o.leaked for o in self.outcomes)),
            "hits after forget": float(self.hits_after_forget),
        }


def evaluate_router(
    *,
    seed: int = 0,
    split: Split = "test",
    threads: int = 40,
    embeddings: Embeddings | None = None,
    url: str = "",
    classifier: Classifier | None = None,
) -> RouterReport:
    """Runs the generated task.

    Args:
        seed: of the world.
        split: which phrasings; "test" is for measuring only.
        threads: how many; each has about 31 questions.
        embeddings: adds vector search.
        url: of an empty database; a SQLite file of its own if "".
        classifier: of the router; the shipped one if None.

    Returns:
        All outcomes with their rates.
    """
    world = RouterWorld(seed, split)
    cases = [world.case(number) for number in range(threads)]
    with TemporaryDirectory() as folder:
        url = url or f"sqlite:///{Path(folder) / 'facts.db'}"
        with (
            SQLAlchemySaver(url, tenant=TENANT, synchronous="OFF") as mine,
            SQLAlchemySaver(url, tenant=OTHER, synchronous="OFF") as theirs,
        ):
            store, other = FactStore(mine, embeddings=embeddings), FactStore(theirs)
            for case in cases:
                other.record_all(_messages(case.foreign), Scope(OTHER, case.thread))
                store.record_all(_messages(case.told), Scope(TENANT, case.thread))
            router = HybridRouter(store, classifier=classifier)
            outcomes = tuple(o for case in cases for o in _ask(router, case))
            return RouterReport(outcomes, sum(_forget(router, case) for case in cases[:10]))


def _messages(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": t, "id": f"m{n}"} for n, t in enumerate(texts)]


def _ask(router: HybridRouter, case: Case) -> Iterator[Outcome]:
    scope = Scope(TENANT, case.thread)
    sources = dict(enumerate(case.told))
    ids = {fact.fact_id for fact in router.store.facts(scope, closed=True)}  # type: ignore[union-attr]
    for query in case.queries:
        decision = router.probe(query.text, scope)
        leaked = sum(hit.fact.fact_id not in ids for hit in decision.facts)
        leaked += sum(hit.fact.value in case.secret_values for hit in decision.facts)
        valid = all(
            citation.fact_id in ids
            and sources[int(citation.source_message_id[1:])][slice(*citation.span)]
            == citation.value
            for citation in decision.citations
        )
        yield Outcome(query, decision, leaked, valid, decision.best)


def _forget(router: HybridRouter, case: Case) -> int:
    """Forgets each answered fact's message and counts what of it is still found."""
    scope, found = Scope(TENANT, case.thread), 0
    store = router.store
    for query in case.queries:
        decision = router.probe(query.text, scope)
        if decision.fact is None:
            continue
        source = decision.fact.source_message_id
        store.forget(scope, message_ids=[source])
        again = store.search(query.text, scope, 20)
        found += sum(hit.fact.source_message_id == source for hit in again)
    return found


def _rate(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return sum(values) / max(len(values), 1)
