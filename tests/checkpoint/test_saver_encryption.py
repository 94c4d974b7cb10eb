"""Encryption: everything that is content, on every database; keys, rotation, refusals."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from sqlalchemy import LargeBinary, cast, func, literal, select

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.serde import strict_serializer
from deltamem_agents.errors import EncryptionError, StorageError
from tests.checkpoint.helpers import bytes_of, config, memory, put, values_of

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def _fill(saver: SQLAlchemySaver) -> Any:
    place = put(
        saver,
        config(),
        {"s": "canary short", "l": "canary long " * 99, "m": memory(4)},
        note="canary note",
        run_id="canary run",
    )
    saver.put_writes(place, [("s", "canary write"), ("l", "canary long " * 99)], "task")
    return place


def _cells(saver: SQLAlchemySaver) -> list[bytes]:
    """Every cell of every table as bytes."""
    found = []
    with saver.engine.connect() as connection:
        for table in saver._tables.metadata.sorted_tables:
            for row in connection.execute(table.select()):
                found += [cell if isinstance(cell, bytes) else str(cell).encode() for cell in row]
    return found


def _check(saver: SQLAlchemySaver, place: Any) -> None:
    assert values_of(saver, place) == {
        "s": "canary short",
        "l": "canary long " * 99,
        "m": memory(4),
    }
    found = saver.get_tuple(place)
    assert found is not None
    assert found.metadata["note"] == "canary note"  # type: ignore[typeddict-item]
    assert found.pending_writes == [
        ("task", "s", "canary write"),
        ("task", "l", "canary long " * 99),
    ]
    assert saver.memory_at(place) == memory(4)
    assert len(list(saver.list(None, filter={"note": "canary note"}))) == 1
    assert list(saver.list(None, filter={"note": "other"})) == []


def test_no_content_is_in_the_clear(url: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        place = _fill(saver)
        cells = b"\n".join(_cells(saver))
        assert b"canary" not in cells
        assert memory(4).state.tobytes()[:64] not in cells
        _check(saver, place)
        assert saver.stats().blobs == 2  # equal contents are one, though each is sealed anew
    if url.startswith("sqlite"):
        assert b"canary" not in bytes_of(url)


def test_no_content_is_in_the_clear_in_a_dump(database: Any) -> None:
    url = database("postgresql")
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        _fill(saver)
        plain = saver.engine.url.set(drivername="postgresql").render_as_string(False)
        dump = subprocess.run(["pg_dump", plain], capture_output=True, check=True).stdout
    assert b"COPY public.blobs" in dump
    assert b"canary" not in dump
    assert b"canary".hex().encode() not in dump


def test_a_wrong_key_is_refused_before_anything_is_read(url: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        place = _fill(saver)
    with pytest.raises(EncryptionError, match="opens with the saver's key"):
        SQLAlchemySaver(url, encryption_key=OTHER).setup()
    with pytest.raises(EncryptionError, match="is encrypted"):
        SQLAlchemySaver(url).setup()
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        _check(saver, place)


def test_a_plain_tenant_is_not_opened_with_a_key(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        _fill(saver)
    with pytest.raises(EncryptionError, match="no plaintext rows"):
        SQLAlchemySaver(url, encryption_key=KEY).setup()
    with SQLAlchemySaver(url, encryption_key=KEY, tenant="other") as saver:
        put(saver, config(), {"x": 1})


def test_keys_rotate_and_the_old_one_is_of_no_use(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = _fill(saver)
        other = SQLAlchemySaver(saver.engine, tenant="other")
        theirs = put(other, config(), {"x": "another tenant's " * 40})
        saver.rekey(KEY)
        _check(saver, place)
        assert b"canary" not in b"\n".join(_cells(saver))
        if url.startswith("sqlite"):
            assert b"canary" not in bytes_of(url)
        saver.rekey(OTHER)
        _check(saver, place)
        below = put(saver, place, {"s": "after"})
        assert values_of(saver, below) == {"s": "after"}
        assert values_of(other, theirs) == {"x": "another tenant's " * 40}
    with pytest.raises(EncryptionError):
        SQLAlchemySaver(url, encryption_key=KEY).setup()
    with SQLAlchemySaver(url, encryption_key=OTHER) as saver:
        _check(saver, place)
        saver.rekey(None)
        _check(saver, place)
    with SQLAlchemySaver(url) as saver:
        _check(saver, place)


async def test_async_rotation(url: str) -> None:
    async with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        place = _fill(saver)
        await saver.arekey(OTHER)
        found = await saver.aget_tuple(place)
        assert found is not None
        assert found.checkpoint["channel_values"]["s"] == "canary short"


def test_langgraphs_own_encrypted_serializer_is_taken(tmp_path: Any) -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(strict_serializer(), key=KEY)
    with SQLAlchemySaver(tmp_path / "a.db", serde=serde) as saver:
        place = _fill(saver)
    assert b"canary" not in (tmp_path / "a.db").read_bytes()
    with SQLAlchemySaver(tmp_path / "a.db", encryption_key=KEY) as saver:
        _check(saver, place)
        wider = saver.with_allowlist([("tests", "Thing")])
        assert wider is not saver
        _check(wider, place)  # type: ignore[arg-type]


def test_hashes_do_not_tell_what_is_stored(tmp_path: Any) -> None:
    """Without the key nobody can test a guess of the content against its address."""
    hashes = []
    for name, key in (("a", KEY), ("b", KEY), ("c", None)):
        with SQLAlchemySaver(tmp_path / f"{name}.db", encryption_key=key) as saver:
            put(saver, config(), {"x": "guess me " * 99}, note="guess")
            table, heads = saver._tables.blobs, saver._tables.checkpoints
            with saver.engine.connect() as connection:
                hashes.append(
                    (
                        connection.scalar(select(table.c.hash)),
                        connection.scalar(select(heads.c.terms)),
                    )
                )
    assert len({entry[0] for entry in hashes}) == 3
    assert len({entry[1] for entry in hashes}) == 3


def test_a_changed_ciphertext_is_noticed(url: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        place = _fill(saver)
        table = saver._tables.blobs
        with saver.engine.begin() as connection:
            for row in connection.execute(table.select()).all():
                changed = bytearray(row.data)
                changed[40] ^= 1
                connection.execute(
                    table.update().where(table.c.hash == row.hash).values(data=bytes(changed))
                )
        with pytest.raises(EncryptionError, match="was changed"):
            saver.get_tuple(place)


def test_blobs_that_changed_places_are_noticed(url: str) -> None:
    """Sealed with the right key, but another content than the address says."""
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        place = put(saver, config(), {"a": "first " * 99, "b": "second " * 99})
        table = saver._tables.blobs
        with saver.engine.begin() as connection:
            one, two = connection.execute(table.select()).all()
            for row, other in ((one, two), (two, one)):
                connection.execute(
                    table.update().where(table.c.hash == row.hash).values(data=other.data)
                )
        with pytest.raises(StorageError, match="hash of its content"):
            saver.get_tuple(place)


def test_a_key_of_another_length_is_refused(tmp_path: Any) -> None:
    with pytest.raises(EncryptionError, match="16, 24 or 32"):
        SQLAlchemySaver(tmp_path / "a.db", encryption_key=b"short")


def test_the_scan_would_see_a_canary(tmp_path: Any) -> None:
    """The tests above would fail on a store in the clear."""
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        _fill(saver)
        assert b"canary" in b"\n".join(_cells(saver))
        with saver.engine.connect() as connection:
            table = saver._tables.channels
            found = connection.scalar(
                select(func.count()).where(
                    func.instr(table.c.data, cast(literal(b"canary"), LargeBinary)) > 0
                )
            )
        assert found == 1
    assert b"canary" in bytes_of(f"sqlite:///{tmp_path}/a.db")
