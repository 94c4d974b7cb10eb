"""The course of a memory as an SVG drawing: norm, drift and branches over checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deltamem_agents.inspect.course import Course

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 1060, 250, 46, 12
_NORM_TOP, _NORM_END, _DRIFT_TOP, _DRIFT_END = 14, 160, 178, 228


def timeline_svg(course: Course, shown: Sequence[int]) -> str:
    """Draw the points of a thread.

    Args:
        course: the thread.
        shown: indices of the points that are drawn, in order; a point's `data-point` is its place
            in this list.
    """
    points = [course.points[index] for index in shown]
    highest = max(point.memory.norm for point in points) or 1.0
    farthest = max(point.drift for point in points) or 1.0
    step = (_WIDTH - _LEFT - _RIGHT) / len(points)
    across = [_LEFT + step * (i + 0.5) for i in range(len(points))]
    up = [_NORM_END - (_NORM_END - _NORM_TOP) * p.memory.norm / highest for p in points]
    places = {index: place for place, index in enumerate(shown)}
    parts = [_axes(highest, farthest)]
    for place, point in enumerate(points):
        width = max(2.0, min(26.0, 0.7 * step))
        height = (_DRIFT_END - _DRIFT_TOP) * point.drift / farthest
        parts.append(
            f'<rect class="drift" x="{across[place] - width / 2:.1f}" '
            f'y="{_DRIFT_END - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        )
        parent = places.get(point.parent) if point.parent is not None else None
        if parent is not None:
            bend = "L"
            if parent != place - 1:  # a fork: the line goes around what lies between
                middle = (across[parent] + across[place]) / 2
                bend = f"Q{middle:.1f} {min(_NORM_END, max(up[parent], up[place]) + 60):.1f} "
            parts.append(
                f'<path class="edge" d="M{across[parent]:.1f} {up[parent]:.1f}'
                f'{bend}{across[place]:.1f} {up[place]:.1f}"/>'
            )
    for place, point in enumerate(points):
        title = (
            f"{point.checkpoint_id}, {point.created:%Y-%m-%d %H:%M:%S} UTC: "
            f"{point.memory.tokens_written} tokens read, norm {point.memory.norm:.3g}, "
            f"drift {point.drift:.3g}"
        )
        parts.append(
            f'<circle class="point" data-point="{place}" cx="{across[place]:.1f}" '
            f'cy="{up[place]:.1f}" r="{max(3.0, min(6.0, 0.4 * step)):.1f}">'
            f"<title>{escape(title)}</title></circle>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="norm and drift over checkpoints">{"".join(parts)}</svg>'
    )


def _axes(highest: float, farthest: float) -> str:
    lines = []
    for y, text in (
        (_NORM_TOP, f"{highest:.3g}"),
        (_NORM_END, "0"),
        (_DRIFT_TOP, f"{farthest:.3g}"),
        (_DRIFT_END, "0"),
    ):
        lines.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>'
        )
    lines.append(f'<text x="{_LEFT}" y="{_NORM_TOP - 4}">norm</text>')
    lines.append(f'<text x="{_LEFT}" y="{_DRIFT_TOP - 4}">drift</text>')
    lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 5}">first</text>')
    lines.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end">newest</text>')
    return "".join(lines)
