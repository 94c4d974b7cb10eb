"""A chat model as a value: caches, copies, bindings, and where its memory goes (plumbing only)."""

from __future__ import annotations

import asyncio
import copy
import pickle
from functools import reduce

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumpd
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableBinding

from deltamem_agents.chat import ChatDeltaMem, MemorySlot
from deltamem_agents.chat.messages import to_dict
from deltamem_agents.chat.tools import tool_schemas
from deltamem_agents.testing import save_tiny, scripted, tiny_engine


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(template="qwen3", window=2048)


@pytest.fixture
def cached():
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


OTHERS = (
    {"max_tokens": 4}, {"temperature": 2.0, "seed": 1}, {"temperature": 2.0, "seed": 2},
    {"temperature": 2.0, "seed": 1, "top_p": 0.5}, {"temperature": 2.0, "seed": 1, "top_k": 9},
    {"repetition_penalty": 9.0}, {"stop": "a"}, {"stop": ["b"]}, {"thinking": False},
)  # fmt: skip


@pytest.mark.usefixtures("cached")
def test_a_cache_tells_models_of_other_parameters_apart(engine):
    """Each answers as it would without a cache, and a second time from the cache."""
    models = [ChatDeltaMem(model=engine, **{"max_tokens": 9, **other}) for other in ({}, *OTHERS)]
    first = [model.invoke("Tell me") for model in models]
    assert [reply.content for reply in first] == [
        model.model_copy(update={"cache": False}).invoke("Tell me").content for model in models
    ]
    assert all("total_cost" not in (reply.usage_metadata or {}) for reply in first)
    assert [model.invoke("Tell me").usage_metadata["total_cost"] for model in models] == [0] * 10


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("cache", [None, True, InMemoryCache()])
def test_a_call_with_a_memory_is_never_answered_from_a_cache(engine, cache):
    model = ChatDeltaMem(model=engine, max_tokens=4, cache=cache)
    model.invoke("Tell me")
    assert "total_cost" in model.invoke("Tell me").usage_metadata
    slots = MemorySlot(), MemorySlot()
    for slot in slots:
        assert "total_cost" not in model.with_memory(slot).invoke("Tell me").usage_metadata
    assert slots[0].after == slots[1].after
    session = model.session()
    session.invoke("Tell me")
    assert session.memory == slots[0].after


CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>'
REPLIES = (f"Text.\n{CALL}", f"<think>\nhm\n</think>\n\nText.\n{CALL}\n{CALL}", f"{CALL}\n{CALL}", f"<think>\nhm\n</think>\n\n{CALL}", "<think>\nhm\n</think>\n\nText.", "Text.")  # fmt: skip  # noqa: E501


def look(at: str) -> str:
    """Look at a place."""
    return at


@pytest.mark.parametrize("said", range(len(REPLIES)))
@pytest.mark.parametrize("streaming", [True, None])
def test_blocks_of_version_1_stay_apart(said, streaming):
    engine = scripted(tiny_engine(template="qwen3", window=4096), lambda prompt: REPLIES[said])
    model = ChatDeltaMem(model=engine, max_tokens=400, output_version="v1", streaming=streaming)
    bound, plain = model.bind_tools([look]), ChatDeltaMem(model=engine, max_tokens=400)
    whole = plain.bind_tools([look]).invoke("q")
    if streaming:
        replies = [bound.invoke("q")]
    else:
        pieces = list(bound.stream("q"))
        indices = [block["index"] for piece in pieces for block in piece.content]
        assert indices == sorted(indices)
        replies = [reduce(lambda one, other: one + other, pieces)]
    for reply in replies:
        kinds = [block["type"] for block in reply.content]
        assert [call["args"] for call in reply.tool_calls] == [{"at": "a"}] * len(whole.tool_calls)
        assert kinds.count("tool_call") == len(whole.tool_calls)
        assert "".join(b["text"] for b in reply.content if b["type"] == "text") == whole.content
        thoughts = [block["reasoning"] for block in reply.content if block["type"] == "reasoning"]
        assert thoughts == [t for t in [whole.additional_kwargs.get("reasoning_content")] if t]
        assert to_dict(reply)["content"] == whole.content


