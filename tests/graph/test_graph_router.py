"""The router at a model call: verbatim answers, facts as data, and nothing of it in the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.router import FactStore, HybridRouter

WIDE: Any = {"context_window": 480, "low_water": 300}


def at(thread: str = "t") -> Any:
    return {"configurable": {"thread_id": thread}}


class Prompts(BaseCallbackHandler):
    """Keeps the prompts that the model saw."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
        self.seen.append([message.text for message in messages[0]])


@pytest.fixture
def prompts() -> Prompts:
    return Prompts()


@pytest.fixture(params=["agent", "node"])
def graph(request: Any, tiny: Any, file_saver: Any) -> Any:
    router = HybridRouter(FactStore(file_saver))
    if request.param == "agent":
        middleware = [DeltaMemMiddleware(router=router)]
        return create_agent(tiny(**WIDE), tools=[], middleware=middleware, checkpointer=file_saver)
    node = memory_node(tiny(**WIDE), router=router)
    builder = StateGraph(MessagesState).add_node("chat", node).add_edge(START, "chat")
    return builder.compile(checkpointer=file_saver)


def say(graph: Any, text: str, where: Any = None, **more: Any) -> Any:
    return graph.invoke({"messages": [("user", text)]}, {**(where or at()), **more})["messages"][-1]


def check(graph: Any, model: Any, where: Any = None) -> None:
    """The memory is that of the thread's messages, whatever the store added to prompts."""
    now = graph.get_state(where or at()).values
    oracle: MemoryState = model.engine.read(None, [to_dict(m) for m in now["messages"]])
    held = now["delta_memory"]
    assert held.ledger == oracle.ledger
    np.testing.assert_allclose(held.state, oracle.state, atol=1e-5, rtol=0)


def test_an_exact_question_is_answered_verbatim(graph: Any, tiny: Any, prompts: Prompts) -> None:
    say(graph, "my locker code is 4471")
    told = graph.get_state(at()).values["messages"][0]
    reply = say(graph, "what is my locker code?", callbacks=[prompts])
    assert reply.text == "Your locker code is 4471."
    assert prompts.seen == [], "the model was not asked"
    assert reply.response_metadata["router"]["route"] == "exact"
    (source,) = reply.response_metadata["citations"]
    assert source["source_message_id"] == told.id
    start, end = source["span"]
    assert told.text[start:end] == source["value"] == "4471"
    check(graph, tiny(**WIDE))
    say(graph, "thank you")
    check(graph, tiny(**WIDE))


def test_retrieved_facts_are_data_for_one_call(graph: Any, tiny: Any, prompts: Prompts) -> None:
    say(graph, "my locker code is 4471")
    say(graph, "the server's port is 8080")
    reply = say(graph, "what is my locker combination number?", callbacks=[prompts])
    route = reply.response_metadata["router"]["route"]
    assert route in ("both", "abstain")
    assert len(prompts.seen[0][-1]) > len("what is my locker combination number?")
    texts = [message.text for message in graph.get_state(at()).values["messages"]]
    assert "what is my locker combination number?" in texts, "the thread holds what was said"
    check(graph, tiny(**WIDE))
    say(graph, "thank you")
    check(graph, tiny(**WIDE))


def test_a_branch_knows_its_own_facts_only(graph: Any, tiny: Any) -> None:
    say(graph, "hello")
    fork = graph.get_state(at()).config
    say(graph, "my locker code is 4471")
    trunk = graph.get_state(at()).config
    say(graph, "my locker code is 93", fork)
    branch = graph.get_state(at()).config
    assert say(graph, "what is my locker code?", trunk).text == "Your locker code is 4471."
    assert say(graph, "what is my locker code?", branch).text == "Your locker code is 93."
    other = say(graph, "what is my locker code?", at("another thread"))
    assert other.response_metadata["router"]["route"] != "exact"
    assert not other.response_metadata["citations"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_facts_with_every_durability(graph: Any, tiny: Any, durability: Any) -> None:
    async def ask(text: str) -> Any:
        given = {"messages": [("user", text)]}
        return (await graph.ainvoke(given, at(), durability=durability))["messages"][-1]

    await ask("my locker code is 4471")
    await ask("thank you")
    assert (await ask("what is my locker code?")).text == "Your locker code is 4471."
    check(graph, tiny(**WIDE))


def test_a_broken_store_does_not_stop_the_conversation(
    graph: Any, tiny: Any, file_saver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    say(graph, "my locker code is 4471")
    with file_saver.engine.begin() as connection:
        connection.exec_driver_sql("drop table facts")
    reply = say(graph, "what is my locker code?")
    assert reply.response_metadata["router"]["route"] == "neural"
    assert reply.response_metadata["router"]["error"]
    assert "router" in caplog.text
    check(graph, tiny(**WIDE))


def test_facts_that_do_not_fit_the_window_do_not_stop_the_conversation(
    tiny: Any, file_saver: Any
) -> None:
    router = HybridRouter(FactStore(file_saver))
    middleware = [DeltaMemMiddleware(router=router)]
    graph = create_agent(tiny(), tools=[], middleware=middleware, checkpointer=file_saver)
    for turn in range(3):
        say(graph, f"the server {turn} has the port 808{turn}")
    assert say(graph, "what is the server's old port?").response_metadata["router"]
    check(graph, tiny())


def test_what_is_told_is_confirmed_and_not_answered_from_the_store(file_saver: Any) -> None:
    """No data stands beside a statement, and no old value answers an update."""
    memory = DeltaMemMiddleware(router=HybridRouter(FactStore(file_saver)))
    agent: Any = create_agent(ChatDeltaMem(), middleware=[memory], checkpointer=file_saver)

    def say(text: str) -> str:
        turn = {"messages": [("user", text)]}
        return str(agent.invoke(turn, at())["messages"][-1].text)

    assert "48213" in say("Remember that my locker code is 48213.")
    assert "Lisbon" in say("Remember that my boss's home city is Lisbon.")
    assert "48213" not in say("My locker code is now 60217.")
    assert "60217" in say("What is my locker code?")


def test_a_call_without_a_thread_says_that_the_router_was_not_asked(
    file_saver: Any, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory = DeltaMemMiddleware(router=HybridRouter(FactStore(file_saver)))
    agent: Any = create_agent(tiny(**WIDE), middleware=[memory])
    reply = agent.invoke({"messages": [("user", "what is the port?")]})["messages"][-1]
    assert "router" not in reply.response_metadata
    assert "no thread_id" in caplog.text


def test_a_router_is_a_router() -> None:
    with pytest.raises(ConfigError, match="HybridRouter"):
        DeltaMemMiddleware(router="x")
