"""Hostile identifiers and damaged rows: the same on every database, and typed errors only."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import LargeBinary, select
from sqlalchemy.exc import DataError, IntegrityError

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import CorruptStorageError, DeltaMemError, IdentifierError
from tests.checkpoint.helpers import checkpoint, config, memory, put, values_of

ACCEPTED = [
    "Alice",
    "alice",
    "alice ",
    " alice",
    "ALICE",
    "älice",
    "a\u0308lice",
    "'; DROP TABLE blobs; --",
    "%",
    "_",
    "a%b",
    "\\",
    '"',
    "`",
    "$1",
    ":tenant",
    "%(tenant)s",
    "?",
    "🙂" * 60,
    "\t\n\r",
    "\u200b",
    "a/../b",
    "0",
    "-1",
    "NULL",
    "None",
    "\u202e",
    "x" * 768,
    "ß",
    "ss",
    "İ",
    "i",
]
REFUSED = ["a\x00b", "\x00", "\ud800", "x\udfffy", "x" * 769, "🙂" * 193]


def test_identifiers_are_told_apart_byte_by_byte(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        for number, name in enumerate(ACCEPTED):
            place = put(saver, config(name), {"n": number})
            saver.put_writes(place, [("n", number)], "task")
        for number, name in enumerate(ACCEPTED):
            found = saver.get_tuple(config(name))
            assert found is not None, name
            assert found.checkpoint["channel_values"] == {"n": number}
            assert found.config["configurable"]["thread_id"] == name
            assert found.pending_writes == [("task", "n", number)]
        saver.delete_thread("alice")
        assert len(list(saver.list(None))) == len(ACCEPTED) - 1


def test_what_cannot_be_a_key_is_refused_the_same_everywhere(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        for name in REFUSED:
            with pytest.raises(IdentifierError):
                put(saver, config(name), {"n": 1})
            with pytest.raises(IdentifierError):
                saver.get_tuple(config(name))
            with pytest.raises(IdentifierError):
                saver.delete_thread(name)
        for name in ("a\x00", "\ud800", "n" * 60_001):
            with pytest.raises(IdentifierError):
                put(saver, config(namespace=name), {"n": 1})
        place = put(saver, config(), {"n": 1})
        with pytest.raises(IdentifierError):
            put(saver, config(), {"ch\x00": 1})
        with pytest.raises(IdentifierError):
            saver.put_writes(place, [("c" * 513, 1)], "task")
        with pytest.raises(IdentifierError):
            saver.put_writes(place, [("c", 1)], "t\ud800")
        with pytest.raises(IdentifierError):
            saver.put_writes(config(), [("c", 1)], "task")
        with pytest.raises(IdentifierError):
            saver.get_tuple({"configurable": {"thread_id": True}})
        for tenant in ("t\x00", "t" * 129):
            with pytest.raises(IdentifierError):
                SQLAlchemySaver(url, tenant=tenant)
        assert len(list(saver.list(None))) == 1


def test_namespaces_of_any_length_and_look_round_trip(url: str) -> None:
    names = [
        "",
        "child",
        "child|grand:1",
        "child|grand:2",
        "'; --",
        "n" * 5000,
        "n" * 5001,
        "é",
        "É ",
    ]
    with SQLAlchemySaver(url) as saver:
        for number, name in enumerate(names):
            put(saver, config(namespace=name), {"n": number})
        for number, name in enumerate(names):
            assert values_of(saver, config(namespace=name)) == {"n": number}
            found = saver.get_tuple(config(namespace=name))
            assert found is not None
            assert found.config["configurable"]["checkpoint_ns"] == name
        assert len(list(saver.list({"configurable": {"thread_id": "t"}}))) == len(names)


def test_checkpoint_ids_sort_by_code_point(url: str) -> None:
    """LangGraph's newest is max(checkpoint_id) as Python compares text."""
    ids = ["a", "B", "Z", "b", "é", "zz", "~", "0", "ab", "🙂", "\uffff"]
    with SQLAlchemySaver(url) as saver:
        for name in ids:
            made = checkpoint({"n": name})
            made["id"] = name
            saver.put(config(), made, {"source": "loop"}, {"n": "1"})
        listed = [entry.checkpoint["id"] for entry in saver.list(config())]
        assert listed == sorted(ids, reverse=True)
        assert values_of(saver, config()) == {"n": max(ids)}


