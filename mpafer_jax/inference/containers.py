"""File types by magic bytes, and the length that a video container declares."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from mpafer_jax.data.preprocess import FORMATS

ANIMATED_SUFFIXES = frozenset({".gif", ".webp", ".png", ".apng", ".avif"})
_ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
_HEAD = 4096  # bytes read to tell the type
_VIDEO_HEADS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream: MPG, VOB
    b"\x00\x00\x01\xb3",  # MPEG video
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
    b".RMF",
    b"YUV4MPEG2",
)
_MOVIE_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp", b"sidx"})
# Other boxes that are skipped on the way to the file's end; a box of any other type stops the search.
_OTHER_BOXES = frozenset({b"uuid", b"mfra", b"meta", b"udta", b"pnot", b"emsg", b"prft", b"ssix"})
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_PACKET, _SYNC = 188, 0x47  # MPEG transport stream


def is_regular(path: Path) -> bool:
    """Whether a path is a regular file; opening a pipe would block."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def holds_video(path: Path) -> bool:
    """Whether a file begins with a video container's magic bytes, whatever its name; False if unreadable."""
    head = _head(path)
    if head[4:8] in _MOVIE_BOXES:
        return head[4:8] != b"ftyp" or head[8:12] not in _STILL_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    transport = any(
        len(head) > start + 2 * step and {head[start], head[start + step], head[start + 2 * step]} == {_SYNC}
        for start, step in ((0, _PACKET), (4, _PACKET + 4))
    )
    return transport or head.startswith(_VIDEO_HEADS)


def num_frames(path: Path) -> int:
    """Number of frames of an animated image (GIF, WebP, PNG, AVIF); 1 for any other file and for unreadable ones."""
    head = _head(path)
    pixels = head.find(b"IDAT")
    if head.startswith(b"\x89PNG"):
        may_be = b"acTL" in head[: pixels if pixels > 0 else None]
    elif head[:4] == b"RIFF":
        may_be = head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)
    else:
        may_be = head[:4] == b"GIF8" or head[4:12] == b"ftypavis"
    if not may_be:
        return 1
    try:
        with Image.open(path, formats=[name for name in _ANIMATED_FORMATS if name in FORMATS]) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged, and decoders raise anything; reading the first frame reports it
        return 1


def missing_bytes(path: Path) -> int:
    """Number of bytes that a truncated video (MP4, MOV, AVI, Matroska, WebM) lacks by its container's own length.

    0 if the file is complete or the container declares no length. OpenCV's frame count is no substitute: if a container
    does not count frames, it is an estimate from duration and mean rate.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(12)
            if head[:4] == b"\x1a\x45\xdf\xa3":
                end = _end_of_matroska(file)
            elif head[:4] == b"RIFF":
                end = _end_of_riff(file, size)
            else:
                end = _end_of_boxes(file, size)
    except (OSError, IndexError):
        return 0
    return max(0, end - size)


def _head(path: Path) -> bytes:
    if not is_regular(path):
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """End of the last RIFF chunk; long AVIs have several."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:
            break
        end += 8 + int.from_bytes(head[4:], "little")
    return end


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """End of the last box of an MP4 or MOV."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(16)
        if head[4:8] not in _MOVIE_BOXES | _OTHER_BOXES:
            break
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        end += length
    return end


def _end_of_matroska(file: BinaryIO) -> int:
    """End of the segment, which holds everything; 0 if its length is unknown."""
    end = 0
    for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        file.seek(end)
        head = file.read(12)
        if head[:4] != identifier or not head[4]:
            return 0
        length = 9 - head[4].bit_length()  # in bytes; the first set bit encodes it (EBML)
        value = int.from_bytes(head[4 : 4 + length], "big") & ((1 << 7 * length) - 1)
        if value == (1 << 7 * length) - 1:
            return 0
        end += 4 + length + value
    return end
