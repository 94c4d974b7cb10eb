"""Checkpoints in SQL: LangGraph's checkpointer for SQLite, PostgreSQL, MariaDB and MySQL."""

from __future__ import annotations

from deltamem_agents.checkpoint.saver import SQLAlchemySaver

__all__ = ["SQLAlchemySaver"]