def _mutate(dice: random.Random, value: Any) -> Any:
    if isinstance(value, bytes):
        changed = bytearray(value)
        for _ in range(dice.randint(1, 4)):
            where = dice.randrange(len(changed) + 1)
            change = dice.randrange(4)
            if change == 0 and changed:
                changed[where % len(changed)] = dice.randrange(256)
            elif change == 1:
                changed[where:where] = dice.randbytes(dice.randint(1, 9))
            elif change == 2:
                del changed[where : where + dice.randint(1, 9)]
            else:
                changed = bytearray(dice.randbytes(dice.randint(0, 40)))
        return bytes(changed)
    if isinstance(value, str):
        letters = list(value)
        for _ in range(dice.randint(1, 3)):
            letters[dice.randrange(len(letters) + 1) : dice.randrange(len(letters) + 1)] = (
                dice.choice(['"', "{", "\\", "é", "0", "", "null", "+aes", "json", "msgpack", "~"])
            )
        return "".join(letters)
    return dice.choice([-1, 0, 1, 2, 99, 2**31 - 1])


FUZZED = {
    "checkpoints": [
        "parent_id",
        "namespace",
        "channel_count",
        "deltas",
        "metadata",
        "kind",
        "body",
    ],
    "channels": ["channel", "kind", "data", "version"],
    "blobs": ["kind", "data"],
    "writes": ["channel", "task_path", "kind", "data"],
}


def _fuzz(url: str, key: bytes | None, rounds: int) -> tuple[int, int]:
    """Mutate single cells; reading gives a value or a typed error. Returns (read, refused)."""
    dice = random.Random(20)
    read = refused = 0
    with SQLAlchemySaver(url, encryption_key=key) as saver:
        place = put(
            saver,
            config(),
            {
                "a": {"k": [1, "text", None, b"raw"]},
                "b": "long " * 199,
                "m": memory(1),
                "s": "?\ud800",
            },
            note="n",
        )
        saver.put_writes(place, [("a", [1, 2]), ("b", "w " * 400)], "task")
        places = [(table, name) for table, names in FUZZED.items() for name in names]
        tables = {table.name: table for table in saver._tables.metadata.sorted_tables}
        while read + refused < rounds:
            name, column = dice.choice(places)
            table = tables[name]
            keys = list(table.primary_key.columns)
            with saver.engine.connect() as connection:
                row = dice.choice(connection.execute(table.select()).all())
                old = row._mapping[table.c[column]]
                if old is None:
                    continue
                binary = isinstance(table.c[column].type, LargeBinary)
                new = _mutate(dice, bytes(old) if binary else old)
                if isinstance(new, str) and column == "kind":
                    new = new[:64]
                own = [entry == row._mapping[entry] for entry in keys]
                try:
                    connection.execute(table.update().where(*own).values({column: new}))
                except (DataError, IntegrityError):
                    continue  # too long, or a key that is taken: the database refuses the damage
                connection.commit()
            try:
                found = saver.get_tuple(place)
                assert found is not None
                list(saver.list(None))
                saver.get_delta_channel_history(config=place, channels=["a", "b"])
                saver.memory_at(place)
                read += 1
            except DeltaMemError:
                refused += 1
            if column == "channel":
                own = [
                    entry == (new if entry.name == column else row._mapping[entry])
                    for entry in keys
                ]
            with saver.engine.begin() as connection:
                connection.execute(table.update().where(*own).values({column: old}))
        assert values_of(saver, place)["m"] == memory(1)
    return read, refused


def test_damaged_text_with_surrogates_is_a_typed_error(url: str) -> None:
    """What stands for a lone surrogate is hexadecimal; a damaged digit is corruption."""
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"s": "?\ud800"})
        channels = saver._tables.channels
        with saver.engine.begin() as connection:
            stored = bytes(connection.execute(select(channels.c.data)).scalar_one())
            assert b"3f00" in stored
            damaged = stored.replace(b"3f00", b"3f0x")
            connection.execute(channels.update().values(data=damaged))
        with pytest.raises(CorruptStorageError, match="can be read"):
            saver.get_tuple(place)


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "encrypted"])
def test_damaged_rows_give_values_or_typed_errors(url: str, key: bytes | None, shown: Any) -> None:
    rounds = 250 if url.startswith("sqlite") else 60
    read, refused = _fuzz(url, key, rounds)
    shown(
        f"fuzz | {url.split(':', maxsplit=1)[0]} {'encrypted' if key else 'plain'}: "
        f"{read} read, {refused} refused"
    )
    assert refused > rounds / 5


@pytest.mark.long
@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "encrypted"])
def test_damaged_rows_ten_thousand_times(database: Any, key: bytes | None, shown: Any) -> None:
    read, refused = _fuzz(database("sqlite"), key, 10_000)
    shown(f"fuzz, long | {'encrypted' if key else 'plain'}: {read} read, {refused} refused")
    assert refused > 2000
