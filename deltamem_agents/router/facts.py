"""What the exact store holds and gives back, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deltamem_agents.checkpoint.fact_tables import scope_hash
from deltamem_agents.errors import ConfigError

Asserter = Literal["user", "tool", "assistant"]
AUTHORITY: dict[str, int] = {"assistant": 1, "tool": 2, "user": 3}


@dataclass(frozen=True)
class Scope:
    """Whose facts, and which branch of the conversation.

    Attributes:
        tenant: the saver's tenant; never taken from the model or from a client's text.
        thread: the thread's id.
        lineage: ids of this branch, newest first: its head and the head's ancestors. They are the
            heads that `FactStore.hear` makes and a graph keeps in its state (or a caller's own
            checkpoint ids). A fact is visible iff the head that recorded it is among them, or if
            it was recorded outside of any branch. None: every branch (for operators).
        checkpoint: the checkpoint that is running, noted with the facts it records; "" if unknown.
    """

    tenant: str
    thread: str
    lineage: tuple[str, ...] | None = None
    checkpoint: str = ""

    def __post_init__(self) -> None:
        if not self.tenant or not self.thread:
            raise ConfigError(
                "a scope names a tenant and a thread",
                got=(self.tenant, self.thread),
                remedy="Give both; facts are never searched across threads.",
            )

    @property
    def key(self) -> str:
        """The scope as the tables hold it."""
        return scope_hash(self.tenant, self.thread)

    @property
    def head(self) -> str:
        """What records: the newest of the lineage, "" without one."""
        return self.lineage[0] if self.lineage else ""


@dataclass(frozen=True)
class Draft:
    """A fact as read from a text, before it has a place in the store.

    Attributes:
        kind: "url", "date", ... for typed values, "plain" for words, "document", "secret", or
            "mention": the value is a sentence on what the fact is about that could not be read.
            It closes nothing, is not searched for, and stands against what was told before.
        subject: who or what it is about ("user", "user's sister"); "" when not said.
        attribute: what about it ("name", "port"); for bare typed values the kind.
        value: text[start:end], verbatim.
        start: offset of the value in the message's text, in characters.
        end: offset after the value.
        quote: the sentence around it, verbatim.
        revisable: whether a newer value takes its place (one value at a time).
        sure: the reader's probability that this is stated. Below `reading.SURE` it closes nothing:
            it stands beside what was told before, as an open conflict.
        others: (subject, attribute) that it may be about instead, if the store knows them.
    """

    kind: str
    subject: str
    attribute: str
    value: str
    start: int
    end: int
    quote: str
    revisable: bool = False
    sure: float = 1.0
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Citation:
    """Where an exact value comes from.

    Attributes:
        fact_id: of the fact.
        value: verbatim.
        source_message_id: the message; of a document its id, or its source where it has no id.
        span: where the value stands in the message's or the document's text, in characters.
        asserted_by: who said it.
        recorded_at: ISO 8601, UTC; "" for a document that a retriever found.
        source: of a document, what its metadata names so, such as a file; its id where they do
            not. "" for a message.
        metadata: of a document, such as its page; JSON types only.
    """

    fact_id: str
    value: str
    source_message_id: str
    span: tuple[int, int]
    asserted_by: str
    recorded_at: str
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """For `response_metadata`: JSON types only."""
        return {**asdict(self), "span": list(self.span)}

    def __str__(self) -> str:
        start, end = self.span
        if self.source:
            page = self.metadata.get("page_label", self.metadata.get("page"))
            where = f"document {self.source}" + (f", page {page}" if page is not None else "")
        else:
            where = f"{self.asserted_by} message {self.source_message_id or 'unnamed message'}"
        return f"[fact {self.fact_id[:8]}, {where}, {start}:{end}]"


@dataclass(frozen=True)
class Fact:
    """A stored fact.

    Attributes:
        fact_id: its name in citations.
        kind, subject, attribute, value, start, end, quote: as in `Draft`.
        source_message_id: the message it was read from, "" if that had no id; for a document its
            id, or its source.
        branch: hash of the head that recorded it, "" outside of any branch.
        asserted_by: who said it.
        recorded_at: ISO 8601, UTC.
        superseded_by: the fact that closed it in this branch; "closed" if closed outright.
        number: its row.
        checkpoint_id: the checkpoint that was running when it was recorded, "" if unknown.
        metadata: of the document, for documents.
        sure: as in `Draft`.
        document: whether it was read from a document.
    """

    fact_id: str
    kind: str
    subject: str
    attribute: str
    value: str
    start: int
    end: int
    quote: str
    source_message_id: str
    branch: str
    asserted_by: Asserter
    recorded_at: str
    slot: str = ""
    superseded_by: str | None = None
    number: int = 0
    checkpoint_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    sure: float = 1.0
    document: bool = False

    @property
    def source(self) -> str:
        """The document's source, as in `Citation`; "" for a message."""
        if not self.document:
            return ""
        return str(self.metadata.get("source") or self.source_message_id or "without a name")

    @property
    def active(self) -> bool:
        """Whether it still holds."""
        return self.superseded_by is None

    def disputes(self, other: Fact) -> bool:
        """Whether it tells another value of the same slot.

        Or of what may be the same: "the port is 81" after "my port is 80", by no lesser authority.
        """
        same = bool(self.slot) and self.slot == other.slot
        loose = not self.subject and self.attribute.lower() == other.attribute.lower()
        later = self.number > other.number
        outranks = AUTHORITY[self.asserted_by] >= AUTHORITY[other.asserted_by]
        may_be = bool(self.slot and other.subject) and loose and later and outranks
        return (same or may_be) and self.value.lower() != other.value.lower()

    @property
    def citation(self) -> Citation:
        """Where its value stands."""
        return Citation(
            self.fact_id,
            self.value,
            self.source_message_id,
            (self.start, self.end),
            self.asserted_by,
            self.recorded_at,
            self.source,
            self.metadata,
        )


@dataclass(frozen=True)
class Hit:
    """A fact found by a search.

    Attributes:
        fact: what was found; active, and visible in the searched branch.
        score: of the (fused) ranking, greater is better; comparable within one search only.
        keyword: weight of the query's words that stand in the fact, 0 to 1.
        cosine: of the embeddings, None without an embedder.
        bm25: of the keyword ranking.
    """

    fact: Fact
    score: float
    keyword: float = 0.0
    cosine: float | None = None
    bm25: float = 0.0


@dataclass(frozen=True)
class ForgetReport:
    """What a forget did, verified by searching again afterwards.

    Attributes:
        forgotten: ids of the deleted facts.
        repeated: active facts of other messages that hold one of the forgotten values.
        remaining: rows of the forgotten facts that were still found afterwards; 0 or it raised.
        purged: whether their bytes left SQLite's log too; False while another connection reads an
            older state of the file (call the saver's `purge()` later).
    """

    forgotten: tuple[str, ...]
    repeated: tuple[Fact, ...]
    remaining: int = 0
    purged: bool = True
