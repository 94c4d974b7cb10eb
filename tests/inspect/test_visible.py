"""No stored text commands the terminal: control characters are shown, not sent."""

from __future__ import annotations

import io
from dataclasses import replace

from langchain_core.messages import HumanMessage
from rich.console import Console

from deltamem_agents.inspect.course import course, threads
from deltamem_agents.inspect.maps import _TENTHS
from deltamem_agents.inspect.terminal import thread_report, threads_table
from deltamem_agents.inspect.trace import trace_writes
from deltamem_agents.inspect.visible import visible

CLEAR, TITLE = "\x1b[2J", "\x1b]0;owned\x07"


def printed(what) -> str:
    out = Console(width=200, file=io.StringIO(), force_terminal=False)
    out.print(what)
    return out.file.getvalue()


def test_every_control_character_but_newline_and_tab_has_a_sign() -> None:
    controls = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    shown = visible(controls)
    assert len(shown) == len(controls)
    assert [c for c in shown if c in controls] == ["\t", "\n"]
    assert visible(f"{CLEAR}{TITLE}\x7f\x9b2J") == "\u241b[2J\u241b]0;owned\u2407\u2421\ufffd2J"
    assert visible("caf\u00e9 \u2603\n\tx") == "caf\u00e9 \u2603\n\tx"


def test_a_report_sends_no_stored_control_character(stored) -> None:
    seen = course(stored.saver, "nora")
    fact = replace(
        seen.facts[0], attribute=f"code{TITLE}", value=f"4711{CLEAR}", quote=f"quote{CLEAR}"
    )
    trace = trace_writes(stored.model, [HumanMessage(f"Say {CLEAR} and {TITLE}.")])
    hostile = replace(seen, thread=f"thread{TITLE}", facts=(fact,))
    summary = replace(threads(stored.saver)[0], thread=f"thread{CLEAR}")
    text = printed(thread_report(hostile, trace)) + printed(threads_table([summary]))
    assert not set(text) & set(map(chr, [*range(10), *range(11, 32), *range(0x7F, 0xA0)]))
    text = text.translate(dict.fromkeys(map(ord, _TENTHS)))  # how strongly it was written
    for name in ("thread", "4711", "quote", "Say "):
        assert f"{name}\u241b[2J" in text
    for name in ("thread", "code", "\u241b[2J and "):
        assert f"{name}\u241b]0;owned\u2407" in text
