"""Smoothed probabilities of tracks: means over a window of time."""

import dataclasses
import itertools

import numpy as np
import pytest

from mpafer_jax.faces.detect import Face
from mpafer_jax.inference.results import Failure, NoFace, Prediction, Source
from mpafer_jax.inference.temporal import VideoTracks, smooth_results, smooth_rows

NAMES = ("anger", "fear")
FACE = Face(10, 20, 80, 90, tuple((float(x), 1.5 * x) for x in range(5)), 0.75)


def prediction(first, seconds=None, track=0, file="a.mp4", frame=None, index=0, face=FACE):
    """Of two classes, with the probability of the first."""
    frame = None if seconds is None else round(10 * seconds) if frame is None else frame
    probabilities = np.array([first, 1 - first], np.float32)
    source = Source(file, index, frame, seconds)
    return Prediction(source, face, NAMES, np.log(probabilities), probabilities, None, None, (1, 1), track=track)


def smoothed(results, seconds, **options):
    rows = list(smooth_rows([result.to_dict() for result in results], seconds, **options))
    return [row["smooth_probabilities"]["anger"] if "smooth_confidence" in row else None for row in rows]


def test_a_window_is_half_before_and_half_after_by_time_stamps():
    times = (0.0, 0.1, 0.5, 0.6, 2.0)
    values = (0.9, 0.7, 0.2, 0.4, 0.3)
    results = [prediction(value, seconds) for value, seconds in zip(values, times, strict=True)]
    expected = [(0.9 + 0.7 + 0.2) / 3, 0.55, 0.55, (0.7 + 0.2 + 0.4) / 3, 0.3]  # 0.55: of the first four
    assert smoothed(results, 1.0) == pytest.approx(expected)
    assert smoothed(results, 0.1) == pytest.approx(values)
    past = [0.9, 0.8, 0.6, (0.7 + 0.2 + 0.4) / 3, 0.3]
    assert smoothed(results, 1.0, ahead=False) == pytest.approx(past)
    (row, *_) = smooth_rows([results[2].to_dict()], 1.0)
    assert (row["expression"], row["smooth_expression"]) == ("fear", "fear")
    assert row["smooth_confidence"] == pytest.approx(0.8)


def test_tracks_videos_and_images_do_not_mix_and_all_rows_keep_their_order():
    results = [
        prediction(0.5),
        prediction(0.1, 0.0, track=0),
        prediction(0.9, 0.0, track=1),
        NoFace(Source("a.mp4", 1, 1, 0.1)),
        prediction(0.3, 0.2, track=0),
        prediction(0.7, 0.2, track=1),
        Failure(Source("a.mp4", 3), "cut short"),
        prediction(0.75, 0.0, file="b.mp4", track=0),
        prediction(0.25, 0.0, file="c.mp4", track=0),
        prediction(0.6),
    ]
    means = [None, 0.2, 0.8, None, 0.2, 0.8, None, 0.75, 0.25, None]
    assert smoothed(results, 1.0) == pytest.approx(means)
    assert [type(result) for result in smooth_results(results, 1.0)] == [type(result) for result in results]
    found = [result.smooth for result in smooth_results(results, 1.0) if isinstance(result, Prediction)]
    assert found[:3] == [None, ("fear", pytest.approx(0.8)), ("anger", pytest.approx(0.8))]
    assert smoothed(results, 0) == [None] * 10


def test_the_smooth_confidence_decides_what_is_uncertain():
    values = [(0.9, 0.0, 0), (0.6, 0.1, 0), (0.9, 0.0, 1), (0.2, 0.1, 1), (0.6, None, None)]
    results = [dataclasses.replace(prediction(*value), min_confidence=0.7) for value in values]
    smooth = list(smooth_results(results, 1.0))
    expected = ["ok", "ok", "uncertain", "uncertain", "uncertain"]
    assert [result.status for result in results] == ["ok", "uncertain", "ok", "ok", "uncertain"]
    assert [result.status for result in smooth] == expected
    assert "uncertain, perhaps anger, 55.0%" in str(smooth[3])
    rows = [result.to_dict() for result in results]
    assert [row["status"] for row in smooth_rows(rows, 1.0, min_confidence=0.7)] == expected


