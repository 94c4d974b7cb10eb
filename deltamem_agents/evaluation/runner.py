"""Runs subjects over a task's episodes and keeps a journal, so that a killed run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.frame import Episode, Question, Reply, Subject, Task, pick_other
from deltamem_agents.evaluation.report import Result

WORKERS = 8
Record = dict[str, Any]


def run(
    task: Task,
    subjects: Sequence[Subject],
    *,
    path: Path | None = None,
    about: Mapping[str, Any] | None = None,
    workers: int = WORKERS,
    keep: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Result:
    """Put every question of a task to every subject.

    Args:
        task: what is asked.
        subjects: who is asked; one after the other.
        path: where the result goes as JSON. While the run lasts its answers stand in a journal
            beside it (`.part`); a run that was killed goes on from there.
        about: what else decides the answers (model, window, ...), as JSON values.
        keep: leave the journal when the result is written, so that a repeated run takes no time.
        workers: episodes in work at once, where a subject allows it; 1 for undisturbed latencies.
        tick: called after each episode of each subject; `steps` says how often in all.

    Raises:
        FileFormatError: the journal is of another run.
        ConfigError: two subjects or two episodes have one name.
    """
    episodes = task.episodes()
    _distinct("subject", [subject.name for subject in subjects])
    _distinct("episode", [episode.name for episode in episodes])
    head = {
        "task": task.name,
        **json.loads(json.dumps({**task.about(), **(about or {})})),
        "subjects": [subject.name for subject in subjects],
    }
    journal = Journal(None if path is None else path.with_name(path.name + ".part"), head)
    began = time.monotonic()
    others = pick_other(episodes)
    for subject in subjects:
        due = []
        for episode in episodes:
            if (subject.name, episode.name) in journal.records:
                tick()
            else:
                due.append(episode)
        with ThreadPoolExecutor(workers if subject.parallel else 1) as pool:
            jobs = [pool.submit(_measure, task, subject, one, others[one.name]) for one in due]
            try:
                for job in as_completed(jobs):
                    journal.add(job.result())
                    tick()
            finally:
                pool.shutdown(cancel_futures=True)
    ordered = [
        journal.records[subject.name, episode.name] for subject in subjects for episode in episodes
    ]
    titles = {subject.name: subject.title for subject in subjects}
    seconds = round(time.monotonic() - began, 1)
    result = Result(task, head, tuple(episodes), tuple(ordered), titles, seconds)
    if path is not None:
        write_json(path, result.as_dict())
        if not keep:
            journal.remove()
    return result


def steps(task: Task, subjects: Sequence[Subject]) -> int:
    """How often `run` calls `tick`."""
    return len(task.episodes()) * len(subjects)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)


class Journal:
    """Answers in the order in which they came, one JSON object a line, the run's head first.

    Args:
        path: None keeps them in this process only.
        head: what a run that goes on must agree with.
    """

    def __init__(self, path: Path | None, head: Record) -> None:
        self.path = path
        self.records: dict[tuple[str, str], Record] = {}
        if path is None:
            return
        lines = list(_whole_lines(path)) if path.exists() else []
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        elif lines[0] != head:
            raise FileFormatError(
                "a run goes on with the model, the task and the settings it was begun with",
                got=f"{path}: begun as {_differences(lines[0], head)}",
                remedy="Repeat the command as it was, or delete the file to begin again.",
            )
        for record in lines[1:]:
            self.records[record["subject"], record["episode"]] = record

    def add(self, record: Record) -> None:
        """Keep an episode's answers."""
        self.records[record["subject"], record["episode"]] = record
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def remove(self) -> None:
        """Delete the file: the result is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _whole_lines(path: Path) -> Iterator[Record]:
    """The journal's objects; a last line that a kill has cut is taken off the file."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    for line in data[:end].splitlines():
        try:
            yield json.loads(line)
        except ValueError as error:
            raise FileFormatError(
                "a run's journal has one JSON object a line", got=str(path),
                remedy="Delete it to begin again.",
            ) from error  # fmt: skip


def _differences(old: Record, new: Record) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key}={old.get(key)!r}" for key in keys)


def _measure(task: Task, subject: Subject, episode: Episode, other: Episode) -> Record:
    wanted = [
        (number, question)
        for number, question in enumerate(episode.questions)
        if task.wants(question, subject.name)
    ]
    record: Record = {"subject": subject.name, "episode": episode.name, "cost": None, "answers": []}
    if not wanted:
        return record
    with subject.hold(episode, other) as held:
        for number, question in wanted:
            reply = held.ask(question, task.max_tokens) if task.max_tokens else Reply("")
            scores = dict(task.score(held, question, reply))
            record["answers"].append(_answer(number, question, reply, scores))
        record["cost"] = {**vars(held.cost), "seconds": round(held.cost.seconds, 4)}
    return record


def _answer(number: int, question: Question, reply: Reply, scores: Mapping[str, float]) -> Record:
    return {
        "question": number,
        "group": question.group,
        "answer": reply.text,
        "scores": dict(scores),
        "prompt_tokens": reply.prompt_tokens,
        "seconds": round(reply.seconds, 4),
    }


def _distinct(kind: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"each {kind} of a run has a name of its own",
            got=twice,
            remedy="Rename one of the two.",
        )
