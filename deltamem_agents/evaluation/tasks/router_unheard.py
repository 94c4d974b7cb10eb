"""Sentences in words that no one has heard before: only their shape can be learned from.

A small grammar of English statements about a slot {s} and its value {v}, of questions on {s}, of
requests to write something with {s} and of talk; its verbs, nouns and adverbs are syllables drawn
on the spot.
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
    ("<who> <verb><that> ", "{s} is {v}<tail>", "."),
    ("<who> <word> up<that> ", "{s} is {v}<tail>", "."),
    ("", "{S} is {v}<tail>", "."),
    ("<who> <word> ", "{v}<tail> <onto> {s}", "."),
    ("The <word> <word> <verb>: ", "{s} is {v}", "."),
    ("<who> <word> ", "{v} <word>ed <onto> {s}", "."),
    ("<who> <word> <out> ", "{v} <onto> {s}<tail>", "."),
    ("In <who> <word> ", "{s} <word>s <as> {v}", "."),
    ("", "{S} <word>ed <out> <word> and it is {v}", "."),
    ("", "{S} <be> <word>ed <as> {v}<tail>", "."),
    ("", "{S} is not <word> it was: it is {v}<now>", "."),
    ("<Set> ", "{s} {v}<tail>", "."),
    ("<who>'d <word> <word> you ", "{s}<pause> {v}", "."),
    ("The <word> one for ", "{s} is {v}", "."),
    ("", "{S} will <word> <word> to you <as> {v}", "."),
    ("<Word> <word>, ", "{s} is {v}", " <word>."),
    ("<Set> ", "{s} <turn> {v}<tail>", "."),
    ("<Set> ", "{v} <onto> {s}<tail>", "."),
    ("For ", "{s} <word> {v}", "."),
    ("<who>'d <word> ", "{s} <word>ed: {v}", "."),
    ("", "{S} <word>n't <word>ed, <word> {v}", "."),
    ("What <who> <word> <out> <onto> ", "{s} is {v}", "."),
)
# What is asked for, what is to be written, and talk; {p} a person, {t} a thing.
SPOKEN = {
    "ask": (
        "What did {s} <word> <out> to be?",
        "What <might> {s} <word> <out>?",
        "<Word> {s} <back>.",
        "<Word> {s}<please>.",
        "<Word> me {s}<please>.",
        "<Might> you <word> {s}<please>?",
        "<Might> I <word> {s}<please>?",
        "<Which> <is> {s} <out>?",
        "Which <word> <is> {s}?",
        "{S}, <word>?",
        "{S}, <which> <is> it<please>?",
        "What was it, {s}?",
        "I need to <word> <out> {s}<please>.",
        "I am <word>ing for {s}.",
        "The <word> <word>s {s}<please>.",
        "<Who> asked <onto> {s}. What <word> I <word>?",
        "What do I <word> <onto> {s}?",
        "How do I <word> {s}?",
        "<Word>: {s}<please>",
        "Do I have {s} <onto> you?",
        "Do you <word> {s} <onto> you?",
        "What's <out> <onto> {s}?",
        "My <word> is <word> <onto> {s}.",
        "Is {s} <word>ed <out>?",
        "<Word> me to {s}, will you?",
        "The <word> <word>s {s}; <which> <is> it?",
        "<Might> {s} be <word>ed <out> in what I <word>?",
        "Do <who> <word> {s}: what <is> it?",
        "What do you <word> <out> <word> for {s}?",
        "<Which> <word> <is> there for {s}?",
        "<Which> <is> {s} <word>n?",
        "Is there a <wrapper> of {s}?",
        "<Word> {s} by me <back>.",
        "<Which> <is> {s} <word> now?",
        "Have you <word> {s} <word>?",
        "What does {s} <word> <as> now?",
        "<Word> us {s} <word> <word>",
        "My <word>'s <word> <word> on {s}.",
        "I've <word>ed {s}. <Word>?",
        "{S} is...?",
        "<Which> <is> the <word> <wrapper> of {s}?",
        "<Might> you <word> the <wrapper> for {s}<please>?",
    ),
    "write": (
        "<Word> a <word> <with> {s}.",
        "<Word> a <word> <word> <with> {s}.",
        "<Word> me a <word> <with> {s} in it.",
        "<Word> {s} <out> as a <word> <word>.",
        "<Word> a <word> to the <word> <with> {s}.",
        "<Might> you <word> a <word> <with> {s}?",
        "I want a <word> <with> {s}.",
        "<Word> <out> a <word> in which {s} <word>s.",
        "<Word> {s} into a <word>.",
        "Please <word> an <word> <with> {s} on it.",
    ),
    "talk": (
        "Do <word>s <word>?",
        "How does a <word> <word>?",
        "What is a <word>?",
        "Should I <word> my {p}?",
        "Would my {p} <word> a <word>?",
        "My {p} <word>ed <out>.",
        "My {p} is <word> <out>.",
        "My {p} and I <word>ed a <word>.",
        "I am <word>ed of the {t}.",
        "The {t} is <word>.",
        "What a <word> the {t} is!",
        "Why do <word>s <word>?",
        "<Word> me about <word>s.",
        "<Word> me a <word>.",
        "Who <word>ed the <word>?",
        "When do <word>s <word>?",
        "Where do <word>s <word> in <word>?",
        "How long do <word>s <word>?",
        "I <word>ed my <word>!",
        "That was <word>.",
        "You <word> <word>.",
        "<Word> to you!",
        "Let's <word> a <word>.",
        "What do you <word> about my {p}?",
        "I can't <word> what to <word>.",
        "Any <word>s for my {p}?",
        "<Might> I <word> my {p} about the <word>?",
    ),
}
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
    "tail": "|||| at <word>| for <word>| on <word>| from <word> on| by the <word>| for the <word>"
    "| <word>ly| then| these days| last <word>| in the <word>| <word>ing <word>| again| instead",
    "set": "please put|please set|put|set|change|correct|record|enter|let us make|<who> put",
    "out": "||out|up|down|in|over",
    "back": "back to me|again|once more|for me|to me|<word>ly|out|over here|back",
    "please": "||, please|, will you| now| again| somewhere| for me| once more| <word>ly",
    "might": "can|could|would|will|might|may|should|did|does",
    "which": "what|which|who|where|how",
    "with": "with|that has|that <word>s|<word>ing|that says|giving|and <word>",
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


def spoken(draw: random.Random, aim: str, count: int) -> Iterator[str]:
    """Draws templates of one aim of `SPOKEN`.

    Args:
        draw: the source of all words.
        aim: "ask", "write" or "talk".
        count: how many.
    """
    fill = _filler(draw)
    for _ in range(count):
        yield re.sub(r" +(?= |[.?!,]|$)", "", fill(draw.choice(SPOKEN[aim])))


def _filler(draw: random.Random) -> Callable[[str], str]:
    def word() -> str:
        pairs = range(draw.randint(1, 3))
        return "".join(draw.choice("bdfgklmnprstv") + draw.choice("aeiou") for _ in pairs)

    def piece(match: re.Match[str]) -> str:
        name = match.group(1)
        if name.lower() == "word":
            return word().capitalize() if name == "Word" else word()
        if name[0].isupper():
            found = fill(draw.choice(_CHOICES[name.lower()].split("|")))
            return found[:1].upper() + found[1:]
        return fill(draw.choice(_CHOICES[name].split("|")))

    def fill(template: str) -> str:
        return _HOLE.sub(piece, template)

    return fill
