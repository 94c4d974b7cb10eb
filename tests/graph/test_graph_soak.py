"""Random conversations against an oracle: a fresh reading of the messages that are left.

The machine says, calls tools, forks, replays, edits, forgets, crashes and resumes on one thread of
a database. After every step the memory at the end of every branch must be that of a thread that was
told its messages and nothing else: to 1e-5, with the same ledger.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.chat.tools import tool_schemas
from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.turns import turns

TEXTS = st.sampled_from(
    ["a", "the code is 41", "b " * 12, "my dog is Rex", "c" * 30, "what is it?"]
)

EDITS = ("change", "insert", "remove", "swap")


@tool
def look(place: str) -> str:
    """Look."""
    return f"seen {place}"


class Scripted(AgentMiddleware[Any, Any, Any]):
    """Calls tools, or crashes, in the network's place when the machine says so."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.crash = False

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        if self.crash:
            self.crash = False
            handler(request)  # the reply is made, and lost
            raise ConnectionError("planned crash")
        if self.calls and isinstance(request.messages[-1], HumanMessage):
            count, self.calls = self.calls, 0
            calls = [
                {"name": "look", "args": {"place": str(n)}, "id": uuid.uuid4().hex}
                for n in range(count)
            ]
            return AIMessage("", tool_calls=calls)
        return handler(request)


