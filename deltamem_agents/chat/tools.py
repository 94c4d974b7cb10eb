"""Tools and tool choices in every form that LangChain knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from deltamem_agents.chat.errors import ChatRequestError
from deltamem_agents.chat.schemas import class_schema, is_json_schema, is_object, is_recursive
from deltamem_agents.chat.values import check_text

_WORDS = ("auto", "any", "required", "none")


def tool_schemas(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Describe tools as `{"type": "function", "function": {"name", "description", "parameters"}}`.

    Raises:
        ChatRequestError: one cannot be described, or its arguments are no object.
    """
    return [_tool_schema(tool) for tool in tools]


def _tool_schema(tool: Any) -> dict[str, Any]:
    try:
        described = _as_object(tool)
        schema = convert_to_openai_tool(described)
        whole = _parameters(described)
    except Exception as error:
        raise ChatRequestError(
            "a tool is a function, a class with a schema, a BaseTool or a JSON schema with a title",
            got=f"{tool!r} ({str(error).splitlines()[0]})",
            remedy="Decorate a function with @tool, or pass another of these.",
        ) from error
    if schema.get("type") != "function":
        raise ChatRequestError(
            "a tool runs where the agent runs",
            got=schema.get("type"),
            remedy="A provider's own tools are not there with a local model.",
        )
    function = {key: value for key, value in schema["function"].items() if key != "strict"}
    if whole is not None:
        function["parameters"] = whole
    parameters = function.get("parameters")
    if parameters and not is_object(parameters):
        raise ChatRequestError(
            "a call's arguments are an object",
            got=parameters,
            remedy="Make it a field of a class; with_structured_output's json_schema takes it too.",
        )
    check_text(json.dumps(function, ensure_ascii=False, default=str))
    return {"type": "function", "function": function}


def _as_object(tool: Any) -> Any:
    """Of a schema of several types the object, which alone a call's arguments can be."""
    if is_json_schema(tool) and isinstance(tool.get("type"), list) and "object" in tool["type"]:
        return {**tool, "type": "object"}
    return tool


def _parameters(tool: Any) -> dict[str, Any] | None:
    """What LangChain's conversion leaves out: recursion, and roots without properties."""
    if is_json_schema(tool):
        return {key: value for key, value in tool.items() if key not in ("title", "description")}
    kind = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if not (isinstance(kind, type) and is_basemodel_subclass(kind)):
        return None
    schema = class_schema(kind)
    return schema if is_recursive(schema) else None


def resolve_choice(choice: Any, schemas: Sequence[dict[str, Any]]) -> tuple[str, str | None]:
    """Read a tool choice.

    Args:
        choice: what `bind_tools` takes.
        schemas: the tools.

    Returns:
        ("auto" | "any" | "none", None), or ("any", name) for one tool by name.

    Raises:
        ChatRequestError: it names no tool, or wants a call where there are no tools.
    """
    names = [schema["function"]["name"] for schema in schemas]
    given, choice = choice, _unwrapped(choice)
    if choice in (None, False, "auto"):
        return "auto", None
    if choice == "none":
        return "none", None
    if choice in (True, "any", "required"):
        if not names:
            raise ChatRequestError(
                "a call can be wanted only where there are tools",
                got=given,
                remedy="Bind tools, or leave tool_choice out.",
            )
        return "any", None
    if choice not in names:
        raise ChatRequestError(
            f"tool_choice is auto, any, none or one of {names}",
            got=given,
            remedy="Bind the tool that it names.",
        )
    return "any", str(choice)


def _unwrapped(choice: Any) -> Any:
    """The word or name in a dict of any provider; the dict itself where it has none."""
    if not isinstance(choice, dict):
        return choice
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    if name is not None:
        return name
    return choice["type"] if choice.get("type") in _WORDS else choice
