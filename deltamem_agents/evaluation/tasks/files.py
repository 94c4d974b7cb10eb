"""Reading published data sets from local files, and telling long texts in parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deltamem_agents.errors import FileFormatError
from deltamem_agents.evaluation.frame import Message
from deltamem_agents.evaluation.tasks.talk import exchange

WORDS_A_PART = 300


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read a data set: JSON (a list), JSONL (an object a line), CSV or parquet.

    Raises:
        FileFormatError: it is not there, or none of these.
    """
    if not path.is_file():
        raise FileFormatError("a data set is a file", got=str(path), remedy="Check the path.")
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet  # comes with `datasets` of the [train] extra

            return list(parquet.read_table(path).to_pylist())
        if path.suffix == ".csv":
            return list(_csv(path))
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        found = json.loads(text)
    except (ValueError, UnicodeError, ImportError) as error:
        raise FileFormatError(
            "a data set is JSON, JSONL, CSV or parquet",
            got=f"{path}: {error}",
            remedy="Convert the file to one of these, in UTF-8.",
        ) from error
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise FileFormatError(
            "a JSON data set is a list of objects",
            got=str(path),
            remedy="Put the records into one list, or give a line to each (.jsonl).",
        )
    return found


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def wanted(record: Mapping[str, Any], path: Path, keys: Iterable[str]) -> None:
    """Check that a record has these keys.

    Raises:
        FileFormatError: one is missing.
    """
    missing = sorted(set(keys) - set(record))
    if missing:
        raise FileFormatError(
            f"a record of {path.name} has {', '.join(sorted(keys))}",
            got=f"without {missing}",
            remedy="Give the file as it was published.",
        )


def told_in_parts(
    texts: Sequence[str], reply: str = "I have read it.", words: int = WORDS_A_PART
) -> tuple[Message, ...]:
    """Texts as user turns that the assistant acknowledges, cut where sentences or lines end.

    Args:
        texts: each begins a turn of its own.
        reply: the acknowledgement.
        words: most words of a turn; a sentence that is longer is cut.
    """
    turns: list[tuple[Message, ...]] = []
    for text in texts:
        for part in parts_of(text, words):
            turns.append(exchange(part, reply))
    return tuple(message for turn in turns for message in turn)


def parts_of(text: str, words: int) -> list[str]:
    """A text in parts of at most so many words, between sentences or lines where possible."""
    parts: list[str] = []
    current: list[str] = []
    size = 0
    for piece in re.split(r"(?<=[.!?])\s+|\n+", text):
        tokens = piece.split()
        while tokens:
            head, tokens = tokens[:words], tokens[words:]
            if current and size + len(head) > words:
                parts.append(" ".join(current))
                current, size = [], 0
            current.append(" ".join(head))
            size += len(head)
    return [*parts, " ".join(current)] if current else parts
