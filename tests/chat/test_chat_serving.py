"""ChatDeltaMem in service: loading, load, and the newer streams of LangChain (plumbing only)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from deltamem_agents.chat import ChatDeltaMem, MemorySlot
from deltamem_agents.testing import byte_tokenizer, save_tiny, scripted, tiny_engine

HUGE = (
    '<tool_call>\n{"name": "look", "arguments": {"at": "a", "n": 1' + "0" * 30 + "}}\n</tool_call>"
)
ONE = '<think>\nI must look.\n</think>\n\n<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>'  # fmt: skip  # noqa: E501
PROMPTS: list[str] = []


def script(prompt: str) -> str:
    PROMPTS.append(prompt)
    last = prompt.rpartition("<|im_start|>user\n")[2]
    replies = {
        "<tool_response>": '{"name": "Ann", "age": 5}',
        "person": ONE,
        "huge": HUGE,
        "think": "<think>\nLet me see.\n</think>\n\nForty-two.",
        "long": "word " * 200,
    }
    number = last.partition("number ")[2].partition("<")[0]
    return next((text for key, text in replies.items() if key in last), f"Hello {number}.")


@pytest.fixture(scope="module")
def engine():
    return scripted(tiny_engine(template="qwen3", window=4096), script)


@pytest.fixture
def model(engine):
    return ChatDeltaMem(model=engine, max_tokens=200)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tuple(map(str, save_tiny(tmp_path_factory.mktemp("tiny"))))


def look(at: str, n: int = 0) -> str:
    """Look at a place."""
    return f"{at}{n}"


def test_integers_of_a_call_have_64_bits(model):
    """The script wants one of a hundred bits, which no store keeps."""
    for bound in (model.bind_tools([look]), model.bind_tools([look], tool_choice="look")):
        reply = bound.invoke("huge", max_tokens=160)
        assert 10**15 < reply.tool_calls[0]["args"]["n"] < 2**63
        serde = JsonPlusSerializer()
        assert serde.loads_typed(serde.dumps_typed(reply)).tool_calls == reply.tool_calls


def test_a_tokenizer_that_is_given_is_used(saved):
    """Also where the same folder is loaded already."""
    plain = ChatDeltaMem(model=saved[0], adapter=saved[1])
    own = byte_tokenizer("qwen3")
    other = ChatDeltaMem(model=saved[0], adapter=saved[1], tokenizer=own)
    assert other.engine.tokenizer is own
    assert other.engine.template.source != plain.engine.template.source
    assert ChatDeltaMem(model=saved[0], adapter=saved[1]).engine is plain.engine
    assert ChatDeltaMem(model=saved[0], adapter=saved[1], tokenizer=own).engine is other.engine


@pytest.mark.parametrize("name", ["bfloat16", "float16", torch.bfloat16])
def test_dtypes_are_named_as_in_transformers(saved, name):
    model = ChatDeltaMem(model=saved[0], adapter=saved[1], torch_dtype=name, device="cpu")
    slot = MemorySlot()
    reply = model.with_memory(slot).invoke("hello", max_tokens=3)
    weights = model.engine.model.get_input_embeddings().weight
    assert str(weights.dtype).removeprefix("torch.") == str(name).removeprefix("torch.")
    assert reply.usage_metadata["output_tokens"] <= 3
    assert slot.after.norm > 0


def test_a_full_queue_is_a_rate_limit(model, engine, monkeypatch):
    monkeypatch.setattr(engine.scheduler, "queue_size", 1)
    first = model.stream("long")
    next(first)
    with pytest.raises(ModelRateLimitError, match="queue_size=1"):
        model.invoke("hello")
    first.close()


def test_threads_and_event_loops_share_a_model(model):
    """Three loops with eight tasks each, and eight threads, at once."""
    found: dict[int, str] = {}

    def say(number: int) -> None:
        found[number] = model.invoke(f"number {number}").content

    async def loop(first: int) -> None:
        replies = await asyncio.gather(
            *(model.ainvoke(f"number {n}") for n in range(first, first + 4)),
            model.abatch([f"number {n}" for n in range(first + 4, first + 8)]),
        )
        for place, reply in enumerate([*replies[:4], *replies[4]]):
            found[first + place] = reply.content

    threads = [threading.Thread(target=say, args=(n,)) for n in range(8)]
    threads += [threading.Thread(target=lambda f=f: asyncio.run(loop(f))) for f in (8, 16, 24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"Hello {number}." for number in range(32)}


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_events_of_version_3(model):
    slots = MemorySlot(), MemorySlot()
    stream = model.with_memory(slots[0]).stream_events("think", version="v3")
    assert "".join(stream.text) == "Forty-two."
    assert "".join(stream.reasoning) == "Let me see."
    message = stream.output
    assert message.content_blocks[-1]["text"] == "Forty-two."
    assert message.usage_metadata["output_token_details"]["reasoning"] > 0
    later = await model.with_memory(slots[1]).astream_events("think", version="v3")
    assert await later.text == "Forty-two."
    assert slots[0].after == slots[1].after
    assert slots[0].after.tokens_written > 0


def test_reasoning_comes_back_within_a_tool_loop(model):
    """As the template wants it: while the loop goes on, and not after the next question."""
    call = {"name": "look", "args": {"at": "a"}, "id": "1", "type": "tool_call"}
    blocks = [{"type": "reasoning", "reasoning": "I must look."}]
    kept = AIMessage("", tool_calls=[call], additional_kwargs={"reasoning_content": "I must look."})
    for thought in (kept, AIMessage(blocks, tool_calls=[call])):
        talk = [HumanMessage("person"), thought, ToolMessage("a0", tool_call_id="1")]
        PROMPTS.clear()
        reply = model.bind_tools([look]).invoke(talk)
        assert "<think>\nI must look.\n</think>" in PROMPTS[-1]
        PROMPTS.clear()
        model.bind_tools([look]).invoke([*talk, reply, HumanMessage("hello")])
        assert "I must look." not in PROMPTS[-1]
        assert "a0" in PROMPTS[-1]


def test_a_named_checkpoint_runs_the_standard_tests(saved):
    """The class that `DELTAMEM_TEST_MODEL` switches on, with a checkpoint that knows nothing."""
    names = {"DELTAMEM_TEST_MODEL": saved[0], "DELTAMEM_TEST_ADAPTER": saved[1]}
    outer = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}  # of workers
    wanted = "test_invoke or test_ainvoke or test_stream_time or test_conversation or test_stop"
    file = Path(__file__).with_name("test_standard_builtin.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         f"{file}::TestLocalCheckpoint", "-k", wanted],
        env={**outer, **names}, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "4 passed" in done.stdout  # three more are skipped, which it does not claim to support
