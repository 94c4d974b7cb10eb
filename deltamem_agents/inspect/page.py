"""A thread as one HTML page: no server, no network, nothing beside the file."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib import resources
from os import PathLike
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from deltamem_agents.core.heat_map import BLUE_TO_RED
from deltamem_agents.inspect.course import Course
from deltamem_agents.inspect.talk import conversation_html, strengths_css
from deltamem_agents.inspect.timeline import timeline_svg

if TYPE_CHECKING:
    from deltamem_agents.inspect.trace import WriteTrace


def thread_page(
    course: Course, trace: WriteTrace | None = None, *, compare: tuple[int, int] | None = None
) -> str:
    """The page of a thread.

    Args:
        course: what the database holds; see `course.course`.
        trace: how strongly the conversation was written; None shows the plain text.
        compare: indices among the course's points of the two compared first; by default the newest
            with the one it came from.

    Returns:
        HTML. What people said is escaped, and a content security policy forbids every request and
        every style and script but the page's own, which it names by their hashes.

    Raises:
        StateError: the two points that are to be compared are of different adapters.
    """
    shape = course.last.memory.state.shape
    shown = [i for i, p in enumerate(course.points) if p.memory.state.shape == shape]
    last = len(shown) - 1
    start, end = max(0, last - 1), last
    if course.last.parent in shown:
        start = shown.index(course.last.parent)
    if compare is not None:
        course.points[compare[1]].memory.diff(course.points[compare[0]].memory)  # one adapter
        start, end = (shown.index(index) for index in compare)
    points = [_point(course, index) for index in shown]
    values = {
        "shape": list(shape[:3]),
        "colours": BLUE_TO_RED.astype(int).tolist(),
        "points": points,
        "from": start,
        "to": end,
    }
    style, script = _part("page.css") + strengths_css(), _part("page.js")
    return Template(_part("page.html")).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=escape(f"Thread {course.thread}"),
        subtitle=escape(
            f"tenant {course.tenant} \u00b7 adapter {course.last.memory.fingerprint[:12]} \u00b7 "
            f"{course.points[0].created:%Y-%m-%d %H:%M:%S} to "
            f"{course.last.created:%Y-%m-%d %H:%M:%S} UTC"
        ),
        numbers=_numbers(course),
        timeline=timeline_svg(course, shown),
        legend=_legend(course, trace),
        conversation=conversation_html(course, trace),
        facts=_facts(course),
        data=json.dumps(values).replace("<", "\\u003c"),
    )


def _part(name: str) -> str:
    return resources.files("deltamem_agents.inspect").joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy that allows this style and this script, and no request."""
    kept = {"style-src": style, "script-src": script}
    hashes = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in kept.items()
    }
    allowed = [f"{name} 'sha256-{digest}'" for name, digest in hashes.items()]
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def write_page(
    path: str | PathLike[str],
    course: Course,
    trace: WriteTrace | None = None,
    *,
    compare: tuple[int, int] | None = None,
) -> Path:
    """Write `thread_page` to a file; returns its path."""
    place = Path(path)
    place.write_text(thread_page(course, trace, compare=compare), encoding="utf-8")
    return place


def _point(course: Course, index: int) -> dict[str, Any]:
    """A memory in half precision, scaled so that its largest entry is 1."""
    point = course.points[index]
    scale = float(np.abs(point.memory.state).max()) or 1.0
    half = (point.memory.state / scale).astype("<f2")
    return {
        "label": f"{point.checkpoint_id[-12:]} \u00b7 {point.memory.tokens_written} tokens"
        + (" \u00b7 newest" if point is course.last else ""),
        "tokens": point.memory.tokens_written,
        "scale": scale,
        "state": base64.b64encode(half.tobytes()).decode(),
    }


def _numbers(course: Course) -> str:
    memory = course.last.memory
    told = {
        "checkpoints with a memory": f"{course.checkpoints}",
        "times it changed": f"{len(course.points)}",
        "ends of branches": f"{sum(point.newest for point in course.points)}",
        "tokens read": f"{memory.tokens_written}",
        "messages in the window": f"{len(memory.ledger.visible)}",
        "messages gone from it": f"{memory.ledger.evicted_count}",
        "bytes of the memory": f"{memory.nbytes:,}".replace(",", "\u202f"),
        "norm": f"{memory.norm:.3g}",
        "exact facts": f"{sum(fact.active for fact in course.facts)}",
    }
    return "".join(f"<li><b>{value}</b><span>{name}</span></li>" for name, value in told.items())


def _legend(course: Course, trace: WriteTrace | None) -> str:
    gone = "Messages on grey have left the context window: they live on in the memory alone."
    if trace is None:
        return gone + " To see how strongly each token was written, give the model."
    if trace.memory.fingerprint != course.last.memory.fingerprint:
        gone += " The text was read with another model than the thread's."
    return (
        f"{gone} The text stands as the model reads it, the template's marks small. The redder a "
        "token, the more strongly it was written: &beta;, the mean over layers, heads and rows, at "
        f"most {float(trace.strength.max(initial=0.0)):.3f} here; hold the pointer over a token to "
        "see its own."
    )


def _facts(course: Course) -> str:
    if not course.facts:
        return "<p>None: no router has recorded facts of this thread.</p>"
    places = {message.id: number for number, message in enumerate(course.messages, 1)}
    rows = []
    for fact in course.facts:
        place = places.get(fact.source_message_id)
        source = "not in this branch"
        if fact.document:
            source = f"document {escape(fact.source)}, {fact.start}:{fact.end}"
        elif place is not None:
            source = f'<a href="#message-{place}">message {place}</a>, {fact.start}:{fact.end}'
        name = f"{fact.subject} {fact.attribute}".strip() or fact.kind
        cells = (escape(name), escape(fact.value), f"\u201c{escape(fact.quote)}\u201d")
        rows.append(
            f"<tr{'' if fact.active else ' class=closed'}>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f'<td class="plain">{source}</td><td class="plain">{escape(fact.asserted_by)}, '
            f"{escape(fact.recorded_at[:19])}{'' if fact.active else ', replaced'}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("fact", "value", "quote", "source", "said by"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
