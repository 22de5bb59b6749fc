"""Image decoding, test-time resize and training augmentation on the host, with Pillow and NumPy."""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageEnhance, ImageOps, UnidentifiedImageError, features

from mpafer_jax.config.data_section import AugmentSection
from mpafer_jax.runtime.errors import ImageError

Pixels = npt.NDArray[np.uint8]
# Pillow's other formats start programs (EPS) or have rarely reviewed decoders. JPEG includes MPO, which many phones
# write as .jpg.
_HAS_AVIF = "avif" in features.get_supported_modules()
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", *(("AVIF",) if _HAS_AVIF else ()))
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
IMAGE_SUFFIXES = frozenset(suffix for name in FORMATS for suffix in _SUFFIXES[name])
# Pillow's limit, above which it warns of a decompression bomb; 256 MiB as RGB.
MAX_PIXELS = 2**30 // 4 // 3
MAX_BYTES = 2**28  # of a file: MAX_PIXELS uncompressed
_NO_TIME, _USUAL_TIME = 10, 100  # milliseconds of an animation's frame
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")  # brands
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks without influence on pixels
# TIFF tags and values.
_COMPRESSION, _PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 259, 262, 258, 339
_UNCOMPRESSED, _WHITE_IS_ZERO, _YCBCR, _SIGNED = 1, 0, 6, 2
_ERASE_RATIO = (0.3, 1 / 0.3)  # width / height, as in the random erasing paper (arXiv:1708.04896)
_ATTEMPTS = 10  # draws of a rectangle that may not fit


