"""A tiny engine with the real controls, and small files in the published formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Random weights, 1,024 positions of one byte, a window of 400."""
    from deltamem_agents.testing import tiny_engine

    return tiny_engine(context_window=400)


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as the file's ending says."""
    if path.suffix == ".parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(records), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    else:
        path.write_text(json.dumps(records), "utf-8")
    return path


LOCOMO = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ann", "speaker_b": "Bob",
            "session_1_date_time": "1:00 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ann", "dia_id": "D1:1", "text": "I painted a lake."},
                {"speaker": "Bob", "dia_id": "D1:2", "text": "Nice!", "blip_caption": "a lake"},
                {"speaker": "Ann", "dia_id": "D1:3", "text": "Bye."},
            ],
            "session_2_date_time": "2:00 pm on 9 May, 2023",
            "session_2": [{"speaker": "Bob", "dia_id": "D2:1", "text": "I ran."}],
        },
        "qa": [
            {"question": "What did Ann paint?", "answer": "a lake", "category": 4},
            {"question": "When did Bob run?", "answer": 2023, "category": 2},
            {"question": "What do they do?", "answer": "painting, running", "category": 1},
            {"question": "Is Ann sporty?", "answer": "No; she paints", "category": 3},
            {"question": "What did Bob paint?", "adversarial_answer": "a lake", "category": 5},
        ],
    }
]  # fmt: skip
HOTPOT = [
    {
        "_id": "h1", "question": "Who wrote it?", "answer": "Ann Lee", "type": "bridge",
        "level": "hard", "supporting_facts": [["It", 0]],
        "context": [["It", ["It is a book.", " Ann Lee wrote it."]], ["Other", ["Nothing."]]],
    }
]  # fmt: skip
AGENTBENCH = [
    {
        "context": "Sentence: I lost my card\nlabel: 11\nSentence: Where is my card?\nlabel: 4",
        "questions": ["My card is gone", "Is it there?"], "answers": [["11"], ["4"]],
        "metadata": {"source": "icl_banking77_5900shot_balance"},
    },
    {
        "context": "0. The capital of X is Y. 1. The capital of X is Z.",
        "questions": ["What is the capital of X?"], "answers": [["Z"]],
        "metadata": {"source": "factconsolidation_sh_6k"},
    },
]  # fmt: skip
GPQA = [
    {
        "Question": f"Which one is {n}?", "Correct Answer": f"one {n}", "Incorrect Answer 1": "b",
        "Incorrect Answer 2": "c", "Incorrect Answer 3": "d",
    }
    for n in range(8)
]  # fmt: skip
IFEVAL = [
    {
        "key": 1, "prompt": "No commas, in capitals.",
        "instruction_id_list": ["punctuation:no_comma", "change_case:english_capital"],
        "kwargs": [{}, {"num_words": None}],
    }
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with all of them."""
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder / "locomo10.json", LOCOMO)
    written(folder / "hotpot_dev_distractor_v1.json", HOTPOT)
    written(folder / "Test_Time_Learning-00000.parquet", AGENTBENCH)
    written(folder / "gpqa_diamond.csv", GPQA)
    written(folder / "input_data.jsonl", IFEVAL)
    return folder
