"""Plain-language facts: "my dog's name is Rex", "the billing service runs on port 8080".

A small grammar of English statements, not a parser: it reads possessives, "the A of X", verbs of
a table and labels ("region: eu-1"), and leaves alone what it does not know. Questions, conditions
and negations state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deltamem_agents.router.phrases import LEAD, PEOPLE, TAIL, VERBS


@dataclass(frozen=True)
class Statement:
    """`text[start:end]` is the value of `attribute` of `subject`."""

    subject: str
    attribute: str
    start: int
    end: int
    revisable: bool = True


# subject, attribute, start and end of the value in the clause, revisable
Found = tuple[str, str, int, int, bool]

_WORD = r"[^\W_][\w/&-]*"
_NOUNS = rf"{_WORD}(?:\s+(?!(?:is|are|was|were|has|have|will|and|that|to)\b){_WORD}){{0,4}}?"
_NAME = r"[A-Z][\w-]*(?:\s+[A-Z][\w-]*){0,3}"
_HOLDER = (
    rf"(?:(?:[Mm]y|[Oo]ur|[Tt]he|[Hh]is|[Hh]er|[Tt]heir|[Tt]his)\s+{_NOUNS}|{_NAME})"
    rf"(?:['’]s?\s+{_NOUNS})?"
)
_ANYONE = rf"(?:I|[Ww]e|{_HOLDER})"
_COPULA = (
    r"(?:\s+(?:(?:is|are|will be|has been|have been|was born|has changed|changed|has become|became"
    r"|remains|equals)(?:\s+(?:now|set|changed|updated))?(?:\s+to)?(?:\s+(?:be|now))?)\s+"
    r"|['’]s\s+(?=now\b)|\s*(?::\s|\s=)\s*(?=\S))"
)
_VALUE = r"(?P<v>\S.*)"
_POSSESSIVE = rf"(?:(?P<s>{_HOLDER})['’]s?\s+|(?P<own>[Mm]y|[Oo]ur)\s+)(?P<a>{_NOUNS})"

_NOT_TOLD = re.compile(
    r"(?:if|when|whenever|unless|suppose|imagine|assuming|whether|would|could|should|can|do|does|did"
    r"|is|are|was|were|what|which|who|whose|whom|where|why|how)\b",
    re.IGNORECASE,
)
_FRONT = re.compile(r"(?:(?:now|currently|actually|just|really|still)\s+|an?\s+|[\"'“‘`(]+)", re.I)
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


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text stand; a dot inside a value ends none."""
    for match in _SENTENCE.finditer(text):
        start, end = match.span()
        while start < end and text[start].isspace():
            start += 1
        if start < end:
            yield start, end


_REQUEST = re.compile(
    r"(?:(?:hey|please|so)[, ]+)*(?:can|could|would|will) you (?:please )?(?:remember|note|save"
    r"|keep in mind|write down|store)\b(?! (?:what|which|who|where|when))",
    re.IGNORECASE,
)


def asks(sentence: str) -> bool:
    """Whether the sentence asks rather than tells; "can you remember that ...?" tells."""
    if not sentence.rstrip().endswith("?"):
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
    clause = text[start:end].rstrip(" .!?;,")
    if not clause or (_NOT_TOLD.match(clause) and not re.match(r"is\b.*\bmy$", clause)):
        return None
    for reader in _readers():
        found = reader(clause)
        if found is not None:
            return _placed(found, clause, start)
    return None


def _readers() -> tuple[Callable[[str], Found | None], ...]:
    first = (_filed, _changed, _called, _owned_thing, _verb)
    return (*first, _of, _liked, _possessive, _inverse, _label)


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


def _possessor(match: re.Match[str]) -> str:
    return "I" if match.group("own") else match.group("s")


def _found(match: re.Match[str], subject: str, attribute: str, revisable: bool = True) -> Found:
    return (subject, attribute, *match.span("v"), revisable)


_FILED = re.compile(
    rf"(?:write down|save|store|record|note(?: down)?|file)\s+(?P<v>.+?)\s+as\s+{_POSSESSIVE}$"
)


def _filed(clause: str) -> Found | None:
    match = _FILED.match(clause)
    return _found(match, _possessor(match), match.group("a")) if match else None


_CHANGED = re.compile(
    rf"(?:(?:I|we|they|you)\s+(?:have\s+|had to\s+|just\s+)*)?"
    rf"(?:changed?|set|updated?|moved|switch(?:ed)?|renamed?|reset)\s+"
    rf"(?:{_POSSESSIVE}|the (?P<a2>{_NOUNS}) of (?P<s2>{_HOLDER}))\s+to\s+{_VALUE}$",
    re.IGNORECASE,
)


def _changed(clause: str) -> Found | None:
    match = _CHANGED.match(clause)
    if match is None:
        return None
    if match.group("a2"):
        return _found(match, match.group("s2"), match.group("a2"))
    return _found(match, _possessor(match), match.group("a"))