def test_a_video_that_is_given_twice_begins_anew():
    results = [prediction(value, frame / 10) for value in (0.25, 0.75) for frame in range(3)]
    assert smoothed(results, 10.0) == pytest.approx([0.25] * 3 + [0.75] * 3)


def test_without_detection_the_whole_image_is_smoothed():
    results = [prediction(value, seconds, None, face=None) for value, seconds in ((0.2, 0.0), (0.4, 0.1))]
    assert smoothed(results, 1.0) == pytest.approx([0.3, 0.3])


def test_a_cut_ends_tracks_and_windows():
    tracks = VideoTracks()
    shots = [0, 0, 1, 1]
    sources = [Source("a.mp4", number, number, number / 10, shot) for number, shot in enumerate(shots)]
    assert [tracks(source, [FACE]) for source in sources] == [[0], [0], [1], [1]]
    rows = []
    for source, value in zip(sources, (0.2, 0.4, 0.6, 0.8), strict=True):
        whole = dataclasses.replace(prediction(value, source.seconds, None, face=None), source=source)
        rows.append(whole)
    assert smoothed(rows, 1.0) == pytest.approx([0.3, 0.3, 0.7, 0.7])


@pytest.mark.parametrize(("seconds", "ahead", "held"), [(2.0, True, 12), (2.0, False, 1), (0.0, True, 1)])
def test_no_more_than_the_window_is_taken_ahead_and_a_camera_waits_for_nothing(seconds, ahead, held):
    taken = itertools.count()
    endless = (prediction(0.5, next(taken) / 10, index=number).to_dict() for number in itertools.count())
    smooth = smooth_rows(endless, seconds, ahead=ahead)
    for number in range(200):
        assert next(smooth)["index"] == number
    assert next(taken) == 199 + held


def test_tracks_begin_anew_in_each_video_and_images_have_none():
    tracks = VideoTracks()
    assert tracks(Source("a.jpg", 0), [FACE]) == [None]
    assert [tracks(Source("a.mp4", 1 + i, i, i / 10), [FACE]) for i in range(2)] == [[0], [0]]
    far = Face(900, 20, 80, 90, tuple((900.0 + x, 1.5 * x) for x in range(5)), 0.75)
    assert tracks(Source("a.mp4", 3, 2, 0.2), [far, FACE]) == [1, 0]
    assert tracks(Source("b.mp4", 4, 0, 0.0), [far]) == [0]
    assert tracks(Source("b.mp4", 5, 0, 0.0), [FACE]) == [0]  # the same video once more


def test_results_of_an_earlier_start_leave_the_tracks_as_they_were():
    name = "caf\udce9.mp4"  # bytes that are not UTF-8
    far = Face(900, 20, 80, 90, tuple((900.0 + x, 1.5 * x) for x in range(5)), 0.75)
    seen, shots = [[FACE], [far, FACE], [], [far]], [0, 1, 1, 1]
    tracks, rows = VideoTracks(), [Failure(Source("x", 0), "no").to_dict()]
    for number, faces in enumerate(seen):
        source = Source(name, 1 + number, number, number / 10, shots[number])
        found = tracks(source, faces)
        pairs = zip(faces, found, strict=True)
        results = [prediction(0.5, number / 10, track, name, number, 1 + number, face) for face, track in pairs]
        results = [dataclasses.replace(result, source=source) for result in results]
        rows += [result.to_dict() for result in results or [NoFace(source)]]
    resumed = VideoTracks()
    resumed.replay(rows)
    following = [([FACE, far], 0.4), ([far], 0.5), ([FACE], 0.6)]
    for number, (faces, seconds) in enumerate(following):
        source = Source(name, 5 + number, 4 + number, seconds, 1)
        assert resumed(source, faces) == tracks(source, faces)
    assert Face.from_dict(FACE.to_dict()) == FACE
