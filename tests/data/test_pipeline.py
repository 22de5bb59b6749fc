"""Batches: the stream is a function of (seed, step), whoever makes it."""

import dataclasses
import multiprocessing
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mpafer_jax.data import pipeline, preprocess
from mpafer_jax.data.pipeline import Batch, ClassBalancedOrder, ShuffledOrder, train_order
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.runtime.errors import ImageError, WorkerError
from tests.data import layouts

SIZE = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    layouts.write_folders(root, {"angry": 5, "happy": 12, "sad": 6})
    return root


@pytest.fixture(scope="module")
def split(folders: Path) -> Split:
    return load_dataset(layouts.section("folder", folders)).train


def batches(split: Split, start: int = 0, stop: int = 6, **options: Any) -> list[Batch]:
    settings = {name: options.pop(name) for name in ("sampler", "num_workers") if name in options}
    section = layouts.section("folder", Path("unused"), augment=layouts.STRONG_AUGMENT, **settings)
    values: dict[str, Any] = {"batch_size": 6, "seed": 7} | options
    return list(
        pipeline.train_batches(split, section=section, image_size=SIZE, start_step=start, num_steps=stop, **values)
    )


def assert_equal(left: Iterable[Batch], right: Iterable[Batch]) -> None:
    for one, other in zip(left, right, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype


def test_a_batch_holds_what_it_says(split: Split) -> None:
    for batch in batches(split):
        shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
        assert shapes == {
            "image": ((6, SIZE, SIZE, 3), "uint8"),
            "label": ((6,), "int32"),
            "label_distribution": ((6, 3), "float32"),
            "mask": ((6,), "float32"),
            "index": ((6,), "int32"),
        }
        np.testing.assert_array_equal(batch["label"], split.labels[batch["index"]])
        np.testing.assert_array_equal(batch["label_distribution"], np.eye(3)[batch["label"]])
        assert batch["mask"].tolist() == [1] * 6


def test_order_and_augmentation_are_the_documented_functions(split: Split) -> None:
    """Position g is permutation(seed, g // n)[g % n], under a generator keyed by (seed, g)."""
    section = layouts.section("folder", Path("unused"), augment=layouts.STRONG_AUGMENT)
    size, position = len(split), 0
    for batch in batches(split):
        for index, image in zip(batch["index"], batch["image"], strict=True):
            order = np.random.default_rng((0, 7, position // size)).permutation(size)
            assert index == order[position % size]
            expected = preprocess.augment(
                preprocess.decode_rgb(split.source[int(index)]),
                np.random.default_rng((2, 7, position)),
                section.augment,
                SIZE,
                (123, 117, 104),
            )
            np.testing.assert_array_equal(image, expected)
            position += 1
    assert position == 36 > size


def test_every_epoch_sees_every_example_once_in_a_new_order() -> None:
    order = ShuffledOrder(seed=3, size=10)
    first, second = order(np.arange(10)), order(np.arange(10, 20))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    np.testing.assert_array_equal(order(np.array([13, 2])), [second[3], first[2]])
    assert ShuffledOrder(seed=4, size=10)(np.arange(10)).tolist() != first.tolist()


def test_class_balanced_sampler_draws_classes_equally() -> None:
    labels = np.repeat(np.array([0, 2, 3], np.int32), [900, 90, 10])
    order = train_order(labels, "class_balanced", seed=0)
    drawn = order(np.arange(6000))
    shares = np.bincount(labels[drawn], minlength=4) / 6000
    np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.02)
    # Within a class every example is equally likely: 2,000 draws from 10.
    within = np.bincount(drawn[drawn >= 990] - 990, minlength=10)
    assert within.min() > 150
    np.testing.assert_array_equal(order(np.array([4321, 17])), drawn[[4321, 17]])
    other = train_order(labels, "class_balanced", seed=1)(np.arange(6000))
    assert np.mean(labels[other] == labels[drawn]) == pytest.approx(1 / 3, abs=0.03)


def test_class_balanced_sampler_is_used(split: Split) -> None:
    found = [index for batch in batches(split, sampler="class_balanced") for index in batch["index"]]
    assert len(set(found[: len(split)])) < len(split)  # with replacement
    members = tuple(np.flatnonzero(split.labels == label) for label in range(3))
    np.testing.assert_array_equal(found, ClassBalancedOrder(7, members)(np.arange(36)))


def test_an_unknown_sampler_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected 'shuffle' or 'class_balanced', found 'random'"):
        train_order(np.zeros(3, np.int32), "random", 0)


def test_resuming_continues_the_stream(split: Split) -> None:
    assert_equal(batches(split)[4:], batches(split, start=4))


def test_processes_get_contiguous_parts_of_the_same_global_batch(split: Split) -> None:
    whole = batches(split)
    parts = [batches(split, process_index=p, process_count=3) for p in range(3)]
    for step, batch in enumerate(whole):
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), value)


