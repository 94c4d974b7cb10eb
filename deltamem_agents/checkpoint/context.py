"""What every operation knows: the tenant, and how its values are encoded."""

from __future__ import annotations

from dataclasses import dataclass

from deltamem_agents.checkpoint.identifiers import Address
from deltamem_agents.checkpoint.serde import Coder
from deltamem_agents.checkpoint.statements import Parameters
from deltamem_agents.checkpoint.tables import Tables


@dataclass(frozen=True)
class Context:
    """One tenant on one set of tables."""

    tenant: str
    tables: Tables
    coder: Coder

    def at(self, address: Address) -> dict[str, object]:
        """The parameters that name a place; the tenant is always one of them."""
        return {
            "tenant": self.tenant,
            "thread_id": address.thread_id,
            "namespace_key": address.namespace_key,
            "checkpoint_id": address.checkpoint_id,
        }


__all__ = ["Context", "Parameters"]
