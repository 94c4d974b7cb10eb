"""A seeded world for the router: threads that tell typed and plain facts, and questions on them.

Phrasings are split by list: "dev" for building and fitting, "spare" for mending without a fit,
"test" for measuring; "test" also asks for attributes that "dev" never has. "dev" falls into four
folds ("0", "123"), so that a fit can be tried on phrasings that it has not seen. Values are made up
on the spot, so no value of one seed is one of another.
"""

from __future__ import annotations

import json
import random
import string
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["exact", "revised", "mixed", "diffuse", "absent", "foreign"]
Split = str  # "dev", "spare", "test", or folds of "dev": "0", "123"


@dataclass(frozen=True)
class Query:
    """A question on a thread.

    Attributes:
        text: as asked.
        kind: what it tests.
        truth: the value that answers it, verbatim; None where nothing that was told does.
        stale: values that were true before.
    """

    text: str
    kind: Kind
    truth: str | None = None
    stale: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One thread.

    Attributes:
        told: the user's messages, in order.
        foreign: what another tenant told in a thread of the same name.
        queries: on the thread.
        secret_values: values that only the other tenant told.
    """

    thread: str
    told: tuple[str, ...]
    foreign: tuple[str, ...]
    queries: tuple[Query, ...]
    secret_values: tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """An attribute of somebody or something; holder "" is the user."""

    holder: str
    attribute: str
    kind: str

    @property
    def said(self) -> str:
        """As in: my sister's birthday."""
        return f"{self.holder}'s {self.attribute}" if self.holder else f"my {self.attribute}"

    @property
    def of(self) -> str:
        """As in: the birthday of my sister."""
        natural = self.holder and "'s" not in self.attribute
        return f"the {self.attribute} of {self.holder}" if natural else self.said


@cache
def phrases() -> dict[str, Any]:
    """The words of the world."""
    text = files("deltamem_agents.evaluation.tasks").joinpath("router_phrases.json")
    loaded: dict[str, Any] = json.loads(text.read_text("utf-8"))
    return loaded


def lists(name: str, split: Split) -> list[Any]:
    """The phrasings of one kind in one split."""
    both = phrases()[name]
    if split in ("dev", "spare", "test"):
        return list(both.get(split, ()))
    return [one for one in both["dev"] if str(zlib.crc32(str(one).encode()) % 4) in split]


