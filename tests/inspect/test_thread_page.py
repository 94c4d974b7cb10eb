"""What is shown of a thread is what the database holds."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.inspect.course import course, threads
from deltamem_agents.inspect.page import thread_page
from deltamem_agents.inspect.terminal import compare_report, spark, thread_report, threads_table
from deltamem_agents.inspect.trace import trace_writes


def printed(what, **options) -> str:
    out = Console(width=140, file=io.StringIO(), **{"force_terminal": False, **options})
    out.print(what)
    return out.file.getvalue()


def test_threads_are_listed_with_their_newest_memory(stored) -> None:
    found = {thread.thread: thread for thread in threads(stored.saver)}
    assert set(found) == {"nora", "ben"}
    nora = found["nora"]
    memory = stored.saver.memory_at({"configurable": {"thread_id": "nora"}})
    assert nora.tokens_written == memory.tokens_written
    assert nora.norm == pytest.approx(memory.norm)
    assert nora.checkpoints == len(list(stored.saver.list({"configurable": {"thread_id": "nora"}})))
    points = course(stored.saver, "nora").points
    assert nora.norms == pytest.approx(tuple(point.memory.norm for point in points))
    text = printed(threads_table(threads(stored.saver), 4096))
    numbers = rf"{nora.checkpoints} +{nora.tokens_written} +{nora.norm:.2f}"
    assert re.search(rf"nora +{numbers} +{spark(nora.norms)} ", text)
    assert f"2 threads, {sum(t.checkpoints for t in found.values())} checkpoints, 4 KiB" in text
    assert f"a memory has {memory.nbytes} bytes" in text
    assert printed(threads_table([])) == "No threads.\n"


def test_a_course_has_one_point_for_each_change_and_knows_its_branches(stored) -> None:
    seen = course(stored.saver, "nora")
    assert len(seen.points) == 5  # five turns; checkpoints between them change no memory
    assert seen.checkpoints > 5
    fork = seen.point(stored.end["configurable"]["checkpoint_id"][-12:])
    children = [p for p in seen.points if p.parent is not None and seen.points[p.parent] is fork]
    assert len(children) == 2
    assert sum(point.newest for point in seen.points) == 2
    for point in seen.points[1:]:
        before = seen.points[point.parent].memory
        assert point.drift == pytest.approx(
            float(np.linalg.norm(point.memory.state - before.state)), rel=1e-5
        )
    assert seen.messages[-2].text == "Good night."
    assert {"4711", "9382"} <= {fact.value for fact in seen.facts}
    with pytest.raises(ThreadHistoryError, match="0 of 5"):
        seen.point("nowhere")


def test_of_many_changes_the_newest_are_shown_with_what_they_changed(stored, monkeypatch) -> None:
    whole = course(stored.saver, "nora").points
    for most, parents in ((3, [None, 0, 0]), (2, [None, None])):  # two branches of one point
        monkeypatch.setattr("deltamem_agents.inspect.course.MOST", most)
        newest = course(stored.saver, "nora").points
        assert [p.checkpoint_id for p in newest] == [p.checkpoint_id for p in whole[-most:]]
        assert [p.drift for p in newest] == [p.drift for p in whole[-most:]]
        assert [p.parent for p in newest] == parents


def test_a_thread_without_a_memory_is_an_error(stored) -> None:
    with pytest.raises(ThreadHistoryError, match="deltamem inspect"):
        course(stored.saver, "nobody")


def test_the_terminal_shows_course_maps_text_and_facts(stored) -> None:
    seen = course(stored.saver, "nora")
    trace = trace_writes(stored.model, list(seen.messages))
    text = printed(thread_report(seen, trace))
    for point in seen.points:
        assert point.checkpoint_id[-12:] in text
        assert f"{point.memory.norm:.2f}" in text
    assert "My locker code is 4711." in text
    assert "\u2580" not in text  # no colours there: signs
    assert text.count("heads side by side") == 1
    coloured = printed(thread_report(seen, trace), force_terminal=True, color_system="truecolor",
                       no_color=False)  # fmt: skip
    assert coloured.count("\u2580") >= 2 * 2 * 8
    before, after = seen.points[0].memory, seen.last.memory
    assert f"{after.diff(before).norm:.3f}" in printed(compare_report(before, after))


def test_looking_makes_no_tables(tmp_path: Path) -> None:
    import sqlite3

    from deltamem_agents.checkpoint import SQLAlchemySaver

    with SQLAlchemySaver(tmp_path / "empty.db") as saver:
        with pytest.raises(ThreadHistoryError):
            course(saver, "nora")
        assert threads(saver) == []
    with sqlite3.connect(tmp_path / "empty.db") as connection:
        names = {row[0] for row in connection.execute("select name from sqlite_master")}
    connection.close()
    assert "checkpoints" in names


def test_the_page_is_whole_in_itself(stored) -> None:
    seen = course(stored.saver, "nora")
    page = thread_page(seen, trace_writes(stored.model, list(seen.messages)))
    assert "default-src 'none'" in page
    assert "unsafe" not in page.split("<style>")[0]
    assert not re.search(r"<[^>]* style=", page)  # the policy would not let a browser follow it
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", page)
    assert page.count("<script") == 2
    assert "gone from the window" in page
    assert 'class="message gone" id="message-1"' in page
    assert 'class="message visible" id="message-8"' in page
    assert '<a href="#message-1">message 1</a>, 18:22' in page
    assert not re.search(r"\$[a-z]", page)


@pytest.mark.parametrize("traced", [False, True])
def test_whatever_a_database_holds_is_escaped_on_the_page(stored, traced: bool) -> None:
    seen, said = course(stored.saver, "nora"), "<script>alert({})</script>"
    quoted = replace(seen.facts[0], value=said.format(6), quote=said.format(2))
    hostile = replace(
        seen, thread=said.format(3), tenant=said.format(4), facts=(quoted, *seen.facts[1:])
    )
    trace = None
    if traced:  # one token holds it all, else no token would be a tag
        trace = trace_writes(stored.model, list(seen.messages))
        trace = replace(trace, texts=(*trace.texts[:-1], said.format(5)))
    page = thread_page(hostile, trace)
    assert "<script>alert" not in page
    spoken = 5 if traced else 1  # 1 is what was said in the thread
    for number in (2, 3, 4, 6, spoken):
        assert f"&lt;script&gt;alert({number})&lt;/script&gt;" in page


def test_the_page_tells_when_the_text_was_read_with_another_model(stored) -> None:
    from deltamem_agents.testing import tiny_engine

    seen = course(stored.saver, "nora")
    own = thread_page(seen, trace_writes(stored.model, list(seen.messages)))
    other = thread_page(seen, trace_writes(tiny_engine(seed=3), list(seen.messages)))
    assert "another model" not in own
    assert seen.last.parent == 2
    assert '"from": 2, "to": 4' in own  # the newest with what it came from, not with its neighbour
    assert "another model" in other


def test_the_picture_of_a_course_shows_norms_and_drifts(stored) -> None:
    from deltamem_agents.inspect.over_time import plot_course

    seen = course(stored.saver, "nora")
    figure = plot_course(seen)
    upper, lower = figure.axes
    norms = sorted({float(line.get_ydata()[-1]) for line in upper.lines})
    assert norms == pytest.approx(sorted(point.memory.norm for point in seen.points))
    assert [bar.get_height() for bar in lower.patches] == [p.drift for p in seen.points]
    assert sum(line.get_linestyle() == "--" for line in upper.lines) == 1
    assert figure.png().startswith(b"\x89PNG")


def test_words_that_a_tokenizer_added_are_text_and_no_marks() -> None:
    from deltamem_agents.runtime.loading import load_engine

    trace = trace_writes(load_engine(), "Remember that my sister's instrument is cello.")
    marks = {text for text, special in zip(trace.texts, trace.special, strict=True) if special}
    assert marks == {"<|im_start|>", "<|im_end|>"}
    assert " sister's instrument" in trace.texts
