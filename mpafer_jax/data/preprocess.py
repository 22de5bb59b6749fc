"""Images on the host: decoding to RGB, the test-time resize, and the training augmentation (Pillow and NumPy).

Every random function takes a `numpy.random.Generator`, so that the caller decides what a draw depends on; none keeps
state. Nothing here needs JAX.
"""

from __future__ import annotations

import contextlib
import io
import math
import stat
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError, features

from mpafer_jax.config.data_section import AugmentSection
from mpafer_jax.runtime.errors import ImageError

Pixels = npt.NDArray[np.uint8]
# Pillow reads more, some by starting other programs (EPS) or with decoders that few look at. JPEG stands for MPO too,
# which is what many phones write under its name.
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
IMAGE_SUFFIXES = frozenset(suffix for name in FORMATS for suffix in _SUFFIXES[name])  # looked for in folders
# Pillow's own limit, above which it warns of a decompression bomb; a quarter of a gigabyte as RGB.
MAX_PIXELS = 2**30 // 4 // 3
MAX_BYTES = 2**28  # of a file: MAX_PIXELS uncompressed
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")  # brands
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # kinds of chunks that pixels do not depend on
# Numbers of TIFF's tags and of their values.
_COMPRESSION, _PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 259, 262, 258, 339
_UNCOMPRESSED, _WHITE_IS_ZERO, _YCBCR, _SIGNED = 1, 0, 6, 2
_ERASE_RATIO = (0.3, 1 / 0.3)  # width / height, as in the random erasing paper (arXiv:1708.04896)
_ATTEMPTS = 10  # draws of a rectangle before giving up on one that fits


class _Enhancer(Protocol):
    def enhance(self, factor: float, /) -> Image.Image: ...


def read_image_file(path: Path) -> bytes:
    """The bytes of an image's file.

    Raises:
      FileNotFoundError: there is none.
      OSError: it cannot be read.
      ImageError: it is not a regular file, or larger than any image we decode.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("expected a file, found a folder, a device or a pipe")
    if status.st_size > MAX_BYTES:
        raise ImageError(
            f"the file has {status.st_size / 2**20:.0f} MiB, images may have {MAX_BYTES // 2**20}; save it smaller"
        )
    return path.read_bytes()


def decode(data: bytes, *, upright: bool = True) -> Image.Image:
    """Decodes an encoded image to grey ("L") or RGB, 8 bits a channel: the one place where this package does.

    The content decides on the format, not a file's name. Of an animated image, or one of several pages, the first is
    taken. Grey stays grey, since one band is resized in a third of the time of three that are equal; for palettes,
    CMYK, 16 bits and transparency see `to_rgb`. Texts and colour profiles of any length in a PNG do no harm.

    Args:
      data: a file's bytes, in one of `FORMATS`.
      upright: whether a camera's EXIF orientation is applied.

    Raises:
      ImageError: the data is empty, of no such format, cut short or damaged, has more than `MAX_PIXELS`, or is of a
        kind of which it is not known what is black and what is white.
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
        # Pillow reads texts of up to a megabyte, so that a few bytes do not become gigabytes; without them it has no
        # reason to refuse.
        lean = _without_texts(data)
        if lean is None:
            raise
    return _decode(lean, upright)


