"""One call: what LangChain passes, turned into what the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.utils.json import parse_partial_json

from deltamem_agents.chat.errors import ChatRequestError
from deltamem_agents.chat.messages import to_dicts
from deltamem_agents.chat.tools import resolve_choice, tool_schemas
from deltamem_agents.chat.values import number, read_sampling, switch
from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.grammar import Rules
from deltamem_agents.runtime.slot import MemorySlot

if TYPE_CHECKING:
    from deltamem_agents.chat.model import ChatDeltaMem

_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "max_tokens")
_OTHER = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "timeout", "thinking")
# What frameworks pass to every model and what has no meaning here.
_IGNORED = ("strict", "stream", "model", "ls_structured_output_format", "stream_usage")


@dataclass(frozen=True)
class Call:
    """A call that is ready to run: `engine.generate(*arguments, **keywords)`."""

    slot: MemorySlot | None
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


def prepare(
    chat: ChatDeltaMem,
    slot: MemorySlot | None,
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | str | None,
    kwargs: dict[str, Any],
    *,
    pieces: bool,
) -> Call:
    """Check a call's parameters and put it together; `pieces` as in `Options`.

    Raises:
        ChatRequestError: a message, tool, choice, schema or parameter is unusable.
    """
    if unknown := sorted(set(kwargs) - {*_SAMPLING, *_OTHER, *_IGNORED}):
        raise ChatRequestError(
            f"a call's parameters are {', '.join((*_SAMPLING, *_OTHER))}",
            got=unknown,
            remedy="Leave it out, or give it to ChatDeltaMem(...) if it is one of the model's.",
        )
    if (name := kwargs.get("model")) not in (None, chat.engine.name):
        raise ChatRequestError(
            f"a ChatDeltaMem runs the model it was made with, {chat.engine.name}",
            got=name,
            remedy="Make another ChatDeltaMem.",
        )
    values = {name: _value(chat, kwargs, name) for name in (*_SAMPLING, "timeout", "thinking")}
    schemas = tool_schemas(kwargs.get("tools") or ())
    thinking = switch("thinking", values["thinking"])
    entries = to_dicts(messages)
    rules = _rules(schemas, kwargs)
    if rules.constrains:
        thought = chat.engine.template.thought(entries, thinking=thinking)
        rules = replace(rules, thought=thought)
    options = Options(
        sampling=read_sampling(values),
        stop=_stops(chat.stop if stop is None else stop),
        timeout=None if values["timeout"] is None else number("timeout", values["timeout"]),
        constraint=chat.engine.grammars.compile(rules),
        parse_tools=bool(schemas) and rules.calls != "never",
        pieces=pieces,
        parse_arguments=parse_partial_json,
    )
    before = slot.before if slot is not None else None
    keywords = {
        "tools": schemas,
        "options": options,
        "thinking": thinking,
        "on_divergence": chat.on_divergence,
    }
    return Call(slot, (before, entries), keywords)


def _value(chat: ChatDeltaMem, kwargs: dict[str, Any], name: str) -> Any:
    value = kwargs.get(name)
    return getattr(chat, name) if value is None else value


def _rules(schemas: list[dict[str, Any]], kwargs: dict[str, Any]) -> Rules:
    choice, name = resolve_choice(kwargs.get("tool_choice"), schemas)
    schema = response_schema(kwargs.get("response_format"))
    forced = choice == "any"
    tools = [s for s in schemas if name is None or s["function"]["name"] == name]
    several = switch("parallel_tool_calls", kwargs.get("parallel_tool_calls"))
    calls = "only" if forced else "never" if choice == "none" or not schemas else "free"
    return Rules(
        tools=tuple(tools),
        calls=calls,
        schema=None if forced else schema,
        # Several calls where the model is free to stop; one where a call is demanded.
        parallel=bool(several) if forced else several is not False,
    )


def response_schema(response_format: Any) -> dict[str, Any] | None:
    """Read OpenAI's `response_format`: a JSON schema, or any JSON object.

    Raises:
        ChatRequestError: it is of another form.
    """
    if response_format is None or response_format == {"type": "text"}:
        return None
    if isinstance(response_format, dict):
        if response_format.get("type") == "json_object":
            return {"type": "object"}
        inner = response_format.get("json_schema")
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
            return dict(inner["schema"])
    raise ChatRequestError(
        'response_format is {"type": "json_object"} or {"type": "json_schema", "json_schema": '
        '{"schema": ...}}',
        got=response_format,
        remedy="Call model.with_structured_output(schema), which makes it.",
    )


def _stops(stop: Sequence[str] | str | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = tuple(stop) if isinstance(stop, (list, tuple, set, frozenset)) else (stop,)
    if not all(isinstance(text, str) for text in stops):
        raise ChatRequestError(
            "stop is a string or a list of strings", got=stop, remedy="Pass for example stop=['.']."
        )
    return stops
