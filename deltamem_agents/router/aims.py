"""What a text is for: to ask for something told, to have something written, to talk, or to tell.

A log-linear model over the words in which the names of slots are hidden ("what did <slot> turn out
to be"), so that it knows how people ask and not what they ask for. Features:

| feature | meaning |
|---|---|
| `<w>`, `<w> <w>` | words and pairs of neighbours; open words also by their form ("-ing") |
| `first ...`, `last ...` | the first two words, the last one |
| `<slot> ...` | the two words before and after the first slot |
| `^abc`, `abc$` | beginnings and ends of open words |
| `slots n`, `long n` | how many slots are named, how many words there are |

Fitted by `python -m deltamem_agents.evaluation.tasks.router_reading_fit`, together with the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from deltamem_agents.router.kept import kept
from deltamem_agents.router.phrases import is_person
from deltamem_agents.router.reading import Models, best, models, score, shares
from deltamem_agents.router.slots import Features, slots
from deltamem_agents.router.typed import typed_values
from deltamem_agents.router.words import Token, cut, shape, word_class

Aim = Literal["ask", "write", "talk", "tell"]
AIMS: tuple[Aim, ...] = ("ask", "write", "talk", "tell")
LONG = 400  # characters of a text that are looked at; the aim shows at its beginning


def aims(text: str) -> dict[Aim, float]:
    """The probability of each aim."""
    return dict(zip(AIMS, _aims(text[:LONG], models()), strict=True))


@kept(1024)
def _aims(text: str, weights: Models) -> tuple[float, ...]:
    words = masked(cut(text, 0, len(text), typed_values(text)), text, weights)
    found = features(words)
    seen = [tuple(f"{aim} {one}" for one in found) for aim in AIMS]
    return tuple(shares([score(one, weights.aims) for one in seen]))


Word = tuple[str, str]  # what is seen of it: in full ("turn", "-ing"), and its class


def masked(tokens: Sequence[Token], text: str, weights: Models) -> list[Word]:
    """The words, with "<slot>" in the place of each slot's name and "<person>" of a person."""
    hidden: dict[int, tuple[int, str]] = {}
    for group in slots(tokens, text):
        slot = best(group, weights.ends)
        person = slot.subject == "I" and is_person(slot.attribute)
        end = slot.start + 2 if person else slot.end
        hidden[slot.start] = (end, "<person>" if person else "<slot>")
    words: list[Word] = []
    at = 0
    while at < len(tokens):
        if at in hidden:
            at, name = hidden[at]
            words.append((name, name))
            continue
        words.append(_seen(tokens, at))
        at += 1
    return words


def _seen(tokens: Sequence[Token], at: int) -> Word:
    token, form = tokens[at], shape(tokens, at)
    plain = token.open and not token.typed and not token.text[0].isdigit() and form != "Name"
    known = plain and not token.vague
    return (token.low if known else form), word_class(form)


def features(words: Sequence[Word]) -> Features:
    """What the model sees of a text."""
    full = ["^", *(word for word, _ in words), "$"]
    classes = ["^", *(name for _, name in words), "$"]
    found = [*full[1:-1]]
    found += [f"{a} {b}" for a, b in pairwise(full)]
    found += [f"a {a} {b}" for a, b in pairwise(classes)]
    found += [f"first {full[1]}", f"first {' '.join(full[1:3])}", f"last {full[-2]}"]
    found += [f"first a {' '.join(classes[1:4])}"]
    for word in full[1:-1]:
        if word.isalpha() and len(word) > 4:
            found += [f"^{word[:3]}", f"{word[-3:]}$"]
    names = [word for word in full if word in ("<slot>", "<person>")]
    if "<slot>" in full:
        at = full.index("<slot>")
        before, after = full[max(at - 2, 0) : at], full[at + 1 : at + 3]
        found += [f"{' '.join(before)} <slot>", f"<slot> {' '.join(after)}"]
        found += [f"a {' '.join(classes[max(at - 3, 0) : at])} <slot>"]
        found += [f"<slot> a {' '.join(classes[at + 1 : at + 4])}"]
    found += [
        f"slots {min(names.count('<slot>'), 2)}",
        f"persons {min(names.count('<person>'), 1)}",
    ]
    found += [f"long {min(len(words) // 4, 4)}", f"slots {min(len(names), 1)} last {full[-2]}"]
    return tuple(dict.fromkeys(found))