def _decode(data: bytes, upright: bool) -> Image.Image:
    with _refusing_damage(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _to_grey_or_rgb(image, upright)


def _without_texts(data: bytes) -> bytes | None:
    """A PNG without its texts and colour profile, those aside that are damaged; None: it has none, or is no PNG."""
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
    """`decode`, and grey repeated in all three channels."""
    return decode(data, upright=upright).convert("RGB")


def decode_frames(path: Path, stride: int = 1) -> Generator[tuple[int, float, Image.Image]]:
    """Every `stride`-th frame of an animated image, decoded one after the other.

    Args:
      path: a file in one of `FORMATS`.
      stride: of how many frames one is yielded, from the first on.

    Yields:
      A frame's number from 0, when it is shown in seconds from the start, and the frame, RGB.

    Raises:
      ImageError: see `decode`; a frame is damaged.
    """
    with _refusing_damage(), Image.open(path, formats=FORMATS) as image:
        _check_size(image)
        seconds = 0.0
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()  # which also reads how long the frame is shown
            if number % stride == 0:
                yield number, seconds, to_rgb(image)
            seconds += float(image.info.get("duration", 0)) / 1000


def upright_rgb(image: Image.Image) -> Image.Image:
    """The same of an image that a program opened with Pillow, which may not have been decoded yet."""
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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # before ours, on opening
        raise ImageError(f"more than {MAX_PIXELS} pixels; save it smaller") from error
    except MemoryError as error:
        raise ImageError("decoding it needs more memory than there is; save it smaller") from error
    # Decoders of damaged data raise whatever their format's code runs into: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ImageError(f"cut short or damaged ({reason})") from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{image.width}x{image.height} pixels, more than the {MAX_PIXELS} that are decoded; save it smaller"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: grey is repeated, palettes are resolved, CMYK and the like converted.

    12- and 16-bit grey is scaled to 8 bits (Pillow's own conversion would clip it), and transparency is laid over
    white, as a viewer shows it, because the colours under transparent pixels are arbitrary.

    Raises:
      ImageError: it is not known what is white: floating point, signed and 32-bit images, palettes that are not
        there, YCbCr that was not compressed; or it has more than `MAX_PIXELS`.
    """
    return _to_grey_or_rgb(image, upright=False).convert("RGB")


def _to_grey_or_rgb(image: Image.Image, upright: bool) -> Image.Image:
    _check_size(image)
    _refuse_unknown_white(image)
    black, white = _black_and_white(image)  # of the file, which the turned copy does not know
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _scaled_to_bytes(image, black, white)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    image.load()
    return image.copy() if image.mode == "L" else image.convert("RGB")


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """The values of a tag of a TIFF; none where there is no such tag."""
    value: Any = cast(Any, image).tag_v2.get(number, ()) if image.format == "TIFF" else ()
    return cast("tuple[int, ...]", value) if isinstance(value, tuple) else (value,)


def _refuse_unknown_white(image: Image.Image) -> None:
    save = "save it with 8 or 16 bits"
    if image.mode == "F":
        raise ImageError(f"a floating point image has no fixed white: {save}")
    if _SIGNED in _tag(image, _SAMPLE_FORMAT):
        raise ImageError(f"signed numbers for pixels have no fixed black and white: {save}")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # there Pillow's name for 16 bits
        raise ImageError(f"an image of 32 bits a pixel has no fixed white: {save}")
    if image.mode in ("P", "PA") and image.palette is None:
        raise ImageError("the palette is not there, so that its colours are not known")
    # Pillow takes it for RGB.
    if _tag(image, _PHOTOMETRIC) == (_YCBCR,) and _tag(image, _COMPRESSION) == (_UNCOMPRESSED,) and image.mode != "L":
        raise ImageError("a YCbCr image that was not compressed is not read: save it as RGB")


def _black_and_white(image: Image.Image) -> tuple[int, int]:
    """Which values of a 12- or 16-bit grey image are black and white."""
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


def resize(image: Image.Image, size: int) -> Image.Image:
    """Bicubic resize of the whole image to size x size: faces are cropped already, so nothing is cut off."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Image.Image:
    """A random rectangle of the image, resized (bicubic) to size x size.

    Args:
      image: grey or RGB image.
      rng: source of the draws.
      size: side of the result in pixels.
      scale: range of the rectangle's area as a fraction of the image's, drawn uniformly.
      ratio: range of its width / height, drawn uniformly in the logarithm.

    Returns:
      The crop; where ten draws do not fit, the largest centred rectangle within `ratio`.
    """
    width, height = image.size
    rectangle = _random_rectangle(rng, width, height, scale, ratio)
    if rectangle is None:
        w = min(width, max(1, round(height * ratio[1])))
        h = min(height, max(1, round(width / ratio[0])))
        rectangle = ((width - w) // 2, (height - h) // 2, w, h)
    left, top, w, h = rectangle
    # Cropped first: `resize(box=...)` would let the filter read pixels outside the rectangle.
    return resize(image.crop((left, top, left + w, top + h)), size)


def _random_rectangle(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int] | None:
    """(left, top, w, h): area uniform in `scale` of the whole, w / h log-uniform in `ratio`; None after ten misfits."""
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    return None


def flip(image: Image.Image, rng: np.random.Generator, probability: float) -> Image.Image:
    """The image mirrored left to right with the given probability."""
    return ImageOps.mirror(image) if rng.random() < probability else image


def color_jitter(
    image: Image.Image,
    rng: np.random.Generator,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Image.Image:
    """Random colour changes in random order.

    Args:
      image: grey or RGB image; a grey one comes back as RGB where anything is switched on.
      rng: source of the draws.
      brightness, contrast, saturation: the factor is uniform in [1 - value, 1 + value]; 0 switches the change off.
      hue: the shift is uniform in [-value, value] turns of the colour circle (at most 0.5); 0 switches it off.
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
    """Paints a random rectangle over the image with the given probability.

    Args:
      pixels: uint8[H, W, 3].
      rng: source of the draws.
      probability: of erasing at all.
      scale: range of the rectangle's area as a fraction of the image's, drawn uniformly.
      fill: the colour; the mean of the normalisation makes it about 0 after it.

    Returns:
      uint8[H, W, 3]: a changed copy, or `pixels` itself where nothing is erased (also after ten rectangles that
      do not fit).
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
    """One training view: random resized crop, flip, colour jitter, random erasing.

    Args:
      image: grey or RGB image of any size.
      rng: source of all draws.
      section: the strengths, `config.data.augment`.
      size: side of the result in pixels.
      fill: colour of the erased rectangle.

    Returns:
      uint8[size, size, 3].
    """
    image = random_resized_crop(image, rng, size, section.crop_scale, section.crop_ratio)
    image = flip(image, rng, section.flip)
    image = color_jitter(image, rng, section.brightness, section.contrast, section.saturation, section.hue)
    return random_erase(to_pixels(image), rng, section.erase, section.erase_scale, fill)
