"""`deltamem train` and `deltamem data` as a user runs them; a training killed with -9 goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deltamem_agents.adapter.ours import read_ours
from deltamem_agents.cli.app import run

BUILD = ["--conversations", "12", "--seed", "1", "--facts", "1", "2", "--tail", "2", "--tools", "0"]


def ran(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    """Run a command; what it printed, each run of white space as one blank."""
    ended = run([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert ended == status, shown.out + shown.err
    return " ".join((shown.out if status == 0 else shown.err).split())


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "chats.jsonl"
    assert "holds 12 conversations" in ran(capsys, "data", "build", path, *BUILD)
    return path


def command(tiny: Path, data: Path, output: Path, *more: object) -> list[str]:
    base = ["train", "--model", tiny / "backbone", "--data", data, "--output", output, "--rank", 4,
            "--update", "no_lambda", "--learning-rate", 0.01, "--batch", 2, "--log-every", 1,
            "--no-tensorboard", *more]  # fmt: skip
    return [str(word) for word in base]


def test_data_are_built_once_and_from_a_seed(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    ran(capsys, "data", "build", other, *BUILD)
    assert other.read_bytes() == data.read_bytes()
    assert len(data.read_text().splitlines()) == 12
    assert "new file" in ran(capsys, "data", "build", data, status=2)
    assert "split is" in ran(capsys, "data", "build", tmp_path / "x", "--split", "all", status=2)


def test_other_formats_become_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "dialogues.json"
    utterances = [{"speaker": "USER", "text": "Hello."}, {"speaker": "ASSISTANT", "text": "Hi."}]
    source.write_text(json.dumps([{"utterances": utterances}]))
    made = tmp_path / "made.jsonl"
    said = ran(capsys, "data", "convert", "taskmaster", source, made, "--questions", 0)
    assert "holds 1 conversations" in said
    assert json.loads(made.read_text())["messages"][1]["content"] == "Hi."
    assert "LoCoMo" in ran(capsys, "data", "convert", "locomo", source, tmp_path / "x", status=2)
    assert "format is one of" in ran(capsys, "data", "convert", "x", source, made, status=2)


def test_train_writes_an_adapter_and_says_how_good_it_is(
    tmp_path: Path, tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    options = ["--eval-data", data, "--steps", 3, "--save-every", 3, "--corrections", "q,k,v,o",
               "--layers", "1", "--heads", 2, "--alpha", 8, "--write", "message",
               "--read-only", "assistant,template", "--window", 500, "--visible", "window",
               "--questions", 2, "--contrast", 0.1, "--kl", 0.1, "--sparsity", 1, "--backprop", 99,
               "--recompute", "--pack", 0, "--lora-rank", 2]  # fmt: skip
    said = ran(capsys, *command(tiny, data, output, *options))
    assert "holds the adapter after 3 steps" in said
    assert "without the memory 0.000" in said
    config, tensors, _ = read_ours(output)
    assert (config.rank, config.heads, config.alpha, config.layers) == (4, 2, 8.0, (1,))
    assert (config.write, config.update, config.corrections) == (
        "message", "no_lambda", ("q", "k", "v", "o")
    )  # fmt: skip
    assert len(tensors) == 9
    assert (output / "lora" / "adapter_model.safetensors").is_file()
    about = json.loads((output / "training.json").read_text())["settings"]
    assert about["objective"] == {
        "contrast": 0.1, "margin": 0.01, "kl": 0.1, "sparsity": 1.0, "sparsity_target": 0.05,
        "reach": {"tokens": 99, "recompute": True},
    }  # fmt: skip
    assert about["episode"]["window"] == 500
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert {"answer", "contrast", "kl", "sparsity", "beta", "exact"} <= set(lines[0])


def test_a_training_killed_with_9_goes_on_to_the_same_adapter(
    tmp_path: Path, tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def options(name: str) -> list[str]:
        return command(tiny, data, tmp_path / name, "--steps", 40, "--save-every", 3, "--keep", 9)

    whole = ran(capsys, *options("whole"))
    parts = tmp_path / "parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "deltamem_agents.cli", *options("parts")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ,
    )  # fmt: skip
    while not (parts / "checkpoint-6" / "trainer_state.json").exists():
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (parts / "deltamem_adapter.safetensors").exists()
    assert "go on with this training" in ran(capsys, *options("parts"), status=2)
    again = ran(capsys, *options("parts"), "--resume")
    assert again.split("holds the adapter")[1] == whole.split("holds the adapter")[1]
    first, second = (
        (tmp_path / name / "deltamem_adapter.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert first == second


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--rank", "0"], "rank is a whole number"),
        (["--layers", "one"], "layers are numbers"),
        (["--layers", "7"], "layer"),
        (["--read-only", "robots"], "what is only read is of"),
        (["--batch", "0"], "batch is at least 1"),
        (["--visible", "all"], "visible is"),
        (["--window", "5000"], "context_window is"),
        (["--window", "20"], "fit a window of 20"),
        (["--contrast", "-1"], "contrast is at least 0"),
        (["--backprop", "-1"], "Reach.tokens"),
        (["--patience", "1"], "early stopping needs"),
        (["--write", "sentence"], "by token or by message"),
        (["--eval-data", "nowhere.jsonl"], "training data are files"),
        (["--adapter", "nowhere"], "folder exists"),
        (["--template", "{{ nothing }}"], ""),
    ],
)
def test_what_is_wrong_is_said_before_training(
    tmp_path: Path, tiny: Path, data: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], rule: str,
) -> None:  # fmt: skip
    said = ran(capsys, *command(tiny, data, tmp_path / "out", *options), status=2)
    assert "Error: " in said
    assert rule in said
    assert not list(tmp_path.glob("out/checkpoint-*"))


def test_a_missing_model_and_bad_data(
    tmp_path: Path, tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ran(capsys, *command(tmp_path / "none", data, tmp_path / "out"), status=2)
    assert said.startswith("ModelNotFoundError:")
    with data.open("a") as file:
        file.write('{"messages": 3}\n')
    said = ran(capsys, *command(tiny, data, tmp_path / "out"), status=2)
    assert "chats.jsonl:13" in said
