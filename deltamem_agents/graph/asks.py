"""Asking a thread's memory something without a trace."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage

from deltamem_agents.graph.history import fitting
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.reports import Retrieved
from deltamem_agents.graph.routing import cite, verbatim, with_data
from deltamem_agents.graph.saved import memory_in, messages_in
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread, required
from deltamem_agents.router import Decision, HybridRouter, scope_of
from deltamem_agents.runtime.slot import MemorySlot


def retrieve(thread: Thread, question: str) -> Steps[Retrieved]:
    """See `ThreadMemory.retrieve`."""
    tip = yield from thread.tip()
    memory = required(memory_in(tip), thread.place.thread)
    reader, settings = yield from thread.reading(tip)
    router: HybridRouter | None = settings.router
    decision: Decision | None = None
    held = messages_in(tip)
    values = dict(tip.checkpoint["channel_values"]) if tip else {}
    before = yield from fitting(reader, thread.place, values, held, settings)
    if before != memory:
        memory = yield from reader.read(before, held)
    messages: list[AnyMessage] = [*held, HumanMessage(question)]
    if router is not None and tip is not None:
        decision = yield Effect(
            lambda: router.probe(question, scope_of(router.store, tip.config, values))
        )
        found = verbatim(router, decision, messages)
        if found is not None:
            return _retrieved(found, memory, decision)
        messages = with_data(router, decision, messages) or messages
    reply = yield _ask(reader, MemorySlot(memory), messages)
    if router is not None:
        cite(router, decision, [reply])
    return _retrieved(reply, memory, decision)


def _ask(reader: Reader, slot: MemorySlot, messages: list[AnyMessage]) -> Effect:
    model = reader.model.with_memory(slot)
    if reader.tools:
        model = model.bind_tools(reader.tools)
    system = [SystemMessage(reader.system)] if reader.system else []
    prompt = [*system, *messages]
    return Effect(lambda: model.invoke(prompt), lambda: model.ainvoke(prompt))


def _retrieved(reply: AIMessage, memory: Any, decision: Decision | None) -> Retrieved:
    metadata = dict(reply.response_metadata)
    return Retrieved(
        answer=str(reply.text),
        route=decision.route if decision is not None else "neural",
        citations=tuple(metadata.get("citations", ())),
        memory=memory,
        read=memory.describe(),
        metadata=metadata,
    )
