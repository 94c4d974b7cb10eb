"""A counting chat model in the network's place: "plumbing only".

Its memory is a real `MemoryState` whose matrix counts, message by message, what was read, so that
a message that is read twice, never, or by the wrong thread shows as a number. It knows no window.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.chat.messages import to_dict
from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import DivergenceError
from deltamem_agents.runtime.messages import digest, normalise
from deltamem_agents.testing import save_tiny

SHAPE = (1, 1, 8, 8)
SERVERS = {
    "postgresql": ("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test"),
    "mariadb": ("DELTAMEM_TEST_MARIADB_URL", "mariadb+pymysql://root@127.0.0.1/test"),
}


def name_of(message: BaseMessage) -> str:
    return digest(normalise([to_dict(message)])[0])


def counted(names: tuple[str, ...]) -> MemoryState:
    """The memory of a thread that read just these messages, each once."""
    state = np.zeros(SHAPE, np.float32)
    for name in names:
        place = int(name[:4], 16)
        state[0, 0, place % 8, place // 8 % 8] += 1 + place / 2**16
    return MemoryState(
        state, np.zeros(SHAPE, np.float32), Ledger(visible=names), len(names), "0" * 64
    )


class CountingModel(BaseChatModel):
    """Answers "n heard" where n is the number of messages that its memory has read."""

    script: list[AIMessage] = Field(default_factory=list)
    failures: int = 0
    calls: list[int] = Field(default_factory=list)
    _slot: Any = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "counting"

    def with_memory(self, slot: Any) -> CountingModel:
        bound = self.model_copy(update={"cache": False})
        bound._slot = slot
        return bound

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self.bind(tools=tools, **options)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        self.calls.append(len(messages))
        if self.failures > len(self.calls) - 1:
            raise ConnectionError("planned")
        names = tuple(name_of(message) for message in messages if message.type != "system")
        before = self._slot.before if self._slot else None
        visible = before.ledger.visible if before else ()
        if names[: len(visible)] != visible:
            raise DivergenceError(
                "history agrees with memory", got=len(visible), remedy="Rebuild it."
            )
        turn = len([message for message in messages if message.type == "ai"])
        reply = AIMessage(f"{len(names)} heard")
        if turn < len(self.script):
            reply = self.script[turn].model_copy()
        if self._slot is not None:
            self._slot.fill(counted((*names, name_of(reply))))
        return ChatResult(generations=[ChatGeneration(message=reply)])


@pytest.fixture
def counting() -> type[CountingModel]:
    return CountingModel


@pytest.fixture
def heard() -> Any:
    """The memory that a thread with just these messages must have."""
    return lambda messages: counted(
        tuple(name_of(message) for message in messages if message.type != "system")
    )


# ------------------------------------------------------------------ the real model, tiny


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_tiny(tmp_path_factory.mktemp("tiny"), window=1024, layers=2, hidden=32)


@pytest.fixture(scope="session")
def tiny(tiny_folders: tuple[Path, Path]) -> Callable[..., ChatDeltaMem]:
    """A real ChatDeltaMem with random weights; one token is one character."""

    def make(**options: Any) -> ChatDeltaMem:
        backbone, adapter = tiny_folders
        values = {"context_window": 160, "low_water": 90, "max_tokens": 4, **options}
        return ChatDeltaMem(model=str(backbone), adapter=str(adapter), **values)

    return make


@pytest.fixture
def file_saver(tmp_path: Path) -> Iterator[SQLAlchemySaver]:
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}", synchronous="OFF") as saver:
        yield saver


def _server_database(backend: str) -> Iterator[str]:
    """An empty database of a server; skipped without the server, failed with CI set."""
    variable, default = SERVERS[backend]
    server = make_url(os.environ.get(variable, default))
    engine = create_engine(
        server, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5}
    )
    name = "dm_" + uuid.uuid4().hex[:12]
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{backend} does not answer: {error}")
        pytest.skip(f"{backend} does not answer: {error}")
    yield server.set(database=name).render_as_string(hide_password=False)
    force = " WITH (FORCE)" if backend == "postgresql" else ""
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name}{force}"))
    engine.dispose()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database."""
    yield from _server_database("postgresql")


@pytest.fixture(params=SERVERS)
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database of each server."""
    yield from _server_database(request.param)
