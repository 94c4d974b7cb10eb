"""The ablation: its cells, a training by message, and a table that is made again from its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deltamem_agents.adapter import DeltaMemConfig, attach, save_adapter
from deltamem_agents.adapter.model import adapter_parameters
from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.ablation import (
    AblationSettings,
    cells,
    configured,
    run_ablation,
    thirds,
)
from deltamem_agents.evaluation.ablation_report import facts_of, plot, recall_of, table
from deltamem_agents.evaluation.ablation_start import begin_with
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.testing import byte_tokenizer, tiny_backbone
from deltamem_agents.training.by_message import hidden_by_message
from deltamem_agents.training.objective import Weights, forward, run_batch
from deltamem_agents.training.rows import Tokeniser
from deltamem_agents.training.world import World


def test_every_axis_holds_the_base_configuration_and_what_the_table_asks_for() -> None:
    found = cells(4)
    by_axis: dict[str, list[str]] = {}
    for cell in found:
        by_axis.setdefault(cell.axis, []).append(cell.name)
    base = "qo_layers-all_r16_h4_token_no_lambda"
    assert all(base in names for names in by_axis.values())
    assert all(len(set(names)) == len(names) for names in by_axis.values())
    assert [len(names) for names in by_axis.values()] == [10, 4, 4, 4, 3, 4]
    assert {cell.config.rank for cell in found if cell.axis == "rank"} == {4, 8, 16, 32}
    assert {cell.config.heads for cell in found if cell.axis == "heads"} == {1, 2, 4, 8}
    scales = {cell.config.alpha / cell.config.rank for cell in found}
    assert scales == {1.0}
    assert "uncoupled" in by_axis["update"][1]
    assert thirds(4) == {
        "first third": [0], "middle third": [1, 2], "last third": [3], "all": None,
    }  # fmt: skip
    assert thirds(36)["middle third"] == list(range(12, 24))
    with pytest.raises(ConfigError, match="axes are of"):
        AblationSettings(axes=("colour",))


def rows_of(count: int) -> Any:
    world, tokeniser = World(3), Tokeniser(ChatTemplate(byte_tokenizer(), "chatml"))
    talks = [world.history(1, 1)[0][:3] for _ in range(count)]
    return tokeniser.rows(talks, [1, 2][:count])


def by_message(init: str) -> Any:
    torch.manual_seed(0)
    config = DeltaMemConfig(rank=4, heads=1, write="message", init=init, init_scale=1.0)
    return attach(tiny_backbone(), config)


def test_reading_by_message_is_reading_where_nothing_is_remembered() -> None:
    """With an adapter that adds nothing, it is the plain forward pass, blocks and all."""
    model, rows = by_message("zero"), rows_of(2)
    plain, _ = forward(model, rows, memory=False)
    own, records = forward(model, rows, memory=True)
    assert records == ()
    assert torch.allclose(own[rows.real], plain[rows.real], atol=1e-4)


def test_a_message_reads_what_earlier_ones_wrote_and_the_gradient_goes_back() -> None:
    model, rows = by_message("random"), rows_of(2)
    hidden = hidden_by_message(model, rows)
    one = replace(rows, ids=rows.ids[:1], kinds=rows.kinds[:1], blocks=rows.blocks[:1],
                  positions=rows.positions[:1], turns=rows.turns[:1])  # fmt: skip
    assert torch.allclose(hidden_by_message(model, one), hidden[:1], atol=1e-5)
    changed = rows.ids.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 200  # in the first message of the first row
    other = hidden_by_message(model, replace(rows, ids=changed))
    last = int(rows.real[0].sum()) - 1
    assert int(rows.blocks[0, last]) > int(rows.blocks[0, 10])  # nothing but the memory goes there
    assert not torch.allclose(other[0, last], hidden[0, last], atol=1e-6)
    assert torch.equal(other[1], hidden[1])
    outcome = run_batch(model, rows, Weights(user=0.0), memory=True)
    assert outcome.idle_write is None
    outcome.loss.backward()
    gradients = {name.rpartition(".")[2]: p.grad for name, p in adapter_parameters(model)}
    for name in ("memory_k_proj", "memory_v_proj", "beta_proj"):
        assert gradients[name] is not None
        assert bool(gradients[name].abs().sum() > 0), name


def test_a_cell_begins_with_the_weights_that_it_shares(tmp_path: Path) -> None:
    model = attach(tiny_backbone(), configured())
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.fill_(0.25)
    save_adapter(model, tmp_path / "start")
    shares = {}
    for name, choice in (
        ("q", {"corrections": ("q",)}),
        ("fewer heads", {"heads": 2}),
        ("more heads", {"heads": 8}),
        ("lower rank", {"rank": 4}),
        ("higher rank", {"rank": 32}),
    ):  # fmt: skip
        other = attach(tiny_backbone(), configured(**choice))
        begin_with(other, configured(**choice), tmp_path / "start")
        shares[name] = {
            n.rpartition(".")[2]: float((p == 0.25).float().mean())
            for n, p in adapter_parameters(other)
        }
    assert "delta_o_proj" not in shares["q"]
    for name, share in (("q", 1), ("fewer heads", 1), ("lower rank", 1), ("more heads", 0.5),
                        ("higher rank", 0.5)):  # fmt: skip
        assert shares[name] == dict.fromkeys(shares[name], share), name


def test_a_cell_begins_with_the_first_heads_and_the_first_rows_of_each(tmp_path: Path) -> None:
    trained = attach(tiny_backbone(), configured())
    with torch.no_grad():
        for _, parameter in adapter_parameters(trained):
            parameter.copy_(torch.randn(parameter.shape))
    save_adapter(trained, tmp_path / "start")
    config = configured(heads=2, rank=8)
    other = attach(tiny_backbone(), config)
    begin_with(other, config, tmp_path / "start")
    weights, shared = (dict(adapter_parameters(model)) for model in (trained, other))
    rows = [*range(8), *range(16, 24)]  # of 4 heads of rank 16
    for name, parameter in shared.items():
        whole = weights[name]
        kept = whole[:, rows] if ".delta_" in name else whole[rows]
        assert torch.equal(parameter, kept), name


def test_a_table_is_trained_measured_and_made_again_from_its_files(tmp_path: Path) -> None:
    settings = AblationSettings(steps=2, tokens=300, conversations=1, window=96, axes=("write",))
    done: list[str] = []
    found = run_ablation(settings, tmp_path, lambda cell, result: done.append(cell.value))
    assert done == ["TSW", "SSW", "MSW"]
    assert facts_of(found) == [1, 4]
    assert found[0]["parameters"] < found[2]["parameters"]
    assert recall_of(found[0], 4, "reset")["answers"] == 4
    assert all("memory answer" in cell["training"] for cell in found)
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert table(found).row_count == 3
    assert len([axes for axes in plot(found).axes if axes.axison]) == 1
    files = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert len(files) == 4
    assert json.loads(files[tmp_path / "ablation.json"])["cells"] == found
    again = run_ablation(settings, tmp_path)
    assert again == json.loads(json.dumps(found))
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json")} == files
    with pytest.raises(FileFormatError, match="same settings"):
        run_ablation(replace(settings, steps=3), tmp_path)
