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
    r"(?!(?:Since|After|Before|When|If|While|Because|As|From|Until|On|In|At|For|With|By|About|The|My|Our)\b)"
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


def _found(match: re.Match[str], subject: str, attribute: str, revisable: bool = True) -> Found:
    return (subject, attribute, *match.span("v"), revisable)


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


def _dwells(subject: str) -> bool:
    """Whether it can have a home: "my sister's boss", not "my sister's address"."""
    return (
        re.search(r"['’]s?\s", subject) is None or subject.rsplit(maxsplit=1)[-1].lower() in PEOPLE
    )


def _verb(clause: str) -> Found | None:
    for form, attribute, revisable in _VERBAL:
        match = form.match(clause)
        if match is None:
            continue
        if attribute == "home city" and not _dwells(match.group("s")):
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


_LIKED = re.compile(
    rf"[Tt]he\s+(?P<a>{_NOUNS})\s+(?:that\s+)?(?P<s>{_ANYONE})\s+(?:likes?|loves?|prefers?)"
    rf"(?:\s+(?:best|most|the most))?\s+is\s+(?:the\s+)?{_VALUE}$"
)


def _liked(clause: str) -> Found | None:
    match = _LIKED.match(clause)
    return _found(match, match.group("s"), "favourite " + match.group("a")) if match else None


_THE = re.compile(rf"[Tt]he\s+(?P<a>{_NOUNS}){_COPULA}{_VALUE}$")
# A mark that parts figures ("opens at 08:30") parts no label from its value.
_KEY = re.compile(
    r"[\"']?(?P<a>[A-Za-z][\w .-]{0,40}?)[\"']?(?:\s*[:=]\s+|\s*(?<!\d)[:=])(?P<v>\S.*)$"
)


def _label(clause: str) -> Found | None:
    match = _THE.match(clause)
    if match:
        return _found(match, "", match.group("a"))
    match = _KEY.match(clause)
    if match and not match.group("v").startswith("//"):
        return _found(match, "", re.sub(r"[_.]+", " ", match.group("a")))
    return None


STATED = (_called, _owned_thing, _verb, _liked)
LABELS = (_label,)
