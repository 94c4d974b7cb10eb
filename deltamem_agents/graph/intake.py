"""Reading material into a thread without an answer."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, BaseMessage

from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.history import fitting
from deltamem_agents.graph.reports import Ingested
from deltamem_agents.graph.routing import hear
from deltamem_agents.graph.saved import MESSAGES_KEY, memory_in, messages_in
from deltamem_agents.graph.starting import Material, as_messages, piece_size
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.writing import following, put, refuse_running


def ingest(thread: Thread, material: Material | Iterable[Material]) -> Steps[Ingested]:
    """See `ThreadMemory.ingest`."""
    entries = [material] if isinstance(material, str | Document | BaseMessage) else list(material)
    tip = yield from thread.tip()
    refuse_running(tip)
    reader, settings = yield from thread.reading(tip)
    new = [_named(message) for message in as_messages(entries, piece=piece_size(reader))]
    if not new:
        raise ConfigError(
            "there is something to read",
            got=material,
            remedy="Pass at least one text, document or message.",
        )
    held = messages_in(tip)
    taken = {message.id for message in held}
    if any(message.id in taken for message in new):
        raise ConfigError(
            "a message is new to the thread",
            got=[message.id for message in new if message.id in taken],
            remedy="Give it another id, or none.",
        )
    values = dict(tip.checkpoint["channel_values"]) if tip else {}
    before = yield from fitting(reader, thread.place, values, held, settings)
    after = yield from reader.read(before, [*held, *new])
    changes: dict[str, Any] = {MESSAGES_KEY: [*held, *new], MEMORY_KEY: after}
    if memory_in(tip) is None and settings.start is not None:
        changes[START_KEY] = settings.start
    if (router := settings.router) is not None:
        told = yield Effect(lambda: hear(router, [*held, *new], values, thread.config))
        changes.update(told[1])
    config = yield from put(thread.saver, following(thread, tip, changes))
    return Ingested(dict(config), after, tuple(message.id for message in new if message.id))


def _named(message: AnyMessage) -> AnyMessage:
    return message if message.id else message.model_copy(update={"id": str(uuid.uuid4())})
