"""Forgetting where messages are kept as changes (DeltaChannel), as deepagents keeps them.

What is asked is the same as of any thread: the memory of one that never heard, no byte left, and
the rest of the conversation as it was. And the thread stays a chain of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from typing_extensions import TypedDict

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory

SECRET = "XK-4471-Q"
WHERE: Any = {"configurable": {"thread_id": "t"}}


def joined(left: list[AnyMessage] | None, writes: Sequence[Any]) -> list[AnyMessage]:
    result: Any = left or []
    for write in writes:
        result = add_messages(result, write)
    return list(result)


def listed(left: list[str] | None, writes: Sequence[list[str]]) -> list[str]:
    return [*(left or []), *(entry for write in writes for entry in write)]


def state_of(reducer: Callable[..., Any], often: int = 100) -> Any:
    """An agent's state with two channels of changes, whole at every `often`th update."""
    fields = {
        **get_type_hints(AgentState, include_extras=True),
        "messages": Annotated[list[AnyMessage], DeltaChannel(reducer, snapshot_frequency=often)],
        "files": Annotated[list[str], DeltaChannel(listed, snapshot_frequency=often)],
    }
    return TypedDict("ChangesState", fields)  # type: ignore[operator]


class Filing(AgentMiddleware[Any, Any, Any]):
    """Keeps a note of every turn in another channel of changes."""

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"files": [f"note {len(state['messages'])}"]}


def agent(model: Any, saver: Any, schema: Any = None, tools: Any = (), before: Any = ()) -> Any:
    return create_agent(
        model,
        tools=list(tools),
        middleware=[Filing(), *before, DeltaMemMiddleware()],
        state_schema=schema or state_of(joined),
        checkpointer=saver,
    )


def say(graph: Any, text: str, where: Any = WHERE, **options: Any) -> list[Any]:
    return graph.invoke({"messages": [HumanMessage(text)]}, where, **options)["messages"]


def told(graph: Any, turns: int = 6, secret: int = 2, **options: Any) -> str:
    for turn in range(turns):
        text = f"my badge is {SECRET}" if turn == secret else f"fact {turn}: {turn * 7}"
        say(graph, text, **options)
    found = [m for m in graph.get_state(WHERE).values["messages"] if SECRET in m.text]
    return str(found[0].id)


def replayed(model: Any, messages: Any) -> Any:
    return model.engine.read(None, [to_dict(message) for message in messages])


def close(one: Any, other: Any) -> None:
    assert one.ledger == other.ledger
    np.testing.assert_allclose(one.state, other.state, atol=1e-5, rtol=0)
    np.testing.assert_allclose(one.boundary_state, other.boundary_state, atol=1e-5, rtol=0)


def no_bytes(folder: Path) -> None:
    for part in folder.iterdir():
        assert SECRET.encode() not in part.read_bytes(), part.name


def told_nowhere(saver: Any) -> None:
    """No value and no write of any checkpoint, of any agent in the thread, says the secret."""
    looked = 0
    for one in saver.list(WHERE):
        values = one.checkpoint["channel_values"].items()
        held = [*values, *((write[1], write[2]) for write in one.pending_writes or ())]
        looked += len(held)
        found = [name for name, value in held if SECRET in repr(value)]
        assert not found, (one.config["configurable"], one.metadata.get("step"), found)
    assert looked, "something is stored"


def whole(saver: Any) -> tuple[int, int]:
    """How many checkpoints keep the messages whole, of how many."""
    saved = list(saver.list(WHERE))
    values = [one.checkpoint["channel_values"].get("messages") for one in saved]
    return sum(isinstance(value, _DeltaSnapshot) for value in values), len(saved)


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("often", [3, 100])
@pytest.mark.parametrize("reducer", [joined, _messages_delta_reducer])
def test_changes_are_forgotten_as_any_message(
    tiny: Any, tmp_path: Path, reducer: Any, often: int, durability: str
) -> None:
    model = tiny()
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = agent(model, saver, state_of(reducer, often))
        badge = told(graph, durability=durability)
        before = graph.get_state(WHERE).values
        was_whole, _ = whole(saver)
        assert any(SECRET.encode() in part.read_bytes() for part in tmp_path.iterdir())
        report = ThreadMemory(graph, WHERE).forget(badge)
        assert report.purged
        assert len(report.message_ids) == 2
        no_bytes(tmp_path)
        now = graph.get_state(WHERE).values
        stays = [m for m in before["messages"] if m.id not in report.message_ids]
        assert now["messages"] == stays
        assert now["files"] == before["files"], "another channel of changes stays as it was"
        close(now["delta_memory"], replayed(model, stays))
        told_nowhere(saver)
        for one in graph.get_state_history(WHERE):
            assert not [m for m in one.values.get("messages", []) if SECRET in m.text]
            if memory := one.values.get("delta_memory"):
                said = one.values["messages"]
                last = max(i for i, m in enumerate(said) if m.type == "ai")
                close(memory, replayed(model, said[: last + 1]))
        assert whole(saver)[0] <= was_whole + 2, "the thread stays a chain of changes"
        say(graph, "and on", durability=durability)
        now = graph.get_state(WHERE).values
        assert [m.id for m in now["messages"]][:-2] == [m.id for m in stays]
        close(now["delta_memory"], replayed(model, now["messages"]))
    no_bytes(tmp_path)


