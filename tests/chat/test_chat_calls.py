"""One call: how it is run, what it is given, and what is left when it fails (plumbing only)."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from deltamem_agents.chat import ChatDeltaMem, MemorySlot
from deltamem_agents.errors import ConfigError, DivergenceError
from deltamem_agents.testing import save_tiny, scripted, tiny_engine

PROMPTS: list[str] = []


def script(prompt: str) -> str:
    PROMPTS.append(prompt)
    return "Hello to you."


@pytest.fixture(scope="module")
def model():
    engine = scripted(tiny_engine(template="qwen3", window=4096, context_window=400), script)
    return ChatDeltaMem(model=engine, max_tokens=60)


@pytest.fixture(scope="module")
def noise():
    """A model that nothing is put in the place of."""
    return ChatDeltaMem(model=tiny_engine(), max_tokens=12)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tuple(map(str, save_tiny(tmp_path_factory.mktemp("tiny"))))


async def test_async_calls_take_no_executor(model, monkeypatch):
    """Nor does a token: only the thread that runs the model is beside the loop's own."""

    def refuse(*_):
        raise AssertionError("an executor was asked for")

    await model.ainvoke("warm up")
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    monkeypatch.setattr(asyncio, "to_thread", refuse)
    assert (await model.ainvoke("a")).content == "Hello to you."
    pieces = [piece.content async for piece in model.astream("a")]
    assert "".join(pieces) == "Hello to you."
    assert len(pieces) > 5
    replies = await model.abatch(["a", "b", "c"])
    assert [reply.content for reply in replies] == ["Hello to you."] * 3


def test_a_whole_reply_wakes_its_caller_once(model, monkeypatch):
    """`invoke` hears of the end alone; `stream` of every piece."""
    heard: list[str] = []
    run = model.engine._run

    def listened(start):
        return run(lambda emit: start(lambda event: (heard.append(type(event).__name__), emit(event))))  # fmt: skip  # noqa: E501

    monkeypatch.setattr(model.engine, "_run", listened)
    assert model.invoke("a").content == "Hello to you."
    assert heard == ["Final"]
    list(model.stream("a"))
    assert heard.count("TextPart") > 5


async def test_abatch_is_one_forward_call_a_token(model, monkeypatch):
    widths: list[int] = []
    step = model.engine.runner.batch.step
    monkeypatch.setattr(
        model.engine.runner.batch, "step", lambda feeds: widths.append(len(feeds)) or step(feeds)
    )
    await model.abatch([f"number {n}" for n in range(12)])
    assert max(widths) > 8


async def test_errors_of_the_engine_reach_every_kind_of_caller(model, monkeypatch):
    slot = MemorySlot()

    def broken(feeds):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(model.engine.runner, "forward", broken)
    bound = model.with_memory(slot)
    with pytest.raises(RuntimeError, match="device is gone"):
        bound.invoke("a")
    with pytest.raises(RuntimeError, match="device is gone"):
        list(bound.stream("a"))
    with pytest.raises(RuntimeError, match="device is gone"):
        await bound.ainvoke("a")
    with pytest.raises(RuntimeError, match="device is gone"):
        [piece async for piece in bound.astream("a")]
    assert slot.after is None
    monkeypatch.undo()
    assert bound.invoke("a").content == "Hello to you."
    assert slot.after is not None


def test_too_much_is_refused_before_the_model_is_run(model, monkeypatch):
    def refuse(feeds):
        raise AssertionError("the model was run")

    monkeypatch.setattr(model.engine.runner, "forward", refuse)
    most = model.profile["max_input_tokens"]
    for messages in (
        [HumanMessage("x" * most)],
        [SystemMessage("x" * most), HumanMessage("a")],
        [HumanMessage("a"), AIMessage("b"), HumanMessage("x" * most)],
    ):
        assert model.get_num_tokens_from_messages(messages) > most
        with pytest.raises(ContextOverflowError, match=f"context_window={most}"):
            model.invoke(messages)
        with pytest.raises(ContextOverflowError):
            asyncio.run(model.ainvoke(messages))


def test_a_prompt_never_has_more_than_max_input_tokens(model):
    talk, slot, cached = [], MemorySlot(), []
    for number in range(12):
        talk.append(HumanMessage(f"This is number {number}, " + "very " * (number % 5) * 4))
        slot = MemorySlot(slot.after)
        reply = model.with_memory(slot).invoke(talk)
        usage = reply.usage_metadata
        assert usage["input_tokens"] <= model.profile["max_input_tokens"]
        cached.append(usage["input_token_details"]["cache_read"])
        assert cached[-1] < usage["input_tokens"]
        talk.append(reply)
    assert slot.after.ledger.evicted_count > 4
    assert cached[0] == 0
    assert max(cached) > 100  # of a follow-up, what the live session has read already