def test_a_batch_that_does_not_divide_is_an_error(split: Split) -> None:
    with pytest.raises(ValueError, match="global batch of 6 cannot be cut into 4 equal parts"):
        batches(split, process_index=0, process_count=4)


def test_worker_processes_make_the_same_batches(split: Split) -> None:
    assert_equal(batches(split), batches(split, num_workers=2))


def test_a_killed_worker_process_is_an_error_and_no_endless_wait(split: Split) -> None:
    section = layouts.section("folder", Path("unused"), num_workers=2)
    stream = pipeline.train_batches(
        split, section=section, image_size=128, batch_size=23, seed=7, start_step=0, num_steps=1000
    )  # of more bytes than a pipe holds, so that each worker soon stands in the middle of a batch
    next(stream)
    killed, other = sorted(multiprocessing.active_children(), key=lambda process: process.name)[-2:]
    time.sleep(0.5)
    killed.kill()
    with pytest.raises(
        WorkerError, match=rf"worker process {killed.pid} of config\.data\.num_workers was ended by SIGKILL"
    ):
        for _ in stream:
            pass
    assert not other.is_alive()


def test_a_broken_image_in_a_worker_process_is_an_error(split: Split) -> None:
    broken = dataclasses.replace(split, source=dataclasses.replace(split.source, sources=([{"image": b"no"}] * 23,)))
    with pytest.raises(ImageError, match="not an image in a format that is read"):
        batches(broken, num_workers=2)
    assert not multiprocessing.active_children()


def test_no_more_workers_are_started_than_there_are_batches(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []  # the second worker, with one batch to make, may have ended when the first one has made its
    start = multiprocessing.process.BaseProcess.start

    def counted(process: multiprocessing.process.BaseProcess) -> None:
        started.append(process.name)
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", counted)
    section = layouts.section("folder", Path("unused"), num_workers=8)
    stream = pipeline.train_batches(
        split, section=section, image_size=SIZE, batch_size=6, seed=7, start_step=4, num_steps=6
    )
    next(stream)
    assert len(started) == 2
    cast(Generator[Batch], stream).close()
    assert not multiprocessing.active_children()


def test_short_evaluation_passes_start_no_workers(split: Split) -> None:
    def batches_of(batch_size: int, num_workers: int) -> Generator[Batch]:
        section = layouts.section("folder", Path("unused"), num_workers=num_workers)
        large = split.take(np.arange(64) % len(split))
        stream = pipeline.eval_batches(large, section=section, image_size=SIZE, batch_size=batch_size)
        return cast(Generator[Batch], stream)

    for batch_size, started in ((2, 0), (1, 1)):
        stream = batches_of(batch_size, 1)
        first = next(stream)
        assert len(multiprocessing.active_children()) == started
        assert_equal([first, *stream], batches_of(batch_size, 0))


def test_a_broken_image_in_a_thread_is_an_error(split: Split) -> None:
    class Broken:
        def __len__(self) -> int:
            return 23

        def __getitem__(self, index: int) -> dict[str, bytes]:
            return {"image": b"no image"}

    with pytest.raises(ImageError, match="not an image in a format that is read"):
        batches(dataclasses.replace(split, source=dataclasses.replace(split.source, sources=(Broken(),))))


def test_leaving_early_ends_the_threads(split: Split) -> None:
    section = layouts.section("folder", Path("unused"))
    stream = pipeline.train_batches(
        split, section=section, image_size=SIZE, batch_size=4, seed=0, start_step=0, num_steps=10**6
    )
    next(stream)
    running = [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]
    assert running
    stream.close()  # type: ignore[attr-defined]
    for thread in running:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in running)


@pytest.mark.parametrize("process_count", [1, 2])
@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_evaluation_counts_every_example_once(split: Split, batch_size: int, process_count: int) -> None:
    section = layouts.section("folder", Path("unused"), augment=layouts.STRONG_AUGMENT)
    streams = [
        list(
            pipeline.eval_batches(
                split,
                section=section,
                image_size=SIZE,
                batch_size=batch_size,
                process_index=process,
                process_count=process_count,
            )
        )
        for process in range(process_count)
    ]
    steps = pipeline.num_eval_batches(len(split), batch_size)
    assert [len(stream) for stream in streams] == [steps] * process_count
    seen: list[int] = []
    for step in range(steps):
        for stream in streams:
            batch = stream[step]
            assert batch["image"].shape == (batch_size // process_count, SIZE, SIZE, 3)
            real = batch["mask"] == 1
            seen.extend(batch["index"][real].tolist())
            assert set(batch["index"][~real].tolist()) <= {0}
            for index, image in zip(batch["index"], batch["image"], strict=True):
                expected = preprocess.resize(preprocess.decode_rgb(split.source[int(index)]), SIZE)
                np.testing.assert_array_equal(image, np.asarray(expected))
    assert seen == list(range(len(split)))
