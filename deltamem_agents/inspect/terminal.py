"""What `deltamem inspect` prints: tables, heat maps of half blocks, and coloured text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deltamem_agents.core.heat_map import heat_colours, scale_limit, side_by_side
from deltamem_agents.core.state import MemoryState
from deltamem_agents.inspect.course import MOST, Course, ThreadSummary
from deltamem_agents.inspect.visible import visible

if TYPE_CHECKING:
    from deltamem_agents.inspect.trace import WriteTrace

_WIDE = 24  # bars of a course in the list of threads
_BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def threads_table(threads: Sequence[ThreadSummary], size: int = 0) -> RenderableType:
    """The threads of a database.

    Args:
        threads: see `course.threads`.
        size: bytes of the database; 0 if unknown.
    """
    if not threads:
        return Text("No threads.")
    table = _table("thread", "checkpoints", "tokens read", "norm", "its course", "changed")
    for thread in threads:
        table.add_row(
            Text(visible(thread.thread)),
            str(thread.checkpoints),
            *(
                (f"{thread.tokens_written}", f"{thread.norm:.2f}", spark(thread.norms, _WIDE))
                if thread.memories
                else ("", "", "no memory")
            ),
            f"{thread.changed:%Y-%m-%d %H:%M:%S}" if thread.changed else "",
        )
    total = sum(thread.checkpoints for thread in threads)
    line = f"{len(threads)} thread{'s' * (len(threads) != 1)}, {total} checkpoints"
    line += f", {size / 1024:.0f} KiB" if size else ""
    largest = max(thread.bytes for thread in threads)
    return Group(table, Text(line + (f"; a memory has {largest} bytes" if largest else "")))


def thread_report(course: Course, trace: WriteTrace | None = None) -> RenderableType:
    """A thread: the course of its memory, its state, its text and its facts."""
    parts: list[RenderableType] = [
        Text(visible(f"thread {course.thread}"), style="bold"),
        course_table(course),
        Text(f"norm   {spark([point.memory.norm for point in course.points])}"),
        Text(f"drift  {spark([point.drift for point in course.points])}"),
        Text(),
        memory_maps(course.last.memory),
    ]
    if trace is not None:
        parts += [Text(), Text("How strongly each token was written", style="bold"), text(trace)]
    if course.facts:
        parts += [Text(), facts_table(course)]
    return Group(*parts)


def course_table(course: Course) -> Table:
    """The memories of a thread; a new branch is marked."""
    table = _table("", "checkpoint", "after", "tokens read", "visible", "gone", "norm", "drift")
    for index, point in enumerate(course.points):
        memory, parent = point.memory, point.parent
        forks = parent is not None and parent != index - 1
        after = "" if parent is None else course.points[parent].checkpoint_id[-12:]
        table.add_row(
            "\u2514" if forks else "\u25cf" if point.newest else "\u2502",
            point.checkpoint_id[-12:],
            after if forks or not index else "",
            str(memory.tokens_written),
            str(len(memory.ledger.visible)),
            str(memory.ledger.evicted_count),
            f"{memory.norm:.2f}",
            f"{point.drift:.2f}",
        )
    return table


def facts_table(course: Course) -> Table:
    """The facts of a thread with their sources; closed ones are dim."""
    places = {message.id: number for number, message in enumerate(course.messages, 1)}
    table = _table("fact", "value", "said by", "source", "quote")
    for fact in course.facts:
        place = places.get(fact.source_message_id)
        source = f"message {place}, {fact.start}:{fact.end}" if place else "not in this branch"
        table.add_row(
            Text(visible(f"{fact.subject} {fact.attribute}".strip())),
            Text(visible(fact.value)),
            Text(visible(fact.asserted_by)),
            source,
            Text(visible(fact.quote)),
            style=None if fact.active else "dim",
        )
    return table


def compare_report(before: MemoryState, after: MemoryState) -> RenderableType:
    """What lies between two memories.

    Raises:
        StateError: the two are of different adapters.
    """
    change = after.diff(before)
    table = _table("layer", "before", "after", "change")
    rows = zip(before.layer_norms, after.layer_norms, change.layer_norms, strict=True)
    for layer, norms in enumerate(rows):
        table.add_row(str(layer), *(f"{norm:.3f}" for norm in norms))
    table.add_row("all", *(f"{norm:.3f}" for norm in (before.norm, after.norm, change.norm)))
    return Group(
        table,
        Text(f"{change.tokens:+d} tokens read; largest change of an entry {change.largest:.3g}"),
        Text("\nThe change (after minus before)", style="bold"),
        state_maps(after.state - before.state, change.layer_norms),
    )


def memory_maps(memory: MemoryState) -> RenderableType:
    """The heat maps of a memory, with its summary."""
    return Group(Text(repr(memory)), state_maps(memory.state, memory.layer_norms))


def state_maps(states: NDArray[Any], norms: Sequence[float]) -> RenderableType:
    """States [layers, heads, rank, rank], blue below zero and red above; two rows a line."""
    top = scale_limit([states])
    maps = []
    for layer, (values, norm) in enumerate(zip(states, norms, strict=True)):
        lines = [Text(f"layer {layer}, norm {norm:.3g}")]
        lines += _half_blocks(side_by_side(values), top)
        maps.append(Padding(Group(*lines), (0, 2, 1, 0)))
    return Columns(maps)


def _half_blocks(image: NDArray[Any], top: float) -> Iterator[Text]:
    rows, columns = image.shape
    padded = np.vstack([image, np.full((rows % 2, columns), np.nan, image.dtype)])
    colours, clear = heat_colours(padded, top), np.isnan(padded)
    for row in range(0, padded.shape[0], 2):
        line = Text(no_wrap=True)
        for column in range(columns):
            above, below = (_rgb(colours[row + i, column]) for i in (0, 1))
            if clear[row, column]:
                line.append(" ")
            elif clear[row + 1, column]:
                line.append("\u2580", style=above)
            else:
                line.append("\u2580", style=f"{above} on {below}")
        yield line


def text(trace: WriteTrace) -> Text:
    """The conversation, each token on a ground as strong as it was written."""
    strength = trace.strength
    share = strength / (float(strength.max(initial=0.0)) or 1.0)
    line = Text()
    for token, piece in enumerate(map(visible, trace.texts)):
        if token and trace.messages[token] != trace.messages[token - 1]:
            line.append("" if line.plain.endswith("\n") else "\n")
        if not trace.written[token] or share[token] < 0.05:
            line.append(piece, style="dim" if trace.special[token] else "")
        else:
            red = round(255 - 60 * share[token])
            rest = round(235 * (1 - share[token]))
            line.append(piece, style=f"black on rgb({red},{min(rest + 20, 255)},{rest})")
    return line


def spark(values: Sequence[float], width: int = MOST) -> str:
    """Numbers as a line of bars, from 0 to the largest; of more than `width`, that many of them."""
    shown = min(width, len(values))
    chosen = [values[round(i * (len(values) - 1) / max(1, shown - 1))] for i in range(shown)]
    top = max(chosen, default=0.0) or 1.0
    return "".join(_BARS[min(7, int(8 * value / top))] for value in chosen)


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in names:
        numeric = name in {"checkpoints", "memories", "tokens read", "norm", "bytes", "drift",
                           "visible", "gone", "before", "change", "layer"}  # fmt: skip
        table.add_column(name, justify="right" if numeric else "left")
    return table


def _rgb(colour: NDArray[Any]) -> str:
    red, green, blue = (int(part) for part in colour)
    return f"rgb({red},{green},{blue})"
