"""Live sessions of recent conversations, kept so that a follow-up turn reads only what is new."""

from __future__ import annotations

import threading
from collections import OrderedDict

from deltamem_agents.core.state import MemoryState
from deltamem_agents.runtime.history import History
from deltamem_agents.runtime.messages import digest_of
from deltamem_agents.runtime.session import Session


class LiveSessions:
    """A bounded store of idle sessions, the least recently used of which go first.

    Args:
        capacity: bytes of keys, values and kept memories; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._sessions: OrderedDict[str, tuple[Session, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, state: MemoryState) -> Session | None:
        """Take the session that produced this memory out of the store; None where there is none."""
        with self._lock:
            session, size = self._sessions.pop(_key(state), (None, 0))
            self._bytes -= size
        if session is None or not session.holds(state.state, state.boundary_state):
            return None
        return session

    def history(self, state: MemoryState) -> History | None:
        """The history that led to this memory, where its session is in the store."""
        with self._lock:
            session, _ = self._sessions.get(_key(state), (None, 0))
        return None if session is None else session.history

    def put(self, state: MemoryState, session: Session) -> None:
        """Keep the session that produced this memory."""
        size = session.nbytes
        if size > self.capacity:
            return
        with self._lock:
            _, before = self._sessions.pop(_key(state), (None, 0))
            self._sessions[_key(state)] = (session, size)
            self._bytes += size - before
            while self._bytes > self.capacity:
                _, (_, dropped) = self._sessions.popitem(last=False)
                self._bytes -= dropped

    def clear(self) -> None:
        """Drop all sessions."""
        with self._lock:
            self._sessions.clear()
            self._bytes = 0


def _key(state: MemoryState) -> str:
    ledger = state.ledger
    return digest_of([state.fingerprint, ledger.evicted, ledger.visible, ledger.pinned])
