"""What a saver may be given: each argument's rule, checked once when the saver is made."""

from __future__ import annotations

import re

from deltamem_agents.checkpoint import identifiers as ids
from deltamem_agents.errors import ConfigError, IdentifierError

MOST_SECONDS = 2_000_000  # in milliseconds SQLite takes 31 bits
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
# Without quotes a name is the same to every database in lower case only.
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
NAME_BYTES = 63  # PostgreSQL's limit, the smallest
PREFIX_BYTES = NAME_BYTES - len("fact_tombstones_by_scope")  # the longest name of ours


def checked_tenant(tenant: object) -> str:
    """The tenant's name.

    Raises:
        IdentifierError: it cannot be a key, or is empty.
    """
    name = ids.identifier(tenant, "tenant", ids.TENANT_BYTES)
    if not name:
        raise IdentifierError(
            "a tenant has a name", got=name, remedy='Leave it out for the tenant "default".'
        )
    return name


def check_names(schema: str | None, prefix: str) -> None:
    """Schema and prefix: they become part of SQL.

    Raises:
        ConfigError: one of them breaks the rule.
    """
    for name, value, most in (("schema", schema, NAME_BYTES), ("prefix", prefix, PREFIX_BYTES)):
        if value == "" if name == "prefix" else value is None:
            continue
        if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > most:
            raise ConfigError(
                f"{name} is a letter or underscore, then letters, digits and underscores, all in "
                f"lower case, at most {most} of them",
                got=value,
                remedy=f'Choose such a {name}, for example "deltamem_".',
            )


def checked_level(synchronous: object) -> str:
    """SQLite's durability, in capitals.

    Raises:
        ConfigError: there is no such level.
    """
    level = synchronous.upper() if isinstance(synchronous, str) else None
    if level not in _SYNCHRONOUS:
        raise ConfigError(
            f"synchronous is one of {_SYNCHRONOUS}",
            got=synchronous,
            remedy="Leave it out for FULL.",
        )
    return level


def checked_timeout(busy_timeout: object) -> float:
    """Seconds to wait for other writers.

    Raises:
        ConfigError: it is no such number.
    """
    if not isinstance(busy_timeout, int | float) or not 0 <= busy_timeout <= MOST_SECONDS:
        raise ConfigError(
            f"busy_timeout is a number of seconds from 0 to {MOST_SECONDS}",
            got=busy_timeout,
            remedy="Leave it out for 30.",
        )
    return float(busy_timeout)


def checked_size(pool_size: object) -> int:
    """How many connections are kept.

    Raises:
        ConfigError: it is no such number.
    """
    if not isinstance(pool_size, int) or isinstance(pool_size, bool) or pool_size < 1:
        raise ConfigError(
            "pool_size is a number of connections, 1 or more",
            got=pool_size,
            remedy="Leave it out for 8.",
        )
    return pool_size
