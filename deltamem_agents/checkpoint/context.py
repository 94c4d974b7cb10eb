"""What every operation knows: the tenant, and how its values are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from langgraph.checkpoint.serde.base import CipherProtocol

from deltamem_agents.checkpoint.identifiers import Address
from deltamem_agents.checkpoint.serde import Coder
from deltamem_agents.checkpoint.statements import Parameters
from deltamem_agents.checkpoint.tables import Tables

PLAIN = ("plain", b"")  # the row of a tenant without a key


class Key(NamedTuple):
    """What seals a tenant's contents.

    Attributes:
        cipher: None where they are plain.
        salt: of the tenant's hashes.
        row: the kind and bytes of the salt as the table `tenants` holds it, sealed: others after
            every change of key. `PLAIN` where contents are plain.
    """

    cipher: CipherProtocol | None
    salt: bytes
    row: tuple[str, bytes]

    @property
    def sealed(self) -> bytes:
        """By this the key is told from those before and after it."""
        return self.row[1]


@dataclass(frozen=True)
class Context:
    """One tenant on one set of tables."""

    tenant: str
    tables: Tables
    coder: Coder
    key: Key

    def at(self, address: Address) -> dict[str, object]:
        """The parameters that name a place; the tenant is always one of them."""
        return {
            "tenant": self.tenant,
            "thread_id": address.thread_id,
            "namespace_key": address.namespace_key,
            "checkpoint_id": address.checkpoint_id,
        }


__all__ = ["PLAIN", "Context", "Key", "Parameters"]
