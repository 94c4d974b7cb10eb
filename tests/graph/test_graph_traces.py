"""What leaves a run by its streams and tracers is small, however large the memory is.

Plumbing only: the counting model, here with a memory of 9 MiB.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langsmith import Client

from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from tests.graph import conftest
from tests.graph.test_graph_plumbing import look

SHAPE = (36, 8, 64, 64)
SMALL = 8_000  # bytes of one message to a tracing service, or of one part of a stream
WHERE: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def large(counting: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A counting model whose memory has the size of a real one."""
    small = conftest.counted
    state = np.ones(SHAPE, np.float32)

    def counted(names: tuple[str, ...]) -> Any:
        return replace(small(names), state=state, boundary_state=state)

    monkeypatch.setattr(conftest, "counted", counted)
    calls = [{"name": "look", "args": {"place": place}, "id": place} for place in "xy"]
    return counting(script=[AIMessage("", tool_calls=calls)])


@pytest.fixture(params=["agent", "node"])
def graph(request: Any, large: Any) -> Any:
    if request.param == "agent":
        middleware = [DeltaMemMiddleware()]
        return create_agent(
            large, tools=[look], middleware=middleware, checkpointer=InMemorySaver()
        )
    builder = StateGraph(MessagesState).add_node("chat", memory_node(large))
    builder.add_edge(START, "chat")
    return builder.compile(checkpointer=InMemorySaver())


def talk(graph: Any, **options: Any) -> None:
    for text in ("a", "b"):
        graph.invoke({"messages": [("user", text)]}, {**WHERE, **options})
    assert graph.get_state(WHERE).values["delta_memory"].nbytes > 9_000_000


class Wire:
    """Stands in the network's place: takes what the client would send."""

    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def request(self, method: str, url: str, data: Any = b"", **options: Any) -> Any:
        self.sent.append(data if isinstance(data, bytes) else data.read())

        class Answer:
            status_code, text = 200, "{}"

            def raise_for_status(self) -> None: ...

        return Answer()

    def mount(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def test_a_tracing_service_is_sent_little(graph: Any) -> None:
    wire: Any = Wire()
    client = Client(
        api_url="http://127.0.0.1:9", api_key="none", session=wire, auto_batch_tracing=False
    )
    tracer = LangChainTracer(client=client)
    talk(graph, callbacks=[tracer])
    tracer.wait_for_futures()
    assert len(wire.sent) >= 12
    assert any(b"MemoryState(layers=36" in part for part in wire.sent), "it saw the memory"
    assert max(map(len, wire.sent)) < SMALL


class Keeping(BaseTracer):
    """Keeps runs as any handler sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.kept += self._all(run)

    def _all(self, run: Run) -> list[Run]:
        return [run, *(one for child in run.child_runs for one in self._all(child))]


def test_a_tracer_that_writes_down_inputs_and_outputs_stays_small(graph: Any) -> None:
    tracer = Keeping()
    talk(graph, callbacks=[tracer])
    sizes = [len(json.dumps(one, default=str)) for run in tracer.kept
             for one in (run.inputs, run.outputs)]  # fmt: skip
    assert len(sizes) >= 8
    assert "MemoryState(layers=36" in str([run.inputs for run in tracer.kept]), "it saw the memory"
    # LangGraph's Command shows its update field by field; numpy then leaves out most numbers.
    assert max(sizes) < 4 * SMALL


@pytest.mark.parametrize("mode", ["values", "updates", "debug", "checkpoints", "tasks"])
def test_streams_written_as_json_stay_small(graph: Any, mode: Any) -> None:
    from langsmith._internal._serde import dumps_json  # as services write what they are given

    talk(graph)
    parts = list(graph.stream({"messages": [("user", "c")]}, WHERE, stream_mode=mode))
    assert parts
    for part in parts:
        assert len(dumps_json(part)) < 4 * SMALL
        assert len(json.dumps(part, default=str)) < 4 * SMALL
        assert "array(" not in repr(part)
