"""A memory and its controls as subjects: the same way of asking, another state or other views."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from deltamem_agents.adapter import adapter_parameters
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.controls import emptied, shuffled, swapped, without_window
from deltamem_agents.evaluation.frame import Cost, Episode, Message, Question, Reply
from deltamem_agents.evaluation.likelihood import log_probability
from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.runtime.template import WritePolicy

ROOM_FOR_A_REPLY = 64
_NOTHING = WritePolicy(system=False, user=False, assistant=False, tool=False, template=False)


def silent(engine: Engine, window: int | None = None) -> Engine:
    """The same model without its memory: nothing is written, so nothing is ever read.

    Args:
        engine: whose model and template.
        window: visible tokens; None for all positions but the room for a reply.
    """
    return load_engine(
        engine.model,
        tokenizer=engine.tokenizer,
        template=engine.template.source,
        context_window=window or engine.max_positions - ROOM_FOR_A_REPLY,
        low_water=engine.low_water if window == engine.context_window else None,
        write_policy=_NOTHING,
    )


@dataclass(frozen=True)
class Asked:
    """An episode as messages and a memory; what `frame.Held` asks for.

    Args:
        engine: answers.
        memory: before what the messages say beyond it; None for an empty one.
        messages: from a question to what stands before it.
        cost: see `frame.Cost`.
    """

    engine: Engine
    memory: MemoryState | None
    messages: Callable[[Question], Sequence[Message]]
    cost: Cost = field(default_factory=Cost)

    def ask(self, question: Question, max_tokens: int) -> Reply:
        """Ask on a fork; the greedy answer."""
        began = time.perf_counter()
        options = Options(sampling=Sampling(max_tokens=max_tokens))
        *_, last = self.engine.generate(self.memory, self._prompt(question), options=options)
        assert isinstance(last, Final)
        text = str(last.message["content"]).strip()
        return Reply(text, last.usage.input_tokens, time.perf_counter() - began)

    def likelihood(self, question: Question, answer: str) -> tuple[float, int]:
        """Log-probability (nats) of an answer, and its number of tokens."""
        return log_probability(self.engine, self.memory, self._prompt(question), answer)

    def _prompt(self, question: Question) -> list[Message]:
        return [*self.messages(question), {"role": "user", "content": question.text}]


class Reader:
    """Reads each episode once, whoever asks for its memory.

    Args:
        engine: reads.
        bare: whether all messages leave the window afterwards, so that the state alone is left.
    """

    def __init__(self, engine: Engine, *, bare: bool = False) -> None:
        self.engine, self.bare = engine, bare
        self._known: dict[str, tuple[MemoryState, float]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def read(self, episode: Episode) -> tuple[MemoryState, float]:
        """The memory after what is told, and the seconds that reading took."""
        with self._lock:
            own = self._locks.setdefault(episode.name, threading.Lock())
        with own:
            if episode.name not in self._known:
                began = time.perf_counter()
                told = episode.told
                memory = self.engine.read(None, told) if told else self.engine.empty_state()
                memory = without_window(memory) if self.bare else memory
                self._known[episode.name] = memory, time.perf_counter() - began
            return self._known[episode.name]

    @cached_property
    def parameters(self) -> int:
        """Numbers that the adapter has."""
        return sum(parameter.numel() for _, parameter in adapter_parameters(self.engine.model))


Change = Callable[[MemoryState, MemoryState, Episode], MemoryState]


@dataclass(frozen=True)
class FromMemory:
    """A subject that answers from a memory, changed or not.

    Args:
        name: see `frame.Subject`.
        title: see there.
        reader: reads the episodes.
        change: (own memory, another episode's, episode) -> the memory that is used.
        borrows: whether the other episode's memory is needed.
    """

    name: str
    title: str
    reader: Reader
    change: Change
    borrows: bool = False
    parallel: bool = True

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Read the episode; see `frame.Subject`.

        Raises:
            ConfigError: another episode's memory is needed, and there is no other.
        """
        if self.borrows and other.name == episode.name:
            raise ConfigError(
                f'"{self.name}" answers with the memory of another episode',
                got="one episode",
                remedy="Take two episodes at least, or leave this subject out.",
            )
        own, seconds = self.reader.read(episode)
        lent = self.reader.read(other)[0] if self.borrows else own
        memory = self.change(own, lent, episode)
        cost = Cost(self.reader.parameters, memory.nbytes, memory.tokens_written, seconds)
        yield Asked(self.reader.engine, memory, lambda _: episode.told, cost)


@dataclass(frozen=True)
class FromText:
    """A subject that answers from messages in view alone.

    Args:
        name: see `frame.Subject`.
        title: see there.
        engine: without a memory; what exceeds its window leaves, the oldest turns first.
        whole: whether it is shown what was told.
    """

    name: str
    title: str
    engine: Engine
    whole: bool = True
    parallel: bool = True

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Keep the text; see `frame.Subject`."""
        told = episode.told if self.whole else ()
        size = sum(len(str(message["content"]).encode()) for message in told)
        yield Asked(self.engine, None, lambda _: told, Cost(bytes=size))


def _is(own: MemoryState, other: MemoryState, episode: Episode) -> MemoryState:
    return own


def _mixed(own: MemoryState, other: MemoryState, episode: Episode) -> MemoryState:
    return shuffled(own, seed=zlib.crc32(episode.name.encode()))


CONTROLS = ("off", "reset", "shuffled", "swapped", "full")
STANDARD = ("memory", *CONTROLS)

#: name: (title, change, whether it needs another episode's memory)
MEMORIES: Mapping[str, tuple[str, Change, bool]] = {
    "memory": ("with memory", _is, False),
    "reset": ("memory reset", lambda own, other, episode: emptied(own), False),
    "shuffled": ("memory shuffled", _mixed, False),
    "swapped": (
        "another conversation's memory", lambda own, other, episode: swapped(own, other), True
    ),
    "state": (
        "state only, nothing in view", lambda own, other, episode: without_window(own), False
    ),
    "state-swapped": (
        "another's state only",
        lambda own, other, episode: without_window(swapped(own, without_window(other))), True,
    ),
}  # fmt: skip
