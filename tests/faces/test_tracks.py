"""Tracks, on faces whose ways are known: no image is looked at."""

import numpy as np
import pytest

from mpafer_jax.faces.detect import Face
from mpafer_jax.faces.tracks import MISSING_SECONDS, Tracker

_EYES_NOSE_MOUTH = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))


def face(x, y=100.0, size=80, noise=(0.0, 0.0)):
    """A face whose box has its middle at (x, y)."""
    left, top = x - size / 2 + noise[0], y - size / 2 + noise[1]
    landmarks = tuple((left + a * size, top + b * size) for a, b in _EYES_NOSE_MOUTH)
    return Face(round(left), round(top), size, size, landmarks, 0.9)


def followed(frames, rate=25.0):
    tracker = Tracker()
    return [tracker(faces, number / rate) for number, faces in enumerate(frames)]


def test_numbers_begin_at_0_in_order_of_appearance_whatever_the_order_of_faces():
    tracker = Tracker()
    assert tracker([], 0.0) == []
    assert tracker([face(300)], 0.1) == [0]
    assert tracker([face(100), face(302)], 0.2) == [1, 0]
    assert tracker([face(303), face(101), face(500)], 0.3) == [0, 1, 2]
    assert Tracker()([face(300)], 0.0) == [0]


@pytest.mark.parametrize("rate", [5.0, 10.0, 25.0, 60.0])
@pytest.mark.parametrize("hidden", [0.0, 0.6], ids=["seen all the time", "one behind the other"])
def test_two_people_who_cross_keep_their_numbers(rate, hidden):
    """In 3 s each walks 360 pixels, 4.5 faces, with a detector's trembling; behind, one is not seen while they meet."""
    rng = np.random.default_rng(0)
    tracker, times = Tracker(), np.arange(0.0, 3.0, 1 / rate)
    for seconds in times:
        first, second = 100 + 120 * seconds, 460 - 120 * seconds
        faces = [face(first, 100, 84, rng.normal(0, 1.5, 2))]
        if abs(seconds - 1.5) >= hidden / 2:
            faces.append(face(second, 90, 80, rng.normal(0, 1.5, 2)))
        order = rng.permutation(len(faces))
        numbers = tracker([faces[index] for index in order], seconds)
        assert [numbers[list(order).index(index)] for index in range(len(faces))] == [*range(len(faces))]


def test_two_people_who_meet_and_turn_back_keep_their_numbers():
    frames = [[face(200 - 50 * np.cos(t)), face(280 + 50 * np.cos(t))] for t in np.linspace(np.pi, 3 * np.pi, 75)]
    assert set(map(tuple, followed(frames))) == {(0, 1)}


def test_overlapping_boxes_are_told_apart_by_landmarks():
    """Equal boxes, one face looks left and the other right: only their landmarks differ."""
    left, right = face(100, noise=(-8.4, 0)), face(100, noise=(8.4, 0))
    left, right = (Face(60, 60, 80, 80, looking.landmarks, 0.9) for looking in (left, right))
    tracker = Tracker()
    assert tracker([left, right], 0.0) == [0, 1]
    assert tracker([right, left], 0.1) == [1, 0]


@pytest.mark.parametrize("rate", [4.0, 40.0])
def test_a_face_that_is_missing_keeps_its_track_for_seconds_and_not_for_frames(rate):
    for pause, same in ((MISSING_SECONDS - 0.3, True), (MISSING_SECONDS + 0.3, False)):
        tracker, times = Tracker(), np.arange(0.0, 1.0 + pause, 1 / rate)
        for seconds in times:
            tracker([face(100)] if seconds < 1.0 - 1 / rate else [], seconds)
        assert (tracker([face(100)], 1.0 - 1 / rate + pause) == [0]) is same


def test_a_face_between_two_tracks_goes_on_the_one_that_was_seen_last():
    """Also where it is a little nearer to the other, which has waited for a second."""
    tracker = Tracker()
    assert tracker([face(100), face(160)], 0.0) == [0, 1]
    for number in range(1, 26):
        assert tracker([face(160)], number / 25) == [1]
    assert tracker([face(128)], 26 / 25) == [1]
    assert tracker([face(100), face(128)], 27 / 25) == [0, 1]


def test_every_sixtieth_frame_is_enough_for_a_face_that_stays():
    assert followed([[face(100)], [face(110)], [face(95)]], rate=0.5) == [[0], [0], [0]]


def test_a_face_elsewhere_or_of_another_size_is_another():
    for other in (face(300), face(100, size=250)):
        assert followed([[face(100)], [face(101)], [other]]) == [[0], [0], [1]]


def test_a_walking_face_is_not_given_to_one_that_appears_where_it_was():
    frames = [[face(100 + 30 * i)] for i in range(6)] + [[face(250 + 5), face(280)]]
    assert followed(frames, rate=10.0)[-1] == [1, 0]


def test_time_stamps_that_stand_still_or_go_back_do_no_harm():
    tracker = Tracker()
    assert [tracker([face(100 + i)], seconds) for i, seconds in enumerate((0.0, 0.0, 1.0, 0.2, 1.1))] == [[0]] * 5


def test_its_size_does_not_grow_with_the_video():
    tracker = Tracker()
    for number in range(500):  # somebody else every two seconds
        assert tracker([face(100 + 200 * (number % 7))], 2.0 * number) == [number]
        tracker([], 2.0 * number + 0.1)
    assert len(tracker._tracks) == 1
