"""Rows: what each token is, and that attention stays inside a block."""

from __future__ import annotations

import pytest
import torch

from deltamem_agents.adapter import DeltaMemConfig, attach
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.backbone import build_backbone
from deltamem_agents.training.objective import Weights, forward, run_batch
from deltamem_agents.training.rows import Kind, Tokeniser
from deltamem_agents.training.subjects import Subject
from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.world import Turn, World


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(ChatTemplate(build_tokenizer(0, conversations=500), "chatml"))


@pytest.fixture
def model(tokeniser: Tokeniser) -> torch.nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(
        len(tokeniser.template.tokenizer), hidden=32, layers=2, heads=2, key_value_heads=1, head=16,
        intermediate=48,
    )  # fmt: skip
    return attach(backbone, DeltaMemConfig(rank=4, heads=2, update="no_lambda"))


FACT = Turn(
    "My badge number is QX-4821.", "Noted. Your badge number is QX-4821.", "fact", ("QX-4821",),
    (Subject("me", "badge number", "code"),),
)  # fmt: skip
OTHER = Turn("My badge number is ZZ-1.", "Noted. Your badge number is ZZ-1.", "fact", ("ZZ-1",))
ASK = Turn(
    "What is my badge number?", "Your badge number is QX-4821.", "question", ("QX-4821",)
)  # fmt: skip
UNKNOWN = Turn("What is my name?", "Your name is not known to me yet.", "unknown")


def texts(tokeniser: Tokeniser, turn: Turn, kind: Kind) -> str:
    ids, kinds = tokeniser.turn(turn)
    chosen = [i for i, k in zip(ids, kinds, strict=True) if k == kind]
    return str(tokeniser.template.tokenizer.decode(chosen))


def test_values_are_marked_whole_and_nothing_else(tokeniser: Tokeniser) -> None:
    assert texts(tokeniser, FACT, Kind.USER_VALUE) == " QX-4821"
    assert texts(tokeniser, FACT, Kind.CONFIRMED_VALUE) == " QX-4821"
    assert texts(tokeniser, FACT, Kind.REPLY) == "Noted. Your badge number is.<|im_end|>"
    assert texts(tokeniser, UNKNOWN, Kind.DECLINE) == " not"
    assert texts(tokeniser, UNKNOWN, Kind.ANSWERED_VALUE) == ""


def test_rows_equal_the_template_of_the_whole_conversation(tokeniser: Tokeniser) -> None:
    turns, _ = World(3).history(3, 3)
    rows = tokeniser.rows([turns], [2])
    whole = [m for t in turns for m in t.messages()]
    text = tokeniser.template.tokenizer.apply_chat_template(
        whole, chat_template=tokeniser.template.source, tokenize=False
    )
    assert tokeniser.template.tokenizer.decode(rows.ids[0]) == text


def test_a_block_is_blind_to_other_blocks_without_memory(
    tokeniser: Tokeniser, model: torch.nn.Module
) -> None:
    length = len(tokeniser.turn(ASK)[0])
    ends = []
    for first in (FACT, OTHER):
        for size in (1, 2):
            hidden, _ = forward(model, tokeniser.rows([[first, ASK]], [size]), memory=False)
            ends.append(hidden[0, -length:])
    apart_one, together_one, apart_other, together_other = ends
    torch.testing.assert_close(apart_one, apart_other, rtol=0, atol=1e-5)
    assert (together_one - together_other).abs().max() > 1e-3


def test_the_memory_crosses_blocks(tokeniser: Tokeniser, model: torch.nn.Module) -> None:
    length = len(tokeniser.turn(ASK)[0])
    ends = [
        forward(model, tokeniser.rows([[first, ASK]], [1]), memory=True)[0][0, -length:]
        for first in (FACT, OTHER)
    ]
    assert (ends[0] - ends[1]).abs().max() > 1e-4


def test_padding_changes_nothing(tokeniser: Tokeniser, model: torch.nn.Module) -> None:
    long = World(1).history(3, 3)[0]
    alone, _ = forward(model, tokeniser.rows([[FACT, UNKNOWN]], [1]), memory=True)
    padded, _ = forward(model, tokeniser.rows([[FACT, UNKNOWN], long], [1, 1]), memory=True)
    torch.testing.assert_close(padded[0, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)


def test_the_penalty_on_idle_writes_reaches_the_gates(
    tokeniser: Tokeniser, model: torch.nn.Module
) -> None:
    rows = tokeniser.rows([[FACT, UNKNOWN]], [1])
    outcome = run_batch(model, rows, Weights(), memory=True)
    assert outcome.idle_write is not None
    outcome.idle_write.backward()
    gates = {n: p.grad for n, p in model.named_parameters() if "beta_" in n}
    assert len(gates) == 4
    assert all(g is not None and g.abs().max() > 0 for g in gates.values())
    assert outcome.figures["beta idle"] == pytest.approx(0.18, abs=0.02)
