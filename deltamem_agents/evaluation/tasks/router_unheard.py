"""Statements in words that no one has heard before: only their shape can be learned from.

A small grammar of English statements about a slot {s} and its value {v}; its verbs, nouns and
adverbs are syllables drawn on the spot.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from deltamem_agents.router.slots import WRAPPERS

# (before, from slot to value or back, after); what stands in <> is drawn.
SHAPES = (
    ("", "{S} <verb><aside> <as> {v}", "."),
    ("", "{S} <verb><aside> <as> {v}", "."),
    ("", "{S} <word>s {v}", "."),
    ("", "{S} <is> <word><now>, <it> {v}", "."),
    ("", "{S} <verb><now><mark> <it> {v}", "."),
    ("", "{S}, <said>, is {v}", "."),
    ("", "{S} (<said>) is {v}", "."),
    ("", "{S} is, <said>, {v}", "."),
    ("<put> ", "{v}<aside> <onto> {s}", "."),
    ("<put> ", "{s}<aside> <turn> {v}", "."),
    ("<put> ", "{s} from <old> <turn> {v}", "."),
    ("", "{S} <verb> from <old> to {v}", "."),
    ("<Word>ing ", "{s}<pause> <it> {v}", "."),
    ("<put> ", "{s} to be {v}", "."),
    ("The <wrapper> of ", "{s} <is> {v}", "."),
    ("", "{v} <verb><aside> <onto> {s}", "."),
    ("", "{s} is {v}", ", <said>."),
    ("", "{s} is {v}", " and that <verb>."),
    ("<Word> <word> <word>s<that> ", "{s} is {v}", "."),
    ("If they <word>, ", "{s} is {v}", "."),
    ("", "{S}<equals>{v}", ""),
)
_CHOICES = {
    "verb": "<word>s|<word>ed|<word>|has <word>ed|<be> <word>ed|<be> now <word>ed",
    "be": "is|was|has been|will be|got|is being|should be",
    "is": "is|was|<verb>",
    "aside": "||| to me| to us| by them| for me| back| up| over| out| <word>ly",
    "as": "as|as|to|at|with|on|by|under",
    "put": "<who> <word>ed|<who> <word>ed|<Word>|Please <word>",
    "who": "They|We|I|You|<Word>|The <word>",
    "onto": "as|for|under|to|into|as|in as|against",
    "turn": "to|with|for|by|over to|into",
    "old": "the old one|something else|what it was",
    "said": "I <word>|as <word>ed|<word>ly|so <word> <word>s",
    "it": "it is|that is|it's|that's|this is|it was",
    "now": "|| now",
    "that": "|| that",
    "mark": ",|;|.",
    "pause": ":|,",
    "equals": " - |: | = ",
    "wrapper": "|".join(WRAPPERS),
}
_HOLE = re.compile(r"<(\w+)>")


def unheard(draw: random.Random, count: int) -> Iterator[tuple[str, str, str]]:
    """Draws templates with {s} or {S} for the slot and {v} for its value, in three parts.

    Args:
        draw: the source of all words.
        count: how many.
    """
    fill = _filler(draw)
    for _ in range(count):
        before, core, after = draw.choice(SHAPES)
        yield fill(before), fill(core), fill(after)


def _filler(draw: random.Random) -> Callable[[str], str]:
    def word() -> str:
        pairs = range(draw.randint(1, 3))
        return "".join(draw.choice("bdfgklmnprstv") + draw.choice("aeiou") for _ in pairs)

    def piece(match: re.Match[str]) -> str:
        name = match.group(1)
        if name.lower() == "word":
            return word().capitalize() if name == "Word" else word()
        return fill(draw.choice(_CHOICES[name].split("|")))

    def fill(template: str) -> str:
        return _HOLE.sub(piece, template)

    return fill