def test_more_inputs_than_the_queue_takes(engine):
    model = ChatDeltaMem(model=tiny_engine(queue_size=3), max_tokens=2)
    inputs = [f"number {number}" for number in range(10)]
    wanted = [model.invoke(each).content for each in inputs]
    assert [reply.content for reply in model.batch(inputs)] == wanted
    assert [reply.content for reply in asyncio.run(model.abatch(inputs))] == wanted
    bound = model.bind(stop=["zz"])
    assert [reply.content for reply in bound.batch(inputs)] == wanted
    assert [reply.content for reply in asyncio.run(bound.abatch(inputs))] == wanted
    assert model.batch([]) == asyncio.run(model.abatch([])) == []
    several = model.batch(inputs, {"max_concurrency": 10})  # never more than the queue takes
    assert [reply.content for reply in several] == wanted


async def test_as_completed_with_more_inputs_than_the_queue_takes(engine):
    model = ChatDeltaMem(model=tiny_engine(queue_size=3), max_tokens=2)
    inputs = [f"number {number}" for number in range(6)]
    wanted = dict(enumerate(reply.content for reply in model.batch(inputs)))
    configs = (None, {"max_concurrency": 6}, [{"tags": ["a"]}] * 6)
    for each, config in zip((model, model, model.bind(stop=["zz"])), configs, strict=True):
        found = dict(each.batch_as_completed(inputs, config))
        assert {place: reply.content for place, reply in found.items()} == wanted
        found = dict([pair async for pair in each.abatch_as_completed(inputs, config)])
        assert {place: reply.content for place, reply in found.items()} == wanted
    assert list(model.batch_as_completed([])) == []
    assert [pair async for pair in model.abatch_as_completed([])] == []


async def test_as_completed_gives_the_quickest_first_and_errors_where_asked(engine, monkeypatch):
    model = ChatDeltaMem(model=engine)
    monkeypatch.setitem(engine.__dict__, "end_tokens", frozenset())
    inputs = ["a", [], "b"]
    found = [pair async for pair in model.abatch_as_completed(
        inputs, return_exceptions=True, max_tokens=20)]  # fmt: skip
    assert found[0][0] == 1
    assert isinstance(found[0][1], ValueError)
    assert {place for place, _ in found} == {0, 1, 2}
    other = dict(model.batch_as_completed(inputs, return_exceptions=True, max_tokens=20))
    assert [other[place].content for place in (0, 2)] == [dict(found)[n].content for n in (0, 2)]
    with pytest.raises(ValueError, match="at least one message"):
        [pair async for pair in model.abatch_as_completed(inputs, max_tokens=20)]
    with pytest.raises(ValueError, match="at least one message"):
        list(model.batch_as_completed(inputs, max_tokens=20))


async def test_who_stops_listening_to_a_batch_stops_its_answers(engine, monkeypatch):
    """The others would take a thousand tokens; within one they are over."""
    monkeypatch.setitem(engine.__dict__, "end_tokens", frozenset())
    model = ChatDeltaMem(model=engine)
    answers = model.abatch_as_completed(["a", "b", []], return_exceptions=True, max_tokens=1000)
    assert (await anext(answers))[0] == 2
    await answers.aclose()
    fed: list[int] = []
    forward = engine.runner.forward
    monkeypatch.setattr(
        engine.runner, "forward", lambda feeds: fed.append(len(feeds)) or forward(feeds)
    )
    await asyncio.sleep(0.3)
    assert len(fed) <= 2
    assert len(asyncio.all_tasks()) == 1


def test_a_configurable_model_keeps_its_memory(engine):
    field = ConfigurableField(id="t")
    slots = MemorySlot(), MemorySlot()
    model = ChatDeltaMem(model=engine, max_tokens=4, cache=True)
    chosen = {"configurable": {"t": 3}}
    reply = model.with_memory(slots[0]).configurable_fields(max_tokens=field).invoke("a", chosen)
    assert reply.content == model.with_memory(slots[1]).invoke("a", max_tokens=3).content
    assert slots[0].after == slots[1].after
    assert slots[0].after.tokens_written > 0
    assert ChatDeltaMem(model=engine, slot=MemorySlot(), cache=True).cache is False
    assert "slot" not in repr(model.with_memory(slots[0]))


