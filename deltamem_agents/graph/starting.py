"""Memories that threads begin with: read once, sealed, shared by reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.binding import bound_options, find_model
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.steps import Steps, arun, run
from deltamem_agents.runtime.window import evict, visible_digests

SOURCE = "deltamem_ingest"
PARAGRAPH = "\n\n"

Material = str | Document | AnyMessage


def sealed(memory: MemoryState) -> MemoryState:
    """The same memory with nothing left visible: all that it has read is only in its state.

    So it can begin another thread, which does not hold those messages.
    """
    ledger = evict(memory.ledger, visible_digests(memory.ledger))
    return replace(memory, boundary_state=memory.state, ledger=replace(ledger, visible=()))


def as_messages(material: Iterable[Material], *, piece: int) -> list[AnyMessage]:
    """Material to be read as messages of a user, long texts in pieces.

    Args:
        material: texts, LangChain documents or messages.
        piece: characters of a piece at most, unless a paragraph has no place to be cut.

    Raises:
        ConfigError: an entry is none of these.
    """
    messages: list[AnyMessage] = []
    for entry in material:
        if isinstance(entry, str):
            messages += [_heard(part, {}) for part in pieces(entry, piece)]
        elif isinstance(entry, Document):
            messages += [_heard(part, entry.metadata) for part in pieces(entry.page_content, piece)]
        elif hasattr(entry, "content") and hasattr(entry, "type"):
            messages.append(entry)
        else:
            raise ConfigError(
                "material is text, documents or messages",
                got=type(entry).__name__,
                remedy="Convert it to str or langchain_core.documents.Document.",
            )
    return messages


def _heard(text: str, metadata: dict[str, Any]) -> HumanMessage:
    marks = {"lc_source": SOURCE, **({"metadata": dict(metadata)} if metadata else {})}
    return HumanMessage(text, additional_kwargs=marks)


def pieces(text: str, size: int) -> list[str]:
    """Cut a text at paragraphs, else lines, sentences or words, into pieces of at most `size`."""
    text = text.strip()
    if len(text) <= size:
        return [text] if text else []
    for mark in (PARAGRAPH, "\n", ". ", " "):
        place = text.rfind(mark, 1, size)
        if place > 0:
            break
    else:
        place, mark = size, ""
    end = place + len(mark.rstrip())
    return [text[:end].rstrip(), *pieces(text[end:], size)]


def piece_size(reader: Reader) -> int:
    """Characters of a piece such that four pieces fit into the window (3 characters a token)."""
    window: int = reader.model.engine.context_window
    return max(64, 3 * window // 4)


def read_once(
    model: Any,
    *,
    system_prompt: str = "",
    documents: Iterable[Material] = (),
    tools: Sequence[Any] = (),
) -> MemoryState:
    """Read a system prompt and documents into a memory that many threads can begin with.

    Pass it as `DeltaMemMiddleware(start=...)` or `memory_node(..., start=...)`. Threads share the
    value; each goes on from it with a memory of its own. The database holds it once.

    Args:
        model: a `ChatDeltaMem`.
        system_prompt: the one that the threads will use; it is not written again in them.
        documents: texts, LangChain documents or messages.
        tools: those that the threads will use.

    Raises:
        ConfigError: the model is no `ChatDeltaMem`, or a document is of another type.
    """
    return run(_read_once(model, system_prompt, documents, tools))


async def aread_once(
    model: Any,
    *,
    system_prompt: str = "",
    documents: Iterable[Material] = (),
    tools: Sequence[Any] = (),
) -> MemoryState:
    """Async `read_once`."""
    return await arun(_read_once(model, system_prompt, documents, tools))


def _read_once(
    model: Any, system_prompt: str, documents: Iterable[Material], tools: Sequence[Any]
) -> Steps[MemoryState]:
    found = find_model(model)
    if found is None:
        raise ConfigError(
            "a starting memory is read by a ChatDeltaMem",
            got=type(model).__name__,
            remedy="Pass ChatDeltaMem(...).",
        )
    tools = tuple(tools) or tuple(bound_options(model).get("tools") or ())
    reader = Reader(found, system_prompt, tools)
    return sealed((yield from reader.read(None, as_messages(documents, piece=piece_size(reader)))))
