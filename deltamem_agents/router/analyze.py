"""Words as the index and the question see them, the same on every database.

The databases' own analysers differ (stop words, stemming, shortest word), so the text is cut here
and handed over as opaque ASCII words: what matches on SQLite matches on PostgreSQL and MariaDB.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from deltamem_agents.router.kept import kept

_TOKEN = re.compile(r"[^\W_]+(?:[-./:@+#_][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’](?:s|m|re|ve|ll|d|t)?\b")
_STOP_WORDS = """
a an the is are was were be been being am do does did done has have had having can could would
should shall will may might must you your yours yourself i me my mine we us our ours he him his
she her hers they them their theirs it its this that these those what which who whose whom where
when why how and or but if then else so of for in on at to from by with about as into than too
very just again now please tell remind give get need want know remember recall say said told tell
show look up there here not no yes ok okay hey hi hello s t quick question ever already still
exactly currently today these days let mention mentioned earlier before once more one something
anything got another not out find forgot forget cannot go goes listen well oh whats kept value
exact current think put down
"""
STOP = frozenset(_STOP_WORDS.split())
_SELF_WORDS = """
i me my mine we us our ours myself
"""
SELF = frozenset(_SELF_WORDS.split())
# One spelling for words that people use for one another when they state and ask facts.
_CANON = {
    "favorite": "like", "favourite": "like", "love": "like", "loves": "like", "prefer": "like",
    "prefers": "like", "preferred": "like", "enjoy": "like", "enjoys": "like", "best": "like",
    "likes": "like", "preference": "like", "color": "colour", "e-mail": "email", "mail": "email",
    "telephone": "phone", "mobile": "phone", "cellphone": "phone", "cell": "phone",
    "address": "address", "occupation": "job", "profession": "job", "mum": "mother",
    "mom": "mother", "dad": "father", "neighbor": "neighbour", "residence": "home",
    "hometown": "home", "reside": "live", "resides": "live", "due": "deadline",
    "db": "database", "vacation": "holiday", "flat": "apartment", "cost": "price",
    "costs": "price", "programme": "program", "licence": "license", "organisation": "organization",
    "bday": "birthday", "kid": "child", "kids": "child", "children": "child", "nick": "nickname",
    "physician": "doctor", "spouse": "spouse", "wife": "spouse", "husband": "spouse",
    "boss": "boss", "ip": "ip", "url": "url", "link": "url", "website": "url",
}  # fmt: skip
# What an attribute is asked by, beside its own words.
_ALIASES = {
    "home city": "live home city town reside address apartment",
    "job": "job work profession occupation earn money",
    "employer": "employer work company",
    "name": "name called call named known",
    "birthday": "birthday born birth celebrate date month",
    "port": "port run listen",
    "region": "region hosted deployed located",
    "language": "language written coded",
    "owner": "owner own owns belong responsible",
    "price": "price cost much",
    "deadline": "deadline due",
    "due date": "due date deadline expire",
    "start": "start begin",
    "instrument": "instrument play",
    "favourite drink": "drink",
    "favourite food": "food eat",
    "vehicle": "vehicle drive car",
    "age": "age old",
    "spouse": "spouse married",
    "date": "date day",
    "time": "time",
    "ip": "ip address host",
    "url": "url address page site",
    "email": "email address contact",
    "phone": "phone number call",
    "version": "version release",
    "amount": "amount much price sum",
    "id": "id code number identifier ticket order",
    "uuid": "uuid id identifier",
    "iban": "iban account bank",
    "number": "number many",
    "code": "code command snippet",
    "quote": "quote title",
}


@kept(4096)
def tokens(text: str) -> tuple[str, ...]:
    """Cuts a text into canonical words, in order, with repeats.

    Args:
        text: any text.

    Returns:
        Lower-case stems; a compound ("inv-2024-7", "10.0.0.7") appears whole and in its parts.
    """
    plain = _POSSESSIVE.sub("", unicodedata.normalize("NFKC", text)).lower()
    found: list[str] = []
    for match in _TOKEN.finditer(plain):
        whole = match.group()
        parts = _PART.findall(whole)
        if len(parts) > 1:
            found.append(_CANON.get(whole, whole))
        found += [stem(part) for part in parts]
    return tuple(found)


@kept(4096)
def content(text: str) -> tuple[str, ...]:
    """The distinct words of a text that say what it is about, in order."""
    return tuple(dict.fromkeys(t for t in tokens(text) if t not in _STOP_STEMS))


def names_self(text: str) -> bool:
    """Whether the speaker speaks of themselves."""
    return any(part in SELF for part in _PART.findall(text.lower()))


def aliases(attribute: str) -> tuple[str, ...]:
    """Other words that ask for an attribute, as stems."""
    return tuple(stem(word) for word in _ALIASES.get(attribute, "").split())


@kept(65536)
def stem(word: str) -> str:
    """A word without its commonest English endings, in one spelling."""
    word = _CANON.get(word, word)
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return _CANON.get(word, word)


def opaque(word: str) -> str:
    """A word as the databases see it: 3 to 42 ASCII letters and digits, never a stop word."""
    if not (word.isascii() and word.isalnum()):
        word = "".join(c if c.isascii() and c.isalnum() else f"q{ord(c):x}q" for c in word)
    if len(word) > 40:
        word = hashlib.sha256(word.encode()).hexdigest()[:40]
    return "zx" + word


_STOP_STEMS = frozenset(STOP | {stem(word) for word in STOP})