_CALLED = re.compile(
    rf"(?:(?:people|everyone|they|you can|friends|we)\s+)?(?:call|named|knows?)\s+"
    rf"(?P<s>me|{_HOLDER}?)\s+(?:as\s+)?(?P<v>[A-Z`\"]\S*(?:\s+[A-Z]\S*)*)$"
)
_I_AM = re.compile(r"(?:I am|I['’]m|This is)\s+(?P<v>[A-Z][a-z]+(?:\s+[A-Z][a-z]+){0,2})$")


def _called(clause: str) -> Found | None:
    match = _CALLED.match(clause)
    if match:
        return _found(match, match.group("s"), "name")
    match = _I_AM.match(clause)
    return _found(match, "I", "name") if match else None


_OWNED = re.compile(
    rf"(?P<s>{_ANYONE})\s+(?:have|has|own|owns|adopted|got|bought)\s+an?\s+(?P<k>{_NOUNS}),?\s+"
    r"(?:(?:who|which|that)\s+is\s+)?(?:named|called)\s+(?P<v>\S.*)$"
)


def _owned_thing(clause: str) -> Found | None:
    match = _OWNED.match(clause)
    if match is None:
        return None
    owner = "my" if match.group("s") in ("I", "we", "We") else match.group("s") + "'s"
    return _found(match, f"{owner} {match.group('k')}", "name")


_VERBAL = tuple(
    (re.compile(rf"(?P<s>{_ANYONE})\s+(?:{verb})\s+(?P<v>\S.*)$"), attribute, revisable)
    for verb, attribute, revisable in VERBS
)
_AS_ITS = re.compile(
    r"(?P<v>\S+(?:\s+\S+){0,3}?)\s+(?:as|for)\s+(?:its|my|our|the|his|her|their)\s+(?P<a>.+)$"
)


def _verb(clause: str) -> Found | None:
    for form, attribute, revisable in _VERBAL:
        match = form.match(clause)
        if match is None:
            continue
        start, end = match.span("v")
        role = _AS_ITS.match(clause[start:end])
        if role is not None and attribute in ("used", "owned"):
            return match.group("s"), role.group("a"), start, start + role.end("v"), True
        if attribute in ("favourite drink", "favourite food"):
            end = start + len(re.sub(r"\s+(?:every|each) (?:day|morning)$", "", clause[start:end]))
        if attribute == "age":
            end = start + len(re.sub(r"\s+years old.*$", "", clause[start:end]))
        return match.group("s"), attribute, start, end, revisable
    return None


_OF = re.compile(
    rf"[Tt]he\s+(?P<a>{_NOUNS})\s+(?:of|for)\s+(?P<s>me|{_HOLDER}|{_NOUNS}){_COPULA}{_VALUE}$"
)


def _of(clause: str) -> Found | None:
    match = _OF.match(clause)
    return _found(match, match.group("s"), match.group("a")) if match else None


_LIKED = re.compile(
    rf"[Tt]he\s+(?P<a>{_NOUNS})\s+(?:that\s+)?(?P<s>{_ANYONE})\s+(?:likes?|loves?|prefers?)"
    rf"(?:\s+(?:best|most|the most))?\s+is\s+(?:the\s+)?{_VALUE}$"
)


def _liked(clause: str) -> Found | None:
    match = _LIKED.match(clause)
    return _found(match, match.group("s"), "favourite " + match.group("a")) if match else None


_IS = re.compile(rf"{_POSSESSIVE}{_COPULA}{_VALUE}$")


def _possessive(clause: str) -> Found | None:
    match = _IS.match(clause)
    if match is None:
        return None
    subject, attribute = _possessor(match), match.group("a")
    if attribute.lower() in PEOPLE and re.match(r"an?\s", match.group("v")):
        owner = "my " if match.group("own") else subject + "'s "
        return _found(match, owner + attribute, "job")
    place = re.match(r"(?:in|on|at)\s+", match.group("v"))
    start, end = match.span("v")
    return subject, attribute, start + (place.end() if place else 0), end, True


_INVERSE = re.compile(rf"(?P<v>\S.{{0,80}}?)\s+is\s+(?:now\s+)?{_POSSESSIVE}$")


def _inverse(clause: str) -> Found | None:
    match = _INVERSE.match(clause)
    return _found(match, _possessor(match), match.group("a")) if match else None


_THE = re.compile(rf"[Tt]he\s+(?P<a>{_NOUNS}){_COPULA}{_VALUE}$")
_KEY = re.compile(r"[\"']?(?P<a>[A-Za-z][\w .-]{0,40}?)[\"']?\s*[:=]\s*(?P<v>\S.*)$")


def _label(clause: str) -> Found | None:
    match = _THE.match(clause)
    if match:
        return _found(match, "", match.group("a"))
    match = _KEY.match(clause)
    if match and not match.group("v").startswith("//"):
        return _found(match, "", re.sub(r"[_.]+", " ", match.group("a")))
    return None
