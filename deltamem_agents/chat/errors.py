"""The engine's errors as LangChain users expect them: each is ours and LangChain's at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelInvalidRequestError,
    ModelRateLimitError,
    ModelTimeoutError,
    OutputParserException,
)

from deltamem_agents.errors import (
    BoundaryError,
    ConfigError,
    ContextWindowError,
    DeltaMemError,
    GenerationTimeoutError,
    MessageError,
    QueueFullError,
)


class ChatRequestError(MessageError, ModelInvalidRequestError):
    """A message, tool, tool choice, schema or parameter that the model cannot be given."""


class ChatReplyError(DeltaMemError, OutputParserException):
    """A reply ended before all of what was to be parsed was there."""


class ChatContextError(ContextWindowError, ContextOverflowError):
    """System prompt, tools and the last turn do not fit the context window."""


class ChatBusyError(QueueFullError, ModelRateLimitError):
    """Too many calls wait for the model; try again later."""


class ChatTimeoutError(GenerationTimeoutError, ModelTimeoutError):
    """A reply took longer than `timeout`."""


_TWINS: tuple[tuple[type[DeltaMemError], type[DeltaMemError]], ...] = (
    (ContextWindowError, ChatContextError),
    (QueueFullError, ChatBusyError),
    (GenerationTimeoutError, ChatTimeoutError),
    (MessageError, ChatRequestError),
    (BoundaryError, ChatRequestError),
    (ConfigError, ChatRequestError),
)


@contextmanager
def as_langchain() -> Iterator[None]:
    """Turn the engine's errors into those that are LangChain's too."""
    try:
        yield
    except DeltaMemError as error:
        for ours, twin in _TWINS:
            if isinstance(error, ours) and not isinstance(error, twin):
                raise twin(error.rule, got=error.got, remedy=error.remedy) from error
        raise
