"""Bytes and files: what goes in comes out, and nothing else is ever taken for a memory."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deltamem_agents.core.codec import decode, encode
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import FileFormatError, MemoryFileNotFoundError

HEX = st.text("0123456789abcdef", min_size=1, max_size=64)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def memories(draw: st.DrawFn) -> MemoryState:
    rank = draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 2)), rank, rank)
    evicted = draw(st.integers(0, 2**40))
    return MemoryState(
        state=draw(arrays.arrays(np.float32, shape, elements=FLOATS)),
        boundary_state=draw(arrays.arrays(np.float32, shape, elements=FLOATS)),
        ledger=Ledger(
            evicted=draw(HEX) if evicted else "",
            evicted_count=evicted,
            visible=tuple(draw(st.lists(HEX, max_size=4))),
            pinned=draw(st.one_of(st.just(""), HEX)),
        ),
        tokens_written=draw(st.integers(0, 2**60)),
        fingerprint=f"{draw(st.integers(0, 2**256 - 1)):064x}",
    )


def sample() -> MemoryState:
    state = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    return MemoryState(state, -state, Ledger(visible=("ab",)), 3, "0" * 64)


@settings(deadline=None)
@given(memories())
def test_bytes_bring_the_memory_back_bit_for_bit(value: MemoryState) -> None:
    again = decode(encode(value))
    assert again == value
    assert again.state.tobytes() == value.state.tobytes()  # -0.0 too
    assert again.boundary_state.tobytes() == value.boundary_state.tobytes()
    assert encode(again) == encode(value)


@settings(max_examples=25, deadline=None)
@given(memories())
def test_files_bring_the_memory_back(value: MemoryState) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        value.save(path)
        assert MemoryState.load(path) == value


@settings(deadline=None)
@given(st.data())
def test_changed_bytes_are_refused(data: st.DataObject) -> None:
    block = bytearray(encode(sample()))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(block) - 1))
        block[place] ^= data.draw(st.integers(1, 255))
    if bytes(block) == encode(sample()):  # changed back
        return
    with pytest.raises(FileFormatError):
        decode(bytes(block))


def test_every_truncation_and_every_extension_is_refused() -> None:
    block = encode(sample())
    for length in range(len(block)):
        with pytest.raises(FileFormatError):
            decode(block[:length])
    for more in (b"\0", block, b"x" * 128):
        with pytest.raises(FileFormatError):
            decode(block + more)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    for block in (data, b"DMEM" + data, b"DMEM\1\0\0\0" + data):
        with pytest.raises(FileFormatError):
            decode(block)


def signed(header: bytes, arrays_part: bytes, version: int = 1, reserved: int = 0) -> bytes:
    """A block whose crc is right, whatever is in it."""
    fixed = struct.pack("<4sHHI", b"DMEM", version, reserved, len(header))
    crc = zlib.crc32(arrays_part, zlib.crc32(header, zlib.crc32(fixed)))
    return fixed + struct.pack("<I", crc) + header + arrays_part


def header_of(**changes: object) -> bytes:
    return json.dumps(sample().header() | changes).encode()


FLAT = sample().state.tobytes() + sample().boundary_state.tobytes()


def test_a_block_written_by_hand_is_read() -> None:
    assert decode(signed(header_of(), FLAT)) == sample()


@pytest.mark.parametrize(
    "block",
    [
        signed(header_of(), FLAT, version=2),
        signed(header_of(), FLAT, version=0),
        signed(header_of(), FLAT, reserved=1),
        signed(header_of(), FLAT[:-4]),
        signed(header_of(shape=[2, 1, 4]), FLAT),
        signed(header_of(shape=[2, 1, 4, -4]), FLAT),
        signed(header_of(shape=[2**40, 2**40, 4, 4]), FLAT),
        signed(header_of(shape=[4, 2, 2, 4]), FLAT),
        signed(header_of(shape="2144"), FLAT),
        signed(header_of(extra=1), FLAT),
        signed(header_of(ledger={}), FLAT),
        signed(header_of(ledger=[]), FLAT),
        signed(header_of(tokens_written="3"), FLAT),
        signed(header_of(tokens_written=-3), FLAT),
        signed(header_of(fingerprint="g" * 64), FLAT),
        signed(b"[]", FLAT),
        signed(b"{", FLAT),
        signed(b"\xff\xfe", FLAT),
        signed(b"[" * 100_000, FLAT),
        signed(header_of(), np.full(64, np.nan, np.float32).tobytes()),
    ],
)
def test_a_block_with_a_right_crc_but_wrong_content_is_refused(block: bytes) -> None:
    with pytest.raises(FileFormatError):
        decode(block)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.safetensors"
    sample().save(path)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    other = MemoryState(sample().state, sample().state, Ledger(), 9, "1" * 64)
    with pytest.raises(OSError, match="no space"):
        other.save(path)
    assert MemoryState.load(path) == sample()
    assert [p.name for p in tmp_path.iterdir()] == ["memory.safetensors"]


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MemoryFileNotFoundError) as caught:
            MemoryState.load(path)
        assert isinstance(caught.value, FileNotFoundError)


def test_every_changed_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    sample().save(path)
    sound = path.read_bytes()
    noticed = 0
    for place in range(0, len(sound), 7):
        broken = bytearray(sound)
        broken[place] ^= 0x11
        path.write_bytes(broken)
        try:
            assert MemoryState.load(path) == sample()  # a change of JSON's white space
        except FileFormatError:
            noticed += 1
    assert noticed >= len(sound) // 7 - 2
    for length in range(0, len(sound), 13):
        path.write_bytes(sound[:length])
        with pytest.raises(FileFormatError):
            MemoryState.load(path)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    tensors = {"state": sample().state, "boundary_state": sample().boundary_state}
    for metadata in (None, {"format": "deltamem-memory"}, {"format": "pt"}):
        safetensors.numpy.save_file(tensors, path, metadata)
        with pytest.raises(FileFormatError):
            MemoryState.load(path)
