"""Examples from which questions are learned: whether a name is what is asked for, and the aims.

Phrasings of the generated world, and as many again whose words are syllables drawn on the spot
(`router_unheard`). `router_reading_fit` fits both models with the reader of statements.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

from deltamem_agents.evaluation.tasks.router_unheard import SPOKEN, spoken, unheard
from deltamem_agents.evaluation.tasks.router_world import RouterWorld, Slot, Split, lists
from deltamem_agents.router.aims import AIMS, Aim, features, masked
from deltamem_agents.router.analyze import stem
from deltamem_agents.router.asked import LIGHT, occurrences
from deltamem_agents.router.reading import Models
from deltamem_agents.router.slots import Features, holder
from deltamem_agents.router.typed import typed_values
from deltamem_agents.router.words import Token, cut

NESTED = 0.45  # how often a phrasing is also shown about something else; people seldom do
TURNED = 0.2  # how often the owner follows: "the port of the server"
VAGUE = 0.3  # share of words that are shown by their form only
Choice = tuple[list[Features], int]
# Nouns of which something named may be a part, or which may follow it in a longer name.
_NOUNS = """
photo copy cover history page owner colour reason picture label holder plate box office story price
screen manager folder key team deposit list contract sticker drawer size name bill account agency
app area bag battery board book bottle button cable card case chair charger class club company cost
counter database date department desk device door driver expert extension fee field file floor form
format frame game garden group guide increase insurance invoice job kit lamp letter license limit
line lock log machine mail map market meeting menu model month note package part partner party path
pattern people period phone plan policy position problem process product program project protocol
provider range rate report reset rule schedule school section server service settings sheet shop
sign site space staff station store street style supplier system table target tax test ticket tool
topic tower town type unit user value vendor version wall week window worker year zone
"""


def asked_choices(seed: int, rounds: int, split: Split) -> Iterator[Choice]:
    """Occurrences of names in questions, each with whether it is asked for (1) or not (0)."""
    world = RouterWorld(seed, split)
    draw = world.random
    for _ in range(rounds):
        known = [*lists("questions", split), *lists("mixed", split)]
        made = [*spoken(draw, "ask", len(known)), *spoken(draw, "write", len(known) // 2)]
        for template in [*known, *made]:
            slot = world._slots(1)[0]
            turned = draw.random() < TURNED
            text = world._fill(template.replace("{s}", "{of}") if turned else template, slot, "")
            yield from _occurring(text, slot, draw, right=True)
            for wrong in _truncated(slot):
                yield from _occurring(text, wrong, draw, right=False)
            for other in _nested(template, slot, draw):
                if draw.random() < NESTED:
                    yield from _occurring(world._fill(other, slot, ""), slot, draw, right=False)


def _truncated(slot: Slot) -> Iterator[Slot]:
    """Names that stand in this one's without being it: "my badge" in "my badge colour"."""
    words = slot.attribute.split()
    for end in range(1, len(words)):
        rest = words[end:]
        if not (len(rest) == 1 and stem(rest[0].lower()) in LIGHT):
            yield replace(slot, attribute=" ".join(words[:end]))


def _nested(template: str, slot: Slot, draw: random.Random) -> Iterator[str]:
    """Questions on something else that holds the name."""
    known = draw.choice(_NOUNS.split())
    noun = known if draw.random() < 0.5 else _syllables(draw)
    if "{s}" in template:
        yield template.replace(
            "{s}", draw.choice([f"the {noun} of {{s}}", f"the {noun} for {{s}}"])
        )
        yield template.replace("{s}", f"{{s}}'s {noun}")
    if re.search(r"\{[sS]\}(?! ?[a-z])", template):
        # A word that nobody knows is no noun to speak of: "what did my port turn out to be".
        yield re.sub(r"\{([sS])\}", rf"{{\1}} {known}", template)


def _syllables(draw: random.Random) -> str:
    pairs = range(draw.randint(2, 3))
    return "".join(draw.choice("bdfgklmnprstv") + draw.choice("aeiou") for _ in pairs)


def _occurring(text: str, slot: Slot, draw: random.Random, *, right: bool) -> Iterator[Choice]:
    subject, attribute = holder(slot.holder or "I"), slot.attribute
    if "'s " in attribute:  # "dog's name": the name of the user's dog
        owner, _, attribute = attribute.rpartition("'s ")
        subject = f"{subject}'s {owner}"
    tokens = shaken(cut(text, 0, len(text), ()), draw)
    for found in occurrences(tokens, subject, attribute):
        yield [found.features, ()], int(not right)


def aim_choices(seed: int, rounds: int, split: Split, weights: Models) -> Iterator[Choice]:
    """Texts with what they are for.

    Args:
        seed: of the world.
        rounds: how often each phrasing is drawn.
        split: whose phrasings.
        weights: where the names of slots end is read by these.
    """
    world = RouterWorld(seed, split)
    draw = world.random
    for _ in range(rounds):
        for aim, text in _texts(world, split):
            tokens = shaken(cut(text, 0, len(text), typed_values(text)), draw)
            found = features(masked(tokens, text, weights))
            yield [tuple(f"{one} {f}" for f in found) for one in AIMS], AIMS.index(aim)


def _texts(world: RouterWorld, split: Split) -> Iterator[tuple[Aim, str]]:
    known: dict[Aim, list[str]] = {
        "ask": lists("questions", split),
        "write": lists("mixed", split),
        "talk": [*lists("diffuse", split), *lists("unstated", split), *world.words["chat"]],
        "tell": [*lists("statements", split), *lists("updates", split)],
    }
    for aim, templates in known.items():
        count = max(len(templates), 60)
        if aim in SPOKEN:
            made = list(spoken(world.random, aim, count))
        else:
            made = ["".join(parts) for parts in unheard(world.random, count)]
        for template in [*templates, *made]:
            yield aim, filled(world, template)
    for template, questions in lists("events", split):
        text, asked = world._event(template, questions)
        yield "tell", text
        yield from (("ask", query.text) for query in asked)


def filled(world: RouterWorld, template: str) -> str:
    """A template with a slot, a value, a person and a thing of the world."""
    slot = world._slots(1)[0]
    text = world._fill(template, slot, world.value(slot.kind))
    text = text.replace("{p}", world.random.choice(world.words["people"]))
    return text.replace("{t}", world.random.choice(world.words["things"]))


def shaken(tokens: list[Token], draw: random.Random) -> list[Token]:
    """The tokens, some of them shown by their form only."""
    return [replace(token, vague=draw.random() < VAGUE) for token in tokens]
