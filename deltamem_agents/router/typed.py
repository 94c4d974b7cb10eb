"""Values that have a form of their own: ids, addresses, dates, amounts. Standard library only."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Typed:
    """A typed value at text[start:end]."""

    kind: str
    start: int
    end: int


_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_GROUPED = r"\d{1,3}(?:[,\u00a0']\d{3})+(?:\.\d+)?"
_NUMBER = rf"{_GROUPED}|\d+(?:\.\d+)?"
_CURRENCY = r"(?:USD|EUR|GBP|CHF|JPY)"
_UNIT = rf"{_CURRENCY}|dollars?|euros?|pounds?|francs?|yen|percent"
_CLOCK = r"\d{2}:\d{2}(?::\d{2})?"
_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})"
_JOINED = r"(?:[-_/][A-Za-z0-9]+)*"


def _iban(text: str) -> bool:
    packed = text.replace(" ", "")
    if not 15 <= len(packed) <= 34:
        return False
    digits = "".join(str(int(c, 36)) for c in packed[4:] + packed[:4])
    return int(digits) % 97 == 1


def _ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _ipv4(text: str) -> bool:
    parts = re.split(r"[:/]", text)[0].split(".")
    return all(int(part) < 256 for part in parts)


def _mixed(text: str) -> bool:
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


_FORMS_TEXT: tuple[tuple[str, str, Callable[[str], bool] | None], ...] = (
    ("code", r"`([^`\n]{1,200})`", None),
    ("url", r"\b((?:https?|ftp|ssh|git|wss?)://[^\s<>\"'`]+)", None),
    ("email", r"(?<![\w.+-])([\w.+-]+@[\w-]+(?:\.[\w-]+)+)", None),
    ("uuid", r"\b([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\b", None),
    ("iban", r"\b([A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b", _iban),
    ("ip", r"(?<![\w.])((?:\d{1,3}\.){3}\d{1,3}(?:[:/]\d{1,5})?)(?![\w]|\.\d)", _ipv4),
    ("ip", r"(?<![\w:.])([0-9a-fA-F:]*::?[0-9a-fA-F:]+(?:\.\d+)*)(?![\w:])", _ipv6),
    ("date", rf"\b(\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_CLOCK}(?:\.\d+)?{_ZONE}?)?)\b", None),
    (
        "date",
        rf"\b(\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? \d{{4}})?"
        rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?|{_MONTH} \d{{4}})\b",
        None,
    ),
    ("date", r"(?<![\w/.])(\d{1,2}[/.]\d{1,2}[/.]\d{4})(?![\w/])", None),
    (
        "amount",
        rf"((?:[$€£¥]\s?(?:{_NUMBER})(?:\s?(?:k|m|bn|million|billion)\b)?)"
        rf"|(?:(?:{_NUMBER})\s?(?:[$€£¥%]|(?:{_UNIT})(?!\w)))|(?:\b{_CURRENCY}\s?(?:{_NUMBER})))",
        None,
    ),
    ("time", r"\b([01]?\d:[0-5]\d(?::[0-5]\d)?(?:\s?[apAP][mM])?|2[0-3]:[0-5]\d)\b", None),
    ("time", r"\b(\d{1,2}\s?[apAP][mM])\b", None),
    ("version", r"(?<![\w.])(v\d+(?:\.\d+)*(?:[-+][\w.]+)?)(?!\w)", None),
    ("version", r"(?<![\w.])(\d+(?:\.\d+){2,}(?:[-+][\w.]+)?)(?!\w)", None),
    ("phone", r"(?<![\w+])(\+\d{1,3}(?:[ ().-]?\d){6,13})(?!\w)", None),
    ("phone", r"(?<![\w+])(\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3,4}-\d{4})(?!\w)", None),
    (
        "id",
        rf"(?<![\w-])([A-Za-z][A-Za-z0-9]*{_JOINED}[-_/]?\d[A-Za-z0-9]*{_JOINED})(?![\w-])",
        _mixed,
    ),
    ("id", rf"(?<![\w-])(\d+[A-Za-z][A-Za-z0-9]*{_JOINED}|\d+(?:-[A-Za-z0-9]+)+)(?![\w-])", _mixed),
    ("quote", r"[\"“”«]([^\"“”«»\n]{2,200})[\"“”»]", None),
    ("number", rf"(?<![\w.,'])({_GROUPED}|\d+\.\d+|\d{{2,}})(?!\w|[.,]\d)", None),
)
# In order of preference: what an earlier form took, a later one does not see.
_FORMS = tuple((kind, re.compile(form), valid) for kind, form, valid in _FORMS_TEXT)


def typed_values(text: str) -> list[Typed]:
    """Finds typed values, in order of their place; they do not overlap.

    Args:
        text: any text.

    Returns:
        One entry a value, kinds as in `_FORMS`; `text[start:end]` is the value, verbatim.
    """
    found: list[Typed] = []
    for kind, form, valid in _FORMS:
        for match in form.finditer(text):
            start, end = match.span(1)
            if kind == "url":
                end = start + len(_trim_url(text[start:end]))
            if valid is not None and not valid(text[start:end]):
                continue
            if all(end <= other.start or start >= other.end for other in found):
                found.append(Typed(kind, start, end))
    return sorted(found, key=lambda value: value.start)


def _trim_url(url: str) -> str:
    url = url.rstrip(".,;:!?'\"")
    while url.endswith(")") and url.count(")") > url.count("("):
        url = url[:-1].rstrip(".,;:!?'\"")
    return url
