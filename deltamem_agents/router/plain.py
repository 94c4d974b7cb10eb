"""Plain-language facts: "my dog's name is Rex", "the billing service runs on port 8080".

A small grammar of English statements, not a parser: it reads possessives, "the A of X", verbs of
a table and labels ("region: eu-1"), and leaves alone what it does not know. Questions, conditions
and negations state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deltamem_agents.router.grammar import INNER, SLOT, STRONG, WEAK, Found, slot_in
from deltamem_agents.router.phrases import LEAD, TAIL


@dataclass(frozen=True)
class Statement:
    """`text[start:end]` is the value of `attribute` of `subject`."""

    subject: str
    attribute: str
    start: int
    end: int
    revisable: bool = True


_THAT = re.compile(r"that\s+(?=\S)", re.IGNORECASE)
_NOT_TOLD = re.compile(
    r"(?:if|when|whenever|unless|suppose|imagine|assuming|whether|would|could|should|can|do|does|did"
    r"|is|are|was|were|what|which|who|whose|whom|where|why|how)\b",
    re.IGNORECASE,
)
_FRONT = re.compile(
    r"(?:(?:now|currently|actually|just|really|still)\s+|(?-i:an?)\s+|[\"'“‘`(]+)", re.I
)
_NEGATIVE = re.compile(r"(?:not|no longer|never|n['’]t)\b", re.IGNORECASE)
_STARTER = r"(?:my|our|the|his|her|their|I|we|I['’]m|[A-Z][\w-]*['’]s|please)\s"
_JOINT = re.compile(rf"(?:,?\s+(?:and|but|while|whereas)\s+|,\s+|;\s*)(?={_STARTER})")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\S)[^.!?\n]+)*[.!?]*")


def statements(text: str) -> Iterator[tuple[Statement, int, int]]:
    """Finds plain-language facts.

    Args:
        text: a message's text.

    Yields:
        A statement and the (start, end) of the sentence that it stands in.
    """
    for start, end in sentence_spans(text):
        if asks(text[start:end]):
            continue
        for left, right in _clauses(text, start, end):
            found = _read(text, left, right)
            if found is not None:
                yield found, start, end


def beside(text: str, start: int, end: int, values: Sequence[tuple[int, int]]) -> Statement | None:
    """The statement of a sentence that no reader knows: its one slot and its one typed value.

    "Keep €699 for Junko's salary." has exactly one of each and denies nothing.

    Args:
        text: the message's text.
        start: of the sentence.
        end: of the sentence.
        values: spans of the typed values in it.
    """
    if len(values) != 1 or _DENIED.search(text, start, end) or _COMMANDS.match(text, start, end):
        return None
    left, right = values[0]
    slots = [
        match
        for match in SLOT.finditer(text, start, end)
        if match.end() <= left or match.start() >= right
    ]
    if len(slots) != 1:
        return None
    subject, attribute = slot_in(slots[0])
    return Statement(holder(subject), attribute.strip().lower(), left, right)


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text stand; a dot inside a value ends none."""
    for match in _SENTENCE.finditer(text):
        start, end = match.span()
        while start < end and text[start].isspace():
            start += 1
        if start < end:
            yield start, end


_TAG = re.compile(r",\s*(?:okay|ok|alright|all right|yes|you know|got it)\s*\?\s*$", re.I)
_REQUEST = re.compile(
    r"(?:(?:hey|please|so)[, ]+)*(?:can|could|would|will) you (?:please )?(?:remember|note|save"
    r"|keep in mind|write down|store)\b(?! (?:what|which|who|where|when))",
    re.IGNORECASE,
)


def asks(sentence: str) -> bool:
    """Whether the sentence asks rather than tells; "can you remember that ...?" tells."""
    if not sentence.rstrip().endswith("?") or _TAG.search(sentence):
        return False
    return _REQUEST.match(sentence.strip()) is None


def _clauses(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    left = start
    for match in _JOINT.finditer(text, start, end):
        # A joint counts only if what follows is a statement: "Tom and the dog" is one value.
        if _read(text, match.end(), end) is not None and match.start() > left:
            yield left, match.start()
            left = match.end()
    yield left, end


def _read(text: str, start: int, end: int) -> Statement | None:
    while (lead := LEAD.match(text, start, end)) is not None:
        start = lead.end()
        if (that := _THAT.match(text, start, end)) is not None:
            start = that.end()
    clause = _THANKS.sub("", text[start:end].rstrip(" .!?;,"))
    if not clause or _NOT_TOLD.match(clause):
        return None
    found = _first(clause, STRONG)
    if found is None:
        inner = _inside(clause)
        if inner is not None:
            return _read(text, start + inner, end)
        found = _first(clause, WEAK)
    return None if found is None else _placed(found, clause, start)


def _first(clause: str, readers: Sequence[Callable[[str], Found | None]]) -> Found | None:
    return next((found for reader in readers if (found := reader(clause)) is not None), None)


def _inside(clause: str) -> int | None:
    """Where a statement begins behind words that the grammar does not know ("New plan: my ...")."""
    for match in _OPENING.finditer(clause):
        before = clause[: match.start()]
        part = _PART.search(before) and not _ANNOUNCES.search(before)
        if not before or part or _DENIED.search(before) or len(before.split()) > 8:
            continue
        if _first(clause[match.start() :], INNER) is not None:
            return match.start()
    return None


_OPENING = re.compile(r"(?<![\w'’])(?:[Mm]y|[Oo]ur|[Tt]he|[A-Z][\w-]*['’]s)\s")
# Words before a statement that take its claim away, and those that make it part of another one.
_DENIED = re.compile(
    r"\b(?:if|whether|not|never|doubt|unless|suppose|imagine|wondered?|wish|hope|maybe"
    r"|perhaps|might|what|which|who|how|why)\b|n['’]t\b",
    re.IGNORECASE,
)
_PART = re.compile(
    r"\b(?:no|ask|asked|asks|where|when|want|would|could|should|like|than|is|are|was|were|of|for|with|about"
    r"|in|on|at|to|from|by)\b|=",
    re.IGNORECASE,
)
_THANKS = re.compile(r"[\s,]+(?:please|thanks|thank you|okay|ok|alright)$", re.IGNORECASE)
_COMMANDS = re.compile(
    r"\W*(?:please |can you |could you )*"
    r"(?:write|draft|compose|ask|call|mail|email|tell|remind|send)\b",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(r"(?:[:,]|\bthat)\s*$")


def _placed(found: Found, clause: str, offset: int) -> Statement | None:
    subject, attribute, start, end, revisable = found
    start, end = trim(clause, start, end)
    value = clause[start:end]
    if not value or len(value.split()) > 12 or _NEGATIVE.match(value) or len(attribute) > 60:
        return None
    return Statement(
        holder(subject), attribute.strip().lower(), start + offset, end + offset, revisable
    )


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrows a value's span: no article, no "these days", no closing punctuation."""
    while (front := _FRONT.match(text, start, end)) is not None and front.end() > start:
        start = front.end()
    while (tail := TAIL.search(text[start:end])) is not None and tail.group():
        end = start + tail.start()
    return start, end


def holder(phrase: str) -> str:
    """A subject in one spelling: "user", "user's sister", "billing service", "" (not said)."""
    words = phrase.strip()
    if words in ("I", "we", "We", "me", "us"):
        return "user"
    own = re.match(r"(?:my|our)\s+", words, re.IGNORECASE)
    if own:
        return "user's " + words[own.end() :]
    return re.sub(r"^(?:the|this)\s+", "", words, flags=re.IGNORECASE)
