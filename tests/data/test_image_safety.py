"""What an image's file may do to us: nothing but become RGB pixels or an ImageError that says why not."""

import io
import itertools
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data import preprocess
from mpafer_jax.data.inspection import inspect
from mpafer_jax.data.prepared import prepare
from mpafer_jax.data.preprocess import decode_rgb, read_image_file
from mpafer_jax.data.readers import folder
from mpafer_jax.data.records import ImageCrop, ImageFile
from mpafer_jax.runtime.errors import ImageError
from tests.data import fuzz, layouts


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces any size."""
    data = encoded(Image.new("RGB", (4, 4)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (50_000, 50_000), (2**31 - 1, 1)])
def test_decompression_bombs_are_refused_before_they_are_decoded(width, height):
    with pytest.raises(ImageError, match=rf"more than .*{preprocess.MAX_PIXELS}.*save it smaller"):
        decode_rgb(png_that_claims(width, height))
    with warnings.catch_warnings():  # as in a program that does not make errors of them
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=r"more than .*save it smaller"):
            decode_rgb(png_that_claims(width, height))


def test_large_files_folders_and_pipes_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "MAX_BYTES", 2**20)
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(ImageError, match="the file has 3 MiB, images may have 1"):
        read_image_file(tmp_path / "large.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("pipe.jpg", "."):
        with pytest.raises(ImageError, match="expected a file, found a folder, a device or a pipe"):
            read_image_file(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"no image", r"not an image in a format that is read \(JPEG, PNG"),
        # Pillow would hand it to Ghostscript.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not an image in a format"),
        (encoded(layouts.image(0, 64, 64), "JPEG")[:600], "cut short or damaged"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path, data, message):
    with pytest.raises(ImageError, match=message):
        decode_rgb(data)
    (tmp_path / "face.png").write_bytes(data)
    with pytest.raises(ImageError, match=rf"face\.png: cannot be read as an image: .*{message}"):
        inspect(ImageFile(tmp_path / "face.png"))
    with pytest.raises(ImageError, match=rf"face\.png \(face box .*: .*{message}"):
        inspect(ImageCrop(tmp_path / "face.png", (0, 0, 4, 4)))


def test_the_content_decides_and_not_the_name(tmp_path):
    (tmp_path / "face.png").write_bytes(encoded(Image.new("RGB", (5, 4), (9, 9, 9)), "BMP"))
    assert inspect(ImageFile(tmp_path / "face.png")).size == (5, 4)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    image = decode_rgb(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    red, green, _ = image.getpixel((4, 4))
    assert red > 200
    assert green < 50


@pytest.mark.filterwarnings("ignore")  # Pillow warns of much that is odd; in a user's program it is not an error either
def test_mutated_files_become_pixels_or_an_image_error(monkeypatch):
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 2_000_000)  # the time that a damaged size may cost here
    rng = np.random.default_rng(0)
    outcomes = {"pixels": 0, "refused": 0}
    for data in itertools.chain(*fuzz.samples().values()):
        assert decode_rgb(data).mode == "RGB"
        for _ in range(100):
            try:
                image = decode_rgb(fuzz.mutated(data, rng))
            except ImageError:
                outcomes["refused"] += 1
            else:
                assert image.mode == "RGB"
                assert image.width * image.height <= preprocess.MAX_PIXELS
                outcomes["pixels"] += 1
    assert min(outcomes.values()) > 200  # neither all harmless nor all hopeless


@pytest.mark.slow
def test_a_thousand_mutated_images_of_every_format_end_no_process():
    """The process has 4 GiB of addresses, and says at its end what became of each."""
    program = [sys.executable, fuzz.__file__, "1000", "0"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["counts"]) == set(preprocess.FORMATS)
    assert sum(sum(outcomes.values()) for outcomes in found["counts"].values()) == 1000
    assert all(min(outcomes.values()) > 0 for outcomes in found["counts"].values()), found
    assert found["peak"] < 2 * 2**30


def test_mutated_images_are_all_counted_by_preparation(tmp_path):
    rng = np.random.default_rng(0)
    classes = [tmp_path / "happy", tmp_path / "sad"]
    for path in classes:
        path.mkdir()
    samples = [*itertools.chain(*fuzz.samples().values())]
    for position, data in enumerate(samples):
        (classes[position % 2] / f"{position}.png").write_bytes(data)
        for number in range(5):
            (classes[position % 2] / f"{position}_{number}.png").write_bytes(fuzz.mutated(data, rng))
    prepared = prepare(folder.read(tmp_path), tmp_path / "prepared", "skip")
    kept, skipped = len(prepared.splits["train"].names), len(prepared.summary.skipped["train"])
    assert kept + skipped == 6 * len(samples)
    assert min(kept, skipped) > 10
