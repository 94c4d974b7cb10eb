"""The grammar of plain statements: one reader a form, each from a clause to what it found."""

from __future__ import annotations

import re

from deltamem_agents.router.phrases import PEOPLE, VERBS

# subject, attribute, start and end of the value in the clause, revisable
Found = tuple[str, str, int, int, bool]

_WORD = r"[^\W_][\w/&-]*"
_VERBAL_WORDS = (
    "is|are|was|were|has|have|had|will|and|that|to|say|says|said|think|thinks|told|tell|tells"
    "|mentioned|claims|shows|knows|came|went|wants|likes|made|makes|does|did"
)
_NOUNS = rf"{_WORD}(?:\s+(?!(?:{_VERBAL_WORDS})\b){_WORD}){{0,4}}?"
_NAME = (
    r"(?!(?:Since|After|Before|When|If|While|Because|As|From|Until|On|In|At|The|My|Our)\b)"
    r"[A-Z][\w-]*(?:\s+[A-Z][\w-]*){0,3}"
)
_HOLDER = (
    rf"(?:(?:[Mm]y|[Oo]ur|[Tt]he|[Hh]is|[Hh]er|[Tt]heir|[Tt]his)\s+{_NOUNS}|{_NAME})"
    rf"(?:['’]s?\s+{_NOUNS})?"
)
_ANYONE = rf"(?:I|[Ww]e|{_HOLDER})"
_COPULA = (
    r"(?:\s+(?:(?:is|are|will be|has been|have been|was born|has changed|changed|became"
    r"|(?:has|have) (?:just |recently |finally |only just )?become"
    r"|(?:happens|turns out|turned out|seems|appears|is meant|is supposed) to be"
    r"|(?:was|got|has been) (?:changed|set|updated|moved|switched)(?=\s+to)"
    r"|remains|equals)(?:\s+(?:now|set|changed|updated))?(?:\s+to)?(?:\s+(?:be|now))?)\s+"
    r"|['’]s\s+(?=now\b)|\s*(?::\s|\s=)\s*(?=\S))"
)
_VALUE = r"(?P<v>\S.*)"
_POSSESSIVE = rf"(?:(?P<s>{_HOLDER})['’]s?\s+|(?P<own>[Mm]y|[Oo]ur)\s+)(?P<a>{_NOUNS})"


def _possessor(match: re.Match[str]) -> str:
    return "I" if match.group("own") else match.group("s")


def _found(match: re.Match[str], subject: str, attribute: str, revisable: bool = True) -> Found:
    return (subject, attribute, *match.span("v"), revisable)


_FILED = re.compile(
    rf"(?:(?:[Yy]ou|I|[Ww]e)\s+(?:can|could|should|may|have|will)\s+)?(?:[Pp]lease\s+)?"
    rf"(?:[Ww]rite down|[Ss]ave|store|record|note(?: down)?|file|[Uu]se|[Kk]eep)\s+"
    rf"(?P<v>.+?)\s+(?:as|for)\s+{_POSSESSIVE}$"
)


def _filed(clause: str) -> Found | None:
    match = _FILED.match(clause)
    return _found(match, _possessor(match), match.group("a")) if match else None


_CHANGED = re.compile(
    rf"(?:(?:I|we|they|you)\s+(?:have\s+|had to\s+|just\s+)*)?"
    rf"(?:changed?|set|updated?|correct(?:ed)?|moved|switch(?:ed)?|renamed?|reset)\s+"
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
    if match is None:
        return None
    start, end = _placeless(match)
    return match.group("s"), match.group("a"), start, end, True


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
    start, end = _placeless(match)
    return subject, attribute, start, end, True


def _placeless(match: re.Match[str]) -> tuple[int, int]:
    """The value's span without "in", "on", "at"."""
    place = re.match(r"(?:in|on|at)\s+", match.group("v"))
    start, end = match.span("v")
    return start + (place.end() if place else 0), end


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


STRONG = (_filed, _changed, _called, _owned_thing, _verb, _of, _liked, _possessive)
WEAK = (_inverse, _label)
INNER = (_of, _possessive)

_ENDS = (
    r"(?=\s+(?:is|are|was|has|have|as|for|to|at|by|with|in|on|from|under|of|will|now|and|but|please|we|I"
    r"|becomes?|became|turned|turns|seems|got|gets|goes|went|reads?|says|stands|equals|happens|just"
    r"|should|would|can|must)\b|\s*[,.;:!?=]|\s*$)"
)
SLOT = re.compile(
    rf"{_POSSESSIVE}{_ENDS}|[Tt]he\s+(?P<a2>{_NOUNS})\s+of\s+(?P<s2>{_HOLDER}){_ENDS}"
)


def slot_in(match: re.Match[str]) -> tuple[str, str]:
    """Subject and attribute of a match of `SLOT`."""
    if match.group("a2"):
        return match.group("s2"), match.group("a2")
    return _possessor(match), match.group("a")
