"""What a saver and its methods are given is checked, and refused with the rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.arguments import PREFIX_BYTES
from deltamem_agents.checkpoint.fact_tables import fact_tables
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.errors import ConfigError, EncryptionError, IdentifierError, StorageError
from deltamem_agents.router import FactStore
from tests.checkpoint.helpers import config, put, values_of


@pytest.mark.parametrize(
    ("arguments", "kind", "rule"),
    [
        ({"prefix": "x;drop--"}, ConfigError, "prefix is a letter"),
        ({"prefix": 'q"q'}, ConfigError, "prefix is a letter"),
        ({"prefix": "%s %(a)s :b"}, ConfigError, "prefix is a letter"),
        ({"prefix": "Upper_"}, ConfigError, "lower case"),
        ({"prefix": "x_\n"}, ConfigError, "prefix is a letter"),
        ({"prefix": "a" * (PREFIX_BYTES + 1)}, ConfigError, f"at most {PREFIX_BYTES}"),
        ({"prefix": None}, ConfigError, "prefix is a letter"),
        ({"schema": ""}, ConfigError, "schema is a letter"),
        ({"schema": "two words"}, ConfigError, "schema is a letter"),
        ({"schema": "a" * 64}, ConfigError, "at most 63"),
        ({"tenant": ""}, IdentifierError, "a tenant has a name"),
        ({"encryption_key": "s" * 32}, EncryptionError, "an AES key is bytes"),
        ({"pool_size": -1}, ConfigError, "pool_size"),
        ({"pool_size": 0}, ConfigError, "pool_size"),
        ({"pool_size": 2.5}, ConfigError, "pool_size"),
        ({"synchronous": None}, ConfigError, "synchronous is one of"),
        ({"synchronous": "ALWAYS"}, ConfigError, "synchronous is one of"),
        ({"busy_timeout": math.nan}, ConfigError, "busy_timeout"),
        ({"busy_timeout": math.inf}, ConfigError, "busy_timeout"),
        ({"busy_timeout": "30"}, ConfigError, "busy_timeout"),
    ],
)
def test_arguments_of_the_saver(
    tmp_path: Path, arguments: dict[str, Any], kind: type[Exception], rule: str
) -> None:
    with pytest.raises(kind, match=rule):
        SQLAlchemySaver(tmp_path / "a.db", **arguments)


def test_the_longest_prefix_fits(fresh_url: str) -> None:
    names = [
        str(name)
        for tables in (Tables(), fact_tables())
        for table in tables.metadata.sorted_tables
        for name in (
            table.name,
            *(index.name for index in table.indexes),
            *(rule.name for rule in table.constraints if rule.name),
        )
    ]
    prefix = "p" * PREFIX_BYTES
    assert max(len(prefix + name) for name in names) == 63
    with SQLAlchemySaver(fresh_url, prefix=prefix) as saver:
        FactStore(saver)
        assert values_of(saver, put(saver, config(), {"x": 1})) == {"x": 1}


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda saver: saver.retain("t", max_age=math.inf), "max_age"),
        (lambda saver: saver.retain("t", max_age=math.nan), "max_age"),
        (lambda saver: saver.retain("t", max_age="1d"), "max_age"),
        (lambda saver: saver.retain("t", max_age=timedelta(-1)), "max_age"),
        (lambda saver: saver.retain("t", keep_last="3"), "keep_last"),
        (lambda saver: saver.retain("t", keep_last=True), "keep_last"),
        (lambda saver: list(saver.list(config(), before={})), "before is a config"),
        (lambda saver: saver.delete_for_runs("abc"), "run_ids is a list"),
        (lambda saver: saver.prune("abc"), "thread_ids is a list"),
    ],
)
def test_arguments_of_the_methods(
    tmp_path: Path, call: Callable[[SQLAlchemySaver], Any], rule: str
) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        put(saver, config(), {"x": 1}, run_id="a")
        with pytest.raises(ConfigError, match=rule):
            call(saver)
        assert len(list(saver.list(None))) == 1
        assert saver.retain("t", max_age=timedelta.max).checkpoints == 0


async def test_a_value_larger_than_the_servers_packet(database: Callable[..., str]) -> None:
    """The server would end the connection, and calling again would never help."""
    async with SQLAlchemySaver(database("mariadb")) as saver:
        with saver.engine.connect() as connection:
            most = connection.scalar(text("SELECT @@max_allowed_packet"))
        place = put(saver, config(), {"x": bytes(most // 2 - 400_000)})  # a zero is sent as two
        large = bytes(most // 2)
        with pytest.raises(StorageError, match="max_allowed_packet"):
            put(saver, place, {"x": large})
        with pytest.raises(StorageError, match="max_allowed_packet"):
            saver.put_writes(place, [("x", large), ("y", 1)], "task")
        with pytest.raises(StorageError, match="max_allowed_packet"):
            await saver.aput_writes(place, [("x", large)], "task")
        found = saver.get_tuple(config())
        assert found is not None
        assert found.config == place
        assert not found.pending_writes


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("", "a database is named"),
        ("  ", "a database is named"),
        ("mariadb+pymysql://root@127.0.0.1/", "names one of its databases"),
        ("postgresql+psycopg://root:secret@127.0.0.1", "names one of its databases"),
    ],
)
def test_a_database_has_a_name(source: str, rule: str) -> None:
    """Nothing would be kept of the first, and of the last two somebody else's could be used."""
    with pytest.raises(ConfigError, match=rule) as raised:
        SQLAlchemySaver(source)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("age", [True, "90", -1.0])
def test_an_age_is_a_time_span(age: Any) -> None:
    with SQLAlchemySaver(":memory:") as saver, pytest.raises(ConfigError, match="a time span"):
        saver.retain(max_age=age, dry_run=True)
