"""The frame itself: who is asked what, intervals, and runs that are killed and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.frame import Cost, Episode, Question, Reply, Task, pick_other
from deltamem_agents.evaluation.runner import run


class Sums(Task):
    """Adding, with answers that a subject gets right or wrong by its name."""

    name, max_tokens, metrics = "sums", 4, ("right", "length")
    pairs = (("good", "bad", "length"),)

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def draw(self) -> list[Episode]:
        return [
            Episode(
                f"e{n}", (),
                (Question(f"{n}+1", (str(n + 1),), "one", row={"more": 1}),
                 Question(f"{n}+2", (str(n + 2),), "two")),
                "even" if n % 2 == 0 else "odd",
            )
            for n in range(self.count)
        ]  # fmt: skip

    def score(self, held: Any, question: Question, reply: Reply) -> dict[str, float]:
        scores = {"right": float(reply.text == question.answers[0])}
        return scores | ({"length": len(reply.text) / 2} if question.group == "two" else {})

    def wants(self, question: Question, subject: str) -> bool:
        return subject != "bad" or question.group == "two"

    def about(self) -> dict[str, Any]:
        return {"count": self.count}


class Adder:
    """Adds; the bad one adds twice."""

    parallel = True

    def __init__(self, name: str, log: list[str], wait: float = 0.0) -> None:
        self.name = self.title = name
        self.log, self.wait = log, wait

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Any]:
        time.sleep(self.wait)
        self.log.append(f"{self.name} {episode.name} {other.name}")
        adder = self

        class Sheet:
            cost = Cost(parameters=3, bytes=5, read_tokens=7, seconds=0.5)

            def ask(self, question: Question, max_tokens: int) -> Reply:
                value = sum(map(int, question.text.split("+")))
                return Reply(str(value * (1 if adder.name == "good" else 1000)), max_tokens, 0.25)

        yield Sheet()


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in result.items() if key != "seconds"}
    times = ("told_seconds", "answer_seconds")
    kept["costs"] = {
        name: {key: value for key, value in cost.items() if key not in times}
        for name, cost in result["costs"].items()
    }
    return kept


def test_rows_differences_and_costs() -> None:
    log: list[str] = []
    result = run(Sums(), [Adder("good", log), Adder("bad", log)], about={"model": "none"})
    assert [(r.group, r.subject, r.answers, r.value) for r in result.rows] == [
        ("one", "good", 6, 1.0), ("two", "good", 6, 1.0), ("two", "bad", 6, 0.0),
    ]  # fmt: skip
    found = result.as_dict()
    assert found["rows"][0]["more"] == 1
    assert found["rows"][0]["intervals"]["right"] == found["rows"][0]["interval"]
    assert found["rows"][2]["misses"][0] == {"question": "0+2", "truth": "2", "answer": "2000"}
    (line,) = found["differences"]
    assert (line["group"], line["mean"], line["answers"]) == ("two", -1.5, 6)
    assert found["costs"]["good"] == {
        "parameters": 3, "bytes": 5, "read_tokens": 7, "prompt_tokens": 4,
        "told_seconds": 0.5, "answer_seconds": 0.25,
    }  # fmt: skip
    assert "good e0 e2" in log
    assert "good e5 e1" in log
    assert result.table().row_count == 4
    assert result.cost_table().row_count == 2


def test_the_other_episode_is_of_the_same_family() -> None:
    others = pick_other(Sums(5).episodes())
    assert {name: other.name for name, other in others.items()} == {
        "e0": "e2", "e2": "e4", "e4": "e0", "e1": "e3", "e3": "e1",
    }  # fmt: skip
    lonely = pick_other(Sums(2).episodes())
    assert {name: other.name for name, other in lonely.items()} == {"e0": "e1", "e1": "e0"}
    assert pick_other(Sums(1).episodes())["e0"].name == "e0"


def test_a_run_that_is_killed_goes_on_to_the_same_file(tmp_path: Path) -> None:
    whole, log = tmp_path / "whole.json", []
    run(Sums(), [Adder("good", log), Adder("bad", log)], path=whole)
    path = tmp_path / "killed.json"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_runner as t;"
        "from pathlib import Path;"
        "t.run(t.Sums(), [t.Adder('good', [], 0.2), t.Adder('bad', [], 0.2)],"
        " path=Path(sys.argv[2]), workers=1)"
    )
    work = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(path)])
    journal = tmp_path / "killed.json.part"
    for _ in range(600):
        if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.05)
    os.kill(work.pid, signal.SIGKILL)
    assert work.wait() == -signal.SIGKILL
    assert not path.exists()
    done = journal.read_bytes().count(b"\n") - 1
    assert 3 <= done < 12
    with journal.open("ab") as file:
        file.write(b'{"subject": "bad", "epis')  # what a kill within a write leaves behind
    log = []
    run(Sums(), [Adder("good", log), Adder("bad", log)], path=path)
    assert len(log) == 12 - done
    assert timeless(json.loads(path.read_text())) == timeless(json.loads(whole.read_text()))
    assert not journal.exists()


def test_a_run_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    (tmp_path / "run.json.part").write_text('{"task": "sums", "count": 5, "subjects": ["good"]}\n')
    with pytest.raises(FileFormatError, match="begun as count=5"):
        run(Sums(), [Adder("good", [])], path=path)
    (tmp_path / "run.json.part").write_text("not JSON\n")
    with pytest.raises(FileFormatError, match="JSON object a line"):
        run(Sums(), [Adder("good", [])], path=path)
    with pytest.raises(ConfigError, match="name of its own"):
        run(Sums(), [Adder("good", []), Adder("good", [])])


def test_an_error_of_a_subject_ends_the_run_and_keeps_what_was_done(tmp_path: Path) -> None:
    class Breaks(Adder):
        @contextmanager
        def hold(self, episode: Episode, other: Episode) -> Iterator[Any]:
            if episode.name == "e3":
                raise RuntimeError("broken")
            with super().hold(episode, other) as held:
                yield held

    path = tmp_path / "run.json"
    with pytest.raises(RuntimeError, match="broken"):
        run(Sums(), [Breaks("good", [])], path=path, workers=1)
    log: list[str] = []
    run(Sums(), [Adder("good", log)], path=path)
    assert "good e3 e5" in log
    assert "good e0 e2" not in log
