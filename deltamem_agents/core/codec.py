"""Memory to bytes and back: one block for a database, one safetensors file for a person.

The block, little-endian, no padding::

    magic "DMEM" | format version u16 | 0 u16 | header length u32 | crc-32 u32
    header: UTF-8 JSON (`MemoryState.header`)
    state, boundary_state: float32, C order

The crc covers all but itself. Whatever is not exactly what `encode` wrote is refused with
`FileFormatError`; nothing is guessed, filled in or cut off.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors import numpy as safetensors_numpy

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import FileFormatError, MemoryFileNotFoundError, StateError

MAGIC = b"DMEM"
VERSION = 1

_FIXED = struct.Struct("<4sHHI")
_CRC = struct.Struct("<I")
_FILE_FORMAT = "deltamem-memory"
_TENSORS = {"state", "boundary_state"}
_REMEDY = "Restore it from another copy, or rebuild the memory from the conversation."


def encode(state: MemoryState) -> bytes:
    """The memory as one block of bytes; equal memories give equal bytes, but for -0.0."""
    header = _header_bytes(state)
    fixed = _FIXED.pack(MAGIC, VERSION, 0, len(header))
    arrays = _little(state.state) + _little(state.boundary_state)
    crc = zlib.crc32(arrays, zlib.crc32(header, zlib.crc32(fixed)))
    return b"".join((fixed, _CRC.pack(crc), header, arrays))


def decode(data: bytes | bytearray | memoryview) -> MemoryState:
    """What `encode` was given.

    Raises:
        FileFormatError: the bytes are truncated, changed, of a newer version, or something else.
    """
    block = bytes(data)
    start = _FIXED.size + _CRC.size
    if len(block) < start or not block.startswith(MAGIC):
        raise FileFormatError("a memory block starts with DMEM", got=block[:8], remedy=_REMEDY)
    _, version, reserved, header_length = _FIXED.unpack_from(block)
    if version > VERSION:
        raise FileFormatError(
            f"memory blocks up to format version {VERSION} can be read",
            got=version,
            remedy="Update deltamem-agents.",
        )
    (crc,) = _CRC.unpack_from(block, _FIXED.size)
    if crc != zlib.crc32(block[start:], zlib.crc32(block[: _FIXED.size])):
        raise FileFormatError("a memory block agrees with its crc", got=crc, remedy=_REMEDY)
    if version < 1 or reserved or start + header_length > len(block):
        raise FileFormatError(
            "version, reserved field and header length are those of a memory block",
            got=(version, reserved, header_length),
            remedy=_REMEDY,
        )
    header = _parse(block[start : start + header_length])
    return _assemble(header, block[start + header_length :])


def save_file(state: MemoryState, path: str | os.PathLike[str]) -> None:
    """Write a safetensors file, whole or not at all.

    The bytes go to a temporary file beside the target, reach the disk, and then take its name.
    """
    target = Path(path)
    header = _header_bytes(state)
    arrays = _little(state.state) + _little(state.boundary_state)
    metadata = {
        "format": _FILE_FORMAT,
        "version": str(VERSION),
        "header": header.decode(),
        "crc": str(zlib.crc32(arrays, zlib.crc32(header))),
    }
    tensors = {"state": state.state, "boundary_state": state.boundary_state}
    content = safetensors_numpy.save(tensors, metadata)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load_file(path: str | os.PathLike[str]) -> MemoryState:
    """What `save_file` was given.

    Raises:
        MemoryFileNotFoundError: nothing is there.
        FileFormatError: the file is damaged, or is not a saved memory.
    """
    source = Path(path)
    if not source.is_file():
        raise MemoryFileNotFoundError(
            "a saved memory is a file", got=str(source), remedy="Check the path."
        )
    try:
        with safetensors.safe_open(source, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FILE_FORMAT or set(file.keys()) != _TENSORS:
                raise FileFormatError(
                    "this file is a saved memory",
                    got=str(source),
                    remedy="Give a file that MemoryState.save wrote.",
                )
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(
            "a saved memory is a sound safetensors file", got=f"{source}: {error}", remedy=_REMEDY
        ) from error
    return _from_file(metadata, tensors)


def _from_file(metadata: dict[str, str], tensors: dict[str, NDArray[Any]]) -> MemoryState:
    if set(metadata) != {"format", "version", "header", "crc"}:
        raise FileFormatError(
            "a saved memory has its four notes", got=sorted(metadata), remedy=_REMEDY
        )
    if metadata["version"] != str(VERSION):
        raise FileFormatError(
            f"saved memories of version {VERSION} can be read",
            got=metadata["version"],
            remedy="Update deltamem-agents.",
        )
    if any(tensor.dtype != np.float32 for tensor in tensors.values()):
        raise FileFormatError(
            "a saved memory is float32", got=[t.dtype for t in tensors.values()], remedy=_REMEDY
        )
    header = metadata["header"].encode()
    arrays = _little(tensors["state"]) + _little(tensors["boundary_state"])
    if metadata["crc"] != str(zlib.crc32(arrays, zlib.crc32(header))):
        raise FileFormatError(
            "a saved memory agrees with its crc", got=metadata["crc"], remedy=_REMEDY
        )
    return _assemble(_parse(header), arrays)


def _assemble(header: dict[str, Any], arrays: bytes) -> MemoryState:
    """Header and raw arrays to a memory; every disagreement is a `FileFormatError`."""
    shape = header.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or any(type(size) is not int or size < 1 for size in shape)
        or len(arrays) != 8 * shape[0] * shape[1] * shape[2] * shape[3]
    ):
        raise FileFormatError(
            "the arrays have the size that the header says",
            got=(shape, len(arrays)),
            remedy=_REMEDY,
        )
    state, boundary = np.frombuffer(arrays, dtype="<f4").reshape(2, *shape)
    try:
        return MemoryState.from_header(header, state, boundary)
    except StateError as error:
        raise FileFormatError(
            "a memory block holds a memory", got=str(error), remedy=_REMEDY
        ) from error


def _header_bytes(state: MemoryState) -> bytes:
    return json.dumps(state.header(), sort_keys=True, separators=(",", ":")).encode()


def _parse(header: bytes) -> dict[str, Any]:
    try:
        value = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise FileFormatError("the header is JSON", got=header, remedy=_REMEDY) from error
    if not isinstance(value, dict):
        raise FileFormatError("the header is a JSON object", got=value, remedy=_REMEDY)
    return value


def _little(values: NDArray[Any]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
