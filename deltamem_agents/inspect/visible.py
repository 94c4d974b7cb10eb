"""Stored text for a terminal, which obeys control characters."""

from __future__ import annotations

_SIGNS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def visible(text: str) -> str:
    """The text with a sign in the place of each control character but newline and tab."""
    return text.translate(_SIGNS)
