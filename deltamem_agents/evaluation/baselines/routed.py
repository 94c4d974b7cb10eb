"""The exact store alone, and the exact store beside a memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.frame import Cost, Episode, Held, Question, Reply, Subject
from deltamem_agents.router import FactStore, HybridRouter, Scope

TENANT = "evaluation"
NOT_TOLD = "I was not told."


@dataclass(frozen=True)
class Routed:
    """What the router answers from the store comes from there; the rest is the memory's affair.

    Args:
        name: see `frame.Subject`.
        title: see there.
        memory: answers what the store does not, with the store's facts at hand; None for the store
            alone, which then says `NOT_TOLD`.
    """

    name: str
    title: str
    memory: Subject | None = None
    parallel: bool = True

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Held]:
        """Record what is told; see `frame.Subject`."""
        began = time.perf_counter()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "facts.db"
            with SQLAlchemySaver(path, tenant=TENANT, synchronous="OFF") as saver:
                store, scope = FactStore(saver), Scope(TENANT, "episode")
                store.record_all(episode.told, scope)
                cost = Cost(bytes=path.stat().st_size, seconds=time.perf_counter() - began)
                router = HybridRouter(store)
                if self.memory is None:
                    yield _Held(router, scope, cost)
                    return
                with self.memory.hold(episode, other) as held:
                    more = held.cost
                    both = replace(
                        more, bytes=more.bytes + cost.bytes, seconds=more.seconds + cost.seconds
                    )
                    yield _Held(router, scope, both, held)


@dataclass(frozen=True)
class _Held:
    router: HybridRouter
    scope: Scope
    cost: Cost
    memory: Held | None = None

    def ask(self, question: Question, max_tokens: int) -> Reply:
        """The store's answer, else the memory's; as `graph.routing` does it."""
        began = time.perf_counter()
        decision = self.router.probe(question.text, self.scope)
        if decision.route == "exact":
            text = self.router.answer(decision).text
            return Reply(text, 0, time.perf_counter() - began)
        if self.memory is None:
            return Reply(NOT_TOLD, 0, time.perf_counter() - began)
        data = self.router.as_data(decision)
        asked = replace(question, text=f"{data}\n\n{question.text}") if data else question
        reply = self.memory.ask(asked, max_tokens)
        return replace(reply, seconds=time.perf_counter() - began)

    def likelihood(self, question: Question, answer: str) -> tuple[float, int]:
        """A store has no probabilities.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a store gives answers, not probabilities",
            got="likelihood",
            remedy='Leave "store" and "both" out of this task.',
        )
