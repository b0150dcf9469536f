"""TFRecord files without TensorFlow, checksums included.

Framing: uint64 length, uint32 masked crc32c of the length, payload, uint32 masked crc32c of the payload.
Source: tensorflow/core/lib/io/record_writer.h; CRC-32C (Castagnoli), RFC 3720 B.4.
"""

import contextlib
import functools
import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tether.data.errors import DataError
from tether.data.inputs import open_file, unreachable

POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
MASK_DELTA = 0xA282EAD8
MAX_RECORD_BYTES = 1 << 30
HEAD_BYTES = 12
GZIP = b"\x1f\x8b"
OTHER_KINDS = {
    b"PK": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"x\x9c": "a zlib stream",
    b"<": "a web page",
    b"{": "JSON",
}


@functools.cache
def _zero_table(zero_bytes: int) -> np.ndarray:
    """The CRC after `zero_bytes` (a power of two) more zero bytes, per byte of the CRC before: uint32[4, 256]."""
    if zero_bytes == 1:
        first = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            first = np.where(first & 1, (first >> 1) ^ np.uint32(POLYNOMIAL), first >> 1)
        upper = [np.arange(256, dtype=np.uint32) << np.uint32(8 * byte - 8) for byte in (1, 2, 3)]
        return np.stack([first, *upper])
    half = _zero_table(zero_bytes // 2)
    crcs = np.arange(256, dtype=np.uint32)[None] << (8 * np.arange(4, dtype=np.uint32))[:, None]
    return _after_zeros(_after_zeros(crcs, half), half)


def _after_zeros(crc: np.ndarray, table: np.ndarray) -> np.ndarray:
    low, second = table[0][crc & 0xFF], table[1][(crc >> 8) & 0xFF]
    return low ^ second ^ table[2][(crc >> 16) & 0xFF] ^ table[3][crc >> 24]


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes, about 5 ms for 1 MB.

    A CRC is linear, so all 4-byte words are reduced at once and joined pairwise in a tree: the CRC of two halves is
    the first half's, carried over as many zero bytes as the second half has, xor the second half's. The message is
    filled up in front with zeros, which do not change a CRC that starts from 0.
    """
    words = 1 << max(0, (len(data) - 1).bit_length() - 2)
    message = np.zeros(4 * max(words, 1), np.uint8)
    message[len(message) - len(data) :] = np.frombuffer(data, np.uint8)
    if len(data) < 4:
        return _short_crc32c(data)
    start = len(message) - len(data)
    message[start : start + 4] ^= 0xFF  # the same as starting from all ones
    crc = _after_zeros(message.view("<u4"), _zero_table(4))
    width = 4
    while len(crc) > 1:
        crc = _after_zeros(crc[::2], _zero_table(width)) ^ crc[1::2]
        width *= 2
    return int(crc[0]) ^ 0xFFFFFFFF


def _short_crc32c(data: bytes) -> int:
    table = _zero_table(1)[0]
    crc = 0xFFFFFFFF
    for byte in data:
        crc = int(table[(crc ^ byte) & 0xFF]) ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The rotated and shifted form that TFRecord stores."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def read_records(path: str) -> Iterator[bytes | DataError]:
    """Payloads of a TFRecord file in order, gzip-compressed or not; a damaged one yields its `DataError` in its place.

    After a damaged payload, reading continues with the next record. After a damaged length, or at the end of a
    truncated file, no further record can be located, and the error reports it.

    Raises: DataError where the disk or the bucket fails: what is not read is no damaged record.
    """
    with open_file(path) as stored, _uncompressed(stored) as file:
        index = 0
        try:
            for payload in _payloads(file):
                yield payload if isinstance(payload, bytes) else payload.located(path, str(index))
                index += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield DataError(f"damaged gzip compression ({error}); the rest of the file is lost", "", str(index), path)
            return
        except MemoryError:
            raise  # no fault of the file
        except Exception as error:  # file systems of buckets raise types of their own
            raise unreachable(path, error) from error
        if not index:
            yield DataError("expected records, found none", "", "0", path)


def _uncompressed(stored: BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    """The uncompressed file. A record's length may begin like gzip's magic number, but then its checksum matches."""
    head = stored.read(HEAD_BYTES)
    stored.seek(0)
    if head.startswith(GZIP) and _length(head) is None:
        return gzip.GzipFile(fileobj=stored)
    return contextlib.nullcontext(stored)


def _payloads(file: BinaryIO) -> Iterator[bytes | DataError]:
    first = True
    while head := file.read(HEAD_BYTES):
        length = _length(head)
        if length is None and first:
            yield DataError(f"expected a TFRecord file, found {_described(head)}; nothing of it can be read")
            return
        if length is None:
            yield DataError("damaged or truncated record header; the rest of the file is lost")
            return
        payload, tail = file.read(length), file.read(4)
        if len(payload) < length or len(tail) < 4:
            yield DataError(f"truncated file: expected {length + 4} more bytes, found {len(payload) + len(tail)}")
            return
        if struct.unpack("<I", tail)[0] != masked_crc32c(payload):
            yield DataError("corrupt record: its checksum does not match")
        else:
            yield payload
        first = False


def _described(head: bytes) -> str:
    kinds = (kind for magic, kind in OTHER_KINDS.items() if head.startswith(magic))
    return f"{next(kinds, 'a damaged one or another kind')} (it begins with {head!r})"


def _length(head: bytes) -> int | None:
    """The payload's length, None if the header is incomplete or its checksum does not match."""
    if len(head) < HEAD_BYTES:
        return None
    length, crc = struct.unpack("<QI", head)
    return length if crc == masked_crc32c(head[:8]) and length <= MAX_RECORD_BYTES else None


def frame(payload: bytes) -> bytes:
    """A payload as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, payload)]
    return length + crcs[0] + payload + crcs[1]
