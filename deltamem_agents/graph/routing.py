"""The router at a model call: what is recorded, what is asked, what the reply carries.

What the store adds to a prompt is data for one call. It is neither in the thread's messages nor in
the memory: after such a call the memory reads the conversation as it stands in the thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.turns import is_summary
from deltamem_agents.router import Decision, HybridRouter, Scope, scope_of
from deltamem_agents.router.scope import HEAD_KEY

PROVIDER = "deltamem"
logger = logging.getLogger(__name__)


def consult(
    router: HybridRouter,
    messages: Sequence[AnyMessage],
    state: Mapping[str, Any],
    config: RunnableConfig,
) -> Steps[tuple[Decision | None, dict[str, Any]]]:
    """Record what the messages tell, then decide who answers the last question.

    Args:
        router: with the store that records.
        messages: the thread's messages; those that this branch has told already are passed over.
        state: of the running graph; it keeps the head of the branch.
        config: of the running graph; the thread comes from here, never from a text.

    Returns:
        The decision, None where the thread has no id or the user has asked nothing; and the
        state's new head of the branch.
    """
    asked = [place for place, message in enumerate(messages) if isinstance(message, HumanMessage)]
    if not asked:
        return None, {}
    if not config.get("configurable", {}).get("thread_id"):
        logger.warning("router: not asked, since the call's config has no thread_id")
        return None, {}
    text = str(messages[asked[-1]].text)

    def record_and_probe() -> tuple[Decision, dict[str, Any]]:
        try:
            # What the question itself says is no answer to it: it is recorded after the probe.
            scope, update = hear(router, messages[: asked[-1]], state, config)
            decision = router.probe(text, scope)
            _, later = hear(router, messages[asked[-1] :], {**state, **update}, config)
        except Exception as error:  # as in probe: the store must not stop the conversation
            logger.warning("router: nothing was recorded: %r", error)
            reason = "the store failed"
            return Decision("neural", text, reason=reason, confidence=0.0, error=repr(error)), {}
        return decision, {**update, **later}

    result: tuple[Decision, dict[str, Any]] = yield Effect(record_and_probe)
    return result


def hear(
    router: HybridRouter,
    messages: Sequence[AnyMessage],
    state: Mapping[str, Any],
    config: RunnableConfig,
) -> tuple[Scope, dict[str, Any]]:
    """Record what messages tell; the branch's scope now, and the state's new head of it."""
    before = scope_of(router.store, config, state)
    after = router.store.hear([m for m in messages if not is_summary(m)], before)
    return after, {HEAD_KEY: after.head} if after.head != before.head else {}


def verbatim(
    router: HybridRouter, decision: Decision | None, messages: Sequence[AnyMessage]
) -> AIMessage | None:
    """The reply to an exact question without asking the model; None where the model is asked."""
    if decision is None or decision.route != "exact" or not isinstance(messages[-1], HumanMessage):
        return None
    found = router.answer(decision)
    return AIMessage(
        found.text,
        response_metadata={
            "model_provider": PROVIDER,
            "model_name": "fact store",
            "finish_reason": "stop",
            **citations(router, decision, found.text),
        },
    )


def with_data(
    router: HybridRouter, decision: Decision | None, messages: Sequence[AnyMessage]
) -> list[AnyMessage] | None:
    """The messages with the retrieved facts in the last one; None where nothing was retrieved.

    Only a message that the memory has not read yet may differ from the thread's: the last one.
    """
    data = router.as_data(decision) if decision is not None else ""
    last = messages[-1]
    if not data or not isinstance(last, HumanMessage | ToolMessage):
        return None
    text = f"{data}\n\n{last.text}" if isinstance(last, HumanMessage) else f"{last.text}\n\n{data}"
    return [*messages[:-1], last.model_copy(update={"content": text})]


def citations(router: HybridRouter, decision: Decision, reply: str) -> dict[str, Any]:
    """For `response_metadata`: the decision, its sources, and values that have none."""
    told = router.verify(reply, decision)
    return {"router": told, "citations": told["citations"]}


def cite(router: HybridRouter, decision: Decision | None, replies: Sequence[BaseMessage]) -> None:
    """Put the citations into the metadata of the model's replies."""
    for reply in replies:
        if decision is not None and isinstance(reply, AIMessage):
            found = citations(router, decision, str(reply.text))
            reply.response_metadata = {**reply.response_metadata, **found}