class Conversation(RuleBasedStateMachine):
    """One thread; `tiny`, `url` and `done` are set on the subclass that a test runs."""

    tiny: Any
    url: str
    done: Counter[str]

    @initialize()
    def begin(self) -> None:
        self.fresh: dict[str, Any] = {}
        self.where: Any = {"configurable": {"thread_id": uuid.uuid4().hex}}
        self.saver = SQLAlchemySaver(self.url)
        self.said = 0
        self.start()

    def start(self, **options: Any) -> None:
        self.model = self.tiny(context_window=940, low_water=700, max_tokens=2, **options)
        self.script = Scripted()
        self.graph = create_agent(
            self.model,
            tools=[look],
            middleware=[self.script, DeltaMemMiddleware()],
            checkpointer=self.saver,
        )

    def new(self, text: str) -> str:
        """Never the same twice: a ledger takes a message for an equal one in its place."""
        self.said += 1
        return f"{text} {self.said}"

    # ------------------------------------------------------------------ what happens

    @rule(text=TEXTS, at=st.integers(0, 50), durability=st.sampled_from(["async", "sync", "exit"]))
    def say(self, text: str, at: int, durability: Any) -> None:
        asked = {"messages": [("user", self.new(text))]}
        self.graph.invoke(asked, self.branch(at), durability=durability)
        self.check("say")

    @rule(text=TEXTS, calls=st.integers(1, 2))
    def use_tools(self, text: str, calls: int) -> None:
        self.script.calls = calls
        self.graph.invoke({"messages": [("user", self.new(text))]}, self.where)
        self.check("use_tools")

    @rule(text=TEXTS, cold=st.booleans())
    def crash_and_resume(self, text: str, cold: bool) -> None:
        self.script.crash = True
        with pytest.raises(ConnectionError):
            self.graph.invoke({"messages": [("user", self.new(text))]}, self.where)
        if cold:
            self.saver.close()
            self.saver = SQLAlchemySaver(self.url)
            self.start(live_bytes=0)
        self.graph.invoke(None, self.where)
        self.check("crash_and_resume")

    @precondition(lambda self: self.messages())
    @rule(at=st.integers(0, 50))
    def replay(self, at: int) -> None:
        past = [one for one in self.graph.get_state_history(self.where) if one.next == ("model",)]
        if past:
            self.graph.invoke(None, past[at % len(past)].config)
            self.check("replay")

    @precondition(lambda self: self.messages())
    @rule(at=st.integers(0, 50), text=TEXTS, kind=st.sampled_from(EDITS))
    def edit(self, at: int, text: str, kind: str) -> None:
        """Change the window; what was read before the boundary is not looked at."""
        said = self.messages()
        memory = self.graph.get_state(self.where).values.get("delta_memory")
        count = memory.ledger.evicted_count if memory else 0
        pieces = turns(said[count:])
        # Turns that are missing at the front of the whole conversation are evicted, not edited.
        first = 0 if count or kind in ("insert", "change") else 1
        if len(pieces) <= first or (kind == "swap" and len(pieces) < first + 2):
            return
        place = first + at % (len(pieces) - first)
        question = pieces[place][0]
        if kind == "change":
            pieces[place][0] = HumanMessage(self.new(text), id=question.id)
        elif kind == "insert":
            pieces.insert(place, [HumanMessage(self.new(text))])
        elif kind == "remove":
            del pieces[place]
        else:
            place = min(place, len(pieces) - 2)
            pieces[place : place + 2] = [pieces[place + 1], pieces[place]]
        after = [*said[:count], *(message for piece in pieces for message in piece)]
        change = [RemoveMessage(REMOVE_ALL_MESSAGES), *after]
        self.graph.update_state(self.where, {"messages": change}, as_node="model")
        self.graph.invoke({"messages": [("user", self.new("go on"))]}, self.where)
        self.check(kind)

    @precondition(lambda self: self.messages())
    @rule(at=st.integers(0, 50), old=st.booleans())
    def forget(self, at: int, old: bool) -> None:
        told = [message for message in self.messages() if message.type == "human"]
        chosen = told[at % len(told)] if old else told[-1]
        ThreadMemory(self.graph, self.where).forget(chosen.id)
        assert chosen.id not in {message.id for message in self.messages()}
        self.check("forget")

    @rule(text=TEXTS)
    def ingest(self, text: str) -> None:
        ThreadMemory(self.graph, self.where).ingest(self.new(text))
        self.check("ingest")

    # ------------------------------------------------------------------ what must hold

    def messages(self) -> list[Any]:
        return list(self.graph.get_state(self.where).values.get("messages", []))

    def branch(self, at: int) -> Any:
        """Mostly the newest checkpoint; now and then the end of an earlier run: a fork."""
        if at % 4:
            return self.where
        ends = [one for one in self.graph.get_state_history(self.where) if not one.next]
        return ends[at % len(ends)].config if ends else self.where

    def check(self, step: str) -> None:
        self.done[step] += 1
        states = list(self.graph.get_state_history(self.where))
        parents = {(one.parent_config or {}).get("configurable", {}).get("checkpoint_id")
                   for one in states}  # fmt: skip
        for one in states:
            if one.config["configurable"]["checkpoint_id"] in parents or one.next:
                continue
            memory, messages = one.values.get("delta_memory"), one.values.get("messages", [])
            if memory is None:
                assert not messages
                continue
            count = memory.ledger.evicted_count + len(memory.ledger.visible)
            assert count == len(messages), "every message is written once"
            fresh = self.oracle(messages)
            assert memory.ledger == fresh.ledger
            np.testing.assert_allclose(memory.state, fresh.state, atol=1e-5, rtol=0)
            np.testing.assert_allclose(
                memory.boundary_state, fresh.boundary_state, atol=1e-5, rtol=0
            )

    def oracle(self, messages: list[Any]) -> Any:
        """A reading from nothing; the same messages are not read a second time."""
        plain = [to_dict(message) for message in messages]
        key = repr(plain)
        if key not in self.fresh:
            self.fresh[key] = self.model.engine.read(None, plain, tools=tool_schemas([look]))
        return self.fresh[key]

    def teardown(self) -> None:
        if hasattr(self, "saver"):
            self.saver.close()
            self.done["sequences"] += 1
            if self.done["sequences"] % 25 == 0:
                print(dict(self.done), flush=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: Any, tmp_path: Any) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'soak.db'}"
    else:
        yield request.getfixturevalue("postgres_url")


def soak(tiny: Any, url: str, examples: int, steps: int) -> Counter[str]:
    done: Counter[str] = Counter()
    parts = {"tiny": staticmethod(tiny), "url": url, "done": done}
    case = type("Running", (Conversation,), parts).TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=examples < 100,
        database=None,
    )
    case("runTest").runTest()
    assert done["sequences"] >= examples
    return done


def test_short_conversations(tiny: Any, url: str) -> None:
    soak(tiny, url, examples=25, steps=6)


@pytest.mark.long
def test_long_conversations(tiny: Any, url: str) -> None:
    done = soak(tiny, url, examples=250, steps=20)
    for step in (*EDITS, "say", "use_tools", "crash_and_resume", "replay", "forget", "ingest"):
        assert done[step] > 20, step
    print(dict(done))
