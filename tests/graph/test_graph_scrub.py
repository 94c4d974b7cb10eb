"""What is forgotten leaves every value in which a message can stand, not only the messages."""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.graph import START, StateGraph
from langgraph.types import Overwrite, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.scrub import mentions, messages_within, rewritten, scrub
from deltamem_agents.graph.state import MemoryAgentState
from tests.graph.test_graph_changes import SECRET, WHERE, no_bytes, say, told_nowhere

GONE, STAYS = HumanMessage("secret", id="gone"), HumanMessage("plain", id="stays")


@dataclass(eq=False)
class Box:
    first: Any
    rest: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sealed:
    first: Any


class Pair(NamedTuple):
    first: Any
    second: Any


class Model(BaseModel):
    first: Any
    second: Any


VALUES: dict[str, Any] = {
    "list": [GONE, STAYS],
    "tuple": (STAYS, [GONE]),
    "mapping": OrderedDict(a=GONE, b=[STAYS, GONE]),
    "deque": deque([GONE, STAYS], maxlen=3),
    "set": {Box(STAYS, [GONE])},
    "frozen set": frozenset({Box(GONE, [STAYS])}),
    "dataclass": Box(GONE, [STAYS, GONE]),
    "frozen dataclass": Sealed([GONE, STAYS]),
    "named tuple": Pair(GONE, STAYS),
    "pydantic": Model(first=GONE, second=[STAYS, GONE]),
    "task": [Send("node", {"messages": [GONE, STAYS]}), Send("node", GONE)],
    "overwrite": Overwrite([GONE, STAYS]),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_found_is_taken_out_and_the_rest_stays(name: str) -> None:
    value = VALUES[name]
    before = repr(value)
    assert mentions(value, {"gone"})
    new = scrub(value, {"gone"})
    assert not mentions(new, {"gone"})
    assert type(new) is type(value)
    assert messages_within(new) == [STAYS]
    assert repr(value) == before, "the value itself is not changed"
    assert scrub(new, {"gone"}) is new


def test_fields_that_cannot_go_are_empty_and_other_parts_are_kept() -> None:
    assert scrub(VALUES["named tuple"], {"gone"}) == (None, STAYS)
    assert scrub(VALUES["dataclass"], {"gone"}).first is None
    assert scrub(VALUES["deque"], {"gone"}).maxlen == 3
    (task,) = scrub(VALUES["task"], {"gone"})
    assert (task.node, task.arg) == ("node", {"messages": [STAYS]})


def _saved(value: Any) -> CheckpointTuple:
    checkpoint: Any = {**empty_checkpoint(), "channel_values": {"box": value}}
    where: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    return CheckpointTuple(where, checkpoint, {}, None, [])


def test_a_value_that_cannot_be_rebuilt_is_refused() -> None:
    with pytest.raises(ThreadHistoryError, match=r"channel 'box'.*mappingproxy"):
        rewritten(_saved(MappingProxyType({"a": GONE})), {"gone"}, None, {}, due_is_gone=False)
    lone = rewritten(_saved(GONE), {"gone"}, None, {}, due_is_gone=False)
    assert lone["channel_values"] == {}, "a channel that was the message is empty"


def test_tasks_of_later_turns_forget_what_they_were_sent(tiny: Any, tmp_path: Path) -> None:
    model = tiny(context_window=480, low_water=300)

    class State(MemoryAgentState):  # type: ignore[misc]
        notes: Annotated[list[int], operator.add]

    def work(state: Any) -> Any:
        return {"notes": [len(state["messages"])]}

    def fan(state: Any) -> Any:
        return [Send("work", {"messages": state["messages"]})]

    builder: Any = StateGraph(State).add_node("chat", memory_node(model)).add_node("work", work)
    builder.add_edge(START, "chat").add_conditional_edges("chat", fan, ["work"])
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = builder.compile(checkpointer=saver)
        said = say(graph, f"my badge is {SECRET}")
        say(graph, "two")
        say(graph, "three")
        report = ThreadMemory(graph, WHERE).forget(said[0].id)
        told_nowhere(saver)
        assert report.purged
        no_bytes(tmp_path)
        sent = [
            [len(task.arg["messages"]) for task in one.checkpoint["channel_values"][name]]
            for one in saver.list(WHERE)
            for name in one.checkpoint["channel_values"]
            if name == "__pregel_tasks"
        ]
        assert [counts for counts in sent if counts] == [[4], [2]], "what else was sent is kept"
        assert graph.get_state(WHERE).values["notes"] == [2, 4, 6]


def test_changes_that_cannot_be_compared_are_stored_whole(tiny: Any, tmp_path: Path) -> None:
    def filed(left: list[Any] | None, writes: Sequence[list[Any]]) -> list[Any]:
        found = [*(left or []), *(entry for write in writes for entry in write)]
        return [{**entry, "grid": entry["grid"].copy()} for entry in found]

    class Files(AgentMiddleware[Any, Any, Any]):
        def after_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
            told = state["messages"][-2]
            return {"files": [{"by": told, "grid": np.arange(3.0)}]}

    fields: dict[str, Any] = {
        **get_type_hints(AgentState, include_extras=True),
        "files": Annotated[list[Any], DeltaChannel(filed, snapshot_frequency=100)],
    }
    create: Callable[..., Any] = create_agent
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = create(
            tiny(context_window=480, low_water=300),
            tools=[],
            middleware=[Files(), DeltaMemMiddleware()],
            state_schema=TypedDict("Filed", fields),  # type: ignore[operator]
            checkpointer=saver,
        )
        say(graph, "one")
        badge = say(graph, f"my badge is {SECRET}")[2].id
        say(graph, "three")
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        no_bytes(tmp_path)
        files = graph.get_state(WHERE).values["files"]
        assert [entry["by"].text for entry in files if "by" in entry] == ["one", "three"]
        assert [list(entry["grid"]) for entry in files] == [[0, 1, 2]] * 3
