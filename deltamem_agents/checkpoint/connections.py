"""Connections that a saver keeps for itself: checked out once, in autocommit, with a cursor."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass

from sqlalchemy import Engine

from deltamem_agents.checkpoint import engines
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.statements import Statements

IDLE_SECONDS = 5.0  # a connection that rested longer is asked whether it still lives


@dataclass
class Held:
    """A connection of our own, with its cursor."""

    session: Session
    process: int
    used: float  # monotonic seconds

    def drop(self) -> None:
        """Close the connection for good (never one that a fork inherited: it is the parent's)."""
        if self.process == os.getpid() and self.session.raw.is_valid:
            self.session.raw.invalidate()


class Connections:
    """The idle ones, last used first; any thread takes and gives back."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.stale_before = 0.0
        self.closed = False
        self._idle: deque[Held] = deque()

    def take(self, engine: Engine, statements: Statements) -> Held:
        """An idle connection, checked if it rested for long or before a failure, or a new one."""
        now = time.monotonic()
        while self._idle:
            try:
                held = self._idle.pop()
            except IndexError:
                break
            if held.process != os.getpid():
                continue
            fresh = now - held.used < IDLE_SECONDS and held.used > self.stale_before
            if statements.family == "sqlite" or fresh or _answers(held, engine):
                return held
            held.drop()
        raw = engine.raw_connection()
        engines.commit_by_itself(raw, statements.family)
        return Held(Session(raw, statements), os.getpid(), now)

    def give_back(self, held: Held) -> None:
        """Keep the connection for the next operation."""
        if self.closed or len(self._idle) >= self.most:
            held.drop()
            return
        held.used = time.monotonic()
        self._idle.append(held)

    def suspect(self) -> None:
        """A connection broke: the others are asked before they are used again."""
        self.stale_before = time.monotonic()

    def drop_all(self) -> None:
        """Close those that are idle."""
        while self._idle:
            self._idle.pop().drop()


def _answers(held: Held, engine: Engine) -> bool:
    try:
        return bool(engine.dialect.do_ping(held.session.raw.dbapi_connection))
    except Exception:
        return False
