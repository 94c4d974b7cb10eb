"""Values that a store should not keep unless told to: keys, passwords, cards."""

from __future__ import annotations

import re

_NAME = (
    r"\b(?:password|passwd|passcode|pass ?phrase|secret(?: key)?|api[ _-]?key|access[ _-]?key"
    r"|private key|auth(?:entication)? token|access token|bearer token|pin(?: code)?|cvv|cvc)\b"
)
_IS_NAME = re.compile(_NAME, re.IGNORECASE)
_NAMED = re.compile(
    _NAME + r"(?:\s+(?:for|of|to)\s+(?:\S+\s+){1,4}?)?\s*(?:is now|is|was|to|will be|=|:|as)\s*"
    r"[\"'`“]?(?P<value>[^\s\"'`“”,;]+(?:(?<!\.))?)",
    re.IGNORECASE,
)
# "password policy", "passcode field": about passwords, none of them.
_ABOUT = (
    r"(?!\s+(?:polic|manager|reset|length|rule|field|form|hash|strength|generator|prompt"
    r"|requirement|protect|change|expir))"
)
# A pin is a secret where it is somebody's; "pin 4821 on the board" is an errand.
_NOUN = (
    r"(?:\b(?:password|passwd|passcode|pass ?phrase|api[ _-]?key|access[ _-]?key|cvv|cvc)"
    r"|\b(?:my|our|the|his|her|their|its|your|new|bank|card|phone|['’]s)\s+pin(?: code)?)\b"
) + _ABOUT
_CODE = r"(?:(?=[^\s,;]{0,80}\d)(?=[^\s,;]{0,80}[a-z])[^\s,;\"'`“”]{5,}|\d{3,8}(?![\w:.-]*\d))"
_END = r"(?=\s+(?:and|but)\s+(?:my|our|the|I|we)\b|[.!?,;\n]|$)"
_TOLD = (
    # "password hunter2", "my password's hunter2."
    re.compile(rf"{_NOUN}\s+[\"'`“]?(?P<value>{_CODE})", re.IGNORECASE),
    re.compile(
        rf"{_NOUN}['’]s\s+(?:now\s+)?[\"'`“]?"
        rf"(?P<value>{_CODE}|[^\s,;\"'`“”]+(?=[\"'`”]?\s*(?:[.!,;]|$)))",
        re.IGNORECASE,
    ),
    # "the passphrase we use there now: ...", of several words
    re.compile(
        rf"{_NOUN}\s+(?:(?:that|which|we|I|you|they|for|of|at|on|in)\b)[^.!?:\n]{{0,60}}"
        r":[ \t]*(?P<value>[^.!?\n]+?)" + _END,
        re.IGNORECASE,
    ),
    re.compile(
        r"\bpass ?phrase\s*(?:is now|is|was|will be|=|:)\s*(?P<value>[^.!?,;\n]+?)" + _END,
        re.IGNORECASE,
    ),
)
# "Could you update my pin? I set 4821 for it.": the next sentence speaks of it, and of nothing new.
_ASKED = re.compile(
    rf"{_NOUN}[^.!?\n]{{0,60}}\?\s+(?P<answer>(?=[^.!?\n]*\b(?:it|that|this)\b)"
    r"(?![^.!?\n]*\b(?:my|our|your|his|her|their)\b)[^!?\n]+)",
    re.IGNORECASE,
)
_IN_ANSWER = re.compile(rf"(?<!\w)(?P<value>{_CODE})", re.IGNORECASE)
_SHAPES = (
    re.compile(
        r"\b(sk-[A-Za-z0-9_-]{16,}|ghp_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
        r"|xox[abpr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|glpat-[\w-]{16,}"
        r"|hf_[A-Za-z0-9]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
    ),
    re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
    ),
    re.compile(r"://[^\s:/@]+:([^\s/@]+)@"),
)
# A number of its own: no part of an account ("DE89 3704 ...") or of a longer row of figures.
_CARD = re.compile(r"(?<![\w-])(?<!\d )(\d(?:[ -]?\d){12,18})(?![ -]?\d|-)")


def secret_spans(text: str) -> list[tuple[int, int]]:
    """Where secret-like values stand.

    Args:
        text: any text.

    Returns:
        Disjoint (start, end) spans in order. Forms: named ("the password is ...", "password
        hunter2", "could you change my pin? I set ... for it"), keys of known services, private
        key blocks, passwords inside URLs, card numbers with a valid check digit.
    """
    spans = [_tight(text, *m.span("value")) for m in _NAMED.finditer(text)]
    for told in _TOLD:
        spans += [_tight(text, *m.span("value")) for m in told.finditer(text)]
    for asked in _ASKED.finditer(text):
        inside = _IN_ANSWER.finditer(text, *asked.span("answer"))
        spans += [_tight(text, *m.span("value")) for m in inside]
    for shape in _SHAPES:
        spans += [m.span(m.lastindex or 0) for m in shape.finditer(text)]
    spans += [m.span(1) for m in _CARD.finditer(text) if _luhn(m.group(1))]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged


def names_secret(attribute: str) -> bool:
    """Whether an attribute is one whose values are secrets ("wifi password")."""
    return _IS_NAME.search(attribute) is not None


def redact(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with the spans masked by as many characters, so that offsets keep their meaning."""
    for start, end in spans:
        text = text[:start] + "•" * (end - start) + text[end:]
    return text


def _tight(text: str, start: int, end: int) -> tuple[int, int]:
    while end > start and text[end - 1] in ".!?)":
        end -= 1
    return start, end


def _luhn(text: str) -> bool:
    digits = [int(c) for c in reversed(text) if c.isdigit()]
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(digits)]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0 and len(set(digits)) > 1
