"""Shots: a new one at hard cuts, none at motion, flashes and changes of light."""

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.inference import media
from mpafer_jax.inference.shots import Shots
from tests.faces import crossing
from tests.inference import videos


def shot(person, background, left, top=50, side=130):
    """A drawn face before a background, 320x240."""
    image = Image.new("RGB", (320, 240), background)
    face = Image.fromarray(generate.face_of(person, "photos", person, STYLES["colour"]).job.pixels(64))
    image.paste(face.resize((side, side)), (left, top))
    return np.asarray(image)


FIRST, SECOND = shot(1, (110, 120, 130), 60), shot(4, (30, 60, 30), 150, 60)


def numbers(frames):
    shots = Shots()
    return [shots(frame) for frame in frames]


def test_hard_cuts_begin_shots_and_what_is_seen_again_is_another():
    assert numbers([FIRST] * 3 + [SECOND] * 2 + [FIRST]) == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("rate", [15.0, 5.0, 1.0])
@pytest.mark.parametrize("style", ["poster", "colour"])
def test_people_who_move_are_one_shot_at_any_stride(rate, style):
    frames = crossing.frames(12.0 if rate < 15 else 4.0, rate, crossings=2 if rate < 15 else 1, style=style)
    assert set(numbers(frame.pixels for frame in frames)) == {0}


def test_a_face_that_jumps_is_no_cut():
    assert set(numbers(shot(1, (110, 120, 130), left) for left in (0, 180, 60, 150))) == {0}


@pytest.mark.parametrize("light", [0.3, 0.6, 1.3, 1.8])
def test_flashes_and_changes_of_light_are_no_cut(light):
    lit = np.clip(light * FIRST.astype(float), 0, 255).astype(np.uint8)
    assert set(numbers([FIRST, lit, FIRST])) == {0}


@pytest.mark.parametrize("level", [0, 255])
def test_a_frame_without_a_picture_is_passed_over(level):
    flat = np.full_like(FIRST, level)
    flat[::7, ::5] ^= 1  # noise of a codec
    assert numbers([FIRST, flat, FIRST]) == [0, 0, 0]
    assert numbers([FIRST, flat, flat, SECOND]) == [0, 0, 0, 1]
    assert numbers([flat, FIRST, flat]) == [0, 0, 0]


@pytest.mark.parametrize("stride", [1, 3])
def test_frames_of_a_video_have_their_shot(tmp_path, stride):
    path = tmp_path / "a.mp4"
    videos.write(path, [FIRST] * 6 + [SECOND] * 6, [100 * number for number in range(12)])
    found = [image.source.shot for image in media.images(media.find([str(path)]), stride=stride)]
    assert found == [0] * (6 // stride) + [1] * (6 // stride)
    first, *more = (Image.fromarray(image) for image in (FIRST, FIRST, SECOND))
    first.save(tmp_path / "a.gif", save_all=True, append_images=more, duration=[100, 200, 100])
    assert [image.source.shot for image in media.images(media.find([str(tmp_path / "a.gif")]))][-1] == 1
    first.save(tmp_path / "a.png")
    assert [image.source.shot for image in media.images(media.find([str(tmp_path / "a.png")]))] == [None]
