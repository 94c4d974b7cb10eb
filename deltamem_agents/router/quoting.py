"""Text of others as one harmless line, and whether a text holds a value."""

from __future__ import annotations

import re

# What chat templates mark turns with: a stored text must not look like a turn.
_TURN = re.compile(r"(<)(?=\||｜|/?s>|<SYS|<?/SYS|/?(?:start|end)_of_turn)|(\[)(?=/?INST\])")


def one_line(text: str, longest: int) -> str:
    """Without line breaks and template tokens, at most `longest` characters."""
    flat = re.sub(r"\s+", " ", text[: 8 * longest]).strip()[:longest]
    return _TURN.sub(lambda found: found.group() + "\u200b", flat)


def standing(value: str, text: str) -> re.Match[str] | None:
    """Where a value stands in a text, not as a part of a longer word."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text)
