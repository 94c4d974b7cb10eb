"""The conversation of a thread in HTML, coloured by how strongly it was written."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from deltamem_agents.inspect.course import Course

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from deltamem_agents.inspect.trace import WriteTrace

_ROLES = {"human": "user", "ai": "assistant"}
_SHADES = 50  # of a token's ground; classes, because the page's policy allows no style attributes
_DEEPEST = 0.75  # more, and the text would not stand out


def strengths_css() -> str:
    """The classes s1, s2, ... by which tokens are coloured."""
    ground = ".s{} {{ background: rgba(var(--write),{:.3f}); }}\n"
    return "".join(ground.format(n, _DEEPEST * n / _SHADES) for n in range(1, _SHADES + 1))


def conversation_html(course: Course, trace: WriteTrace | None) -> str:
    """Every message, those that have left the window on grey.

    Args:
        course: the thread.
        trace: of its messages; None shows them plain.
    """
    if not course.messages:
        return "<p>The newest checkpoint holds no messages.</p>"
    visible = len(course.last.memory.ledger.visible)
    spoken = [message for message in course.messages if message.type != "system"]
    gone = {id(message) for message in spoken[: max(0, len(spoken) - visible)]}
    texts = _traced(trace) if trace is not None else {}
    first = sum(message.type == "system" for message in course.messages)
    parts = [_message("system", texts[-1], "pinned")] if -1 in texts and not first else []
    for number, message in enumerate(course.messages, 1):
        text = texts.get(number - 1 - first) or escape(_said(message))
        state = "gone" if id(message) in gone else "visible"
        parts.append(_message(message.type, text, state, number))
    return "".join(parts)


def _said(message: BaseMessage) -> str:
    """Its text and, below, the tools that it calls."""
    return "\n".join(filter(None, (str(message.text), _calls(message))))


def _message(role: str, text: str, state: str, number: int | None = None) -> str:
    anchor = "" if number is None else f' id="message-{number}"'
    word = {"gone": "gone from the window", "visible": "in the window", "pinned": "pinned"}[state]
    role = _ROLES.get(role, role)
    name = escape(role) if number is None else f"{number} \u00b7 {escape(role)}"
    return (
        f'<div class="message {state}"{anchor}><span class="role">{name} \u00b7 {word}</span>'
        f"{text}</div>"
    )


def _traced(trace: WriteTrace) -> dict[int, str]:
    """HTML of each message of a trace, by its number; -1 for the pinned prompt."""
    strength = trace.strength
    top = float(strength.max(initial=0.0)) or 1.0
    found: dict[int, list[str]] = {}
    for token, text in enumerate(trace.texts):
        share = float(strength[token]) / top if trace.written[token] else 0.0
        shade = round(share * _SHADES)
        classes = [f"s{shade}"] if shade else []
        if trace.special[token]:
            classes += ["mark", "on"] if shade else ["mark"]
        told = f"\u03b2 {strength[token]:.4f}" if trace.written[token] else "not written"
        found.setdefault(trace.messages[token], []).append(
            f'<span title="{told}" class="{" ".join(classes)}">{escape(text)}</span>'
        )
    return {number: "".join(parts).removesuffix("\n") for number, parts in found.items()}


def _calls(message: object) -> str:
    calls = getattr(message, "tool_calls", [])
    return ", ".join(f"{call['name']}({call['args']})" for call in calls)
