"""The demo: what it may say, and that its promise holds in two real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deltamem_agents.cli.demo_script import WINDOW, load_script
from deltamem_agents.training.subjects import Subject, held_out, lexicon, subjects

SCRIPT = load_script()


def subject(entity: str, attribute: str) -> Subject:
    return next(s for s in subjects() if (s.entity, s.attribute) == (entity, attribute))


def test_what_the_demo_tells_was_kept_out_of_all_training() -> None:
    fork = SCRIPT.branches
    told = [(fact.entity, fact.attribute, fact.value) for fact in SCRIPT.facts]
    told += [(fork.entity, fork.attribute, value) for value, _ in fork.told]
    assert len(told) >= 7
    for entity, attribute, value in told:
        assert held_out(subject(entity, attribute), value), (entity, attribute, value)


def test_no_phrasing_of_a_fact_or_a_question_is_of_the_training_data() -> None:
    words = lexicon()
    fork = SCRIPT.branches
    checked = 0
    for entity, attribute, value, text, question in [
        *((f.entity, f.attribute, f.value, SCRIPT.turns[f.turn], f.question) for f in SCRIPT.facts),
        *((fork.entity, fork.attribute, v, text, fork.question) for v, text in fork.told),
    ]:
        about = subject(entity, attribute)
        group = "service" if entity in words["services"] else "person"
        _, told, asked = words["attributes"][group][attribute]
        kept = [pattern for patterns in (told, asked) if len(patterns) < 3 for pattern in patterns]
        known = [*words["statements"], *told[: -1 if len(told) > 2 else None], *kept]
        known += [*words["questions"], *asked[: -1 if len(asked) > 2 else None]]
        for said in (text, question):
            for pattern in known:
                side = pattern.split("|")[0 if entity == "me" else -1]
                filled = side.replace("{s}", about.named("my")).replace("{v}", value)
                filled = filled.replace("{e}", about.holder("my"))
                plain = re.sub(r"^(hey|so|okay|listen|well|oh), ", "", said.lower().rstrip(".?!"))
                assert plain != filled.lower(), (said, pattern)
                checked += 1
    assert checked > 200


def test_facts_are_told_once_and_early_in_at_least_fifteen_turns() -> None:
    assert len(SCRIPT.turns) >= 15
    for fact in SCRIPT.facts:
        told = [number for number, text in enumerate(SCRIPT.turns) if fact.value in text]
        assert told == [fact.turn]
        assert fact.value not in fact.question
    assert not any(v in text for v, _ in SCRIPT.branches.told for text in SCRIPT.turns)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """Status, output and folder of one run, in a plain terminal of 100 columns."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "deltamem_agents.cli", "demo", "--folder", str(folder)],
        capture_output=True, text=True, check=False, timeout=1200,
        env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, folder


def test_the_promise_holds(shown: tuple[int, str, Path]) -> None:
    status, text, _ = shown
    assert status == 0, text
    assert "The promise holds." in text


def test_two_processes_and_a_distance_of_200_tokens(shown: tuple[int, str, Path]) -> None:
    _, text, _ = shown
    assert len(set(re.findall(r"Process [12] \(pid (\d+)\)", text))) == 2
    distance = re.search(r"told at least (\d+) tokens before", text)
    assert distance is not None
    assert int(distance[1]) >= 200
    assert WINDOW >= 256


def test_recall_is_far_above_the_control(shown: tuple[int, str, Path]) -> None:
    _, text, _ = shown
    flat = " ".join(text.split())
    recall = re.search(r"Recall with memory (\d+)/(\d+), memory reset (\d+)/(\d+)", flat)
    assert recall is not None
    right, total, control, _ = map(int, recall.groups())
    assert right / total >= 0.8
    assert (right - control) / total >= 0.5


def test_it_writes_a_picture_and_fits_a_plain_terminal(shown: tuple[int, str, Path]) -> None:
    _, text, folder = shown
    assert (folder / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert str(folder / "memory.png") in text.replace("\n", "")
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