def is_image(name: str) -> bool:
    """Whether a file is called as an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a Path takes four times as long


class _Enhancer(Protocol):
    def enhance(self, factor: float, /) -> Image.Image: ...


def read_image_file(path: Path | str) -> bytes:
    """Reads an image file; OSError if that fails, ImageError if it is no regular file or above `MAX_BYTES`."""
    status = os.stat(path)  # noqa: PTH116 - here and below a Path is not needed, and takes as long as the reading
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("expected a file, found a folder, a device or a pipe")
    if status.st_size > MAX_BYTES:
        raise ImageError(
            f"the file has {status.st_size / 2**20:.0f} MiB, images may have {MAX_BYTES // 2**20}; save it smaller"
        )
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.readall()


def decode(data: bytes, *, upright: bool = True) -> Image.Image:
    """Decodes an image to grey ("L") or RGB with 8 bits a channel.

    The format is detected from the content. Of an animation or a multi-page file the first frame is taken. Grey stays
    one channel, which is resized in a third of the time. 12- and 16-bit grey is scaled to 8 bits, and transparent
    images are composited over white.

    Args:
      data: encoded, in one of `FORMATS`.
      upright: applies the EXIF orientation.

    Raises:
      ImageError: the data is empty, truncated, damaged or of another format, has more than `MAX_PIXELS`, or pixel
        values without known black and white.
    """
    if not data:
        raise ImageError("the file is empty")
    if data[4:8] == b"ftyp" and any(brand in data[8:48] for brand in _HEIC):
        raise ImageError(
            "HEIC, in which phones keep images, is not read: save it as JPEG (heif-convert, or export it from the "
            "phone's or computer's image program)"
        )
    try:
        return _decode(data, upright)
    except ImageError:
        # Pillow refuses PNGs with texts above a megabyte; pixels do not need them.
        lean = _without_texts(data)
        if lean is None:
            raise
    return _decode(lean, upright)


def _decode(data: bytes, upright: bool) -> Image.Image:
    with _refusing_damage(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _to_grey_or_rgb(image, upright)


def _without_texts(data: bytes) -> bytes | None:
    """A PNG without its intact text and colour profile chunks; None if it has none or is no PNG."""
    if not data.startswith(_PNG):
        return None
    chunks, start = [_PNG], len(_PNG)
    while start < len(data):
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind, chunk = data[start + 4 : start + 8], data[start:stop]
        is_whole = len(chunk) == stop - start and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind not in _PNG_TEXTS or not is_whole:
            chunks.append(chunk)
        start = stop
    return b"".join(chunks) if sum(map(len, chunks)) < len(data) else None


def decode_rgb(data: bytes, *, upright: bool = True) -> Image.Image:
    """`decode` to RGB."""
    image = decode(data, upright=upright)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def decode_frames(path: Path, stride: int = 1) -> Generator[tuple[int, float, Image.Image]]:
    """Decodes every `stride`-th frame of an animated image, from the first on.

    A frame that is shown for at most 10 ms, or for no time given, counts as 100 ms, as in browsers.

    Yields:
      (frame number from 0, start time in seconds, RGB image with the EXIF orientation applied).

    Raises:
      ImageError: see `decode`.
    """
    with _refusing_damage(), Image.open(path, formats=FORMATS) as image:
        _check_size(image)
        seconds = 0.0
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()  # also reads the frame's duration
            if number % stride == 0:
                yield number, seconds, upright_rgb(image)
            milliseconds = float(image.info.get("duration", 0))
            seconds += (milliseconds if milliseconds > _NO_TIME else _USUAL_TIME) / 1000


def upright_rgb(image: Image.Image) -> Image.Image:
    """`decode_rgb` of an opened Pillow image, with its EXIF orientation."""
    with _refusing_damage():
        return _to_grey_or_rgb(image, upright=True).convert("RGB")


@contextlib.contextmanager
def _refusing_damage() -> Generator[None]:
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"not an image in a format that is read ({', '.join(FORMATS)}), or of a rare kind that is not; save it as "
            "PNG with 8 bits a channel"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # on opening, before `_check_size`
        raise ImageError(f"more than {MAX_PIXELS} pixels; save it smaller") from error
    except MemoryError as error:
        raise ImageError("decoding it needs more memory than there is; save it smaller") from error
    # Decoders raise many types for damaged data: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ImageError(f"cut short or damaged ({reason})") from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{image.width}x{image.height} pixels, more than the {MAX_PIXELS} that are decoded; save it smaller"
        )


def _to_grey_or_rgb(image: Image.Image, upright: bool) -> Image.Image:
    """Converts any Pillow mode to grey or RGB.

    12- and 16-bit grey is scaled to 8 bits (Pillow's conversion clips it). Transparent images are composited over
    white.

    Raises:
      ImageError: white is unknown (floating point, signed or 32-bit pixels, missing palette, uncompressed YCbCr), or
        there are more than `MAX_PIXELS`.
    """
    _check_size(image)
    _refuse_unknown_white(image)
    black, white = _black_and_white(image)  # before the rotated copy, which has no tags
    image.load()  # some formats have their EXIF data at the end
    if upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would be copied
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _scaled_to_bytes(image, black, white)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.copy() if image.mode == "L" else image.convert("RGB")


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """The values of a TIFF tag; () if missing."""
    value: Any = cast(Any, image).tag_v2.get(number, ()) if image.format == "TIFF" else ()
    return cast("tuple[int, ...]", value) if isinstance(value, tuple) else (value,)


def _refuse_unknown_white(image: Image.Image) -> None:
    save = "save it with 8 or 16 bits"
    if image.mode == "F":
        raise ImageError(f"a floating point image has no fixed white: {save}")
    if _SIGNED in _tag(image, _SAMPLE_FORMAT):
        raise ImageError(f"signed numbers for pixels have no fixed black and white: {save}")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these two Pillow's mode of 16 bits
        raise ImageError(f"an image of 32 bits a pixel has no fixed white: {save}")
    if image.mode in ("P", "PA") and image.palette is None:
        raise ImageError("the palette is not there, so that its colours are not known")
    # Pillow would read it as RGB.
    if _tag(image, _PHOTOMETRIC) == (_YCBCR,) and _tag(image, _COMPRESSION) == (_UNCOMPRESSED,) and image.mode != "L":
        raise ImageError("a YCbCr image that was not compressed is not read: save it as RGB")


def _black_and_white(image: Image.Image) -> tuple[int, int]:
    """The black and white values of a 12- or 16-bit grey image."""
    white = 0xFFF if _tag(image, _BITS) == (12,) else 0xFFFF
    return (white, 0) if _tag(image, _PHOTOMETRIC) == (_WHITE_IS_ZERO,) else (0, white)


def _scaled_to_bytes(image: Image.Image, black: int, white: int) -> Image.Image:
    values = np.asarray(image)
    above = (values if white else black - values).astype(np.uint32)
    span = max(black, white)
    grey = ((above * 255 + span // 2) // span).astype(np.uint8)
    transparent = image.info.get("transparency")
    return Image.fromarray(grey if transparent is None else np.where(values == transparent, np.uint8(255), grey))


def to_pixels(image: Image.Image) -> Pixels:
    """uint8[H, W, 3] of a grey or RGB image."""
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def as_read(pixels: Pixels, *, grayscale: bool) -> Pixels:
    """uint8[H, W, 3] as a model reads it: with `data.grayscale` of one luminance, to the bit that of `to_luminance`."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")) if grayscale else pixels


