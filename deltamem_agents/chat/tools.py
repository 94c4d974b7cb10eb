"""Tools and tool choices in every form that LangChain knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from deltamem_agents.chat.errors import ChatRequestError


def tool_schemas(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Describe tools as `{"type": "function", "function": {"name", "description", "parameters"}}`.

    Raises:
        ChatRequestError: one cannot be described.
    """
    schemas = []
    for tool in tools:
        try:
            schema = convert_to_openai_tool(tool)
        except Exception as error:
            raise ChatRequestError(
                "a tool is a function, a class with a schema, a BaseTool or a JSON schema",
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
        schemas.append({"type": "function", "function": function})
    return schemas


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
    if isinstance(choice, dict):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, dict) else choice.get("type")
        choice = {"tool": "any"}.get(str(choice), choice)
    if choice in (None, False, "auto"):
        return "auto", None
    if choice == "none":
        return "none", None
    names = [schema["function"]["name"] for schema in schemas]
    if choice in (True, "any", "required"):
        if not names:
            raise ChatRequestError(
                "a call can be wanted only where there are tools",
                got=choice,
                remedy="Bind tools, or leave tool_choice out.",
            )
        return "any", None
    if choice not in names:
        raise ChatRequestError(
            f"tool_choice is auto, any, none or one of {names}",
            got=choice,
            remedy="Bind the tool that it names.",
        )
    return "any", str(choice)
