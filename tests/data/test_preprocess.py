import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mpafer_jax.config.data_section import AugmentSection
from mpafer_jax.data import preprocess
from mpafer_jax.data.normalize import normalize_images, to_luminance
from tests.data import layouts


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_grey_images_pass_as_one_band_and_come_out_as_if_they_had_three() -> None:
    grey = layouts.image(0, 30, 20, "L")
    assert preprocess.decode(encoded(grey)).mode == "L"
    assert preprocess.decode(encoded(layouts.image(0))).mode == "RGB"
    three = Image.merge("RGB", (grey, grey, grey))
    strong = AugmentSection(**layouts.STRONG_AUGMENT)
    still = strong.model_copy(update=dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0))
    for section in (strong, still):
        for seed in range(5):
            one, other = (
                preprocess.augment(image, np.random.default_rng(seed), section, 16, (1, 2, 3))
                for image in (grey, three)
            )
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(preprocess.to_pixels(preprocess.resize(grey, 8)), preprocess.resize(three, 8))


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (4, 2), (0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned clockwise by 90 degrees
    upright = preprocess.decode_rgb(encoded(image, exif=exif))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 0, 0)


def test_resize_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (40, 10), (9, 9, 9))
    image.paste((200, 200, 200), (20, 0, 40, 10))
    small = np.asarray(preprocess.resize(image, 8))
    assert small.shape == (8, 8, 3)
    assert np.abs(small[:, 0].astype(int) - 9).max() <= 1
    assert np.abs(small[:, 7].astype(int) - 200).max() <= 1


def test_a_full_crop_is_the_resize() -> None:
    image = layouts.image(1, 20, 20)
    crop = preprocess.random_resized_crop(image, np.random.default_rng(0), 8, (1, 1), (1, 1))
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(preprocess.resize(image, 8)))


def test_crops_have_the_area_and_ratio_asked_for() -> None:
    # Every pixel is its own column and row, so the crop's corners tell the rectangle (nearest to the resized ends).
    y, x = np.mgrid[0:200, 0:200]
    image = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    areas: list[float] = []
    for seed in range(200):
        crop = preprocess.random_resized_crop(image, np.random.default_rng(seed), 64, (0.25, 0.5), (0.5, 2.0))
        pixels = np.asarray(crop).astype(int)
        width, height = pixels[0, -1, 0] - pixels[0, 0, 0] + 2, pixels[-1, 0, 1] - pixels[0, 0, 1] + 2
        areas.append(width * height / 200**2)
        assert 0.45 < width / height < 2.2
    assert min(areas) > 0.22
    assert max(areas) < 0.55
    assert np.mean(areas) == pytest.approx(0.375, abs=0.02)


def test_a_ratio_that_never_fits_falls_back_to_the_centre() -> None:
    image = Image.new("RGB", (300, 10), (0, 0, 0))
    image.paste((255, 255, 255), (145, 0, 155, 10))
    crop = preprocess.random_resized_crop(image, np.random.default_rng(0), 6, (1, 1), (1, 1))
    assert np.asarray(crop).min() == 255


def test_flip() -> None:
    image = layouts.image(2)
    flipped = preprocess.flip(image, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])
    assert preprocess.flip(image, np.random.default_rng(0), 0.0) is image
    rng = np.random.default_rng(0)
    share = np.mean([preprocess.flip(image, rng, 0.3) is not image for _ in range(2000)])
    assert share == pytest.approx(0.3, abs=0.03)


def test_colour_changes() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    rng = np.random.default_rng(0)
    assert preprocess.color_jitter(grey, rng, 0, 0, 0, 0) is grey
    levels = {np.asarray(preprocess.color_jitter(grey, rng, 0.5, 0, 0, 0))[0, 0, 0].item() for _ in range(300)}
    assert 50 <= min(levels) < 60
    assert 140 < max(levels) <= 150
    # Saturation and hue leave grey as it is.
    np.testing.assert_array_equal(np.asarray(preprocess.color_jitter(grey, rng, 0, 0, 0.9, 0.5)), np.asarray(grey))


class Fixed(np.random.Generator):
    """Draws the strongest change."""

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> float:  # type: ignore[override]
        return high


GREYS, COLOUR = [[60, 60, 60], [140, 140, 140]], [[150, 100, 50]]  # of mean 100; of luminance 109


@pytest.mark.parametrize(
    ("pixels", "strengths", "expected"),
    [
        (GREYS, (0.5, 0, 0), [[90, 90, 90], [210, 210, 210]]),
        (GREYS, (0, 0.5, 0), [[40, 40, 40], [160, 160, 160]]),
        (GREYS, (0, 0, 0.5), GREYS),
        (COLOUR, (0.5, 0, 0), [[225, 150, 75]]),
        (COLOUR, (0, 0, 0.5), [[170, 95, 20]]),
    ],
)
def test_each_strength_is_of_one_change(
    pixels: list[list[int]], strengths: tuple[float, float, float], expected: list[list[int]]
) -> None:
    """Brightness multiplies, contrast moves away from the mean of the image and saturation from the pixel's grey."""
    image = Image.fromarray(np.array([pixels], np.uint8))
    changed = preprocess.color_jitter(image, Fixed(np.random.PCG64(0)), *strengths, 0)
    np.testing.assert_allclose(np.asarray(changed)[0].astype(int), expected, atol=1)


def test_a_third_of_the_colour_circle_turns_red_into_green() -> None:
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    turned = preprocess.color_jitter(red, Fixed(np.random.PCG64(0)), 0, 0, 0, 1 / 3)
    assert np.asarray(turned)[0, 0].tolist() == [0, 255, 0]


def test_erased_rectangle_is_about_zero_after_normalisation() -> None:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    fill = (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2]))
    pixels = np.full((50, 50, 3), 255, np.uint8)
    for seed in range(50):
        erased = preprocess.random_erase(pixels, np.random.default_rng(seed), 1.0, (0.1, 0.2), fill)
        changed = (erased != 255).all(axis=-1)
        assert 0.08 < changed.mean() < 0.22
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one full rectangle
        assert np.abs(np.asarray(normalize_images(jnp.asarray(erased), mean, std))[changed]).max() < 0.008
    assert pixels.min() == 255
    assert preprocess.random_erase(pixels, np.random.default_rng(0), 0.0, (0.1, 0.2), fill) is pixels


def test_augment_depends_on_the_generator_alone() -> None:
    section = AugmentSection(**layouts.STRONG_AUGMENT)
    image = layouts.image(3, 30, 20)
    views = [preprocess.augment(image, np.random.default_rng(seed), section, 16, (1, 2, 3)) for seed in (0, 0, 1)]
    assert views[0].shape == (16, 16, 3)
    assert views[0].dtype == np.uint8
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()


def test_normalize() -> None:
    images = jnp.array([[[[0, 51, 255]]]], jnp.uint8)
    result = normalize_images(images, (0.5, 0.2, 0.5), (0.25, 0.5, 2.0))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(result)[0, 0, 0], [-2.0, 0.0, 0.25], atol=1e-6)
    with pytest.raises(TypeError, match="expected uint8 images with values 0 to 255, found float32"):
        normalize_images(result, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


def test_luminance_is_pillows_and_leaves_grey_images():
    usual = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    pixels[0, :8] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [1, 1, 0], [2, 0, 3], [7, 7, 8]]
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    assert (grey != pixels).any()
    expected = normalize_images(jnp.asarray(grey), **usual)
    for images in (pixels, grey):
        found = jax.jit(functools.partial(normalize_images, grayscale=True, **usual))(images)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(to_luminance(jnp.asarray(pixels, jnp.float32)), grey)
