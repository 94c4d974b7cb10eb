"""Taskmaster- and LoCoMo-shaped files, made here in their published form, become chat data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.errors import ConfigError, DataNotFoundError, FileFormatError
from deltamem_agents.training.chats import chat_from, read_chats
from deltamem_agents.training.formats import NOT_KNOWN, from_locomo, from_taskmaster, write_records


def said(speaker: str, text: str, *segments: tuple[str, str]) -> dict[str, Any]:
    marked = [
        {"start_index": text.index(part), "end_index": text.index(part) + len(part), "text": part,
         "annotations": [{"name": name}]}
        for part, name in segments
    ]  # fmt: skip
    return {
        "index": 0,
        "speaker": speaker,
        "text": text,
        **({"segments": marked} if marked else {}),
    }


TASKMASTER = [
    {
        "conversation_id": "dlg-1",
        "instruction_id": "restaurant-table-1",
        "utterances": [
            said("ASSISTANT", "Hi, how can I help?"),
            said("USER", "A table in Berkeley.", ("Berkeley", "restaurant.location.restaurant")),
            said("USER", "For four.", ("four", "restaurant.num.guests.accept")),
            said("ASSISTANT", "Is six fine?"),
            said("USER", "No, not six.", ("six", "restaurant.time.reservation.reject")),
            said("ASSISTANT", "Then seven."),
            said("USER", "Make it five people.", ("five", "restaurant.num.guests.accept")),
            said("ASSISTANT", "Done."),
        ],
    },
    {"conversation_id": "dlg-2", "instruction_id": "x", "utterances": [said("USER", "Hm.")]},
]

LOCOMO = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Ben",
            "session_2_date_time": "9:00 am on 2 June, 2023",
            "session_2": [
                {"speaker": "Ben", "dia_id": "D2:1", "text": "I adopted a cat."},
                {"speaker": "Ann", "dia_id": "D2:2", "text": "Lovely!"},
                {"speaker": "Ben", "dia_id": "D2:3", "text": "Look.", "blip_caption": "a cat",
                 "img_url": ["x"]},
            ],
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ann", "dia_id": "D1:1", "text": "I moved to Oslo."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "Nice."},
            ],
            "session_3_date_time": "1:00 pm on 9 July, 2023",
        },
        "qa": [
            {"question": "Where did Ann move?", "answer": "Oslo", "evidence": [], "category": 4},
            {"question": "In which year?", "answer": 2023, "evidence": ["D1:1"], "category": 2},
            {"question": "Which dog has Ben?", "adversarial_answer": "a poodle", "evidence": [],
             "category": 5},
        ],
        "event_summary": {},
    }
]  # fmt: skip


def stored(folder: Path, content: Any) -> Path:
    path = folder / "source.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def turns(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in record["messages"]]


def test_taskmaster_asks_for_what_the_user_told(tmp_path: Path) -> None:
    (record,) = from_taskmaster(stored(tmp_path, TASKMASTER))
    found = turns(record)
    assert found[0] == ("user", "A table in Berkeley.\nFor four.")
    assert found[6:] == [
        ("user", "What did I say about the location restaurant?"), ("assistant", "Berkeley."),
        ("user", "What did I say about the num guests?"), ("assistant", "five."),
    ]  # fmt: skip
    assert chat_from(record).answers(9) == {7: 1.0, 9: 1.0}


def test_taskmaster_without_questions_learns_the_replies(tmp_path: Path) -> None:
    (record,) = from_taskmaster(stored(tmp_path, TASKMASTER), questions=0)
    assert turns(record)[-1] == ("assistant", "Done.")
    assert chat_from(record).answers(9) == {1: 1.0, 3: 1.0, 5: 1.0}


def test_locomo_in_the_order_of_its_sessions(tmp_path: Path) -> None:
    first, second = from_locomo(stored(tmp_path, LOCOMO), questions=2)
    assert turns(first)[:4] == [
        ("user", "[1:56 pm on 8 May, 2023] Ann: I moved to Oslo."),
        ("assistant", "Ben: Nice.\n[9:00 am on 2 June, 2023] Ben: I adopted a cat."),
        ("user", "Ann: Lovely!"),
        ("assistant", "Ben: Look. [photo: a cat]"),
    ]
    assert turns(first)[4:] == [
        ("user", "Where did Ann move?"), ("assistant", "Oslo"),
        ("user", "In which year?"), ("assistant", "2023"),
    ]  # fmt: skip
    assert turns(second)[4:] == [("user", "Which dog has Ben?"), ("assistant", NOT_KNOWN)]
    assert chat_from(first).answers(9) == {5: 1.0, 7: 1.0}


def test_records_are_written_to_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.jsonl"
    assert write_records(path, from_locomo(stored(tmp_path, LOCOMO), questions=2)) == 2
    assert len(read_chats([path])) == 2
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="new file"):
        write_records(path, [])
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("reader", [from_taskmaster, from_locomo])
@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", [1], [{"utterances": [{"speaker": "USER"}]}], [{"utterances": 3}],
                [{"conversation": {}, "qa": []}], [{"conversation": {"session_1": [{}]}, "qa": []}],
                [{"utterances": [{"speaker": "robot", "text": "x"}]}]]
)  # fmt: skip
def test_another_form_is_refused(tmp_path: Path, reader: Any, content: Any) -> None:
    with pytest.raises(FileFormatError, match=r"source\.json"):
        list(reader(stored(tmp_path, content)))


def test_a_missing_file_and_a_wrong_number(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="nothing"):
        list(from_taskmaster(tmp_path / "nothing.json"))
    with pytest.raises(ConfigError, match="at least 1"):
        list(from_locomo(stored(tmp_path, LOCOMO), questions=0))
