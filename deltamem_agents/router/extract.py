"""From a message's text to drafts of facts: values verbatim, with their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from deltamem_agents.router.analyze import STOP
from deltamem_agents.router.asking import asks
from deltamem_agents.router.facts import Draft
from deltamem_agents.router.plain import Statement, sentence_spans, statements
from deltamem_agents.router.reading import SURE
from deltamem_agents.router.secrets import names_secret, redact, secret_spans
from deltamem_agents.router.typed import Typed, typed_values
from deltamem_agents.router.words import is_command

REDACTED = "[redacted]"
TEXT_LIMIT = 200_000  # characters of one message that are read; patterns are linear, memory is not


def extract(text: str, *, keep_secrets: bool = False) -> tuple[Draft, ...]:
    """Reads facts from a text.

    Args:
        text: a message's text; questions tell nothing and give nothing.
        keep_secrets: keep the values of secret-like facts. Otherwise they become "[redacted]", in
            the value and in the quoted sentence.

    Returns:
        Drafts in order of their place. `text[start:end]` is the value, verbatim, for all but
        redacted ones (there the span says where the secret stood).
    """
    text = text[:TEXT_LIMIT]
    typed = typed_values(text)
    drafts = [_plain(text, one, typed) for one in statements(text, typed)]
    # What is unsure may be something else: the typed values in it are kept by themselves, too.
    covered = [
        (d.start, d.end)
        for d in drafts
        if d.kind != "mention" and (d.sure >= SURE or d.kind != "plain")
    ]
    for start, end in sentence_spans(text):
        if asks(text[start:end]):
            continue
        drafts += [
            _bare(text, value, start, end)
            for value in typed
            if start <= value.start < end
            and not any(left <= value.start and value.end <= right for left, right in covered)
        ]
    drafts.sort(key=lambda draft: (draft.start, draft.end))
    return hide_secrets(text, drafts, keep_secrets=keep_secrets)


def hide_secrets(
    text: str, drafts: Sequence[Draft], *, keep_secrets: bool = False
) -> tuple[Draft, ...]:
    """The drafts with what looks like a secret, or is called one, redacted unless it is kept."""
    if keep_secrets:
        return tuple(drafts)
    called = [(draft.start, draft.end) for draft in drafts if names_secret(draft.attribute)]
    hidden = sorted({*secret_spans(text), *called})
    return tuple(_hide(text, draft, hidden) for draft in drafts)


def _plain(text: str, told: tuple[Statement, int, int], typed: list[Typed]) -> Draft:
    statement, start, end = told
    if statement.mention:
        said = text[start:end].rstrip()
        return Draft(
            "mention",
            statement.subject,
            statement.attribute,
            said,
            start,
            start + len(said),
            said,
            sure=0.0,
            others=statement.others,
        )
    statement = replace(statement, end=_value_end(text, statement, typed))
    value = text[statement.start : statement.end]
    kind = next(
        (t.kind for t in typed if t.start <= statement.start + 1 and t.end >= statement.end - 1),
        "plain",
    )
    return Draft(
        kind,
        statement.subject,
        statement.attribute,
        value,
        statement.start,
        statement.end,
        text[start:end],
        statement.revisable,
        round(statement.sure, 3),
        statement.others,
    )


_LABEL = re.compile(
    r"([A-Za-z][\w-]*(?:\s+(?:code|number|id|address|name))?)\s*(?:is\s+|[:=#]\s*)?$"
)


def _label(text: str, value: Typed, start: int) -> str:
    """The noun in front of a value ("flight DJ4147"), by which it is asked for; else its kind."""
    match = _LABEL.search(text, max(start, value.start - 60), value.start)
    if match is None or (match.start() == start and is_command(match.group(1))):
        return value.kind  # none, or the verb of a command ("Use https://...")
    words = [word for word in match.group(1).lower().split() if word not in STOP]
    return " ".join(words) or value.kind


_CLOSED = frozenset(
    [
        "url",
        "email",
        "uuid",
        "iban",
        "ip",
        "date",
        "amount",
        "version",
        "phone",
        "code",
        "id",
        "time",
    ]
)
_GOES_ON = re.compile(
    r"\s*(?:[-/+(]|(?:a|an|per|each|every)\b|(?:to|until|and|or|by)\s+[\d$€£A-Z]|[A-Z0-9])"
)


def _value_end(text: str, statement: Statement, typed: list[Typed]) -> int:
    """Where a typed value at the front ends the value ("$5 nowadays", not "$5 a month")."""
    first = next((t for t in typed if t.start == statement.start and t.kind in _CLOSED), None)
    if first is None or first.end >= statement.end:
        return statement.end
    joined = re.match(r"\s+at\s+", text[first.end : statement.end])
    if joined is not None:
        at = first.end + joined.end()
        return next((t.end for t in typed if t.start == at), statement.end)
    rest = text[first.end : statement.end]
    return statement.end if _GOES_ON.match(rest) else first.end


def _bare(text: str, value: Typed, start: int, end: int) -> Draft:
    return Draft(
        value.kind,
        "",
        _label(text, value, start),
        text[value.start : value.end],
        value.start,
        value.end,
        text[start:end].rstrip(),
    )


def _hide(text: str, draft: Draft, hidden: list[tuple[int, int]]) -> Draft:
    if not hidden:
        return draft
    at = text.find(draft.quote)
    inside = [(s - at, e - at) for s, e in hidden if s < at + len(draft.quote) and e > at]
    quote = redact(draft.quote, [(max(s, 0), min(e, len(draft.quote))) for s, e in inside])
    if draft.kind == "mention":  # it stands against older facts whatever is hidden in it
        return replace(draft, value=quote, quote=quote)
    if any(s < draft.end and e > draft.start for s, e in hidden):
        return replace(draft, kind="secret", value=REDACTED, quote=quote)
    return replace(draft, quote=quote)
