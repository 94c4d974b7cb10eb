"""Chat data out of published formats: Taskmaster and LoCoMo. The files are the user's own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltamem_agents.errors import ConfigError, DataNotFoundError, FileFormatError

NOT_KNOWN = "No information available."

Record = dict[str, Any]


def from_taskmaster(path: str | Path, *, questions: int = 4) -> Iterator[Record]:
    """Dialogues of Taskmaster 1, 2 or 3 (google-research-datasets/Taskmaster).

    Utterances of one speaker that follow each other are joined, what is said before the user's
    first is left out. At the end the user asks for annotated values of what was said earlier (for
    "restaurant.location.accept": "What did I say about the location?"); of a slot that was told
    several times the last value holds.

    Args:
        path: a JSON file with a list of dialogues.
        questions: most such questions; 0 for none, so that the dialogue's own replies are learnt.

    Raises:
        DataNotFoundError, FileFormatError: there is no such file, or it has another form.
    """
    for dialogue in _listed(path):
        try:
            utterances = dialogue["utterances"]
            messages = _joined((one["speaker"].lower(), one["text"]) for one in utterances)
            slots = _slots(utterances)
        except (KeyError, TypeError, AttributeError) as error:
            raise _other(path, "Taskmaster's", error) from error
        if not any(message["role"] == "assistant" for message in messages):
            continue
        asked = list(slots.items())[-questions:] if questions else []
        pairs = [(f"What did I say about the {slot}?", f"{value}.") for slot, value in asked]
        yield {"messages": _asked(messages, pairs)}


def from_locomo(path: str | Path, *, questions: int = 8) -> Iterator[Record]:
    """Conversations of LoCoMo (snap-research/locomo), each with some of its questions.

    Who speaks first is the user, the other the assistant; every message names its speaker, the
    first of a session its date. A question of the adversarial category is answered by "No
    information available.".

    Args:
        path: `locomo10.json`, or a file of that form.
        questions: most questions of one record; a conversation comes once for each so many.

    Raises:
        DataNotFoundError, FileFormatError: there is no such file, or it has another form.
    """
    if questions < 1:
        raise ConfigError(
            "questions is at least 1 for LoCoMo",
            got=questions,
            remedy="Pass 1 or more; the default is 8.",
        )
    for sample in _listed(path):
        try:
            messages = _joined(_spoken(sample["conversation"]))
            pairs = [(str(one["question"]), _answer(one)) for one in sample["qa"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _other(path, "LoCoMo's", error) from error
        for start in range(0, len(pairs), questions):
            yield {"messages": _asked(messages, pairs[start : start + questions])}


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines to a new file, all or nothing.

    Returns:
        how many.

    Raises:
        ConfigError: the file is there already.
    """
    path = Path(path)
    if path.exists():
        raise ConfigError(
            "data are written to a new file",
            got=str(path),
            remedy="Choose another name; nothing was changed.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    count = 0
    with fresh.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    os.replace(fresh, path)
    return count


def _listed(path: str | Path) -> list[Any]:
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise DataNotFoundError("the data file is there", got=f"{path}: {error.strerror}",
                                remedy="Check the path.") from error  # fmt: skip
    except ValueError as error:
        raise FileFormatError(
            "the data file is JSON",
            got=f"{path}: {error}",
            remedy="Give the file as it was released.",
        ) from error
    if not isinstance(found, list) or not found:
        raise FileFormatError(
            "the data file holds a list of conversations",
            got=str(path),
            remedy="Give the file as it was released.",
        )
    return found


def _other(path: str | Path, whose: str, error: Exception) -> FileFormatError:
    return FileFormatError(
        f"the file has {whose} form",
        got=f"{path}: {error!r}",
        remedy="Give the file as it was released.",
    )


def _joined(spoken: Iterable[tuple[str, str]]) -> list[Record]:
    """Messages of alternating roles, from the user's first."""
    messages: list[Record] = []
    for role, text in spoken:
        if role not in ("user", "assistant"):
            raise KeyError(f"speaker {role!r}")
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + text
        elif messages or role == "user":
            messages.append({"role": role, "content": text})
    return messages


def _asked(messages: list[Record], pairs: list[tuple[str, str]]) -> list[Record]:
    """The conversation with questions at its end, from which alone is learnt."""
    if not pairs:
        return messages
    read = [m if m["role"] == "user" else {**m, "weight": 0} for m in messages]
    for question, answer in pairs:
        read.append({"role": "user", "content": question})
        read.append({"role": "assistant", "content": answer, "weight": 1})
    return read


def _slots(utterances: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What the user told, by the words of the annotation's name; the last value of each."""
    slots: dict[str, str] = {}
    for one in utterances:
        if one["speaker"].lower() != "user":
            continue
        for segment in one.get("segments") or ():
            for annotation in segment["annotations"]:
                parts = annotation["name"].split(".")
                if parts[-1] == "reject":
                    continue
                words = parts[1:-1] if parts[-1] == "accept" else parts[1:]
                slot = " ".join(words or parts).replace("_", " ")
                slots.pop(slot, None)
                slots[slot] = segment["text"]
    return slots


def _spoken(conversation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    numbers = sorted(
        int(name.removeprefix("session_"))
        for name, turns in conversation.items()
        if name.startswith("session_") and isinstance(turns, list)
    )
    if not numbers:
        raise KeyError("session_1")
    user = None
    for number in numbers:
        date = conversation.get(f"session_{number}_date_time")
        heading = f"[{date}] " if date else ""
        for turn in conversation[f"session_{number}"]:
            user = user or turn["speaker"]
            photo = f" [photo: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            role = "user" if turn["speaker"] == user else "assistant"
            yield role, f"{heading}{turn['speaker']}: {turn['text']}{photo}"
            heading = ""


def _answer(asked: Mapping[str, Any]) -> str:
    if asked.get("category") == 5 or "answer" not in asked:
        return NOT_KNOWN
    return str(asked["answer"])
