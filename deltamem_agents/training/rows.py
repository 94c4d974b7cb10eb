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
from deltamem_agents.training.instructions import Instruction
from deltamem_agents.training.subjects import capital, lexicon, sentence
from deltamem_agents.training.world import Turn

PINNED = 0
ASKED = ("question", "answer", "unknown", "refusal")


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
        blocks: number of the block of each token, long [B, T]; 0 in the system prompt, which all
            blocks see, -1 in padding.
        positions: position inside the block, long [B, T].
        turns: how many turns a block has, long [B].
        foreseen: what the four template tokens between a question and its reply may be trained to
            foresee, -1 elsewhere, long [B, T]: the subject, and what is known of it.
        unheard: bool[B, T], the user's words that the model is to take for words it never heard.
    """

    ids: Tensor
    kinds: Tensor
    blocks: Tensor
    positions: Tensor
    turns: Tensor
    foreseen: Tensor
    unheard: Tensor

    @property
    def real(self) -> Tensor:
        """Bool[B, T], False in padding."""
        return self.kinds != Kind.PADDING

    def attention_mask(self) -> Tensor:
        """Additive float [B, 1, T, T]: causal, inside one block."""
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        pinned = (self.blocks == PINNED)[:, None, :] & (self.blocks >= 0)[:, :, None]
        seen = causal & ((self.blocks[:, :, None] == self.blocks[:, None, :]) | pinned)
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

    def turn(self, turn: Turn | Instruction) -> tuple[list[int], list[int]]:
        """The ids and kinds of a turn, or of a system prompt."""
        ids: list[int] = []
        kinds: list[int] = []
        if isinstance(turn, Instruction):
            [prompt] = self.template.render(turn.messages(), turn.schemas())
            return list(prompt.ids), [int(Kind.TEMPLATE)] * len(prompt)
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
        elif reply and turn.kind == "tool":
            value = Kind.CONFIRMED_VALUE
        elif reply and turn.kind in ("question", "answer"):
            value = Kind.ANSWERED_VALUE
        else:
            value = None
        if value is not None:
            for text in turn.values:
                for form in (self._ids(f" {text}"), self._ids(text)):
                    _mark(kinds, ids, form, value)
        if reply and turn.kind == "unknown":
            _mark(kinds, ids, self._decline, Kind.DECLINE)
        if reply and turn.kind == "refusal":
            kinds[3:-2] = [int(Kind.CONFIRMED_VALUE)] * (len(kinds) - 5)
        if reply and turn.kind in ("refusal", "answer"):
            kinds[3] = int(Kind.DECLINE)
        return kinds

    def _foreseen(self, turn: Turn | Instruction, ids: list[int]) -> list[int]:
        """For each token of a turn, what it may be trained to foresee; see `Rows`."""
        found = [-1] * len(ids)
        if isinstance(turn, Instruction) or turn.kind not in ASKED or not turn.subjects:
            return found
        value = turn.values[0] if turn.values else None
        _, subject, _, known = self._ids(sentence(turn.subjects[0], value))[:4]
        reply = len(ids) - ids[::-1].index(ids[0]) - 1
        found[reply - 2 : reply + 2] = [subject, subject, known, known]
        return found

    def _unheard(self, turn: Turn | Instruction, ids: list[int]) -> list[int]:
        """1 for each token of the user's words that were never heard, 0 for the others."""
        marks = [0] * len(ids)
        if isinstance(turn, Instruction) or not turn.unheard:
            return marks
        user = ids[: ids.index(ids[0], 1)]  # the reply begins with the same token
        for word in turn.unheard:
            for form in (f" {word}", word, capital(word)):  # the first of a message has a capital
                _mark(marks, user, self._ids(form), 1)
        return marks

    def rows(
        self, conversations: Sequence[Sequence[Turn | Instruction]], block: Sequence[int]
    ) -> Rows:
        """Pack conversations, one a row, padded on the right.

        A system prompt stands first; all blocks see it and count their positions from its end.

        Args:
            conversations: the turns of each.
            block: for each, how many consecutive turns see each other.
        """
        lines: list[tuple[list[int], ...]] = []
        for turns, size in zip(conversations, block, strict=True):
            line: tuple[list[int], ...] = ([], [], [], [], [], [])
            pinned = 0
            number, start, left = PINNED, 0, 0
            for turn in turns:
                own, marks = self.turn(turn)
                if isinstance(turn, Instruction):
                    pinned = len(own)
                elif left == 0:
                    number, start, left = number + 1, pinned, size
                line[0].extend(own)
                line[1].extend(marks)
                line[2].extend([number] * len(own))
                line[3].extend(range(start, start + len(own)))
                line[4].extend(self._foreseen(turn, own))
                line[5].extend(self._unheard(turn, own))
                start, left = start + len(own), left - (number > PINNED)
            lines.append(line)
        width = max(len(line[0]) for line in lines)
        padding = (0, int(Kind.PADDING), -1, 0, -1, 0)
        ids, kinds, blocks, positions, foreseen, unheard = (
            torch.tensor([line[i] + [pad] * (width - len(line[i])) for line in lines])
            for i, pad in enumerate(padding)
        )
        return Rows(ids, kinds, blocks, positions, torch.tensor(block), foreseen, unheard > 0)


def _mark(kinds: list[int], ids: list[int], form: list[int], kind: int) -> None:
    """Give every occurrence of a token sequence a kind."""
    for start in range(len(ids) - len(form) + 1):
        if ids[start : start + len(form)] == form:
            kinds[start : start + len(form)] = [int(kind)] * len(form)
