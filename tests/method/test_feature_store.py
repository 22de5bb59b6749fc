"""Features from run to run: found by pixels, never lost, never another CLIP's; and the tool that hands them out."""

import errno
import fcntl
import json
from concurrent import futures

import numpy as np
import pytest

from mpafer_jax.data.splits import Grouping, load_dataset
from mpafer_jax.evaluation.baselines import feature_files
from mpafer_jax.jobs import train
from mpafer_jax.method import build, prototypes
from mpafer_jax.method import features as features_lib
from mpafer_jax.method.features import encode_splits
from mpafer_jax.runtime import devices, locks, signals
from mpafer_jax.runtime.errors import DataError
from tests.jobs import runs


def store(tmp_path, width=3):
    return features_lib.FeatureStore(tmp_path / "features" / "x.npz", width, {"clip": "x"})


def hashes(*numbers):
    return np.array([f"{number:032x}" for number in numbers])


def rows(*numbers):
    return np.array([[number, 2.0 * number, -1.0] for number in numbers], np.float32)


def test_what_was_added_is_found_in_any_order(tmp_path):
    kept = store(tmp_path)
    found, features = kept.find(hashes(1, 2))
    assert found.tolist() == [False, False]
    assert not features.any()
    kept.add(hashes(7, 3, 7), rows(7, 3, 7))
    kept.add(hashes(5, 3), np.concatenate([rows(5), rows(9)]))  # 3 is there and stays as it is
    found, features = kept.find(hashes(3, 4, 7, 5, 0, 99))
    assert found.tolist() == [True, False, True, True, False, False]
    np.testing.assert_array_equal(features[found], rows(3, 7, 5))
    names = sorted(path.name for path in kept.path.parent.iterdir())
    assert names in (["x.npz"], ["x.npz", "x.npz.lock"])


