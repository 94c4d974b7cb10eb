"""The hybrid router: asks the store first, then decides who answers."""

from __future__ import annotations

import logging
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.vectorstores import VectorStore

from deltamem_agents.errors import ConfigError
from deltamem_agents.router.answer import ABSENT, Answer, answer, as_data, unverified
from deltamem_agents.router.apart import apart
from deltamem_agents.router.documents import RetrieverStore
from deltamem_agents.router.facts import Scope
from deltamem_agents.router.features import fit
from deltamem_agents.router.messages import heard
from deltamem_agents.router.policy import Classifier, Decision, decide
from deltamem_agents.router.scope import scope_of
from deltamem_agents.router.store import FactStore

DEEPER = 3  # facts are searched this many times deeper than given on, then ordered by fit
logger = logging.getLogger(__name__)
Source = FactStore | RetrieverStore | BaseRetriever | VectorStore
Question = str | BaseMessage | dict[str, Any]


class HybridRouter(Runnable[Question, Decision]):
    """Decides for each question: the store's exact fact, the model's memory, both, or neither.

    As a Runnable it takes a text, a message, or a state with `messages` (then the last message of
    the user is the question) and finds the scope in the config (`thread_id`), never in the text.

    Args:
        store: where facts are looked up: a `FactStore`, or a `BaseRetriever`, `VectorStore` or
            `RetrieverStore` of the user's own.
        k: how many facts at most go to the model.
        classifier: weighs the features of a question; the shipped one if None.
        says_absent: tell the model where nothing is stored that answers. The store does not read
            every sentence, so the memory may know more: off, the model is asked as it is.
    """

    def __init__(
        self,
        store: Source,
        *,
        k: int = 5,
        classifier: Classifier | None = None,
        says_absent: bool = False,
    ) -> None:
        if k < 1:
            raise ConfigError("k is at least 1", got=k, remedy="Pass 1 or more.")
        if isinstance(store, BaseRetriever | VectorStore):
            store = RetrieverStore(store)
        if not isinstance(store, FactStore | RetrieverStore):
            raise ConfigError(
                "a router looks facts up in a store",
                got=store,
                remedy="Pass a FactStore, or a retriever or vector store of yours.",
            )
        self.store: FactStore | RetrieverStore = store
        self.k, self.classifier, self.says_absent = k, classifier, says_absent

    def probe(self, query: str, scope: Scope) -> Decision:
        """Looks up a question and decides its route. Never raises: a failure means "neural".

        Args:
            query: the question.
            scope: tenant, thread and branch.
        """
        try:
            return self._probe(query, scope)
        except Exception as error:
            logger.warning("router: the store failed, the model answers alone: %r", error)
            return Decision(
                "neural", query, reason="the store failed", confidence=0.0, error=repr(error)
            )

    def _probe(self, query: str, scope: Scope) -> Decision:
        found = self.store.search(query, scope, DEEPER * self.k, complete=False)
        fitting = [hit for hit in found if not apart(query, hit.fact)]
        # A sentence that could not be read is shown where no value stands.
        hits = [hit for hit in fitting if hit.fact.kind != "mention"] or fitting
        best = max((round(hit.keyword, 6) for hit in hits), default=0.0)
        # Among facts that hold as many of the question's words, subject and attribute decide.
        ordered = sorted(
            hits,
            key=lambda h: fit(query, h.fact) + 3.0 * (round(h.keyword, 6) == best),
            reverse=True,
        )[: self.k]
        conflicts = self.store.rivals([hit.fact for hit in ordered], scope)
        return decide(query, ordered, conflicts, self.classifier)

    # ------------------------------------------------------- what comes of a decision

    def answer(self, decision: Decision) -> Answer:
        """The verbatim answer of an exact decision, with its citation."""
        return answer(decision)

    def as_data(self, decision: Decision) -> str:
        """What the model gets to see beside the question; "" for nothing."""
        if decision.route == "abstain" and self.says_absent:
            return ABSENT
        return as_data(decision)

    def verify(self, reply: str, decision: Decision) -> dict[str, Any]:
        """For `response_metadata["router"]`: the decision, citations and unverified values."""
        return {**decision.as_dict(), "unverified": list(unverified(reply, decision))}

    # ------------------------------------------------------- Runnable, node, tool

    def invoke(
        self, input: Question, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Decision:
        """Decides a question in the scope that the config names."""
        return self.probe(_question(input), scope_of(self.store, config))

    def as_node(self, key: str = "decision") -> Any:
        """A node for a hand-written graph: reads `messages`, writes the decision to `key`."""

        def route(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
            scope = scope_of(self.store, config, state)
            return {key: self.probe(_question(state), scope)}

        return route

    def as_lookup_tool(self, name: str = "look_up_fact") -> BaseTool:
        """A tool for a model that calls tools; the scope comes from the config, not from it."""
        from langchain_core.tools import tool

        @tool(name)
        def look_up(question: str, config: RunnableConfig) -> str:
            """Looks up an exact fact that was told earlier in this conversation."""
            decision = self.invoke(question, config)
            if decision.route == "exact":
                return str(self.answer(decision))
            return self.as_data(decision) or "Nothing is stored about this."

        return look_up


def _question(given: Question) -> str:
    if isinstance(given, dict) and "messages" in given:
        asked = [one for one in map(heard, given["messages"]) if one.role == "user"]
        return asked[-1].text if asked else ""
    return heard(given).text