async def test_a_choice_is_still_open_where_a_memory_is_bound_to_it(engine):
    """By field or among models: what the call's config chooses answers, and has the memory."""
    model, field = ChatDeltaMem(model=engine, max_tokens=6), ConfigurableField(id="t")
    others = {"short": ChatDeltaMem(model=engine, max_tokens=3),
              "made": lambda: ChatDeltaMem(model=engine, max_tokens=3)}  # fmt: skip
    fields = model.configurable_fields(max_tokens=field)
    models = model.configurable_alternatives(ConfigurableField(id="m"), **others)
    short, made = {"configurable": {"m": "short"}}, {"configurable": {"m": "made"}}
    three = {"configurable": {"t": 3}}
    cases = (
        (fields, three), (models, short), (models, made), (fields.bind(stop=["zz"]), three),
        (models.configurable_fields(max_tokens=field), three),
        (fields.configurable_alternatives(ConfigurableField(id="m"), **others), short),
    )  # fmt: skip
    for chosen, config in cases:
        slots = [MemorySlot() for _ in range(4)]
        wanted = model.with_memory(slots[0]).invoke("a", max_tokens=3).content
        assert chosen.with_memory(slots[1]).invoke("a", config).content == wanted
        assert (await chosen.with_memory(slots[2]).ainvoke("a", config)).content == wanted
        set_before = chosen.with_config(config).with_memory(slots[3])
        assert "".join(piece.content for piece in set_before.stream("a")) == wanted
        assert slots[1].after == slots[2].after == slots[3].after == slots[0].after
        session = chosen.session()
        session.invoke("a", config=config)
        assert session.memory == slots[0].after
        assert slots[0].after.tokens_written > 0
    assert dumpd(fields)["id"][-1] == "RunnableConfigurableFields"


async def test_what_is_bound_stays_bound_beside_a_memory(engine):
    model = ChatDeltaMem(model=engine, max_tokens=6)
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_chat_model_start(self, *given, **more):
            heard.extend(more["tags"])

    tools = model.bind_tools([look])
    configured = tools.bind(max_tokens=5).with_config(tags=["one"], callbacks=[Listener()])
    for bound in (configured, model.with_config(tags=["one"]).bind(max_tokens=5)):
        slots = MemorySlot(), MemorySlot()
        reply = bound.with_memory(slots[0]).invoke("a")
        kwargs = dict(bound.kwargs)
        other = model.with_memory(slots[1]).bind(**kwargs)
        assert (await other.ainvoke("a")).usage_metadata["input_tokens"] == (
            reply.usage_metadata["input_tokens"]
        )
        assert slots[0].after == slots[1].after
        assert slots[0].after.tokens_written > 0
    assert heard == ["one"]
    assert isinstance(tools.bind(max_tokens=5), RunnableBinding)
    session, plain = tools.session(), model.session()
    session.invoke("a")
    plain.invoke("a", tools=tool_schemas([look]))
    assert session.memory == plain.memory
    [*session.stream("b")], [*plain.stream("b", tools=tool_schemas([look]))]
    assert session.memory.ledger == plain.memory.ledger
    assert session.memory.state == pytest.approx(plain.memory.state, abs=1e-5)


def test_a_session_takes_the_value_of_a_prompt(engine):
    sessions = [ChatDeltaMem(model=engine, max_tokens=4).session() for _ in range(2)]
    prompt = ChatPromptTemplate.from_messages([("system", "s"), ("user", "{x}")])
    sessions[0].invoke(prompt.invoke({"x": "hello"}))
    sessions[1].invoke([("system", "s"), ("user", "hello")])
    assert sessions[0].memory == sessions[1].memory
    assert len(sessions[0].messages) == 3


def test_copies_share_what_is_loaded(engine, tmp_path):
    slot = MemorySlot()
    model = ChatDeltaMem(model=engine, max_tokens=4, stop=["zz"]).with_memory(slot)
    other = copy.deepcopy(model)
    assert other.engine is model.engine
    assert other.slot is slot
    assert other.stop == model.stop
    assert other.stop is not model.stop
    backbone, adapter = map(str, save_tiny(tmp_path))
    named = ChatDeltaMem(model=backbone, adapter=adapter, max_tokens=4)
    again = pickle.loads(pickle.dumps(named))
    assert again.engine is named.engine
    assert again.invoke("a").content == named.invoke("a").content


def test_the_built_in_model_has_a_name(tmp_path):
    reply = ChatDeltaMem().invoke("hello", max_tokens=1)
    assert reply.response_metadata["model_name"] == "deltamem-tiny"
    assert "/" not in str(ChatDeltaMem()._identifying_params)
