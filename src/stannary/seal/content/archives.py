"""Archives and compressed containers, known by their bytes.

What is inside one could be a pickle, and a model folder has no need of them. Magic numbers decide where a
format has one; where it has none (old tar, zlib, lzma) the fields of its header must make sense, because
token files and labels are arrays of small numbers that begin with anything.

A zip archive is found by its end: `zipfile` opens one behind any other file, so the end of every kind of
file is searched, and counts when a central directory lies where the record says.
"""

from __future__ import annotations

import zlib

from stannary.seal.content.file_bytes import Content

MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x07\x08", "zip"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\x1f\x9d", "compress"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"LZIP", "lzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\xff\x06\x00\x00sNaPpY", "snappy"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (257, b"ustar", "tar"),
)
SKIPPABLE = b"\x2a\x4d\x18"  # RFC 8878 3.1.2: 0x184D2A5? hides the zstd or lz4 frame behind it
ZIP_END = b"PK\x05\x06"
ZIP_END_BYTES = 22
ZIP_END_SEARCH_BYTES = 65_557  # that record + 65,535 bytes of comment (APPNOTE 4.3.16)
ZIP64_LOCATOR, ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
ZIP_ENTRY = b"PK\x01\x02"
TAR_BLOCK_BYTES, TAR_SUM = 512, slice(148, 156)
LZMA_PROPERTIES = 0x5D  # lc 3, lp 0, pb 2: what every writer of this format uses
LZMA_MIN_DICTIONARY = 4096
LZMA_MAX_BYTES = 1 << 38  # as liblzma tells .lzma files from others
PROBE_BYTES = 4096


def kind_of(content: Content) -> str:
    """Return the name of the container these bytes are, empty if they are none."""
    start = content.read(0, PROBE_BYTES)
    for offset, magic, name in MAGIC:
        if start[offset : offset + len(magic)] == magic:
            return name
    if start[1:4] == SKIPPABLE and start[0] >> 4 == 5:
        return "zstd"
    for is_kind, name in ((_is_old_tar, "tar"), (_is_lzma, "lzma"), (_is_zlib, "zlib")):
        if is_kind(start):
            return name
    return "zip at the end" if has_zip_end(content) else ""


def has_zip_end(content: Content) -> bool:
    """Tell whether a zip archive ends in the last bytes, behind whatever comes first."""
    first = max(0, content.size - ZIP_END_SEARCH_BYTES)
    tail = content.read(first, ZIP_END_SEARCH_BYTES)
    place = tail.rfind(ZIP_END)
    while place >= 0:
        record = tail[place : place + ZIP_END_BYTES]
        directory = first + place - int.from_bytes(record[12:16], "little")
        locator = first + place - ZIP64_LOCATOR_BYTES  # there if sizes do not fit the record (APPNOTE 4.3.15)
        if len(record) == ZIP_END_BYTES and (
            _stands(content, locator, ZIP64_LOCATOR) or _stands(content, directory, ZIP_ENTRY)
        ):
            return True
        place = tail.rfind(ZIP_END, 0, place)
    return False


def _stands(content: Content, place: int, magic: bytes) -> bool:
    return place >= 0 and content.read(place, len(magic)) == magic


def _is_old_tar(start: bytes) -> bool:
    """Tell whether the first block is a tar header: its checksum holds (POSIX.1-1988; V7 has no magic)."""
    block = start[:TAR_BLOCK_BYTES]
    stated = block[TAR_SUM].strip(b" \0")
    if len(block) < TAR_BLOCK_BYTES or not stated or stated.strip(b"01234567"):
        return False
    return int(stated, 8) == sum(block) - sum(block[TAR_SUM]) + 8 * ord(" ")


def _is_lzma(start: bytes) -> bool:
    """Tell whether this is an .lzma header: dictionary of 2^n or 2^n + 2^(n-1), a length that is one."""
    if len(start) < 14 or start[0] != LZMA_PROPERTIES:
        return False
    dictionary = int.from_bytes(start[1:5], "little")
    length = int.from_bytes(start[5:13], "little")
    plausible = dictionary == 2**32 - 1 or (dictionary >= LZMA_MIN_DICTIONARY and _is_round(dictionary))
    return plausible and start[13] == 0 and (length == 2**64 - 1 or length < LZMA_MAX_BYTES)


def _is_round(number: int) -> bool:
    bits = bin(number)[2:].rstrip("0")
    return bits in {"1", "11"}


def _is_zlib(start: bytes) -> bool:
    """Tell whether this is a zlib stream (joblib writes pickles so): RFC 1950 header, then it inflates."""
    if len(start) < 6 or start[0] & 0x0F != 8 or start[0] >> 4 > 7 or int.from_bytes(start[:2], "big") % 31:
        return False
    try:
        return len(zlib.decompressobj().decompress(start, PROBE_BYTES)) >= 16
    except zlib.error:
        return False
