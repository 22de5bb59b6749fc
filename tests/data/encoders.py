"""Images encoded by hand, byte for byte, so that what they hold is known without Pillow."""

import struct
import zlib
from collections.abc import Mapping, Sequence


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: Sequence[bytes], width: int, bits: int, colour: int, chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of packed rows; `colour` 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; `chunks` before the pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in parts)


def tiff(
    pixels: bytes,
    width: int,
    height: int,
    bits: Sequence[int],
    photometric: int,
    order: str = "<",
    tags: Mapping[int, Sequence[int]] | None = None,
) -> bytes:
    """An uncompressed TIFF of one strip.

    Args:
      pixels: packed samples in the file's byte order.
      width, height: in pixels.
      bits: of each sample of a pixel.
      photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 8 Lab.
      order: "<" or ">", of bytes.
      tags: others, all of 16 bits: 320 ColorMap, 338 ExtraSamples, 339 SampleFormat.
    """
    values: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", bits),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8]),
        277: ("H", [len(bits)]),
        278: ("I", [height]),
        279: ("I", [len(pixels)]),
        **{tag: ("H", numbers) for tag, numbers in (tags or {}).items()},
    }
    data = pixels + b"\0" * (len(pixels) % 2)
    directory = b""
    after = 8 + len(data) + 2 + 12 * len(values) + 4
    longer = b""
    for tag, (kind, numbers) in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", after + len(longer))
            longer += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + place
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(values)) + directory + b"\0" * 4 + longer
