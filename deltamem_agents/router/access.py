"""A store's way to its database: each operation with the key that the saver has at that time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

from sqlalchemy import Connection, Engine

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.fact_tables import FactTables, fact_tables
from deltamem_agents.errors import ConfigError, EncryptionError
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read

T = TypeVar("T")


@runtime_checkable
class Saver(Protocol):
    """What the store needs of a saver; `SQLAlchemySaver` also has a key and names of tables."""

    @property
    def engine(self) -> Engine:
        """The synchronous engine."""

    @property
    def tenant(self) -> str:
        """Whose data it holds."""


@dataclass(frozen=True)
class Access:
    """Runs a store's operations.

    A key may change between two operations (`SQLAlchemySaver.rekey`), and so may what is derived
    from it: digests of messages, slots. So nothing of a shelf outlives its operation.

    Attributes:
        saver: whose database and key it is.
        clock: seconds since 1970, UTC.
        tables: of the installation.

    Raises:
        ConfigError: there is no saver.
    """

    saver: Saver
    clock: Callable[[], float]
    tables: FactTables = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.saver, Saver):
            raise ConfigError(
                "facts are kept by a saver",
                got=self.saver,
                remedy="Pass an opened SQLAlchemySaver: FactStore(saver).",
            )
        context = self._context()
        names = () if context is None else (context.tables.schema, context.tables.prefix)
        object.__setattr__(self, "tables", fact_tables(*names))

    @property
    def shelf(self) -> Shelf:
        """The tables, with the key as it is now."""
        saver = self.saver
        return Shelf(saver.engine, self.tables, saver.tenant, self.clock, self._context())

    def run(self, operation: Callable[[Shelf], T]) -> T:
        """Runs an operation; again where the saver was given another key meanwhile.

        Raises:
            EncryptionError: the tenant's key was changed, and the saver has not the new one.
        """
        shelf = self.shelf
        while True:
            try:
                return operation(shelf)
            except EncryptionError:
                newer, held = self._context(refused=shelf.context), shelf.context
                if newer is None or held is None or newer.key is held.key:
                    raise
            shelf = replace(shelf, context=newer)

    def read(self, work: Callable[[Shelf, Connection], T]) -> T:
        """Runs an operation of one transaction that only reads; see `run`."""
        return self.run(lambda shelf: read(shelf, lambda c: work(shelf, c)))

    def _context(self, refused: Context | None = None) -> Context | None:
        if not isinstance(self.saver, SQLAlchemySaver):
            return None
        return self.saver.context if refused is None else self.saver.context_after(refused)
