"""The shipped chat templates, and which of them a model's own template is."""

from __future__ import annotations

from importlib import resources
from typing import Any

from deltamem_agents.errors import ConfigError

SHIPPED = ("chatml", "qwen3", "smollm3")


def shipped(name: str) -> str:
    """Return the Jinja text of a shipped template."""
    folder = resources.files("deltamem_agents.runtime") / "templates"
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def recognise(tokenizer: Any) -> str:
    """Take the shipped template that renders as the tokenizer's own does, else its own."""
    own = getattr(tokenizer, "chat_template", None)
    if not isinstance(own, str) or not own:
        raise ConfigError(
            "a chat model's tokenizer has a chat template",
            got=getattr(tokenizer, "name_or_path", None) or type(tokenizer).__name__,
            remedy=f"Give template= one of {', '.join(SHIPPED)}, or a Jinja text.",
        )
    if "message_boundary" in own:
        return own
    if "## Metadata" in own and "SmolLM" in own:
        return "smollm3"
    for name in ("qwen3", "chatml"):
        if all(_same(tokenizer, own, shipped(name), probe) for probe in _PROBES):
            return name
    return own


def _same(tokenizer: Any, one: str, other: str, probe: dict[str, Any]) -> bool:
    texts = []
    for source in (one, other):
        try:
            texts.append(
                tokenizer.apply_chat_template(chat_template=source, tokenize=False, **probe)
            )
        except Exception:  # any failure of a foreign template means only that it is another one
            return False
    return bool(texts[0] == texts[1])


_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}
_TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {
        "role": "assistant",
        "content": "c",
        "reasoning_content": "r",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
    },
    {"role": "tool", "content": "t", "name": "f"},
    {"role": "tool", "content": "t2", "name": "f"},
]
_ANSWERED = [*_TALK, {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}]
_PROBES: list[dict[str, Any]] = [
    {"conversation": _TALK, "tools": [_TOOL], "add_generation_prompt": True},
    {"conversation": _ANSWERED, "tools": [_TOOL], "add_generation_prompt": False},
    {"conversation": _TALK[1:2], "add_generation_prompt": True},
    {"conversation": _TALK[:2], "add_generation_prompt": True, "enable_thinking": False},
]