def test_only_what_is_known_is_sent_to_the_other_processes(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(features_lib.distributed, "broadcast", lambda array: sent.append(array.shape) or array)
    kept = store(tmp_path)
    kept.find(hashes(1, 2, 3))
    kept.add(hashes(2), rows(2))
    found, features = kept.find(hashes(1, 2, 3))
    assert sent == [(3,), (3,), (1, 3)]
    np.testing.assert_array_equal(features[found], rows(2))


def test_runs_side_by_side_lose_nothing(tmp_path):
    def add(number):
        store(tmp_path).add(hashes(*range(number, 60, 6)), rows(*range(number, 60, 6)))

    with futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    found, features = store(tmp_path).find(hashes(*range(60)))
    assert found.all()
    np.testing.assert_array_equal(features, rows(*range(60)))


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_host_that_was_killed_while_it_added_blocks_nobody(tmp_path, monkeypatch, caplog):
    """On a file system without locks, where a file stands for one and stays."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.05)
    kept = store(tmp_path)
    kept.path.parent.mkdir()
    kept.path.with_name("x.npz.lock").touch()
    record = {"host": "elsewhere", "pid": 7, "command": "python -m x", "since": "1999", "token": "t"}
    kept.path.with_name("x.npz.lock.owner").write_text(json.dumps(record))
    with caplog.at_level("WARNING"):
        kept.add(hashes(1), rows(1))
    assert "process 7 on elsewhere (python -m x), since 1999 has shown no sign of life" in caplog.text
    assert kept.find(hashes(1))[0].all()


@pytest.mark.parametrize("content", [b"", b"no archive at all", None])
def test_a_damaged_file_is_named(tmp_path, content):
    kept = store(tmp_path)
    kept.add(hashes(1), rows(1))
    kept.path.write_bytes(kept.path.read_bytes()[:-70] if content is None else content)
    with pytest.raises(DataError, match=r"x\.npz is damaged .*delete it"):
        kept.find(hashes(1))
    with pytest.raises(DataError, match="delete it"):
        kept.add(hashes(2), rows(2))


def test_features_that_are_not_finite_are_not_taken(tmp_path):
    store(tmp_path).add(hashes(1, 2), rows(1, np.nan))
    with pytest.raises(DataError, match=r"x\.npz holds features that are NaN or infinite; delete it"):
        store(tmp_path).find(hashes(1))


def test_another_width_is_refused(tmp_path):
    store(tmp_path).add(hashes(1), rows(1))
    with pytest.raises(DataError, match=r"holds features \[1, 3\] of 1 images, expected \[1, 4\]"):
        store(tmp_path, width=4).find(hashes(1))


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path, monkeypatch, caplog):
    kept = store(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks.filelock, "FileLock", refuse)
    with caplog.at_level("WARNING"):
        kept.add(hashes(1), rows(1))
    assert "features are not kept" in caplog.text
    assert "data.features_dir" in caplog.text


def test_what_stands_for_a_clip_by_hand():
    """A clip of three frames and one of two, in three segments; of the latter the first frame stands for two."""
    labels, features = np.array([2, 2, 2, 1, 1], np.int32), np.arange(10, dtype=np.float32).reshape(5, 2)
    votes = np.eye(3, dtype=np.float32)[labels]
    frames = features_lib.FrozenFeatures(features, labels, votes, Grouping(np.array([0, 3]), 5), segments=3)
    examples = frames.of_segments()
    np.testing.assert_array_equal(examples.image_features, features[[0, 1, 2, 3, 3, 4]])
    np.testing.assert_array_equal(examples.labels, [2, 2, 2, 1, 1, 1])
    np.testing.assert_array_equal(examples.label_distributions, votes[[0, 1, 2, 3, 3, 4]])
    logits, of_clips = frames.of_examples(features)
    np.testing.assert_array_equal(logits, [[2, 3], [7, 8]])
    np.testing.assert_array_equal(of_clips, [2, 1])
    images = features_lib.FrozenFeatures(features, labels, votes)
    assert images.of_segments() is images
    assert images.of_examples(features)[0] is features


def test_the_key_holds_what_the_numbers_depend_on(sample, monkeypatch):
    def path(clip="c", **changes):
        return features_lib.open_store(runs.config(sample, **changes), clip, 8).path

    base = path()
    assert base.parent == sample / "faces" / "mpafer_tfds" / "features"
    changed = {
        path("d"),
        path(**{"clip.dtype": "bfloat16"}),
        path(**{"clip.dtype": "bfloat16", "clip.residual_dtype": "bfloat16"}),
        path(**{"data.mean": (0.5, 0.5, 0.5)}),
        path(**{"data.std": (0.5, 0.5, 0.5)}),
        path(**{"data.grayscale": True}),
    }
    for name, value in (("matmul_precision", "default"), ("unusual_settings", {"jax_enable_x64": "True"})):
        with monkeypatch.context() as patch:
            patch.setattr(devices, name, lambda value=value: value)
            changed.add(path())
    assert len(changed | {base}) == 9
    same = [path(**change) for change in ({"seed": 5}, {"data.train_per_class": 3}, {"eval.batch_size": 32})]
    assert same == [base] * 3
    assert path(**{"data.features_dir": "/elsewhere"}) == features_lib.Path("/elsewhere") / base.name


@pytest.fixture(autouse=True)
def compiled_anew():
    """No step of another test, and none of this one for others: tests replace what compiles it."""
    features_lib._feature_step.cache_clear()
    yield
    features_lib._feature_step.cache_clear()


@pytest.fixture(scope="module")
def prepared(sample):
    config = runs.config(sample)
    dataset = load_dataset(config.data)
    return dataset, build.build_experiment(config, dataset.class_names, build.load_frozen_clip(config))


def test_features_are_computed_once_for_all_runs(sample, prepared, tmp_path, monkeypatch):
    """A few-shot run, then one on everything, then another draw: the second computes the rest, the third nothing."""
    dataset, built = prepared
    config = runs.config(sample, **{"data.features_dir": str(tmp_path)})
    fresh = encode_splits(
        runs.config(sample, **{"data.features_dir": str(tmp_path / "other")}), built, [dataset.train, dataset.test]
    )
    computed = []
    real = devices.data_parallel

    def counting(step, **options):
        step = real(step, **options)

        def counted(params, batch):
            computed.append(int(np.sum(batch["mask"])))
            return step(params, batch)

        return counted

    monkeypatch.setattr(devices, "data_parallel", counting)
    features_lib._feature_step.cache_clear()
    few = np.arange(0, len(dataset.train), 5)
    some = encode_splits(config, built, [dataset.train.take(few)])["train"]
    assert sum(computed) == len(few)
    everything = encode_splits(config, built, [dataset.train, dataset.test])
    assert sum(computed) == len(dataset.train) + len(dataset.test)
    again = encode_splits(config, built, [dataset.test, dataset.train.take(few + 1)])
    assert sum(computed) == len(dataset.train) + len(dataset.test)
    np.testing.assert_array_equal(some.image_features, everything["train"].image_features[few])
    np.testing.assert_array_equal(again["train"].image_features, everything["train"].image_features[few + 1])
    np.testing.assert_array_equal(again["test"].image_features, everything["test"].image_features)
    for name, split in fresh.items():
        np.testing.assert_allclose(everything[name].image_features, split.image_features, rtol=1e-4, atol=1e-5)


def test_features_of_a_run_that_is_stopped_are_kept_part_by_part(sample, prepared, tmp_path, monkeypatch):
    dataset, built = prepared
    config = runs.config(sample, **{"data.features_dir": str(tmp_path)})
    monkeypatch.setattr(features_lib, "_PART", 16)
    monkeypatch.setattr(features_lib, "_STORE_SECONDS", 0.0)
    real, batches = devices.data_parallel, []

    def stopping(step, **options):
        step = real(step, **options)

        def stops(params, batch):
            batches.append(batch)
            if len(batches) == 3:
                raise signals.Preempted("stopped")
            return step(params, batch)

        return stops

    monkeypatch.setattr(devices, "data_parallel", stopping)
    with pytest.raises(signals.Preempted):
        encode_splits(config, built, [dataset.train])
    assert len(dataset.train) > 3 * 16
    store = features_lib.open_store(config, built.clip_hash, built.model.backbone.spec.embedding_size)
    assert store.find(dataset.train.pixel_hashes)[0].sum() == 32
    encode_splits(config, built, [dataset.train])
    assert len(batches) == 3 + -(-(len(dataset.train) - 32) // 16)


def test_prototypes_are_the_class_means_of_the_frozen_features(sample, prepared, tmp_path):
    dataset, built = prepared
    for normalize in (False, True):
        changes = {"data.features_dir": str(tmp_path), "prototypes.normalize": normalize}
        found = train.class_prototypes(runs.config(sample, **changes), dataset.train, built)
        features = encode_splits(runs.config(sample, **changes), built, [dataset.train])["train"].image_features
        if normalize:
            features = features / np.linalg.norm(features, axis=1, keepdims=True)
        for label in range(len(dataset.class_names)):
            expected = features[dataset.train.labels == label].mean(0)
            np.testing.assert_allclose(found[label], expected, rtol=1e-5, atol=1e-6)


def test_prototypes_of_a_few_images_of_each_class(sample, prepared, tmp_path):
    dataset, built = prepared
    place, labels = {"data.features_dir": str(tmp_path)}, dataset.train.labels
    features = encode_splits(runs.config(sample, **place), built, [dataset.train])["train"].image_features
    for seed in (0, 1):
        config = runs.config(sample, seed=seed, **place, **{"prototypes.images_per_class": 3})
        chosen = prototypes.choose_images(labels, 3, seed)
        expected = [features[chosen][labels[chosen] == label].mean(0) for label in range(len(dataset.class_names))]
        np.testing.assert_allclose(train.class_prototypes(config, dataset.train, built), expected, rtol=1e-5, atol=1e-6)


def test_the_command_writes_features_labels_and_names(sample, prepared, tmp_path):
    dataset, built = prepared
    place, out = {"data.features_dir": str(tmp_path / "store")}, tmp_path / "out"
    ended = runs.call("data features", *runs.words(sample, **place), "--split=train", "--split=test", f"--out={out}")
    assert ended.code == 0, ended.err
    assert f"written: {out / 'test.npz'}, 25 images" in ended.err
    assert sorted(path.name for path in out.iterdir()) == ["features.json", "test.npz", "train.npz"]
    for split in (dataset.train, dataset.test):
        with np.load(out / f"{split.name}.npz", allow_pickle=False) as arrays:
            expected = encode_splits(runs.config(sample, **place), built, [split])[split.name].image_features
            np.testing.assert_array_equal(arrays["image_features"], expected)
            np.testing.assert_array_equal(arrays["labels"], split.labels)
            np.testing.assert_array_equal(arrays["names"], split.names)
            np.testing.assert_array_equal(arrays["pixel_hashes"], split.pixel_hashes)
            assert arrays["class_names"].tolist() == list(dataset.class_names)
            assert arrays["label_distributions"].shape == (len(split), 5)
    about = json.loads((out / "features.json").read_text())
    assert about["clip"]["hash"] == built.clip_hash
    assert about["fingerprints"] == {split.name: split.fingerprint for split in (dataset.train, dataset.test)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_files, "encode_splits", runs.preempted)
        with pytest.raises(signals.Preempted):
            feature_files.write(runs.config(sample, **place), ["test"], out)
    none = {"data.validation_fraction": 0}
    ended = runs.call("data features", *runs.words(sample, **none), "--split=validation", f"--out={tmp_path}")
    assert ended.code == 2
    assert "none of the splits validation" in ended.err
