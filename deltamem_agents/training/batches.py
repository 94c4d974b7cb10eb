"""Episodes to tensors: calls of the model, each a piece of every episode of a batch.

A call [B, T] holds for each episode one window, or, with packing, several windows that follow each
other, kept apart by a mask; so short turns do not each cost a call, and little of a batch is
padding. Rows that have no more windows hold one token that neither writes nor counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltamem_agents.training.windows import NOTHING, Episode, Window

Call = dict[str, Tensor]
Batch = dict[str, list[Call]]
Strip = tuple[Window, ...]

IDLE = Window((0,), (False,), (NOTHING,), (0.0,), (-1,), (1,))


@dataclass(frozen=True)
class Collator:
    """Makes batches.

    The calls of a batch are `calls` (the episode), `alone` (its windows with answers, for reading
    them without a memory) and `whole` (the teacher's view). A call is a dict of tensors:

        ids, labels, answers  long [B, T]; labels `NOTHING` where nothing is learnt
        positions, blocks     long [B, T]: place in the window, and which window (-1 in padding)
        writes                bool [B, T]
        weights               float [B, T]
        commits               bool [B]: whether the memory after the call goes on
        ends                  long [n]: where calls are cut again, for writes by message

    Args:
        pack: most tokens of windows packed into a row of one call; 0 for one window a call.
        by_message: cut calls at the ends of messages, for adapters that write by message.
        alone: whether the batch has `alone`.
    """

    pack: int = 0
    by_message: bool = False
    alone: bool = False

    def __call__(self, episodes: Sequence[Episode]) -> Batch:
        batch = {"calls": self._calls([episode.windows for episode in episodes])}
        if self.alone:
            asking = [tuple(w for w in episode.windows if w.asks) for episode in episodes]
            batch["alone"] = self._calls(asking)
        if any(episode.whole for episode in episodes):
            batch["whole"] = self._calls([episode.whole for episode in episodes])
        return batch

    def _calls(self, rows: Sequence[Sequence[Window]]) -> list[Call]:
        strips = [list(self._strips(windows)) for windows in rows]
        longest = max(map(len, strips))
        idle: Strip = (IDLE,)
        return [
            self._call([row[step] if step < len(row) else idle for row in strips])
            for step in range(longest)
        ]

    def _strips(self, windows: Sequence[Window]) -> list[Strip]:
        """Windows that follow each other, joined as far as `pack` allows."""
        strips: list[Strip] = []
        for window in windows:
            last = strips[-1] if strips else ()
            room = self.pack - sum(map(len, last)) - len(window)
            if last and room >= 0 and window.commits and last[-1].commits:
                strips[-1] = (*last, window)
            else:
                strips.append((window,))
        return strips

    def _call(self, strips: Sequence[Strip]) -> Call:
        ends = self._ends(strips)
        lines = [_line(strip, ends) for strip in strips]
        width = int(ends[-1]) if self.by_message else max(len(line["ids"]) for line in lines)
        call = {}
        for name, kind in _KINDS.items():
            filled = [[*line[name], *[_PADDING[name]] * (width - len(line[name]))]
                      for line in lines]  # fmt: skip
            call[name] = torch.tensor(filled, dtype=kind)
        call["commits"] = torch.tensor([strip[-1].commits for strip in strips])
        call["ends"] = torch.tensor(ends if self.by_message else [width])
        return call

    def _ends(self, strips: Sequence[Strip]) -> list[int]:
        """Where messages end when those of the same number stand under each other."""
        if not self.by_message:
            return []
        sizes = [_sizes(strip[0]) for strip in strips]
        ends: list[int] = []
        for number in range(max(map(len, sizes))):
            widest = max(row[number] for row in sizes if number < len(row))
            ends.append((ends[-1] if ends else 0) + widest)
        return ends


_KINDS = {"ids": torch.long, "labels": torch.long, "answers": torch.long, "positions": torch.long,
          "blocks": torch.long, "writes": torch.bool, "weights": torch.float32}  # fmt: skip
_PADDING = {"ids": 0, "labels": NOTHING, "answers": -1, "positions": 0, "blocks": -1,
            "writes": False, "weights": 0.0}  # fmt: skip
Line = dict[str, list[float]]


def _sizes(window: Window) -> list[int]:
    starts = (0, *window.ends[:-1])
    return [end - start for start, end in zip(starts, window.ends, strict=True)]


def _line(strip: Strip, ends: Sequence[int]) -> Line:
    """One row; with `ends`, each message padded to where it ends for all rows."""
    line: Line = {name: [] for name in _KINDS}
    for block, window in enumerate(strip):
        cuts = window.ends if ends else (len(window),)
        start = 0
        for number, end in enumerate(cuts):
            part = slice(start, end)
            line["ids"] += window.ids[part]
            line["labels"] += window.labels[part]
            line["answers"] += window.answers[part]
            line["writes"] += window.writes[part]
            line["weights"] += window.weights[part]
            line["positions"] += range(start, end)
            line["blocks"] += [block] * (end - start)
            if ends:
                for name in line:
                    line[name] += [_PADDING[name]] * (ends[number] - len(line[name]))
            start = end
    return line


def blank(call: Call) -> Call:
    """A call of as many rows in which nothing is written and nothing is learnt."""
    rows = call["ids"].shape[0]
    like = {
        name: call[name].new_full((rows, 1), padding)
        for name, padding in {**_PADDING, "blocks": 0}.items()
    }
    commits = torch.zeros_like(call["commits"])
    return {**like, "commits": commits, "ends": call["ends"].new_ones(1)}
