"""What `deltamem inspect` prints: tables, with the heat maps and the text of `maps.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deltamem_agents.core.state import MemoryState
from deltamem_agents.inspect.course import MOST, Course, ThreadSummary
from deltamem_agents.inspect.maps import memory_maps, state_maps, written
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
        parts += [Text(), written(trace)]
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
        source = "not in this branch"
        if fact.document:
            source = f"document {fact.source}, {fact.start}:{fact.end}"
        elif place:
            source = f"message {place}, {fact.start}:{fact.end}"
        table.add_row(
            Text(visible(f"{fact.subject} {fact.attribute}".strip())),
            Text(visible(fact.value)),
            Text(visible(fact.asserted_by)),
            Text(visible(source)),
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