def resize(image: Image.Image, size: int) -> Image.Image:
    """Bicubic resize to size x size, without a crop, since datasets hold cropped faces."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Image.Image:
    """Random resized crop, bicubic, to size x size pixels.

    Args:
      scale: range of the crop's area as a fraction of the image's, sampled uniformly.
      ratio: range of its width / height, sampled log-uniformly.

    Returns:
      The crop; if ten draws do not fit, the largest centred one within `ratio`.
    """
    width, height = image.size
    rectangle = _random_rectangle(rng, width, height, scale, ratio)
    if rectangle is None:
        w = min(width, max(1, round(height * ratio[1])))
        h = min(height, max(1, round(width / ratio[0])))
        rectangle = ((width - w) // 2, (height - h) // 2, w, h)
    left, top, w, h = rectangle
    # Cropped first: the filter of `resize(box=...)` reads pixels outside the box.
    return resize(image.crop((left, top, left + w, top + h)), size)


def _random_rectangle(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int] | None:
    """(left, top, w, h), sampled as in `random_resized_crop`; None if ten draws do not fit."""
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    return None


def flip(image: Image.Image, rng: np.random.Generator, probability: float) -> Image.Image:
    """Random horizontal flip."""
    return ImageOps.mirror(image) if rng.random() < probability else image


def color_jitter(
    image: Image.Image,
    rng: np.random.Generator,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Image.Image:
    """Colour jitter in random order; the result is RGB unless all strengths are 0.

    Args:
      brightness, contrast, saturation: the factor is uniform in [1 - value, 1 + value]; 0 is off.
      hue: the shift is uniform in [-value, value] turns of the colour circle, at most 0.5; 0 is off.
    """
    enhancers: tuple[tuple[Callable[[Image.Image], _Enhancer], float], ...] = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    order: list[int] = rng.permutation(len(enhancers) + 1).tolist()
    if brightness or contrast or saturation or hue:
        image = image.convert("RGB")
    for change in order:
        if change < len(enhancers):
            enhancer, strength = enhancers[change]
            if strength:
                image = enhancer(image).enhance(rng.uniform(1 - strength, 1 + strength))
        elif hue:
            image = _shift_hue(image, rng.uniform(-hue, hue))
    return image


def _shift_hue(image: Image.Image, turns: float) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    shifted = (np.asarray(h).astype(np.int64) + round(turns * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), s, v)).convert("RGB")


def random_erase(
    pixels: Pixels,
    rng: np.random.Generator,
    probability: float,
    scale: tuple[float, float],
    fill: tuple[int, int, int],
) -> Pixels:
    """Random erasing (arXiv:1708.04896): fills a random rectangle with the given probability.

    Args:
      pixels: uint8[H, W, 3].
      scale: range of the rectangle's area as a fraction of the image's, sampled uniformly.
      fill: RGB; the mean of the normalisation becomes about 0.

    Returns:
      uint8[H, W, 3], a copy; `pixels` itself if nothing is erased or ten draws do not fit.
    """
    if rng.random() >= probability:
        return pixels
    height, width = pixels.shape[:2]
    rectangle = _random_rectangle(rng, width, height, scale, _ERASE_RATIO)
    if rectangle is None:
        return pixels
    left, top, w, h = rectangle
    erased = pixels.copy()
    erased[top : top + h, left : left + w] = fill
    return erased


def augment(
    image: Image.Image, rng: np.random.Generator, section: AugmentSection, size: int, fill: tuple[int, int, int]
) -> Pixels:
    """Training augmentation: random resized crop, flip, colour jitter, random erasing with `fill`.

    Returns:
      uint8[size, size, 3].
    """
    image = random_resized_crop(image, rng, size, section.crop_scale, section.crop_ratio)
    image = flip(image, rng, section.flip)
    image = color_jitter(image, rng, section.brightness, section.contrast, section.saturation, section.hue)
    return random_erase(to_pixels(image), rng, section.erase, section.erase_scale, fill)
