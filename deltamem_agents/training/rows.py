"""Conversations as rows of tokens: what the model sees, what counts, and what sees what.

A row is one whole conversation [T]. It is cut into *blocks* of consecutive turns: attention stays
inside a block, the memory runs through all of them. So a question whose fact lies in an earlier
block can only be answered from the memory, exactly as after an eviction, and yet a whole
conversation takes one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.world import Subject, Turn, capital, lexicon


class Kind(IntEnum):
    """What a token is, for weighting the loss and for the penalty on writing."""

    PADDING = 0
    TEMPLATE = 1
    USER = 2
    USER_VALUE = 3
    REPLY = 4
    CONFIRMED_VALUE = 5
    ANSWERED_VALUE = 6
    DECLINE = 7


@dataclass(frozen=True)
class Rows:
    """A batch of conversations.

    Args:
        ids: token ids, long [B, T].
        kinds: `Kind` of each token, long [B, T].
        blocks: number of the block of each token, long [B, T]; -1 in padding.
        positions: position inside the block, long [B, T].
        turns: how many turns a block has, long [B].
        owners: (row, token, target), long [G, 3]: each token that a value is read or written at,
            and the word in the same sentence that says whose value it is.
        sources: (row, token, target), long [G, 3]: each token that an answered value is predicted
            at, and that value where it was last confirmed.
    """

    ids: Tensor
    kinds: Tensor
    blocks: Tensor
    positions: Tensor
    turns: Tensor
    owners: Tensor
    sources: Tensor

    @property
    def real(self) -> Tensor:
        """Bool[B, T], False in padding."""
        return self.kinds != Kind.PADDING

    def attention_mask(self) -> Tensor:
        """Additive float [B, 1, T, T]: causal, inside one block."""
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = causal & (self.blocks[:, :, None] == self.blocks[:, None, :])
        return torch.zeros(seen.shape).masked_fill_(~seen, -1e4)[:, None]


class Tokeniser:
    """Turns to token ids and kinds, by the template that serves the model too."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._encode = template.tokenizer.backend_tokenizer.encode
        self._decline = self._ids(f" {lexicon()['unknown']}")[:1]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text, add_special_tokens=False).ids
        return ids

    def turn(self, turn: Turn) -> tuple[list[int], list[int]]:
        """The ids and kinds of a turn."""
        ids: list[int] = []
        kinds: list[int] = []
        for message in self.template.render(turn.messages()):
            own, marks = list(message.ids), self._kinds(list(message.ids), message.role, turn)
            ids += own
            kinds += marks
        return ids, kinds

    def _kinds(self, ids: list[int], role: str, turn: Turn) -> list[int]:
        reply = role == "assistant"
        kinds = [int(Kind.REPLY if reply else Kind.USER)] * len(ids)
        # "<|im_start|>role\n" before, "\n" after; the end mark itself is part of what is learnt.
        kinds[:3] = [int(Kind.TEMPLATE)] * 3
        kinds[-1] = int(Kind.TEMPLATE)
        if not reply:
            kinds[-2] = int(Kind.TEMPLATE)
        if turn.kind in ("fact", "update"):
            value = Kind.CONFIRMED_VALUE if reply else Kind.USER_VALUE
        elif reply and turn.kind == "question":
            value = Kind.ANSWERED_VALUE
        else:
            value = None
        if value is not None:
            for text in turn.values:
                for form in (self._ids(f" {text}"), self._ids(text)):
                    _mark(kinds, ids, form, value)
        if reply and turn.kind == "unknown":
            _mark(kinds, ids, self._decline, Kind.DECLINE)
        return kinds

    def sentences(self, ids: list[int], turn: Turn) -> list[Sentence]:
        """The canonical sentences in a turn's tokens."""
        found = []
        values = turn.values or (None,) * len(turn.subjects)
        for subject, value in zip(turn.subjects, values, strict=True):
            said = capital(subject.named("your"))
            # At the start of a reply the first word is tokenised otherwise than after a space.
            lead, start, stem = next(
                (lead, at, form)
                for lead in (" ", "")
                for form in [self._ids(f"{lead}{said} is")]
                for at in [_find(ids, form)]
                if at is not None
            )
            whose = said.split()[0] if subject.entity == "me" else capital(subject.holder("your"))
            owner = start + len(self._ids(lead + whose.removesuffix(" service"))) - 1
            verb = start + len(stem) - 1
            size = 0 if value is None else len(self._ids(f" {value}"))
            found.append(Sentence(subject, owner, verb, size))
        return found

    def rows(self, conversations: Sequence[Sequence[Turn]], block: Sequence[int]) -> Rows:
        """Pack conversations, one a row, padded on the right.

        Args:
            conversations: the turns of each.
            block: for each, how many consecutive turns see each other.
        """
        lines = [_Line(self, turns, size) for turns, size in zip(conversations, block, strict=True)]
        width = max(len(line.ids) for line in lines)

        def padded(name: str, fill: int) -> Tensor:
            columns = [getattr(line, name) for line in lines]
            return torch.tensor([column + [fill] * (width - len(column)) for column in columns])

        def looks(name: str) -> Tensor:
            triples = [
                (row, *pair) for row, line in enumerate(lines) for pair in getattr(line, name)
            ]
            return torch.tensor(triples, dtype=torch.long).view(-1, 3)

        return Rows(
            ids=padded("ids", 0),
            kinds=padded("kinds", int(Kind.PADDING)),
            blocks=padded("blocks", -1),
            positions=padded("positions", 0),
            turns=torch.tensor(block),
            owners=looks("owners"),
            sources=looks("sources"),
        )


