"""Metrics on disk."""

import os
import pathlib
import re

import pytest

from mpafer_jax.runtime import metric_writer
from mpafer_jax.runtime.metric_writer import LINES, MetricWriter, mean_metrics, read


def test_what_is_written_is_read_but_for_a_line_without_end(tmp_path):
    with MetricWriter(tmp_path, first_step=0, enabled=True) as writer:
        writer.write(1, "train", {"loss": 2.0})
    with (tmp_path / LINES).open("a") as stream:
        stream.write('{"step": 2, "kind": "train", "loss": 1.0}')
    assert read(tmp_path) == {"train": {"loss": {1: 2.0}}}


def test_means_over_steps_are_weighted_by_their_counts():
    steps = [{"loss": (6.0, 2.0), "grad_norm": (3.0, 1.0)}, {"loss": (1.0, 8.0), "grad_norm": (1.0, 1.0)}]
    assert mean_metrics(steps, last_step=5) == {"loss": 0.7, "grad_norm": 2.0}


def test_a_run_that_resumes_keeps_the_lines_up_to_its_step(tmp_path):
    for first_step, written in ((0, (1, 2, 3)), (2, (3,))):
        with MetricWriter(tmp_path, first_step=first_step, enabled=True) as writer:
            for step in written:
                writer.write(step, "train", {"loss": first_step + step})
    assert read(tmp_path) == {"train": {"loss": {1: 1.0, 2: 2.0, 3: 5.0}}}


def test_a_run_that_repeats_an_evaluation_drops_its_line(tmp_path):
    """As of a run that was killed when it had logged the evaluation and not yet saved its metrics."""
    for evaluated, step in ((True, 2), (False, 2), (True, 3)):
        with MetricWriter(tmp_path, first_step=2, enabled=True, evaluated=evaluated) as writer:
            if evaluated:
                writer.write(step, "train", {"loss": 2.0})
            writer.write(step, "validation", {"war": 0.5})
    kinds = [line.partition('"kind": ')[2].partition(",")[0] for line in (tmp_path / LINES).read_text().splitlines()]
    assert kinds == ['"train"', '"validation"', '"train"', '"validation"']


def test_a_bucket_that_does_not_answer_for_a_while_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    """A bucket is a folder here, which answers if it is there; without it a copy and a checkpoint's flush fail."""
    monkeypatch.setattr(metric_writer.files, "in_bucket", lambda path: True)
    monkeypatch.setattr(metric_writer, "_COPY_SECONDS", 0.0)
    bucket = tmp_path / "bucket"
    (bucket / "tensorboard").mkdir(parents=True)
    with MetricWriter(bucket, first_step=0, enabled=True) as writer:
        bucket.rename(tmp_path / "away")
        for step in (1, 2):
            writer.write(step, "train", {"loss": 2.0})
        with pytest.raises(FileNotFoundError):
            writer.flush()
        (tmp_path / "away").rename(bucket)
        writer.write(3, "train", {"loss": 2.0})
        assert read(bucket) == {"train": {"loss": {1: 2.0, 2: 2.0, 3: 2.0}}}
    assert caplog.text.count(f"the metrics cannot be copied to {bucket} (FileNotFoundError: ") == 1


def test_a_full_disk_is_named(tmp_path):
    def write() -> None:
        with (
            pathlib.Path("/dev/full").open("w") as full,
            MetricWriter(tmp_path, first_step=0, enabled=True) as writer,
        ):
            assert writer._stream is not None
            os.dup2(full.fileno(), writer._stream.fileno())
            writer.write(1, "train", {"loss": 2.0})

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / LINES}'")):
        write()