def test_a_changed_history_never_wipes_a_memory(model):
    slot = MemorySlot()
    talk = [HumanMessage("one"), model.with_memory(slot).invoke("one"), HumanMessage("two")]
    changed = [HumanMessage("three"), *talk[1:]]
    after = MemorySlot(slot.after)
    with pytest.raises(DivergenceError):
        model.with_memory(after).invoke(changed)
    assert after.after is None
    assert slot.after.tokens_written > 0
    model.with_memory(after).invoke(talk)
    assert after.after.ledger.visible[0] == slot.after.ledger.visible[0]
    rebuilding = model.model_copy(update={"on_divergence": "rebuild"})
    again = MemorySlot(slot.after)
    rebuilding.with_memory(again).invoke(changed)
    fresh = MemorySlot()
    model.with_memory(fresh).invoke(changed)
    assert again.after.ledger.visible == fresh.after.ledger.visible
    assert again.after.state == pytest.approx(fresh.after.state, abs=1e-5)


def test_sampling_parameters_of_model_and_call(noise):
    greedy = noise.invoke("a").content
    warm = noise.model_copy(update={"temperature": 1.5, "seed": 3})
    one = warm.invoke("a").content
    assert one == warm.invoke("a").content == noise.invoke("a", temperature=1.5, seed=3).content
    assert len({noise.invoke("a", temperature=1.5, seed=n).content for n in range(6)}) > 3
    assert warm.invoke("a", top_k=1).content == greedy
    assert warm.invoke("a", top_p=1e-6).content == greedy
    assert warm.invoke("a", temperature=0).content == greedy
    assert noise.invoke("a", repetition_penalty=50.0).content != greedy
    assert noise.invoke("a", max_tokens=3).usage_metadata["output_tokens"] == 3


@pytest.mark.parametrize("thinking", [None, True, False])
def test_thinking_on_and_off(model, thinking):
    PROMPTS.clear()
    slot = MemorySlot()
    model.with_memory(slot).invoke("a", thinking=thinking)
    model.engine.live.clear()
    opening = model.engine.template.generation_prompt(
        [{"role": "user", "content": "a"}], thinking=thinking
    )
    text = model.engine.tokenizer.decode(opening)
    assert ("</think>" in text) is (thinking is False)
    assert slot.after.tokens_written > 0


async def test_a_session_in_all_four_ways(model):
    session, plain = model.session(), model.session()
    whole = session.invoke([SystemMessage("s"), HumanMessage("one")])
    await session.ainvoke("two")
    list(session.stream("three"))
    [piece async for piece in session.astream("four")]
    for said in ([SystemMessage("s"), HumanMessage("one")], "two", "three", "four"):
        plain.invoke(said)
    assert [message.content for message in session.messages] == [
        message.content for message in plain.messages
    ]
    assert session.memory == plain.memory
    assert whole.content == "Hello to you."
    stream = session.stream("five")
    next(stream)
    stream.close()
    assert session.memory == plain.memory
    assert len(session.messages) == len(plain.messages)


def test_a_long_session_sends_what_is_in_view(model):
    """And has the memory of one that sends everything each time."""
    session, slot, talk = model.session(), MemorySlot(), [SystemMessage("Be brief.")]
    session.invoke([*talk, HumanMessage("number 0")])
    for number in range(14):
        said = HumanMessage(f"number {number}")
        if number:
            session.invoke([said])
        slot = MemorySlot(slot.after)
        talk.append(said)
        talk.append(model.with_memory(slot).invoke(talk))
    assert session.memory.ledger == slot.after.ledger
    assert session.memory.state == pytest.approx(slot.after.state, abs=1e-5)
    assert session.memory.ledger.evicted_count > 4
    assert len(session._in_view()) == len(session.messages) - session.memory.ledger.evicted_count


@pytest.mark.parametrize("place", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_places_the_model(saved, place):
    plain = ChatDeltaMem(model=saved[0], adapter=saved[1], device="cpu", max_tokens=6)
    placed = ChatDeltaMem(model=saved[0], adapter=saved[1], device_map=place, max_tokens=6)
    slots = MemorySlot(), MemorySlot()
    replies = [each.with_memory(slot).invoke("a") for each, slot in zip((plain, placed), slots, strict=True)]  # fmt: skip  # noqa: E501
    assert replies[0].content == replies[1].content
    assert slots[0].after == slots[1].after


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_loading_with_fewer_bits_says_what_it_needs(saved, bits, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "bitsandbytes" else find(name, *a),
    )
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        ChatDeltaMem(model=saved[0], adapter=saved[1], quantization=bits)


def test_one_model_from_many_threads_at_the_first_call(saved):
    """Made at once by eight threads, with the same arguments: loaded once."""
    made: list[ChatDeltaMem] = []
    threads = [
        threading.Thread(
            target=lambda: made.append(ChatDeltaMem(model=saved[0], adapter=saved[1], low_water=77))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model.engine) for model in made}) == 1