def test_branches_of_changes_forget_too(tiny: Any, tmp_path: Path) -> None:
    model = tiny()
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = agent(model, saver)
        badge = told(graph, turns=4, secret=1)
        trunk = graph.get_state(WHERE).config
        ends = [one for one in graph.get_state_history(WHERE) if not one.next]
        say(graph, "a branch of its own", ends[1].config)
        branch = graph.get_state(WHERE).config
        ThreadMemory(graph, WHERE).forget(badge)
        no_bytes(tmp_path)
        for tip, length in ((trunk, 6), (branch, 6)):
            now = graph.get_state(tip).values
            assert len(now["messages"]) == length
            close(now["delta_memory"], replayed(model, now["messages"]))


def test_edits_and_removals_of_what_is_forgotten_go_with_it(tiny: Any, tmp_path: Path) -> None:
    model = tiny()
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = agent(model, saver)
        badge = told(graph, turns=3, secret=1)
        edit = HumanMessage(f"my badge is not {SECRET}", id=badge)
        graph.update_state(WHERE, {"messages": [edit]}, as_node="model")
        say(graph, "more")
        graph.update_state(WHERE, {"messages": [RemoveMessage(badge)]}, as_node="model")
        say(graph, "and more")
        before = graph.get_state(WHERE).values["messages"]
        report = ThreadMemory(graph, WHERE).forget(badge)
        assert len(report.message_ids) == 1 + (before[2].id in report.message_ids)
        no_bytes(tmp_path)
        now = graph.get_state(WHERE).values
        assert now["messages"] == [m for m in before if m.id not in report.message_ids]
        close(now["delta_memory"], replayed(model, now["messages"]))
        say(graph, "and on")


def test_revise_then_forget_what_it_replaced(tiny: Any, tmp_path: Path) -> None:
    model = tiny()
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = agent(model, saver)
        badge = told(graph, turns=3, secret=1)
        memory = ThreadMemory(graph, WHERE)
        new = memory.revise("my badge is QQ-1 now").message_ids
        memory.forget(badge)
        no_bytes(tmp_path)
        now = graph.get_state(WHERE).values
        assert [m.id for m in now["messages"]][-1:] == list(new)
        close(now["delta_memory"], replayed(model, now["messages"]))


def test_hidden_checkpoints_of_a_pruned_thread_forget_too(tiny: Any, tmp_path: Path) -> None:
    model = tiny()
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = agent(model, saver)
        badge = told(graph, turns=5, secret=3)
        assert saver.retain("t", keep_last=4).hidden > 0
        before = graph.get_state(WHERE).values["messages"]
        report = ThreadMemory(graph, WHERE).forget(badge)
        assert report.purged
        no_bytes(tmp_path)
        now = graph.get_state(WHERE).values
        assert now["messages"] == [m for m in before if m.id not in report.message_ids]
        close(now["delta_memory"], replayed(model, now["messages"]))


