"""Plain-language facts: "my dog's name is Rex", "the billing service runs on port 8080".

Three readers, in this order: a small grammar of verbs ("runs on port"), the fitted reader of named
slots (`reading`), and labels ("region: eu-1"). What none of them knows is left alone. Questions,
conditions and denials state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from deltamem_agents.router.asking import asks, requested
from deltamem_agents.router.grammar import LABELS, STATED, Found
from deltamem_agents.router.phrases import LEAD, PEOPLE, TAIL, is_person
from deltamem_agents.router.reading import read, slots_of
from deltamem_agents.router.slots import Slot, holder
from deltamem_agents.router.typed import Typed
from deltamem_agents.router.words import cut


@dataclass(frozen=True)
class Statement:
    """`text[start:end]` is the value of `attribute` of `subject`."""

    subject: str
    attribute: str
    start: int
    end: int
    revisable: bool = True
    sure: float = 1.0  # the probability that it is stated
    others: tuple[tuple[str, str], ...] = ()  # subjects and attributes that it may be about instead
    mention: bool = False  # text[start:end] speaks of it, and what it says could not be read


DOUBT = 0.5  # how sure a plain word is that a request tells
_SAID = re.compile(r"\w+(?: in mind| down)? that\b", re.IGNORECASE)
_AFFIRMED = re.compile(r"(?:yes|yep|yeah|no|right|now)\s*[:,;–—-]\s*\S", re.IGNORECASE)
_THAT = re.compile(r"that\s+(?=\S)", re.IGNORECASE)
_NOT_TOLD = re.compile(
    r"(?:if|when|whenever|unless|suppose|imagine|assuming|whether|would|could|should|can|do|does|did"
    r"|is|are|was|were|what|which|who|whose|whom|where|why|how)\b",
    re.IGNORECASE,
)
_FRONT = re.compile(
    r"(?:(?:now|currently|actually|just|really|still)\s+|(?-i:an?)\s+|[\"'“‘`(]+)", re.I
)
_NEGATIVE = re.compile(
    r"(?:not|no longer|never|n['’]t)\b|(?:wrong|incorrect|mistaken|false|outdated|obsolete)\W*$",
    re.IGNORECASE,
)
_STARTER = r"(?:my|our|the|his|her|their|I|we|I['’]m|[A-Z][\w-]*['’]s|please)\s"
_JOINT = re.compile(rf"(?:,?\s+(?:and|but|while|whereas)\s+|,\s+|;\s*)(?={_STARTER})")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\S)[^.!?\n]+)*[.!?]*")


def statements(text: str, typed: Sequence[Typed]) -> Iterator[tuple[Statement, int, int]]:
    """Finds plain-language facts.

    Args:
        text: a message's text.
        typed: its typed values.

    Yields:
        A statement and the (start, end) of the sentence that it stands in.
    """
    asked: tuple[int, int] | None = None
    for start, end in sentence_spans(text):
        if asks(text[start:end]):
            asked = start, end
            continue
        if asked is not None and _answers(text, start, end, typed):
            for found in _answered(text, *asked, start, end, typed):
                yield found, asked[0], end
        verb = requested(text, start, end)
        if verb is None:
            stated = _of_sentence(text, start, end, typed)
        else:
            stated = _of_request(text, verb, end, typed)
        asked = (start, end) if verb is not None and not stated else None
        yield from ((found, start, end) for found in stated)


def _of_request(text: str, verb: int, end: int, typed: Sequence[Typed]) -> list[Statement]:
    """What "Could you change my port to 80 for me?" states: the instruction in it, read as one.

    Without a typed value it is unsure: "Could you put my port into the form?" tells none.
    """
    end = verb + len(text[verb:end].rstrip(" ?!."))
    stated = _of_sentence(text, verb, end, typed)
    if _SAID.match(text, verb, end) or any(verb <= value.start < end for value in typed):
        return stated
    told = (replace(one, sure=min(one.sure, DOUBT)) for one in stated if not one.mention)
    return list(told)


def _answers(text: str, start: int, end: int, typed: Sequence[Typed]) -> bool:
    """Whether a sentence gives what the question before it names: "It is 80.", "Yes: 80."."""
    if _GOES_ON.match(text, start):
        return True
    if slots_of(text, start, end, typed):
        return False
    words = cut(text, start, end, typed)
    values = [one for one in words if one.typed]
    alone = bool(values) and all(one.typed or not one.open for one in words)
    return alone or _AFFIRMED.match(text, start, end) is not None


def _answered(
    text: str, start: int, stop: int, begin: int, end: int, typed: Sequence[Typed]
) -> Iterator[Statement]:
    """What text[start:stop] asks or asks for, and text[begin:end] gives.

    "Could you update my port? It's 80." states it; "Have you got my port? 80." may do so.
    """
    named = slots_of(text, start, stop, typed)
    named = [slot for slot in named if slot.subject != "I" or not is_person(slot.attribute)]
    given = [one for one in typed if begin <= one.start < end]
    for slot in named:
        about, others = (holder(slot.subject), slot.attribute.lower()), _unled(slot)
        if len(named) == len(given) == 1:
            sure = DOUBT if requested(text, start, stop) is None else 1.0
            yield Statement(*about, given[0].start, given[0].end, sure=sure, others=others)
        else:
            yield Statement(*about, start, end, False, 0.0, others, mention=True)


def _unled(slot: Slot) -> tuple[tuple[str, str], ...]:
    """The slot without a first word that only begins the sentence: "New Kofi's port ..."."""
    first, _, rest = slot.subject.partition(" ")
    named = slot.start == 0 and first[:1].isupper() and rest[:1].isupper()
    return ((holder(rest), slot.attribute.lower()),) if named else ()


def _of_sentence(text: str, start: int, end: int, typed: Sequence[Typed]) -> list[Statement]:
    named = list(_named(text, _begin(text, start, end), end, typed))
    stated: list[Statement] = []
    for left, right in _clauses(text, start, end, {at for at, one in named if not one.mention}):
        found = _read(text, left, right, STATED)
        if found is None:
            continue
        # A value that names a slot with its own value is none: "I picked up that my ... is ..."
        inside = [one for at, one in named if found.start <= at < found.end]
        if all(one.mention for one in inside):
            stated.append(found)
            named = [(at, one) for at, one in named if not left <= at < right]
    stated += [one for _, one in named]
    told = {_slot(one) for one in stated if not one.mention}
    stated = [o for o in stated if not o.mention or told.isdisjoint([_slot(o), *o.others])]
    if (
        all(one.mention for one in stated)
        and (label := _read(text, start, end, LABELS)) is not None
    ):
        stated.append(label)
    return stated


def _slot(statement: Statement) -> tuple[str, str]:
    return statement.subject, statement.attribute


def _named(
    text: str, start: int, end: int, typed: Sequence[Typed]
) -> Iterator[tuple[int, Statement]]:
    """The fitted reader's statements, each with the place of its slot."""
    for told in read(text, start, end, typed):
        subject, attribute = told.slot.subject, told.slot.attribute
        others = tuple((holder(one.subject), one.attribute.lower()) for one in told.others)
        others += _unled(told.slot)
        if told.mention:
            if subject != "I" or not is_person(attribute):
                about = holder(subject), attribute.lower()
                yield told.at, Statement(*about, told.start, told.end, False, 0.0, others, True)
            continue
        if told.article and attribute.lower() in PEOPLE:  # "my sister is a nurse"
            subject = f"my {attribute}" if subject == "I" else f"{subject}'s {attribute}"
            attribute = "job"
        found = _placed((subject, attribute, told.start, told.end, True), text, 0)
        if found is not None:
            yield told.at, replace(found, sure=told.sure, others=others)
        else:  # "my port was wrong"
            about = holder(subject), attribute.lower()
            yield told.at, Statement(*about, start, end, False, 0.0, others, True)


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text stand; a dot inside a value ends none.

    "It is ..." and "That reads ..." go with the sentence before, whose thing they speak of. What
    tells and is longer than `LONG` words and marks is cut, behind a comma where there is one.
    """
    spans: list[tuple[int, int]] = []
    for match in _SENTENCE.finditer(text):
        start, end = match.span()
        while start < end and text[start].isspace():
            start += 1
        if start == end:
            continue
        if spans and _GOES_ON.match(text, start) and _stays(text[slice(*spans[-1])]):
            start = spans.pop()[0]
        spans.append((start, end))
    for start, end in spans:
        yield from [(start, end)] if asks(text[start:end]) else _parts(text, start, end)


LONG = 150  # words and marks of a sentence that are read together
_WORD = re.compile(r"\w+|[^\w\s]")
_PAUSE = frozenset(",;:")


def _parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    words = list(_WORD.finditer(text, start, end))
    at = 0
    while len(words) - at > LONG:
        pauses = [n for n in range(at + LONG // 2, at + LONG) if words[n].group() in _PAUSE]
        last = pauses[-1] if pauses else at + LONG - 1
        yield words[at].start(), words[last].end()
        at = last + 1
    if at < len(words):
        yield (words[at].start() if at else start), end


_GOES_ON = re.compile(
    r"(?:(?:oh|ah|well|right|yes)\b,?\s+)?(?:it|that|this)"
    r"(?:\s+(?:is|was|will|would|should|has|turned|came|became|ended|reads|says|stands|goes|shows)"
    r"|['’]s)\s",
    re.IGNORECASE,
)
_THING = re.compile(r"(?:(?:my|our|the)\s|[A-Z][\w-]*['’]s\s)[^.!,]{2,60}\?\s*$", re.IGNORECASE)
_ECHO = re.compile(r"\S+(?:\s\S+){0,3}\?\s*$")


def _stays(sentence: str) -> bool:
    """Whether the next sentence may be about its thing.

    It tells, or only names it ("My port?"), or only a value ("80?").
    """
    if not sentence.rstrip().endswith("?") or _THING.match(sentence):
        return True
    return _ECHO.match(sentence) is not None and not _NOT_TOLD.match(sentence)


def _clauses(text: str, start: int, end: int, named: Collection[int]) -> Iterator[tuple[int, int]]:
    left = start
    for match in _JOINT.finditer(text, start, end):
        # A joint counts only if what follows is a statement: "Tom and the dog" is one value.
        follows = match.end() in named or _read(text, match.end(), end, STATED) is not None
        if follows and match.start() > left:
            yield left, match.start()
            left = match.end()
    yield left, end


def _read(
    text: str, start: int, end: int, readers: Sequence[Callable[[str], Found | None]]
) -> Statement | None:
    start = _begin(text, start, end)
    clause = _THANKS.sub("", text[start:end].rstrip(" .!?;,"))
    if not clause or _NOT_TOLD.match(clause):
        return None
    found = next((f for reader in readers if (f := reader(clause)) is not None), None)
    return None if found is None else _placed(found, clause, start)


def _begin(text: str, start: int, end: int) -> int:
    """Where a sentence begins behind what changes nothing: "It is different now: ..."."""
    while (lead := LEAD.match(text, start, end)) is not None:
        start = lead.end()
        if (that := _THAT.match(text, start, end)) is not None:
            start = that.end()
    return start


_THANKS = re.compile(r"[\s,]+(?:please|thanks|thank you|okay|ok|alright)$", re.IGNORECASE)


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
