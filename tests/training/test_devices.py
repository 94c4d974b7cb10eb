"""Several processes train as one does, shards hold the same memory, and a killed one goes on.

Real processes: two that talk over gloo on the CPU, and one that gets SIGKILL.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deltamem_agents.testing import save_tiny
from deltamem_agents.training.loop import last_checkpoint
from tests.training.conftest import instrument

ROOT = Path(__file__).parents[2]
TWO = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SIX_LETTERS = ("violin", "guitar", "cornet", "fiddle")  # every answer has as many tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone and conversations."""
    made, draw = tmp_path_factory.mktemp("devices"), random.Random(0)
    save_tiny(made / "tiny")
    lines = []
    for _ in range(16):
        record = instrument(draw)
        for message, text in ((0, "My sister plays the {}."), (3, "The {}")):
            record["messages"][message]["content"] = text.format(SIX_LETTERS[len(lines) % 4])
        lines.append(json.dumps(record))
    (made / "train.jsonl").write_text("\n".join(lines) + "\n")
    return made


def command(folder: Path, output: str, *options: str, steps: int = 6) -> list[str]:
    """`deltamem train` on the tiny backbone."""
    return [
        "deltamem_agents.cli", "train", "--data", str(folder / "train.jsonl"),
        "--output", str(folder / output), "--model", str(folder / "tiny" / "backbone"),
        "--rank", "4", "--heads", "2", "--update", "no_lambda", "--learning-rate", "0.01",
        "--steps", str(steps), "--save-every", "3", "--log-every", "1", "--no-tensorboard",
        *options,
    ]  # fmt: skip


def started(*arguments: str) -> subprocess.Popen[str]:
    """A Python process of these arguments after "-m"."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run(*arguments: str) -> str:
    """The output of a process that must succeed."""
    process = started(*arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]
    return said


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "deltamem_adapter.safetensors")


def test_two_processes_train_what_one_does_with_both_batches(folder: Path) -> None:
    """DDP: same weights, same losses; the folder is written once, by the first process."""
    run(*command(folder, "one", "--batch", "4"))
    run(*TWO, "-m", *command(folder, "two", "--batch", "2"))
    one, two = weights(folder / "one"), weights(folder / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5)
    losses = []
    for name in ("one", "two"):
        lines = map(json.loads, (folder / name / "log.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 6
    assert losses[0][-1] < losses[0][0] - 1
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


SHARDED = """
    import sys

    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from deltamem_agents.adapter import adapter_parameters
    from deltamem_agents.runtime.template import ChatTemplate
    from deltamem_agents.testing import byte_tokenizer, tiny_model
    from deltamem_agents.training import ObjectiveConfig, TrainingConfig
    from deltamem_agents.training.batches import Collator
    from deltamem_agents.training.chats import read_chats
    from deltamem_agents.training.loop import plan_episodes
    from deltamem_agents.training.terms import episode_loss

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    chats = read_chats([sys.argv[1]])[:2]
    model = tiny_model()
    episodes = plan_episodes(model, ChatTemplate(byte_tokenizer()), chats, TrainingConfig("x"))
    batch = Collator()(episodes)
    assert len(batch["calls"]) > 1  # the memory goes from call to call

    def gradients():
        episode_loss(model, batch, ObjectiveConfig()).loss.backward()
        found = {n: p.grad for n, p in adapter_parameters(model) if p.grad is not None}
        model.zero_grad()
        return found

    whole = gradients()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    parts = {name: value.full_tensor() for name, value in gradients().items()}
    assert len(whole) > 10 and whole.keys() == parts.keys()
    for name, value in whole.items():
        assert value.abs().sum() > 0, name
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6)
    dist.destroy_process_group()
"""


def test_sharded_layers_write_and_read_the_same_memory(folder: Path) -> None:
    """FSDP2 over two processes: the episode's gradients are those of the whole model."""
    script = folder / "sharded.py"
    script.write_text(textwrap.dedent(SHARDED))
    run(*TWO, str(script), str(folder / "train.jsonl"))


def test_a_training_that_gets_sigkill_goes_on_to_the_same_result(folder: Path) -> None:
    def asked(output: str) -> list[str]:
        return command(folder, output, "--batch", "2", steps=40)

    run(*asked("whole"))
    process = started(*asked("killed"))
    deadline = time.monotonic() + 300
    while last_checkpoint(folder / "killed") is None and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not (folder / "killed" / "deltamem_adapter.safetensors").exists()
    run(*asked("killed"), "--resume")
    whole, resumed = weights(folder / "whole"), weights(folder / "killed")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6)
