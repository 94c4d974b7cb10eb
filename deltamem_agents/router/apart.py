"""Which found facts cannot be what a question asks for: they are of someone or something else.

A search of words finds "my sister's birthday" for a question on my brother's. Where the question
names whose and what, that is no answer, however many words they share.
"""

from __future__ import annotations

import re

from deltamem_agents.router.analyze import aliases, content, tokens
from deltamem_agents.router.asked import LIGHT, names
from deltamem_agents.router.facts import Fact
from deltamem_agents.router.features import kind_fits, slots_asked
from deltamem_agents.router.slots import Slot, holder


def apart(query: str, fact: Fact) -> bool:
    """Whether a fact is of none of the things that a question names.

    False where the question names nothing of anybody, and for documents.
    """
    asked = slots_asked(query)
    if not asked or fact.kind == "document" or names(query, fact) > 0.0:
        return False
    return not any(_near(slot, fact, query) for slot in asked)


def _near(slot: Slot, fact: Fact, query: str) -> bool:
    owner, what = holder(slot.subject), _telling(slot.attribute)
    whose = set(tokens(owner))
    if not fact.subject:  # a value by itself: its sentence says what it is of
        said = {*tokens(fact.quote), *tokens(fact.attribute)}
        if owner != "user":
            theirs = whose - {"user"} <= said
            return theirs and (what <= said or kind_fits(fact, query) > 0.0)
        unlabelled = fact.attribute == fact.kind and kind_fits(fact, query) > 0.0
        return _of_speaker(fact.quote, what) and (what <= said or unlabelled)
    if not whose <= set(tokens(fact.subject)):  # "Somehow Kofi" may be Kofi
        return False
    if set(tokens(slot.attribute)) <= set(tokens(fact.attribute)):  # its name was read too far
        return True
    told = _telling(fact.attribute)  # "locker code" may be what "locker combination" means
    return told <= what or bool({*aliases(fact.attribute)} & {*content(query)})


def _of_speaker(quote: str, what: set[str]) -> bool:
    """Whether a sentence may tell of the speaker's own: "I wear ...", not "my boss wears ..."."""
    own = [slot for slot in slots_asked(quote) if slot.subject == "I"]
    return _SPEAKER.search(quote) is not None or any(what & {*tokens(s.attribute)} for s in own)


_SPEAKER = re.compile(r"\b(?:I|me|mine|myself|we|us|ours)\b", re.IGNORECASE)


def _telling(attribute: str) -> set[str]:
    """The words of an attribute that tell it from others: "badge" of "badge number"."""
    words = set(tokens(attribute))
    return words - LIGHT or words