async def test_other_savers_and_async(tiny: Any) -> None:
    model = tiny()
    graph = agent(model, InMemorySaver())
    badge = told(graph)
    before = graph.get_state(WHERE).values["messages"]
    report = await ThreadMemory(graph, WHERE).aforget(badge)
    assert not report.purged
    now = graph.get_state(WHERE).values
    assert now["messages"] == [m for m in before if m.id not in report.message_ids]
    close(now["delta_memory"], replayed(model, now["messages"]))
    for one in graph.get_state_history(WHERE):
        assert not [m for m in one.values.get("messages", []) if SECRET in m.text]
    say(graph, "and on")
    now = graph.get_state(WHERE).values
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_on_servers(tiny: Any, server_url: str) -> None:
    from sqlalchemy import MetaData, create_engine, select

    model = tiny()
    with SQLAlchemySaver(server_url) as saver:
        graph = agent(model, saver)
        badge = told(graph)
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        now = graph.get_state(WHERE).values
        close(now["delta_memory"], replayed(model, now["messages"]))
    engine, held = create_engine(server_url), MetaData()
    held.reflect(engine)
    with engine.connect() as connection:
        looked = 0
        for table in held.sorted_tables:
            for row in connection.execute(select(table)):
                cells = [bytes(c) for c in row if isinstance(c, bytes | memoryview)]
                cells += [str(c).encode() for c in row]
                assert not [cell for cell in cells if SECRET.encode() in cell], table.name
                looked += 1
        assert looked > 50
    engine.dispose()


# ------------------------------------------------------------------ agents inside the graph


class Asks(AgentMiddleware[Any, Any, Any]):
    """In the network's place after a question: hands it to the helper."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        last = request.messages[-1]
        if not isinstance(last, HumanMessage):
            return handler(request)
        calls = [{"name": "ask", "args": {"what": last.text}, "id": f"call {last.id}"}]
        return AIMessage("", tool_calls=calls)


def helped(model: Any, saver: Any, keeps: bool | None) -> Any:
    """An agent with a helper behind a tool; both keep their messages as changes."""
    helper: Any = create_agent(
        model,
        tools=[],
        middleware=[DeltaMemMiddleware()],
        state_schema=state_of(joined),
        checkpointer=keeps,
    )

    @tool
    def ask(what: str) -> str:
        """Ask the helper."""
        return str(helper.invoke({"messages": [HumanMessage(f"task: {what}")]})["messages"][-1].id)

    return agent(model, saver, tools=[ask], before=[Asks()])


@pytest.mark.parametrize("keeps", [True, None], ids=["persistent", "once a call"])
def test_a_helper_behind_a_tool_forgets_too(tiny: Any, tmp_path: Path, keeps: Any) -> None:
    model = tiny(context_window=900, low_water=700)
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = helped(model, saver, keeps)
        badge = told(graph, turns=3, secret=1)
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        no_bytes(tmp_path)
        told_nowhere(saver)
        say(graph, "and on")
        if keeps:
            inside: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "tools"}}
            writes = saver.get_delta_channel_history(config=inside, channels=["messages"])
            seed = writes["messages"].get("seed", _DeltaSnapshot([])).value
            said = joined(seed, [value for _, _, value in writes["messages"]["writes"]])
            tasks = [m.text for m in said if m.type == "human"]
            assert tasks == ["task: fact 0: 0", "task: fact 2: 14", "task: and on"]
            memory = saver.memory_at(inside, "delta_memory")
            close(memory, replayed(model, said))


def test_a_helper_that_no_saver_can_clean_is_refused(tiny: Any) -> None:
    graph = helped(tiny(context_window=900, low_water=700), InMemorySaver(), True)
    badge = told(graph, turns=2, secret=0)
    before = graph.get_state(WHERE)
    with pytest.raises(ThreadHistoryError, match="agent 'tools', which is no node"):
        ThreadMemory(graph, WHERE).forget(badge)
    assert graph.get_state(WHERE) == before


def test_an_agent_that_is_a_node_forgets_its_changes(tiny: Any, tmp_path: Path) -> None:
    model = tiny()
    inner: Any = create_agent(
        model,
        tools=[],
        middleware=[DeltaMemMiddleware()],
        state_schema=state_of(joined),
        name="inner",
        checkpointer=True,
    )

    builder: Any = (
        StateGraph(state_of(joined)).add_node("inner", inner).add_node("chat", memory_node(model))
    )
    builder.add_edge(START, "inner").add_edge("inner", "chat")
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = builder.compile(checkpointer=saver)
        badge = told(graph, turns=3, secret=1)
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        no_bytes(tmp_path)
        told_nowhere(saver)
        now = graph.get_state(WHERE).values
        close(now["delta_memory"], replayed(model, now["messages"]))
        said = say(graph, "and on")
        nested: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "inner"}}
        close(saver.memory_at(nested, "delta_memory"), replayed(model, said[:-1]))
