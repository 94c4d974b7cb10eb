"""The demo's second process: asks about what is no longer visible, forks, and forgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from deltamem_agents.chat.messages import to_dicts
from deltamem_agents.chat.model import ChatDeltaMem
from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.cli.demo_script import THREAD, Script, Told
from deltamem_agents.core.state import MemoryState
from deltamem_agents.evaluation.controls import emptied
from deltamem_agents.evaluation.metrics import says
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.router import FactStore, HybridRouter
from deltamem_agents.runtime.slot import MemorySlot


@dataclass(frozen=True)
class Asked:
    """One fact, asked in three ways.

    Attributes:
        fact: what was told.
        distance: tokens between the message that told it and the first visible message.
        remembered: the agent's answer.
        control: the answer to the same prompt with an empty memory behind it.
        routed: the answer of the agent with a router.
        citation: where the router's answer comes from; "" for nowhere.
        visible: tokens in view when the agent answered.
        size: bytes of the memory.
    """

    fact: Told
    distance: int
    remembered: str
    control: str
    routed: str
    citation: str
    visible: int
    size: int


@dataclass(frozen=True)
class Branch:
    """One way in which the conversation went on.

    Attributes:
        value: what was told in it.
        answer: what it knows in the end.
        memory: its memory.
        gone: whether the message that told the value has left the window.
    """

    value: str
    answer: str
    memory: MemoryState
    gone: bool


@dataclass(frozen=True)
class Forgot:
    """One fact, forgotten.

    Attributes:
        fact: which.
        answer: what the agent then answers.
        routed: what the agent with a router then answers.
        checkpoints: how many checkpoints were rewritten.
        bytes_left: how often the value still stands in the database's files.
        others: of each other fact, whether the memory still answers it.
        routed_others: of each other fact, whether the agent with a router still does.
    """

    fact: Told
    answer: str
    routed: str
    checkpoints: int
    bytes_left: int
    others: tuple[bool, ...]
    routed_others: tuple[bool, ...]


class Asker:
    """Two agents on the thread that the first process left: one plain, one with a router.

    Every question is asked on a fork of its own, so that questions neither push each other out of
    the window nor help each other.

    Args:
        model: the chat model.
        saver: the opened database.
        script: what was said.
    """

    def __init__(self, model: ChatDeltaMem, saver: SQLAlchemySaver, script: Script) -> None:
        self.model, self.saver, self.script = model, saver, script
        self.router = HybridRouter(FactStore(saver))
        self.plain = self._agent(None)
        self.routed = self._agent(self.router)
        found = saver.get_tuple({"configurable": {"thread_id": THREAD}})
        assert found is not None
        self.end: RunnableConfig = found.config

    def _agent(self, router: HybridRouter | None) -> Any:
        memory = DeltaMemMiddleware(router=router)
        return create_agent(self.model, tools=[], middleware=[memory], checkpointer=self.saver)

    @cached_property
    def messages(self) -> list[AnyMessage]:
        """The conversation."""
        return list(self.plain.get_state(self.end).values["messages"])

    @property
    def memory(self) -> MemoryState:
        """The memory at its end."""
        memory = self.saver.memory_at(self.end)
        assert memory is not None
        return memory

    def ask(self, agent: Any, question: str, where: RunnableConfig | None = None) -> AIMessage:
        """Ask on a fork of the conversation's end, or of another checkpoint."""
        state = agent.invoke({"messages": [("user", question)]}, where or self.end)
        reply: AIMessage = state["messages"][-1]
        return reply

    def asked(self, fact: Told) -> Asked:
        """Ask for one fact in all three ways."""
        remembered = self.ask(self.plain, fact.question)
        routed = self.ask(self.routed, fact.question)
        empty = self.model.with_memory(MemorySlot(emptied(self.memory)))
        control = empty.invoke([*self.messages, HumanMessage(fact.question)])
        usage = remembered.usage_metadata or {"input_tokens": 0}
        return Asked(
            fact=fact,
            distance=self.distance(fact),
            remembered=str(remembered.text),
            control=str(control.text),
            routed=str(routed.text),
            citation=self._citation(routed),
            visible=usage["input_tokens"],
            size=self.memory.nbytes,
        )

    def distance(self, fact: Told) -> int:
        """Tokens between the message that told a fact and the first visible message."""
        gone = self.memory.ledger.evicted_count
        between = self.messages[2 * fact.turn + 1 : gone]
        return self.model.engine.count_tokens(to_dicts(between), generate=False)

    def _citation(self, reply: AIMessage) -> str:
        numbers = {message.id: place for place, message in enumerate(self.messages)}
        for citation in reply.response_metadata.get("citations", ()):
            number = numbers.get(citation["source_message_id"])
            if number is not None:
                start, end = citation["span"]
                return f"message {number + 1}, {start}:{end}"
        return ""

    def branch(self, value: str, text: str, advance: Any) -> Branch:
        """Go on from the conversation's end in one of two ways."""
        fork, where = self.script.branches, self.end
        for said in (text, *fork.turns):
            self.plain.invoke({"messages": [("user", said)]}, where)
            newest = self.saver.get_tuple({"configurable": {"thread_id": THREAD}})
            assert newest is not None
            where = newest.config
            advance()
        memory = self.saver.memory_at(where)
        assert memory is not None
        answer = str(self.ask(self.plain, fork.question, where).text)
        gone = memory.ledger.evicted_count > len(self.messages) + 1
        return Branch(value, answer, memory, gone)

    def forget(self, fact: Told, database: Path) -> Forgot:
        """Forget the turn that told a fact, and all that said its value again."""
        thread = ThreadMemory(self.routed, self.end)
        told = self.messages[2 * fact.turn].id
        assert told is not None
        report = thread.forget(told, values=[fact.value], repeats="forget")
        rest = [other for other in self.script.facts if other is not fact]
        return Forgot(
            fact=fact,
            answer=str(self.ask(self.plain, fact.question).text),
            routed=str(self.ask(self.routed, fact.question).text),
            checkpoints=report.checkpoints,
            bytes_left=occurrences(database, fact.value),
            others=self._known(self.plain, rest),
            routed_others=self._known(self.routed, rest),
        )

    def _known(self, agent: Any, facts: Sequence[Told]) -> tuple[bool, ...]:
        return tuple(says(str(self.ask(agent, one.question).text), one.value) for one in facts)


def occurrences(database: Path, value: str) -> int:
    """How often a value stands in the files of a SQLite database."""
    files = sorted(database.parent.glob(database.name + "*"))
    return sum(file.read_bytes().count(value.encode()) for file in files)
