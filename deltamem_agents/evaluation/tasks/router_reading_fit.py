"""Fits the readers: `python -m deltamem_agents.evaluation.tasks.router_reading_fit --out ...`.

Sentences of the "dev" phrasings with their slot and value marked, and sentences that state nothing.
Each place in a sentence where a slot is named is one choice among what it offers; all models are
fitted by the likelihood of the right choice with an L2 penalty. So are the two that read questions,
whose examples `router_asking_fit` makes. Half a minute on one core, the same file for the same
seed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deltamem_agents.evaluation.tasks.router_asking_fit import (
    TURNED,
    VAGUE,
    aim_choices,
    asked_choices,
)
from deltamem_agents.evaluation.tasks.router_unheard import spoken, unheard
from deltamem_agents.evaluation.tasks.router_world import RouterWorld, Split, lists
from deltamem_agents.router.reading import LONGEST, Models, offers
from deltamem_agents.router.slots import Features, slots
from deltamem_agents.router.typed import typed_values
from deltamem_agents.router.words import cut

RARE = 3
PLAIN = 0.3  # how often the value is made of words that nobody knows
Choice = tuple[list[Features], int]
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Marked:
    """A sentence with the places of its slots' names and values: (start, end, start, end)."""

    text: str
    facts: tuple[tuple[int, int, int, int], ...] = ()
    events: bool = False


def marked(seed: int, rounds: int, split: Split = "dev") -> Iterator[Marked]:
    """Sentences of the generated world's phrasings.

    Args:
        seed: of the world.
        rounds: how often each phrasing is drawn.
        split: whose phrasings.
    """
    world = RouterWorld(seed, split)
    words, pick = world.words, world.random
    templates = [*lists("statements", split), *lists("updates", split)]
    for _ in range(rounds):
        made = [f"{lead}{core}{tail}" for lead, core, tail in unheard(pick, len(templates))]
        for template in [*templates, *_recombined([*templates, *made], pick)]:
            one = _fill(world, template)
            other = _fill(world, pick.choice(templates[:20]))
            joint = pick.choice([" and ", ", and ", ", ", "; ", ", while "])
            yield one
            if pick.random() < 0.15 and len(one.facts) == len(other.facts) == 1:
                yield _joined(one, other, joint)
        silent = [*lists("questions", split), *lists("mixed", split), *lists("unstated", split)]
        for template in [*silent, *spoken(pick, "ask", 40)]:
            slot = world._slots(1)[0]
            text = world._fill(template, slot, world.value(slot.kind))
            text = text.replace("{p}", pick.choice(words["people"]))
            yield Marked(text.replace("{t}", pick.choice(words["things"])))
        yield from (Marked(world._chat_question()) for _ in range(80))
        for template, questions in lists("events", split):
            yield Marked(world._event(template, questions)[0], events=True)


def _recombined(templates: Sequence[str], draw: random.Random) -> list[str]:
    """As many templates again: what stands before, between and after slot and value, dealt anew."""
    cut_up = [_PARTS.fullmatch(template) for template in templates]
    parts = [match.groups() for match in cut_up if match is not None]
    found = []
    for _ in templates:
        lead, core, tail = (draw.choice(parts)[at] for at in range(3))
        if lead.strip():
            core = core.replace("{S}", "{s}")
        elif core.startswith("{s}"):
            core = "{S}" + core[3:]
        found.append(lead + core + tail)
    return found


_PARTS = re.compile(r"(.*?)(\{(?:[sS]|of|v)\}.*\{(?:s|of|v)\})(.*)")


def _fill(world: RouterWorld, template: str) -> Marked:
    slot = world._slots(1)[0]
    if world.random.random() < TURNED:
        template = template.replace("{s}", "{of}")
    if world.random.random() < 0.15:  # "room number 4711"
        slot = replace(slot, attribute=f"{slot.attribute} {world.random.randint(1, 9999)}")
    value = world.value(slot.kind)
    if world.random.random() < PLAIN:
        value = " ".join(world._word() for _ in range(world.random.choice((1, 1, 1, 2, 3))))
        value = value.title() if world.random.random() < 0.3 else value
    text = world._fill(template.replace("{v}", "\x00"), slot, "")
    said = slot.of if "{of}" in template else slot.said
    at = [n for n in range(len(text)) if text.lower().startswith(said.lower(), n)]
    hole = text.index("\x00")
    text = text.replace("\x00", value)
    ticks = value.startswith("`")
    left, right = hole + ticks, hole + len(value) - ticks
    grown = len(value) - 1
    start = at[-1] + (grown if at[-1] > hole else 0)
    return Marked(text, ((start, start + len(said), left, right),))


def _joined(one: Marked, other: Marked, joint: str) -> Marked:
    front = one.text.rstrip(".! ") + joint
    on = len(front)
    moved = tuple((a + on, b + on, c + on, d + on) for a, b, c, d in other.facts)
    back = other.text
    if moved[0][0] == on:
        back = back[:1].lower() + back[1:] if back.startswith(("My", "The")) else back
    return Marked(front + back, one.facts + moved)


