"""The course of a memory over a thread's checkpoints, as a picture."""

from __future__ import annotations

from os import PathLike

from deltamem_agents.inspect.course import Course
from deltamem_agents.inspect.figures import GREY, INK, Picture


def plot_course(course: Course, path: str | PathLike[str] | None = None) -> Picture:
    """Draw norm, drift and branches over the checkpoints at which the memory changed.

    Args:
        course: see `course.course`.
        path: where the picture is written, if anywhere.
    """
    points = course.points
    figure = Picture(figsize=(max(6.4, min(12.0, 0.34 * len(points) + 2)), 3.9),
                     layout="constrained")  # fmt: skip
    figure.suptitle(f"The course of the memory: {course.thread}", fontsize=12, color=INK,
                    parse_math=False)  # fmt: skip
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    norms = [point.memory.norm for point in points]
    for index, point in enumerate(points):
        if point.parent is not None:
            fork = point.parent != index - 1
            upper.plot([point.parent, index], [norms[point.parent], norms[index]],
                       color="#4393c3", lw=1.5, ls="--" if fork else "-")  # fmt: skip
        ends = point.newest
        upper.plot(index, norms[index], marker="o", ms=6, color="#b2182b" if ends else "#2166ac")
    lower.bar(range(len(points)), [point.drift for point in points], color="0.75", width=0.7)
    upper.set_ylabel("norm", fontsize=8, color=GREY)
    upper.set_ylim(0, 1.1 * (max(norms) or 1.0))
    lower.set_ylabel("drift", fontsize=8, color=GREY)
    lower.set_xlabel("tokens read; red: the end of a branch", fontsize=8, color=GREY)
    every = max(1, len(points) // 16)
    shown = range(0, len(points), every)
    lower.set_xticks(list(shown), [str(points[i].memory.tokens_written) for i in shown])
    for axes in (upper, lower):
        axes.tick_params(labelsize=7.5, colors=GREY)
        axes.spines[["top", "right"]].set_visible(False)
    return figure.save(path)