@dataclass(frozen=True)
class Sentence:
    """A canonical sentence in a turn: where its owner and "is" stand, the value's length."""

    subject: Subject
    owner: int
    verb: int
    size: int


class _Line:
    """One row while it is put together."""

    def __init__(self, tokeniser: Tokeniser, turns: Sequence[Turn], size: int) -> None:
        self.ids: list[int] = []
        self.kinds: list[int] = []
        self.blocks: list[int] = []
        self.positions: list[int] = []
        self.owners: list[tuple[int, int]] = []
        self.sources: list[tuple[int, int]] = []
        confirmed: dict[Subject, tuple[int, int, int]] = {}
        for index, turn in enumerate(turns):
            own, marks = tokeniser.turn(turn)
            first = 0 if index % size == 0 else self.positions[-1] + 1
            for sentence in tokeniser.sentences(own, turn):
                self._look(sentence, turn, index // size, confirmed)
            self.ids += own
            self.kinds += marks
            self.blocks += [index // size] * len(own)
            self.positions += range(first, first + len(own))

    def _look(
        self,
        sentence: Sentence,
        turn: Turn,
        block: int,
        confirmed: dict[Subject, tuple[int, int, int]],
    ) -> None:
        start = len(self.ids)
        verb = start + sentence.verb
        # A value's token is predicted at the one before it, and written at its own.
        self.owners += [(verb + i, start + sentence.owner) for i in range(sentence.size + 1)]
        if turn.kind in ("fact", "update"):
            confirmed[sentence.subject] = (block, verb + 1, sentence.size)
        elif turn.kind == "question":
            where, value, size = confirmed.get(sentence.subject, (-1, 0, 0))
            if where == block and size == sentence.size:
                self.sources += [(verb + i, value + i) for i in range(size)]


def _find(ids: list[int], form: list[int]) -> int | None:
    """Index of the first occurrence of a token sequence."""
    for start in range(len(ids) - len(form) + 1):
        if ids[start : start + len(form)] == form:
            return start
    return None


def _mark(kinds: list[int], ids: list[int], form: list[int], kind: Kind) -> None:
    """Give every occurrence of a token sequence a kind."""
    for start in range(len(ids) - len(form) + 1):
        if ids[start : start + len(form)] == form:
            kinds[start : start + len(form)] = [int(kind)] * len(form)
