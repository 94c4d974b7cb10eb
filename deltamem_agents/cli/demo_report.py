"""What the demo prints at its end, and whether its promise holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deltamem_agents.evaluation.metrics import Share, says
from deltamem_agents.inspect.visible import visible

if TYPE_CHECKING:
    from deltamem_agents.cli.demo_ask import Asked, Branch, Forgot

RECALL, MARGIN = 0.8, 0.5


def answers(out: Console, rows: Sequence[Asked]) -> None:
    """One row a fact."""
    title = "Asked in process 2, each on a fork of its own"
    table = Table(box=box.SIMPLE_HEAD, title=title, padding=(0, 1, 0, 0), show_lines=True)
    for name in ("question", "truth", "with memory", "memory reset", "with router"):
        table.add_column(name, ratio=2 if name == "truth" else 5)
    table.add_column("tokens\nvisible", justify="right", width=7)
    table.add_column("memory\nbytes", justify="right", width=6)
    for row in rows:
        source = Text(f"\n({row.citation or 'from the weights'})", style="dim")
        table.add_row(
            row.fact.question,
            row.fact.value,
            _judged(row.remembered, row.fact.value),
            _judged(row.control, row.fact.value),
            _judged(row.routed, row.fact.value) + source,
            str(row.visible),
            str(row.size),
        )
    out.print(table)
    nearest = min(row.distance for row in rows)
    out.print(f"Every fact was told at least {nearest} tokens before the first visible message.")


def branches(out: Console, question: str, told: Sequence[Branch]) -> None:
    """One row a branch."""
    table = Table(box=box.SIMPLE_HEAD, title="The thread forks: each branch has its own memory")
    for name in ("told in the branch", "still visible", "question", "answer"):
        table.add_column(name)
    for branch in told:
        seen = "no" if branch.gone else "yes"
        table.add_row(branch.value, seen, question, _judged(branch.answer, branch.value))
    out.print(table)
    change = told[1].memory.diff(told[0].memory)
    out.print(f"The two memories are {change.norm:.2f} apart (norm {told[0].memory.norm:.2f}).")


def forgotten(out: Console, forgot: Forgot) -> None:
    """What is left of a forgotten fact."""
    table = Table(box=box.SIMPLE_HEAD, title=f'Forgotten: "{forgot.fact.value}"')
    for name in ("question", "with memory", "with router", "in the database's bytes"):
        table.add_column(name)
    left = f"{forgot.bytes_left} times"
    cells = (forgot.fact.question, forgot.answer, forgot.routed, left)
    table.add_row(*(Text(visible(cell)) for cell in cells))
    out.print(table)
    kept, routed = Share.of(forgot.others), Share.of(forgot.routed_others)
    out.print(
        f"The memory was rebuilt without it in {forgot.checkpoints} checkpoints; of the other "
        f"facts {kept.right}/{kept.total} are still answered, with router "
        f"{routed.right}/{routed.total}."
    )


def verdict(out: Console, rows: Sequence[Asked], told: Sequence[Branch], forgot: Forgot) -> int:
    """Say whether the promise holds: 0 if so, else 1.

    It holds if the memory and the router each answer enough of the facts, before one of them is
    forgotten and after; if an emptied memory does not; if each branch knows its own; and if what
    was forgotten is gone from both answers and from the database's bytes.
    """
    recall = Share.of([says(row.remembered, row.fact.value) for row in rows])
    control = Share.of([says(row.control, row.fact.value) for row in rows])
    routed = Share.of([says(row.routed, row.fact.value) for row in rows])
    apart = all(says(branch.answer, branch.value) and branch.gone for branch in told)
    answers = (forgot.answer, forgot.routed)
    gone = not any(says(a, forgot.fact.value) for a in answers) and not forgot.bytes_left
    enough = (recall, routed, Share.of(forgot.others), Share.of(forgot.routed_others))
    good = (
        all(share.value >= RECALL for share in enough)
        and recall.value - control.value >= MARGIN
        and apart
        and gone
    )
    out.print(
        f"\nRecall with memory {recall.right}/{recall.total}, memory reset {control.right}/"
        f"{control.total}, with router {routed.right}/{routed.total}; branches "
        f"{'differ as told' if apart else 'NOT as told'}; forgotten fact "
        f"{'gone' if gone else 'NOT gone'}, the others "
        f"{'kept' if all(share.value >= RECALL for share in enough[2:]) else 'NOT kept'}."
    )
    out.print("[green]The promise holds.[/green]" if good else "[red]The promise is broken.[/red]")
    return 0 if good else 1


def _judged(answer: str, value: str) -> Text:
    return Text(visible(answer), style="green" if says(answer, value) else "red")
