"""Published data sets from small files in their formats: what is told, asked and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.cast import Cast
from deltamem_agents.evaluation.frame import Reply, Task
from deltamem_agents.evaluation.paper import COLUMNS, PUBLISHED, evaluate_paper, find_tasks
from deltamem_agents.evaluation.runner import run
from deltamem_agents.evaluation.tasks.agentbench import AgentBench
from deltamem_agents.evaluation.tasks.files import parts_of, read_records, told_in_parts
from deltamem_agents.evaluation.tasks.gpqa import GPQA
from deltamem_agents.evaluation.tasks.hotpot import HotpotQA
from deltamem_agents.evaluation.tasks.ifeval import IFEval
from deltamem_agents.evaluation.tasks.locomo import LoCoMo

NOBODY: Any = None


def score(task: Task, number: int, text: str, episode: int = 0) -> dict[str, float]:
    question = task.episodes()[episode].questions[number]
    return dict(task.score(NOBODY, question, Reply(text)))


def test_locomo_is_told_in_turns_with_dates_and_asked_by_category(data: Path) -> None:
    task = LoCoMo(data / "locomo10.json")
    (episode,) = task.episodes()
    told = [message["content"] for message in episode.told]
    assert told == [
        "Date: 1:00 pm on 8 May, 2023. Ann: I painted a lake.",
        "Bob: Nice! [shares a lake]",
        "Ann: Bye.",
        "...",
        "Date: 2:00 pm on 9 May, 2023. Bob: I ran.",
        "...",
    ]
    assert [q.group for q in episode.questions] == [
        "single-hop", "temporal", "multi-hop", "open-domain",
    ]  # fmt: skip
    assert episode.questions[3].answers == ("No",)
    assert score(task, 0, "lakes") == {"f1": 1.0}
    assert score(task, 1, "in 2023") == {"f1": pytest.approx(2 / 3)}
    assert score(task, 2, "running, painting") == {"f1": 1.0}
    assert score(task, 2, "running and painting") == {"f1": pytest.approx(2 / 3)}


def test_hotpotqa_in_both_published_forms(data: Path, tmp_path: Path) -> None:
    path = data / "hotpot_dev_distractor_v1.json"
    record = json.loads(path.read_text())[0]
    titles, sentences = zip(*record.pop("context"), strict=True)
    hub = {**record, "id": record.pop("_id"), "context": {"title": titles, "sentences": sentences}}
    del hub["_id"]
    other = tmp_path / "hub.jsonl"
    other.write_text(json.dumps(hub) + "\n")
    one, two = HotpotQA(path), HotpotQA(other)
    assert one.episodes() == two.episodes()
    told = one.episodes()[0].told
    assert told[0]["content"] == "It: It is a book. Ann Lee wrote it."
    assert score(one, 0, "Ann Lee.") == {"exact match": 1.0, "f1": 1.0}
    assert score(one, 0, "Ann") == {"exact match": 0.0, "f1": pytest.approx(2 / 3)}


def test_memoryagentbench_scores_each_source_its_own_way(data: Path) -> None:
    path = data / "Test_Time_Learning-00000.parquet"
    task, ttl = AgentBench([path]), AgentBench([path], splits=("TTL",))
    assert (task.name, ttl.name) == ("memoryagentbench", "ttl")
    assert [q.row["split"] for e in task.episodes() for q in e.questions] == ["TTL", "TTL", "CR"]
    assert len(ttl.episodes()) == 1
    assert score(ttl, 0, "label: 11")["score"] == 1.0
    assert score(ttl, 0, "Label:11\nbecause")["score"] == 1.0
    assert score(ttl, 0, "label: 111")["score"] == 0.0
    assert score(task, 0, "It is Z.", episode=1)["score"] == 1.0
    assert score(task, 0, "It is Y.", episode=1)["score"] == 0.0


def test_gpqa_takes_the_last_choice_and_mixes_the_order(data: Path) -> None:
    task = GPQA(data / "gpqa_diamond.csv")
    right = [episode.questions[0].answers[0] for episode in task.episodes()]
    assert len(set(right)) > 1
    for number, letter in enumerate(right):
        assert f"({letter}) one {number}" in task.episodes()[number].questions[0].text
    wrong = next(letter for letter in "ABCD" if letter != right[0])
    assert score(task, 0, f"The answer is ({wrong}). No: the answer is {right[0]}.")["right"] == 1
    assert score(task, 0, f"The answer is ({wrong}).")["right"] == 0
    assert score(task, 0, "I do not know.")["right"] == 0


def test_ifeval_scores_prompts_and_instructions(data: Path, tmp_path: Path) -> None:
    task = IFEval(data / "input_data.jsonl")
    assert set(score(task, 0, "ALL OF IT").values()) == {1.0}
    half = score(task, 0, "all of it")
    assert half["prompt strict"] == half["prompt loose"] == 0.0
    assert half["instruction strict"] == half["instruction loose"] == 0.5
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x", "instruction_id_list": ["verse:sonnet"], "kwargs": [{}]}\n')
    with pytest.raises(FileFormatError, match="those of IFEval"):
        IFEval(bad).episodes()
    bad.write_text(bad.read_text().replace("verse:sonnet", "language:response_language"))
    try:
        import langdetect  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="langdetect"):
            IFEval(bad).episodes()


def test_files_that_are_not_what_they_should_be_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    with pytest.raises(FileFormatError, match="is a file"):
        read_records(bad)
    bad.write_text("{")
    with pytest.raises(FileFormatError, match="JSONL, CSV or parquet"):
        read_records(bad)
    bad.write_text('{"a": 1}')
    with pytest.raises(FileFormatError, match="list of objects"):
        read_records(bad)
    bad.write_text('[{"question": "?"}]')
    with pytest.raises(FileFormatError, match=r"without \['answer', 'context'\]"):
        HotpotQA(bad).episodes()


def test_long_texts_are_told_in_parts_that_lose_nothing() -> None:
    text = "One two three. Four five!\nSix " + "seven " * 12 + "eight."
    parts = parts_of(text, 5)
    assert max(len(part.split()) for part in parts) <= 5
    assert " ".join(parts).split() == text.split()
    assert parts[0] == "One two three. Four five!"
    assert [m["role"] for m in told_in_parts(["a. b."], words=1)] == ["user", "assistant"] * 2
    assert parts_of("", 5) == []


def test_log_probabilities_are_those_of_the_model(tiny: Any, data: Path) -> None:
    """Against one plain forward pass; and state-only differs from nothing at all."""
    import torch

    task = LoCoMo(data / "locomo10.json", limit=2, likelihood=True)
    cast = Cast(tiny)
    result = run(task, cast.choose("state,none,full"))
    question = task.episodes()[0].questions[0]
    found = {
        name: record["answers"][0]["scores"]["log p"]
        for record in result.records
        for name in [record["subject"]]
    }
    for name, told in (("none", ()), ("full", task.episodes()[0].told)):
        prompt = tiny.template.render(
            [*told, {"role": "user", "content": question.text}], generate=True
        )
        ids = [i for part in prompt for i in part.ids]
        gold = tiny.tokenizer("a lake", add_special_tokens=False)["input_ids"]
        from deltamem_agents.adapter import MemoryCall

        with torch.no_grad():
            logits = tiny.model(
                torch.tensor([ids + gold]), delta_mem=MemoryCall(write=False)
            ).logits[0]
        told_p = torch.log_softmax(logits[len(ids) - 1 : -1], -1)
        expected = told_p.gather(1, torch.tensor(gold)[:, None]).sum().item()
        assert found[name] == pytest.approx(expected, abs=1e-3)
    assert found["state"] != pytest.approx(found["none"], abs=1e-3)
    (line,) = [x for x in result.differences if x["group"] == "single-hop"]
    assert (line["of"], line["minus"]) == ("state", "none")
    assert line["mean"] == pytest.approx((found["state"] - found["none"]) / 6, abs=1e-6)


def test_the_paper_s_table_from_a_folder_of_data(tiny: Any, data: Path, tmp_path: Path) -> None:
    assert set(find_tasks(data, 1)) == {
        "ifeval", "hotpotqa", "gpqa", "memoryagentbench", "locomo",
    }  # fmt: skip
    for name in ("gpqa_diamond.csv", "input_data.jsonl"):  # long answers
        (data / name).unlink()
    output, done = tmp_path / "paper.json", []
    names = ("full", "memory", "reset", "bm25")
    table = evaluate_paper(Cast(tiny), data, output, subjects=names, limit=1, tick=done.append)
    assert done == ["hotpotqa", "memoryagentbench", "locomo"]
    rows = json.loads(output.read_text())["rows"]
    assert [row["subject"] for row in rows] == list(names)
    assert rows[0]["IFEval"] is None
    assert all(0 <= row[name] <= 100 for row in rows for name in ("Hotpot F1", "TTL", "LoCoMo"))
    assert rows[1]["published"][4] == 36.48
    assert all(len(figures) == len(COLUMNS) for figures in PUBLISHED.values())
    assert table.table().row_count == 4
    answers = (tmp_path / "paper-locomo.json.part").read_bytes()
    again = evaluate_paper(Cast(tiny), data, output, subjects=names, limit=1)
    assert (tmp_path / "paper-locomo.json.part").read_bytes() == answers
    assert again.as_dict()["rows"] == table.as_dict()["rows"]