def choices(one: Marked, draw: random.Random | None = None) -> tuple[list[Choice], list[Choice]]:
    """What the two models are to choose, and what is right.

    Args:
        one: the sentence.
        draw: shows some words by their class only.
    """
    typed = typed_values(one.text)
    tokens = cut(one.text, 0, len(one.text), typed)
    if draw is not None:
        tokens = [replace(token, vague=draw.random() < VAGUE) for token in tokens]
    ends: list[Choice] = []
    values: list[Choice] = []
    named, facts = [], []
    for group in slots(tokens, one.text):
        places = [(tokens[s.start].start, tokens[s.end - 1].end) for s in group]
        fact = next((f for f in one.facts if f[:2] in places), None)
        right = places.index(fact[:2]) if fact is not None else len(group) - 1
        if fact is not None and len(group) > 1:
            ends.append(([slot.features for slot in group], right))
        named.append(group[right])
        facts.append(fact)
    taken = {at for slot in named for at in range(slot.start, slot.end)}
    for slot, fact in zip(named, facts, strict=True):
        given = offers(tokens, slot, taken)
        spans = [v and (tokens[v[0]].start, tokens[v[1] - 1].end) for v, _ in given]
        wanted = fact[2:] if fact is not None else None
        aside = wanted is None and bool(one.events) and slot.features[0] == "of"
        if wanted in spans and not aside:  # "the recording of the meeting is at ..." is one, too
            values.append(([features for _, features in given], spans.index(wanted)))
        if wanted is not None:
            taken |= {n for n, t in enumerate(tokens) if wanted[0] <= t.start < wanted[1]}
    return ends, values


def maximise(data: Sequence[Choice], penalty: float, rounds: int = 300) -> dict[str, float]:
    """Fits one model by Adam on the whole data; returns its weights by feature.

    What is seen in fewer than `RARE` choices is left out: most of it holds a word drawn by chance.
    """
    seen = Counter(name for given, _ in data for name in {name for one in given for name in one})
    data = [([tuple(n for n in one if seen[n] >= RARE) for one in given], w) for given, w in data]
    names: dict[str, int] = {}
    features: list[int] = []
    rows: list[int] = []
    groups: list[int] = []
    right: list[int] = []
    for number, (given, wanted) in enumerate(data):
        right.append(len(groups) + wanted)
        for one in given:
            features += [names.setdefault(name, len(names)) for name in one]
            rows += [len(groups)] * len(one)
            groups.append(number)
    column, row = np.asarray(features), np.asarray(rows)
    group, goal = np.asarray(groups), np.zeros(len(groups))
    goal[right] = 1.0
    weights = mean = square = np.zeros(len(names))
    for step in range(1, rounds + 1):
        scores = np.bincount(row, weights[column], len(groups))
        scores -= np.maximum.reduceat(scores, np.searchsorted(group, np.arange(len(data))))[group]
        shares = np.exp(scores)
        shares /= np.bincount(group, shares)[group]
        slope = np.bincount(column, (shares - goal)[row], len(names)) + penalty * weights
        mean = 0.9 * mean + 0.1 * slope
        square = 0.99 * square + 0.01 * slope**2
        rate = 0.1 * min(1.0, 2.0 - 2.0 * step / rounds)
        weights = weights - rate * (mean / (1 - 0.9**step)) / (
            np.sqrt(square / (1 - 0.99**step)) + 1e-9
        )
    return {n: round(float(weights[at]), 3) for n, at in names.items() if abs(weights[at]) >= 0.05}


def fit(
    seed: int = 0, rounds: int = 8, penalty: float = 1.0, split: Split = "dev"
) -> dict[str, Any]:
    """Fits all models; returns what `reading.json` holds."""
    ends: list[Choice] = []
    values: list[Choice] = []
    draw = random.Random(seed)
    for one in marked(seed, rounds, split):
        more = choices(one, draw)
        ends += more[0]
        values += more[1]
    found = {"ends": maximise(ends, penalty), "values": maximise(values, penalty)}
    half = max(rounds // 2, 1)
    asked = list(asked_choices(seed, half, split))
    aims = list(aim_choices(seed, half, split, Models(**found, asked={}, aims={})))
    found |= {"asked": maximise(asked, penalty), "aims": maximise(aims, penalty)}
    counts = [len(ends), len(values), len(asked), len(aims)]
    return {
        "format": 2,
        "fitted": {"seed": seed, "choices": counts, "longest": LONGEST},
        **found,
    }


def main() -> None:
    """Writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="deltamem_agents/router/...json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--split", default="dev", help="Folds, such as 123.")
    given = parser.parse_args()
    fitted = fit(given.seed, given.rounds, split=given.split)
    given.out.write_text(json.dumps(fitted, indent=0) + "\n", "utf-8")
    print(
        fitted["fitted"], {name: len(fitted[name]) for name in ("ends", "values", "asked", "aims")}
    )


if __name__ == "__main__":
    main()
