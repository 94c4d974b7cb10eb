"""Whether a sentence asks, or tells in the form of a question."""

from __future__ import annotations

import re

from deltamem_agents.router.words import puts

_TAG = re.compile(
    r",\s*(?:okay|ok|alright|all right|yes|you know|got it|(?:can|could|would|will) you)\s*\?\s*$",
    re.IGNORECASE,
)
# "Could you change my port to 80?" is an instruction; what follows says which.
_POLITE = re.compile(
    r"\s*(?:(?:hey|please|so|and|also)[, ]+)*(?:can|could|would|will) you"
    r"(?: (?:please|kindly|just|also|maybe|now|mind))*\s+(?=(?P<verb>[a-z][a-z-]*))",
    re.IGNORECASE,
)
_KEEP = re.compile(r"(?:believe|keep in mind|write down)\b", re.IGNORECASE)
_ASKED = re.compile(r"\w+ (?:what|which|who|where|when|how)\b", re.IGNORECASE)


def asks(sentence: str) -> bool:
    """Whether the sentence asks rather than tells; "can you remember that ...?" tells."""
    if not sentence.rstrip().endswith("?") or _TAG.search(sentence):
        return False
    return requested(sentence, 0, len(sentence)) is None


def requested(text: str, start: int, end: int) -> int | None:
    """Where the instruction of a polite request begins: at "change" of "Could you change ...?"."""
    found = _POLITE.match(text, start, end)
    if found is None or not text[start:end].rstrip().endswith("?"):
        return None
    at = found.end()
    told = puts(found.group("verb")) or _KEEP.match(text, at, end)
    return at if told and not _ASKED.match(text, at, end) else None
