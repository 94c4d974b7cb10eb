"""A sentence as the reader of statements sees it: words, marks, typed values, and their classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deltamem_agents.router.typed import Typed

_PIECE = re.compile(r"['’]s?(?!\w)|[^\W_]+(?:[-./:@+#_&'’](?!s\b)[^\W_]+)*|[^\w\s]|_")
# English's closed classes: their words neither name an attribute nor begin or end a value.
_CLASSES = {
    "determiner": "a an the this that these those my your our his her its their no any some every",
    "pronoun": """mine yours ours hers theirs i me you he him she it we us they them myself yourself
        itself anybody anyone somebody someone everybody everyone nobody nothing none""",
    "question": "who whom whose which what where when why how whether",
    "conjunction": "if unless because since as than while although though and or but nor so yet",
    "preposition": """of in on at to from by with about into onto under over after before until till
        during without within against between among for through per via out up down off""",
    "verb": """is are was were be been being am become becomes became reads read stands stood equals
        remains remained stays stayed goes went gone gets got get comes came come turns turned
        shows seems looks appears says said say tells told tell means happens asks asked wants
        wanted needs needed""",
    "change": "changed switched moved updated set",
    "auxiliary": """do does did done doing have has had having will would shall should can could may
        might must ought need let lets""",
    "negation": "not never n't don't isn't",
    "adverb": """now just still again already also too only even ever here there then once yes ok
        okay please currently actually really always today tomorrow yesterday nowadays instead
        meanwhile anyway apparently obviously evidently clearly luckily sadly fortunately
        unfortunately finally officially recently basically technically supposedly reportedly
        incidentally initially originally previously honestly frankly hopefully besides""",
    "clause": "it's that's i'm let's",
    "call": "oh ah ugh hmm wow oops hey hi hello well sorry thanks thank",
    "day": """monday tuesday wednesday thursday friday saturday sunday january february april june
        july august september october november december""",
}
# The commonest verbs that a sentence to an assistant begins with, capitalised like a name: those
# that put a value in its place, and those that ask for something to be done with it.
_COMMAND_WORDS = """
add adjust alter amend apply assign attach book change choose consider correct drop edit enter
exchange file fill fix hold include insert jot keep know leave list log make mark modify move note
overwrite pick place put record register remember remove rename replace reset revise save set store
strike submit substitute swap switch take treat turn update use
"""
_ERRAND_WORDS = """
answer apologise ask bring call cancel check compare compose confirm contact copy create delete
describe discuss double-check draft email explain fetch find forget forward generate get give guess
hand help learn let look mail meet mention mind open pass pay phone prepare print pull quote read
recall recheck refer remind repeat report retrieve return ring run say see send share show state
stop tell think track transfer translate try type understand verify visit wait want write
"""
_COMMANDS = {
    **dict.fromkeys(_COMMAND_WORDS.split(), "command"),
    **dict.fromkeys(_ERRAND_WORDS.split(), "errand"),
}
_BEFORE_COMMANDS = ("please", "you", "to", "and", "just", "then", "also")
_CLASS = {word: name for name, words in _CLASSES.items() for word in words.split()}
CLOSED = frozenset(_CLASS)
_SHORTENED = re.compile(r"n't$|'(?:ve|re|ll|d|m)$")
_ENDINGS = ("ed", "ing", "ly", "s")


@dataclass(frozen=True)
class Token:
    """A piece of a sentence.

    Attributes:
        text: verbatim.
        start, end: its place in the message.
        typed: the kind of typed value that it is, "" for words and marks.
        vague: seen by its class only; in fitting, so that the classes learn to stand alone.
    """

    text: str
    start: int
    end: int
    typed: str = ""
    vague: bool = False

    @property
    def low(self) -> str:
        """In lower case, with the straight apostrophe."""
        return self.text.lower().replace("’", "'")

    @property
    def mark(self) -> bool:
        """Punctuation."""
        return not self.typed and not self.text[0].isalnum() and not self.owns

    @property
    def owns(self) -> bool:
        """The possessive ending."""
        return self.low in ("'s", "'")

    @property
    def open(self) -> bool:
        """A word that can be part of a name or a value."""
        said = self.text[0].isalnum() and self.low not in CLOSED and not _SHORTENED.search(self.low)
        return bool(self.typed) or said


def cut(text: str, start: int, end: int, typed: Sequence[Typed]) -> list[Token]:
    """Cuts text[start:end] into tokens; a typed value is one token, whatever stands in it.

    Args:
        text: the message's.
        start: of the sentence.
        end: of the sentence.
        typed: typed values of the whole text.
    """
    found: list[Token] = []
    at = start
    for value in [v for v in typed if start <= v.start and v.end <= end]:
        found += _pieces(text, at, value.start)
        found.append(Token(text[value.start : value.end], value.start, value.end, value.kind))
        at = value.end
    return found + _pieces(text, at, end)


def _pieces(text: str, start: int, end: int) -> list[Token]:
    return [Token(m.group(), *m.span()) for m in _PIECE.finditer(text, start, end)]


def shape(tokens: Sequence[Token], at: int) -> str:
    """The class of a token: itself if closed or a mark, else its form; "^" and "$" are the ends."""
    if not 0 <= at < len(tokens):
        return "^" if at < 0 else "$"
    token = tokens[at]
    if token.typed:
        return "number" if token.typed == "number" else "typed"
    if commands(tokens, at):
        return _COMMANDS[token.low]
    if not token.open:
        return word_class(token.low) if token.vague else token.low
    if token.text[0].isdigit():
        return "digit"
    named = token.text[0].isupper() and at > 0
    return "Name" if named else "-" + next((e for e in _ENDINGS if token.low.endswith(e)), "")


def is_command(word: str) -> bool:
    """Whether a word is a verb that instructions begin with."""
    return word.lower() in _COMMANDS


def puts(word: str) -> bool:
    """Whether a word is a verb that puts a value in its place: "change", "changing", not "send"."""
    low = word.lower()
    forms = (low, low[:-3], low[:-3] + "e", low[:-4]) if low.endswith("ing") else (low,)
    return any(_COMMANDS.get(form) == "command" for form in forms)


def commands(tokens: Sequence[Token], at: int) -> bool:
    """Whether a token is a verb that opens an instruction: "Amend Ivo's", "please enter"."""
    if tokens[at].low not in _COMMANDS or (at + 1 < len(tokens) and tokens[at + 1].owns):
        return False  # "Mark's birthday"
    return at == 0 or tokens[at - 1].mark or tokens[at - 1].low in _BEFORE_COMMANDS


def word_class(form: str) -> str:
    """A coarser class of a `shape`: "verb" for "is", "mark" for ":"."""
    if form in _CLASS:
        return _CLASS[form]
    if _SHORTENED.search(form):
        return "negation" if form.endswith("n't") else "clause"
    return form if form in ("^", "$") or form[0].isalnum() or form[0] == "-" else "mark"
