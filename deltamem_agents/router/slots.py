"""Where a sentence names something that has a value: "my sister's badge number", "its port"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deltamem_agents.router.words import Token, commands, shape, word_class

_OWN = ("my", "our")
# "The new value of Anna's port" is about Anna's port; "the name of Anna's cat" is about the cat.
WRAPPERS = (
    *("value", "answer", "entry", "setting", "figure", "record", "status", "information"),
    *("one", "ones", "version", "latest"),
)
_DETERMINERS = (*_OWN, "the", "his", "her", "their", "this")
LONGEST = 5  # words of an attribute
Features = tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """A subject and an attribute, as tokens[start:end] names them.

    Attributes:
        subject: as said; "I" for the speaker.
        attribute: as said.
        start, end: its tokens.
        features: of its end, for the reader.
    """

    subject: str
    attribute: str
    start: int
    end: int
    features: Features

    @property
    def owned(self) -> bool:
        """Whether the owner stands in front: "my port", not "the port of the server"."""
        return self.features[0] != "of"


def slots(tokens: Sequence[Token], text: str) -> list[list[Slot]]:
    """All places that name one, each with the places where the name may end, in order.

    Args:
        tokens: of a sentence.
        text: the message's.
    """
    found: list[list[Slot]] = []
    at = 0
    while at < len(tokens):
        here = _of(tokens, at, text) or _owned(tokens, at, text)
        if here:
            found.append(here)
            at = here[-1].end
        else:
            at += 1
    return found


def _run(tokens: Sequence[Token], at: int) -> int:
    """The end of the run of open words from here on."""
    end = at
    while end < len(tokens) and tokens[end].open and (not tokens[end].typed or end > at):
        if tokens[end].typed not in ("", "number"):
            break
        end += 1
    return end


def _name(tokens: Sequence[Token], at: int) -> int:
    """The end of a capitalised name of up to four words."""
    end = at
    if at == 0 and (shape(tokens, 0) in ("-ing", "-ed") or _shouted(tokens[0].text)):
        return end  # "Regarding Anna's ...", "FYI Anna's ..."
    while end < min(len(tokens), at + 4) and tokens[end].open and tokens[end].text[0].isupper():
        end += 1
    return end


def _shouted(word: str) -> bool:
    return len(word) > 1 and word.isupper()


def _owned(tokens: Sequence[Token], at: int, text: str) -> list[Slot]:
    """Owned by someone: "my badge number", "my sister's badge number", "Anna's cat's name"."""
    low, first = tokens[at].low, at
    if commands(tokens, at):
        return []
    run = _run(tokens, at + 1) if low in _DETERMINERS else _name(tokens, at)
    if run < len(tokens) and tokens[run].owns and _names_another(tokens, at, run):
        return []  # "the letter lists Noor's ...": the name is the owner, and comes up next
    begin = -1
    while run > first and run < len(tokens) and tokens[run].owns and run > at:
        begin = first = run + 1
        run = _run(tokens, begin)
    if begin >= 0 and run > begin:
        subject = text[tokens[at].start : tokens[begin - 2].end]
        return _ends(tokens, text, at, begin, run, subject)
    if low in _OWN and begin < 0 and run > at + 1:
        return _ends(tokens, text, at, at + 1, run, "I")
    return []


def _names_another(tokens: Sequence[Token], at: int, run: int) -> bool:
    last = run - 1
    while last > at and tokens[last].text[0].isupper():
        last -= 1
    return at < last < run - 1


def _ends(
    tokens: Sequence[Token], text: str, start: int, begin: int, run: int, subject: str
) -> list[Slot]:
    return [
        Slot(
            subject,
            text[tokens[begin].start : tokens[end - 1].end],
            start,
            end,
            _end_features(tokens, begin, end),
        )
        for end in range(begin + 1, min(run, begin + LONGEST) + 1)
    ]


def _of(tokens: Sequence[Token], at: int, text: str) -> list[Slot]:
    """Of someone: "the badge number of my sister", "the port for the billing service"."""
    if tokens[at].low != "the":
        return []
    link = _run(tokens, at + 1)
    named = at + 1 < link < len(tokens) - 1 and tokens[link].low in ("of", "for")
    if not named or link > at + 1 + LONGEST:
        return []
    attribute = text[tokens[at + 1].start : tokens[link - 1].end]
    begin = link + 1
    if tokens[link - 1].low in WRAPPERS:
        return []
    if tokens[begin].low in _DETERMINERS:
        run, first = _run(tokens, begin + 1), begin + 2
    else:
        run, first = _name(tokens, begin), begin + 1
    if run > begin and run < len(tokens) and tokens[run].owns:
        first, run = run + 2, _run(tokens, run + 1)  # "the name of my sister's cat"
    return [
        Slot(
            text[tokens[begin].start : tokens[end - 1].end],
            attribute,
            at,
            end,
            ("of", *_end_features(tokens, first - 1, end)),
        )
        for end in range(first, min(run, begin + LONGEST) + 1)
    ]


def _end_features(tokens: Sequence[Token], begin: int, end: int) -> Features:
    """How the name would end here: its length, its last word, what follows."""
    last, after = shape(tokens, end - 1), shape(tokens, end)
    return (
        f"length {end - begin}",
        f"last {last}",
        f"next {after}",
        f"next but one {shape(tokens, end + 1)}",
        f"next a {word_class(after)}",
        f"{last} {after}",
    )


def holder(phrase: str) -> str:
    """A subject in one spelling: "user", "user's sister", "billing service", "" (not said)."""
    words = phrase.strip()
    if words in ("I", "we", "We", "me", "us"):
        return "user"
    own = re.match(r"(?:my|our)\s+", words, re.IGNORECASE)
    if own:
        return "user's " + words[own.end() :]
    return re.sub(r"^(?:the|this)\s+", "", words, flags=re.IGNORECASE)
