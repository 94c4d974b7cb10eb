"""Replies that follow a schema, in all of LangChain's methods."""

from __future__ import annotations

import json
import logging
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass

from deltamem_agents.chat.errors import ChatReplyError, ChatRequestError
from deltamem_agents.chat.schemas import json_schema

if TYPE_CHECKING:
    from deltamem_agents.chat.model import ChatDeltaMem

_LOG = logging.getLogger(__name__)
_METHODS = ("json_schema", "function_calling", "json_mode")


def structured(
    chat: ChatDeltaMem, schema: Any, *, include_raw: bool, method: str, **kwargs: Any
) -> Any:
    """Bind a schema to a chat model and parse what it answers; see `with_structured_output`."""
    if method not in _METHODS:
        raise ChatRequestError(
            f"method is one of {', '.join(_METHODS)}",
            got=method,
            remedy="Leave it out for json_schema.",
        )
    kwargs.pop("strict", None)
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    whole = json_schema(schema)
    # As a tool, since LangChain's reading of a bare schema breaks on a list of types.
    named = {"name": str(whole.get("title", "answer")), "parameters": whole}
    kwargs["ls_structured_output_format"] = {
        "kwargs": {"method": method},
        "schema": {"type": "function", "function": named},
    }
    if method == "function_calling":
        bound, parser = _by_call(chat, schema, is_class, kwargs)
    else:
        bound, parser = _by_content(chat, schema, is_class, method, kwargs)
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _by_call(chat: Any, schema: Any, is_class: bool, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    from deltamem_agents.chat.tools import tool_schemas

    name = tool_schemas([schema])[0]["function"]["name"]
    tools = [schema, *(kwargs.pop("tools", None) or ())]
    bound = chat.bind_tools(tools, tool_choice=name, **kwargs)
    if is_class:
        return bound, _ClassOfCall(tools=[schema], first_tool_only=True)
    return bound, _ValuesOfCall(key_name=name, first_tool_only=True)


def _by_content(
    chat: Any, schema: Any, is_class: bool, method: str, kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    parser: Any = _ClassOrCall(pydantic_object=schema) if is_class else _JsonOrCall()
    if method == "json_mode":
        wanted: dict[str, Any] = {"type": "json_object"}
    else:
        wanted = {"type": "json_schema", "json_schema": {"schema": json_schema(schema)}}
    if tools := kwargs.pop("tools", None):
        return chat.bind_tools(tools, response_format=wanted, **kwargs), parser
    return chat.bind(response_format=wanted, **kwargs), parser


class _JsonOrCall(JsonOutputParser):
    """None where the model calls a tool first: the raw message has the call."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return None if _calls(result) else super().parse_result(result, partial=partial)


class _ClassOrCall(PydanticOutputParser[Any]):
    """As `_JsonOrCall`."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return None if _calls(result) else super().parse_result(result, partial=partial)


class _ValuesOfCall(JsonOutputKeyToolsParser):
    """The arguments of a call that had to be made."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        _check_called(result)
        return super().parse_result(result, partial=partial)


class _ClassOfCall(PydanticToolsParser):
    """As `_ValuesOfCall`."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        _check_called(result)
        return super().parse_result(result, partial=partial)


def _calls(result: list[Generation]) -> bool:
    """Whether a reply calls a tool.

    Without a call, JSON that stops half-way is refused, since LangChain's parsers would complete
    it; of a reply that was cut and that the grammar has closed, a warning tells.
    """
    message, reason = _message(result)
    if message is None or message.tool_calls:
        return message is not None
    if reason is not None:
        try:
            json.loads(message.text)
        except ValueError as error:
            raise _broken(message, reason) from error
        if reason == "length":
            _LOG.warning("max_tokens cut a reply that follows a schema; its values are shortened")
    return False


def _check_called(result: list[Generation]) -> None:
    message, reason = _message(result)
    if reason is not None and not message.tool_calls:
        raise _broken(message, reason)


def _message(result: list[Generation]) -> tuple[Any, str | None]:
    """A reply's message and why it ended; None for the reason while it is streamed."""
    message: Any = result[0].message if isinstance(result[0], ChatGeneration) else None
    return message, message.response_metadata.get("finish_reason") if message else None


def _broken(message: Any, reason: str) -> ChatReplyError:
    said = message.text or message.invalid_tool_calls
    error = ChatReplyError(
        "a reply that follows a schema is parsed when all of it is there",
        got=f"finish_reason={reason!r} after {said!r}",
        remedy="Raise max_tokens, ask for less, or leave out the stop string that ended it.",
    )
    error.llm_output = message.text
    return error
