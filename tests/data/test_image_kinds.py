"""Every mode and bit depth that is read gives the values that were written, and every other is refused by name."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data import preprocess
from mpafer_jax.runtime.errors import ImageError
from tests.data.encoders import png, png_chunk, tiff

Rgb = tuple[int, int, int]
PALETTE = (b"PLTE", bytes([1, 2, 3, 10, 20, 30, 200, 100, 50, 7, 8, 9]))
PALETTE_RGB: list[Rgb] = [(1, 2, 3), (10, 20, 30), (200, 100, 50)]
# Of the third colour half is left over white: 227.5, 177.5, 152.5 and a bit less (255 * 128/255 is opaque).
PALETTE_OVER_WHITE: list[Rgb] = [(1, 2, 3), (255, 255, 255), (227, 177, 152)]
COLOR_MAP = [257 * value for value in (1, 10, 200, *[0] * 253, 2, 20, 100, *[0] * 253, 3, 30, 50, *[0] * 253)]
SIXTEEN = (0, 257 * 100, 65535)
PIXELS = (10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128)  # opaque, transparent, half of black
OVER_WHITE: list[Rgb] = [(10, 20, 30), (255, 255, 255), (127, 127, 127)]
INKS = (0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255)
INKS_RGB: list[Rgb] = [(255, 0, 0), (255, 255, 255), (0, 0, 0)]


def words(order: str, *values: int) -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


def grey(*values: int) -> list[Rgb]:
    return [(value, value, value) for value in values]


def kinds() -> dict[str, tuple[bytes, list[Rgb]]]:
    found = {
        "png 1": (png([b"\x40"], 3, 1, 0), grey(0, 255, 0)),
        "png 2": (png([b"\x1b"], 4, 2, 0), grey(0, 85, 170, 255)),
        "png 4": (png([b"\x0f\x50"], 3, 4, 0), grey(0, 255, 85)),
        "png 8": (png([b"\0\x64\xff"], 3, 8, 0), grey(0, 100, 255)),
        "png 16": (png([words(">", *SIXTEEN)], 3, 16, 0), grey(0, 100, 255)),
        "png 1, black transparent": (png([b"\x40"], 3, 1, 0, [(b"tRNS", b"\0\0")]), grey(255, 255, 255)),
        "png 8, one transparent": (png([b"\0\x64\xff"], 3, 8, 0, [(b"tRNS", b"\0\x64")]), grey(0, 255, 255)),
        "png 16, one transparent": (
            png([words(">", *SIXTEEN)], 3, 16, 0, [(b"tRNS", words(">", SIXTEEN[1]))]),
            grey(0, 255, 255),
        ),
        "png grey, alpha 8": (png([bytes([0, 255, 100, 128, 7, 0])], 3, 8, 4), grey(0, 177, 255)),
        "png grey, alpha 16": (png([words(">", 0, 65535, 25700, 32896, 7, 0)], 3, 16, 4), grey(0, 177, 255)),
        "png RGB 8": (png([bytes(range(6))], 2, 8, 2), [(0, 1, 2), (3, 4, 5)]),
        "png RGB 16": (png([words(">", *(257 * v for v in range(6)))], 2, 16, 2), [(0, 1, 2), (3, 4, 5)]),
        "png RGB, one transparent": (
            png([bytes(range(6))], 2, 8, 2, [(b"tRNS", words(">", 3, 4, 5))]),
            [(0, 1, 2), (255, 255, 255)],
        ),
        "png RGBA 8": (png([bytes(PIXELS)], 3, 8, 6), OVER_WHITE),
        "png RGBA 16": (png([words(">", *(257 * v for v in PIXELS))], 3, 16, 6), OVER_WHITE),
        "png palette 2": (png([b"\x18"], 3, 2, 3, [PALETTE]), PALETTE_RGB),
        "png palette 4": (png([b"\x01\x20"], 3, 4, 3, [PALETTE]), PALETTE_RGB),
        "png palette 8": (png([b"\0\1\2"], 3, 8, 3, [PALETTE]), PALETTE_RGB),
        "png palette, alpha": (png([b"\0\1\2"], 3, 8, 3, [PALETTE, (b"tRNS", b"\xff\0\x80")]), PALETTE_OVER_WHITE),
        "tiff white is zero 1": (tiff(b"\x40", 3, 1, [1], 0), grey(255, 0, 255)),
        "tiff white is zero 4": (tiff(b"\x0f\x50", 3, 1, [4], 0), grey(255, 0, 170)),
        "tiff white is zero 8": (tiff(b"\0\x64\xff", 3, 1, [8], 0), grey(255, 155, 0)),
        "tiff white is zero 16": (tiff(words("<", *SIXTEEN), 3, 1, [16], 0), grey(255, 155, 0)),
        "tiff 12": (tiff(bytes.fromhex("000640fff0"), 3, 1, [12], 1), grey(0, 100, 255)),  # 0, 1600, 4095
        "tiff grey, alpha": (
            tiff(bytes([0, 255, 100, 128, 7, 0]), 3, 1, [8, 8], 1, tags={338: [2]}),
            grey(0, 177, 255),
        ),
        "tiff RGB, something else": (
            tiff(bytes([10, 20, 30, 0, 1, 2, 3, 9]), 2, 1, [8] * 4, 2, tags={338: [0]}),
            [(10, 20, 30), (1, 2, 3)],
        ),
        "tiff RGBA": (tiff(bytes(PIXELS), 3, 1, [8] * 4, 2, tags={338: [2]}), OVER_WHITE),
        # Multiplied by alpha already: 5 + 255 - 128 and so on.
        "tiff RGBA, associated": (
            tiff(bytes([10, 20, 30, 255, 0, 0, 0, 0, 5, 10, 64, 128]), 3, 1, [8] * 4, 2, tags={338: [1]}),
            [(10, 20, 30), (255, 255, 255), (132, 137, 191)],
        ),
        "tiff CMYK": (tiff(bytes(INKS), 3, 1, [8] * 4, 5), INKS_RGB),
        "pbm": (b"P4 3 1\n\x40", grey(255, 0, 255)),
        "pgm 100": (b"P5 3 1 100\n\0\x32\x64", grey(0, 128, 255)),
        "pgm 1000": (b"P5 3 1 1000\n" + words(">", 0, 500, 1000), grey(0, 128, 255)),
        "pgm 65535": (b"P5 3 1 65535\n" + words(">", *SIXTEEN), grey(0, 100, 255)),
        "ppm 1000": (b"P6 1 1 1000\n" + words(">", 0, 500, 1000), [(0, 128, 255)]),
    }
    for order in "<>":
        deep = [257 * value for value in PIXELS]
        more = {
            "16": (tiff(words(order, *SIXTEEN), 3, 1, [16], 1, order), grey(0, 100, 255)),
            "RGB 16": (tiff(words(order, *deep[:3]), 1, 1, [16] * 3, 2, order), [(10, 20, 30)]),
            "RGBA 16": (tiff(words(order, *deep), 3, 1, [16] * 4, 2, order, {338: [2]}), OVER_WHITE),
            "CMYK 16": (tiff(words(order, *(257 * v for v in INKS)), 3, 1, [16] * 4, 5, order), INKS_RGB),
            "palette": (tiff(b"\0\1\2", 3, 1, [8], 3, order, {320: COLOR_MAP}), PALETTE_RGB),
            "palette, alpha": (
                tiff(b"\0\xff\1\0\2\x80", 3, 1, [8, 8], 3, order, {320: COLOR_MAP, 338: [2]}),
                PALETTE_OVER_WHITE,
            ),
        }
        found |= {f"tiff {kind} {order}": value for kind, value in more.items()}
    return found


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_values_that_were_written(kind: str) -> None:
    data, expected = KINDS[kind]
    image = preprocess.decode_rgb(data)
    assert (image.mode, [tuple(pixel) for pixel in np.asarray(image)[0].tolist()]) == ("RGB", expected)
    opened = Image.open(io.BytesIO(data))  # as by a program that hands over what it opened
    assert preprocess.upright_rgb(opened).tobytes() == image.tobytes()


def saved(mode: str, pixels: list[Any], format: str, **options: Any) -> bytes:
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        (saved("LA", [(0, 255), (100, 128), (7, 0)], "WEBP", lossless=True), grey(0, 177, 255), 0),
        (saved("RGBA", [(10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 128)], "GIF"), None, 0),
        (saved("LAB", [(255, 128, 128), (137, 208, 198)], "TIFF"), [(255, 255, 255), (255, 0, 0)], 6),
        (saved("YCbCr", [(255, 128, 128)] * 16, "TIFF", compression="jpeg"), grey(255) * 16, 6),
        (saved("YCbCr", [(76, 85, 255)] * 16, "JPEG"), [(255, 0, 0)] * 16, 6),
        (saved("CMYK", [(0, 255, 255, 0)] * 16, "JPEG", quality=100), [(255, 0, 0)] * 16, 6),
        (saved("L", [0, 100, 255], "BMP"), grey(0, 100, 255), 0),
        (saved("L", [0, 100, 255], "TIFF", compression="tiff_lzw"), grey(0, 100, 255), 0),
        (saved("RGB", [(200, 100, 50)] * 4, "GIF"), [(200, 100, 50)] * 4, 0),
    ],
)
def test_kinds_that_pillow_writes(data: bytes, expected: list[Rgb] | None, tolerance: int) -> None:
    found = np.asarray(preprocess.decode_rgb(data))[0].astype(int)
    if expected is None:  # GIF has no half transparency
        expected = [(10, 20, 30), (255, 255, 255), (0, 0, 0)]
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.skipif("AVIF" not in preprocess.FORMATS, reason="this Pillow has no AVIF")
def test_avif() -> None:
    found = preprocess.decode_rgb(saved("RGBA", [(200, 100, 50, 255)] * 8 + [(0, 0, 0, 0)] * 8, "AVIF", quality=100))
    np.testing.assert_allclose(np.asarray(found)[0].astype(int)[[1, 14]], [(200, 100, 50), (255,) * 3], atol=6)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (tiff(struct.pack("<3I", 0, 100, 255), 3, 1, [32], 1), "32 bits a pixel has no fixed white"),
        (tiff(struct.pack("<3i", 0, 100, 255), 3, 1, [32], 1, tags={339: [2]}), "signed numbers for pixels"),
        (tiff(struct.pack(">3i", 0, 100, 255), 3, 1, [32], 1, ">", {339: [2]}), "signed numbers for pixels"),
        (tiff(struct.pack("<3h", 0, 100, 255), 3, 1, [16], 1, tags={339: [2]}), "signed numbers for pixels"),
        (tiff(b"\0\x64\xff", 3, 1, [8], 1, tags={339: [2]}), "signed numbers for pixels"),
        (tiff(struct.pack("<3f", 0, 0.5, 1), 3, 1, [32], 1, tags={339: [3]}), "floating point"),
        (b"Pf\n3 1\n-1.0\n" + struct.pack("<3f", 0, 0.5, 1), "floating point"),
        (tiff(struct.pack("<3d", 0, 0.5, 1), 3, 1, [64], 1, tags={339: [3]}), "of a rare kind that is not; save it"),
        (tiff(struct.pack(">3H", *SIXTEEN), 3, 1, [16], 0, ">"), "of a rare kind that is not; save it"),
        (tiff(bytes([255, 128, 128]), 1, 1, [8] * 3, 9), "of a rare kind that is not; save it"),
        (tiff(bytes([255, 128, 128] * 3), 3, 1, [8] * 3, 6), "a YCbCr image that was not compressed"),
        (png([b"\0\1\2"], 3, 8, 3), "the palette is not there"),
    ],
)
def test_kinds_whose_white_is_not_known_are_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=name):
        preprocess.decode_rgb(data)


def test_images_of_programs_in_rare_modes() -> None:
    for mode, order in (("I;16", "<"), ("I;16L", "<"), ("I;16B", ">")):
        image = Image.frombytes(mode, (3, 1), words(order, *SIXTEEN))
        assert np.asarray(preprocess.upright_rgb(image))[0, :, 0].tolist() == [0, 100, 255]
    half = Image.new("LA", (1, 1), (10, 128))
    assert preprocess.upright_rgb(half.convert("La")).getpixel((0, 0)) == (132, 132, 132)
    hue = Image.new("HSV", (1, 1), (85, 255, 255))
    assert preprocess.upright_rgb(hue).getpixel((0, 0)) == (0, 255, 0)
    for mode in ("I", "F"):
        with pytest.raises(ImageError, match="has no fixed white"):
            preprocess.upright_rgb(Image.new(mode, (1, 1), 100))


def test_suffixes_are_those_of_the_formats() -> None:
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in (*preprocess.FORMATS, "MPO")}
    assert known - preprocess.IMAGE_SUFFIXES == {".pfm", ".avifs"} & known  # floating point; sequences


def with_chunk(kind: bytes, data: bytes, after_pixels: bool = False) -> bytes:
    plain = png([bytes(range(6))], 2, 8, 2)
    place = plain.index(b"IEND" if after_pixels else b"IDAT") - 4
    return plain[:place] + png_chunk(kind, data) + plain[place:]


LONG = zlib.compress(b"x" * 2_000_000)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"zTXt", b"workflow\0\0" + LONG),
        (b"iTXt", b"workflow\0\1\0\0\0" + LONG),
        (b"iCCP", b"p\0\0" + LONG),
    ],
)
@pytest.mark.parametrize("after_pixels", [False, True])
def test_long_texts_in_a_png_do_no_harm(kind: bytes, data: bytes, after_pixels: bool) -> None:
    found = preprocess.decode_rgb(with_chunk(kind, data, after_pixels))
    assert np.asarray(found)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_text_that_unpacks_to_much_is_not_unpacked() -> None:
    data = with_chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(2**26), 1))
    tracemalloc.start()
    try:
        preprocess.decode_rgb(data)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_damaged_text_is_still_damage() -> None:
    data = with_chunk(b"zTXt", b"workflow\0\0" + LONG)
    place = data.index(b"workflow")
    with pytest.raises(ImageError, match="cut short or damaged"):
        preprocess.decode_rgb(data[:place] + b"W" + data[place + 1 :])
    with pytest.raises(ImageError, match="cut short or damaged"):
        preprocess.decode_rgb(data[: data.index(b"IDAT") + 8])