class RouterWorld:
    """Draws threads.

    Args:
        seed: the same seed gives the same threads.
        split: whose phrasings.
    """

    def __init__(self, seed: int, split: Split = "test") -> None:
        self.random, self.split = random.Random(f"{split}-{seed}"), split
        self.words = phrases()

    def case(self, number: int, facts: int = 14) -> Case:
        """One thread with its questions."""
        slots = self._slots(facts + 8)
        own, absent, foreign = slots[:facts], slots[facts : facts + 4], slots[facts + 4 :]
        truth = {slot: self.value(slot.kind) for slot in own}
        told = [self._say("statements", slot, value) for slot, value in truth.items()]
        told += [self.random.choice(self.words["chat"]) for _ in range(facts // 2)]
        asked: list[Query] = []
        for template, questions in self.random.sample(lists("events", self.split), 2):
            text, found = self._event(template, questions)
            told.append(text)
            asked += found
        self.random.shuffle(told)
        changed = self.random.sample(own, 3)
        for slot in changed:
            old = truth[slot]
            while truth[slot] == old:
                truth[slot] = self.value(slot.kind)
            told.append(self._say("updates", slot, truth[slot]))
            asked.append(self._ask(slot, "revised", truth[slot], (old.strip("`"),)))
        kept = [slot for slot in own if slot not in changed]
        asked += [self._ask(slot, "exact", truth[slot]) for slot in kept]
        asked += [
            Query(self._fill(self._pick("mixed"), slot, ""), "mixed", truth[slot].strip("`"))
            for slot in self.random.sample(kept, 3)
        ]
        asked += [self._ask(slot, "absent") for slot in absent]
        asked += [self._ask(slot, "foreign") for slot in foreign]
        asked += [Query(self._chat_question(), "diffuse") for _ in range(6)]
        hidden = {slot: self.value(slot.kind) for slot in foreign}
        here = "\n".join([*told, *(query.text for query in asked)])
        while shared := [slot for slot, value in hidden.items() if value in here]:
            hidden.update({slot: f"{self._word()} {self._word()}" for slot in shared})
        theirs = [self._say("statements", slot, value) for slot, value in hidden.items()]
        return Case(
            f"thread-{number}", tuple(told), tuple(theirs), tuple(asked), tuple(hidden.values())
        )

    # ------------------------------------------------------------------ parts

    def _slots(self, count: int) -> list[Slot]:
        groups = self.words["attributes"]
        holders = [("", "self")] * 3
        holders += [(f"my {person}", "people") for person in self.words["people"]]
        holders += [(name, "people") for name in self.words["names"]]
        holders += [(f"the {thing}", "things") for thing in self.words["things"]]
        chosen: dict[tuple[str, str], Slot] = {}
        while len(chosen) < count:
            holder, group = self.random.choice(holders)
            known = groups[group]
            if self.split in ("test", "0"):
                known = {**known, **self.words["held_attributes"][group]}
            attribute, kind = self.random.choice(list(known.items()))
            chosen[holder, attribute] = Slot(holder, attribute, kind)
            if self.random.random() < 0.35:  # a near miss: somebody else's, the same attribute
                other = self.random.choice([h for h, g in holders if g == group])
                chosen[other, attribute] = Slot(other, attribute, kind)
        slots = list(chosen.values())
        self.random.shuffle(slots)
        return slots[:count]

    def _pick(self, name: str) -> str:
        return str(self.random.choice(lists(name, self.split)))

    def _fill(self, pattern: str, slot: Slot, value: str) -> str:
        said, of = slot.said, slot.of
        text = pattern.replace("{s}", said).replace("{S}", said[:1].upper() + said[1:])
        text = text.replace("{of}", of).replace("{v}", value)
        return text[:1].upper() + text[1:] if pattern.startswith("{of}") else text

    def _say(self, name: str, slot: Slot, value: str) -> str:
        return self._fill(self._pick(name), slot, value)

    def _ask(
        self, slot: Slot, kind: Kind, truth: str | None = None, stale: tuple[str, ...] = ()
    ) -> Query:
        text = self._fill(self._pick("questions"), slot, "")
        return Query(text, kind, truth.strip("`") if truth else None, stale)

    def _chat_question(self) -> str:
        people, things = self.words["people"], self.words["things"]
        text = self._pick("diffuse").replace("{p}", self.random.choice(people))
        return text.replace("{t}", self.random.choice(things))

    def _event(self, template: str, questions: list[list[str]]) -> tuple[str, list[Query]]:
        names = [part[1] for part in string.Formatter().parse(template) if part[1]]
        drawn = {name: self.value(name) for name in names}
        found = [Query(text.format(**drawn), "exact", drawn[name]) for text, name in questions]
        return template.format(**drawn), found

    def value(self, kind: str) -> str:
        """A made-up value of a kind."""
        draw, lists = self.random, self.words["values"]
        capital = string.ascii_uppercase
        if kind in lists:
            return str(draw.choice(lists[kind]))
        if kind == "person":
            return str(draw.choice(self.words["names"]))
        makers: dict[str, Callable[[], str]] = {
            "id": lambda: f"{''.join(draw.choices(capital, k=3))}-{draw.randint(1000, 99999)}",
            "flight": lambda: f"{''.join(draw.choices(capital, k=2))}{draw.randint(100, 9999)}",
            "email": lambda: f"{self._word()}.{self._word()}@{self._word()}.example",
            "phone": lambda: (
                f"+{draw.randint(30, 99)} {draw.randint(100, 999)} {draw.randint(100000, 999999)}"
            ),
            "date": self._date,
            "datetime": lambda: f"{self._date()} at {draw.randint(8, 18)}:{draw.choice('0134')}5",
            "time": lambda: f"{draw.randint(6, 23)}:{draw.choice('012345')}5",
            "amount": lambda: draw.choice(["{} euros", "${}", "€{}", "{} USD"]).format(
                f"{draw.randint(20, 9800):,}"
            ),
            "number": lambda: str(draw.randint(100, 65000)),
            "small": lambda: str(draw.randint(34, 48)),
            "iban": self._iban,
            "spot": lambda: f"{draw.choice('ABCDE')}{draw.randint(1, 99)}",
            "plate": lambda: (
                f"{''.join(draw.choices(capital, k=2))}-{draw.randint(100, 999)}-"
                f"{''.join(draw.choices(capital, k=2))}"
            ),
            "url": lambda: f"https://{self._word()}.example/{self._word()}/{draw.randint(1, 99)}",
            "ip": lambda: ".".join(str(draw.randint(1, 254)) for _ in range(4)),
            "version": lambda: f"{draw.randint(0, 9)}.{draw.randint(0, 20)}.{draw.randint(0, 30)}",
            "street": lambda: f"{draw.randint(1, 240)} {draw.choice(lists['streets'])}",
            "uuid": lambda: str(uuid.UUID(int=draw.getrandbits(128), version=4)),
            "code": lambda: f"`{self._word()} restart --{self._word()}={draw.randint(1, 9)}`",
            "hash": lambda: f"{draw.getrandbits(28):07x}"[:6] + draw.choice("abcdef"),
        }
        return str(makers[kind]())

    def _word(self) -> str:
        pairs = range(self.random.randint(2, 3))
        pick = self.random.choice
        return "".join(pick("bdfgklmnprstv") + pick("aeiou") for _ in pairs)

    def _date(self) -> str:
        day, month = self.random.randint(1, 28), self.random.randint(1, 12)
        year = self.random.randint(1960, 2031)
        name = self.random.choice(["January", "March", "May", "July", "October", "December"])
        return self.random.choice(
            [f"{year}-{month:02d}-{day:02d}", f"{day} {name} {year}", f"{name} {day}, {year}"]
        )

    def _iban(self) -> str:
        account = "".join(self.random.choices(string.digits, k=18))
        check = 98 - int(account + "131400") % 97  # D is 13, E is 14
        packed = f"DE{check:02d}{account}"
        return " ".join(packed[i : i + 4] for i in range(0, 22, 4))
