"""Decodes mutated images in this process and prints what became of them: run by the test as a process of its own."""

import io
import json
import resource
import sys
import time
import warnings
import zlib

import numpy as np
from PIL import Image

from mpafer_jax.data import preprocess
from mpafer_jax.runtime.errors import ImageError

SIZE = 40
LIMIT = 4 * 2**30  # bytes of addresses; the largest image that is decoded takes a quarter of it


def samples() -> dict[str, list[bytes]]:
    """A few images of every format, plain and in rarer forms."""
    pixels = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)
    rgb, rgba, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6

    def encoded(image: Image.Image, format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    found = {
        "PNG": [encoded(rgb, "PNG"), encoded(rgba, "PNG"), encoded(deep, "PNG"), encoded(rgb.quantize(16), "PNG")],
        "JPEG": [
            encoded(rgb, "JPEG", exif=exif),
            encoded(grey, "JPEG"),
            encoded(rgb, "JPEG", progressive=True),
            encoded(rgb.convert("CMYK"), "JPEG"),
        ],
        "WEBP": [encoded(rgb, "WEBP"), encoded(rgba, "WEBP", lossless=True)],
        "GIF": [encoded(rgb, "GIF"), encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])],
        "TIFF": [
            encoded(rgb, "TIFF"),
            encoded(rgb, "TIFF", compression="tiff_lzw"),
            encoded(rgb, "TIFF", compression="jpeg"),
            encoded(grey.convert("1"), "TIFF", compression="group4"),
            encoded(deep, "TIFF"),
        ],
        "BMP": [encoded(rgb, "BMP"), encoded(grey, "BMP")],
        "PPM": [encoded(rgb, "PPM")],
    }
    if "AVIF" in preprocess.FORMATS:
        found["AVIF"] = [encoded(rgb, "AVIF"), encoded(rgba, "AVIF")]
    return found


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes put in, or the end cut off, at one to four places, half of them in the header."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not changed:
            break
        place = int(rng.integers(min(len(changed), 64) if rng.random() < 0.5 else len(changed)))
        kind = rng.integers(8)
        if kind < 5:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind < 7:
            changed[place:place] = rng.integers(0, 256, int(rng.integers(1, 32)), dtype=np.uint8).tobytes()
        else:
            del changed[place:]
    return bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now, so that not all damage shows in those."""
    parts, start = [data[:8]], 8
    while start < len(data):
        stop = start + 8 + int.from_bytes(data[start : start + 4], "big")
        parts += [data[start:stop], zlib.crc32(data[start + 4 : stop]).to_bytes(4, "big")]
        start = stop + 4
    return b"".join(parts)


def main(number: int, seed: int) -> None:
    """Decodes `number` mutated images, the formats in turn."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    warnings.simplefilter("ignore")  # Pillow warns of much that is odd
    rng = np.random.default_rng(seed)
    sources = samples()
    counts = {format: {"decoded": 0, "refused": 0} for format in sources}
    slowest = 0.0
    for position in range(number):
        format = list(sources)[position % len(sources)]
        data = mutated(sources[format][int(rng.integers(len(sources[format])))], rng)
        if format == "PNG" and rng.random() < 0.8:
            data = with_checksums(data)
        started = time.monotonic()
        try:
            image = preprocess.decode_rgb(data)
        except ImageError:
            counts[format]["refused"] += 1
        else:
            assert image.mode == "RGB"
            counts[format]["decoded"] += 1
        slowest = max(slowest, time.monotonic() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"counts": counts, "slowest": slowest, "peak": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
