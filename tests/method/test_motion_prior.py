"""The facial-motion prior: by hand, on planted differences, and through training, evaluation, prediction and export."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.description import Description
from mpafer_jax.backbones.base import l2_normalize
from mpafer_jax.cli import export
from mpafer_jax.data.preprocess import decode_rgb
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.baselines import compute as baselines
from mpafer_jax.evaluation.overlay import heat_overlay
from mpafer_jax.inference import Predictor
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.jobs.studies.motion_sheet import mean_faces, motion_sheet, write_motion_sheet
from mpafer_jax.method import build, motion_prior, steps
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.model import global_local_logits, variables
from mpafer_jax.method.motion_prior import PatchMeans
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError, DataError, NonFiniteError
from tests import tiny
from tests.jobs import runs

PRIOR = {"head.motion_prior": "features", "head.motion_strength": 0.8}
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def logits(weights, top_k=3, **changes):
    options = {"logit_scale": 7.0, "top_k": top_k, "local_weight": 0.7, "patch_weights": weights, **changes}
    return global_local_logits(random(4, 5), random(4, 9, 5, seed=1), random(3, 5, seed=2), **options)


@pytest.mark.parametrize("center", [False, True])
def test_weights_of_one_change_nothing_to_the_bit(center):
    def found(weights):
        return logits(weights, center_patch_scores=center)

    for computed in (found, jax.jit(found)):
        jax.tree.map(np.testing.assert_array_equal, computed(jnp.ones((3, 9))), computed(None))


def test_weighted_logits_by_hand():
    # Cosines of four patches with the one text: 0.8, 0.6, 0, -1; its weights 0.2, 2, 1.6, 0.2.
    patches = jnp.array([[[0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]])
    weights = jnp.array([[0.2, 2.0, 1.6, 0.2]])
    found, out = global_local_logits(
        jnp.array([[0.0, 2.0]]), patches, jnp.array([[3.0, 0.0]]), logit_scale=10.0, top_k=2, local_weight=0.5,
        patch_weights=weights,
    )  # fmt: skip
    # w (c + 1): 0.36, 3.2, 1.6, 0: patches 1 and 2, of which the first weighs 2 and the other 1.6.
    np.testing.assert_array_equal(out["top_patches"], [[[1, 2]]])
    np.testing.assert_allclose(out["local_scores"], [[2 * 0.6 / 3.6]], rtol=1e-6)
    np.testing.assert_allclose(found, [[10 * (0 + 0.5 * 2 * 0.6 / 3.6)]], rtol=1e-6)


def test_weight_speaks_for_a_patch_whose_cosine_is_negative():
    patches = jnp.array([[[-0.6, 0.8], [-0.6, 0.8], [-1.0, 0.0]]])
    _, out = global_local_logits(
        jnp.ones((1, 2)), patches, jnp.array([[1.0, 0.0]]), logit_scale=1.0, top_k=1, local_weight=1.0,
        patch_weights=jnp.array([[0.5, 1.5, 1.0]]),
    )  # fmt: skip
    np.testing.assert_array_equal(out["top_patches"], [[[1]]])


def test_the_local_score_keeps_its_scale():
    """It stays among the cosines of the chosen patches, however unequal the weights."""
    weights = jnp.exp(3 * random(3, 9, seed=4))
    _, out = logits(weights)
    chosen = np.take_along_axis(np.swapaxes(out["patch_scores"], 1, 2), np.asarray(out["top_patches"]), axis=2)
    assert np.all(chosen.min(axis=2) <= out["local_scores"] + 1e-6)
    assert np.all(out["local_scores"] <= chosen.max(axis=2) + 1e-6)
    _, same = logits(5 * weights)
    np.testing.assert_allclose(same["local_scores"], out["local_scores"], rtol=1e-5)
    assert not np.array_equal(out["top_patches"], logits(None)[1]["top_patches"])


def test_variance_of_the_mean_by_hand():
    # 0 and 2: mean 1, sample variance 2, of the mean of two images 1. Of four images 0, 0, 2, 2: 4 / 3 / 4.
    means = PatchMeans(np.ones((2, 1, 1)), np.full((2, 1), 2.0), np.array([2.0, 4.0]))
    np.testing.assert_allclose(means.variance_of_mean(), [[1.0], [1 / 3]])


def test_motion_by_hand():
    """A grid of two by two; patch 0 of class 1 is at a distance of 5 from neutral's, all else at what chance adds."""
    mean = np.zeros((2, 4, 2))
    mean[1, 0] = [3.0, 4.0]
    spread = np.full((2, 4), 8.0)  # of single images; 8 / (5 - 1) = 2 of a mean
    means = PatchMeans(mean, np.sum(mean**2, axis=-1) + spread, np.array([5.0, 5.0]))
    found = motion_prior.motion(means, 0)
    # 25 - 4 = 21 at patch 0 and 0 - 4 at its mirror image, patch 1: (21 - 4) / 2. Elsewhere below 0.
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [np.sqrt(8.5), np.sqrt(8.5), 0, 0]])


def test_weights_by_hand():
    maps = np.array([[0.0, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 5], [0, 0, 0, 0]])
    found = motion_prior.to_weights(maps, 0, 0.5)
    relative = np.array([[2, 2, 0, 0], [0.5, 0.5, 0.5, 2.5], [1, 1, 1, 1]])  # the last class moves nowhere
    np.testing.assert_allclose(found[1:], 0.5 + 0.5 * relative)
    np.testing.assert_allclose(found[0], 0.5 + 0.5 * relative.mean(axis=0))
    np.testing.assert_allclose(found.mean(axis=1), 1)
    np.testing.assert_array_equal(motion_prior.to_weights(maps, 0, 0.0), np.ones((4, 4)))
    assert motion_prior.to_weights(maps, 0, 0.99).min() > 0


def test_what_is_chance_alone_is_subtracted():
    """Two classes of one distribution, many times: the squared distance of their means is not 0, what is left is."""
    rng, raw, left = np.random.default_rng(0), [], []
    for _ in range(400):
        images = rng.normal(size=(2, 6, 1, 3))  # class, image, patch, description
        mean = images.mean(axis=1)
        means = PatchMeans(mean, np.mean(np.sum(images**2, axis=-1), axis=1), np.array([6.0, 6.0]))
        raw.append(np.sum((mean[1] - mean[0]) ** 2))
        left.append(raw[-1] - means.variance_of_mean().sum())
    assert np.mean(raw) == pytest.approx(1.0, abs=0.15)  # 3 (1 / 6 + 1 / 6)
    assert np.mean(left) == pytest.approx(0.0, abs=0.15)


def test_patches_are_cut_as_the_tower_cuts_them():
    images = np.asarray(random(2, 32, 32, 3))
    found = steps.split_into_patches(jnp.asarray(images), 8)
    kernel = tiny.clip_params()["visual"]["patch_embedding"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(images, kernel, (8, 8), "VALID", dimension_numbers=layout)
    np.testing.assert_allclose(found @ kernel.reshape(-1, 32), convolved.reshape(2, 16, 32), rtol=1e-3, atol=1e-4)
    faces = mean_faces(np.asarray(steps.split_into_patches(jnp.asarray(images), 8)), 8)
    np.testing.assert_array_equal(faces, np.round(255 * np.clip(images, 0, 1)).astype(np.uint8))


@pytest.mark.parametrize(("source", "grayscale"), [("features", False), ("images", False), ("images", True)])
def test_means_over_batches_are_those_of_all_images(source, grayscale):
    model, params = tiny.model(), tiny.clip_params()
    step = devices.data_parallel(steps.make_patch_sum_step(Forward(model, MEAN, STD, grayscale), 3, source))
    batches = [tiny.batch(seed=0), tiny.batch(seed=1, masked=5)]
    found = motion_prior.patch_means(batches, params, step, ("a", "b", "c"))
    images = np.concatenate([batches[0]["image"], batches[1]["image"][:11]])
    labels = np.concatenate([batches[0]["label"], batches[1]["label"][:11]])
    if grayscale:
        images = np.stack([np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in images])
    if source == "images":
        described = np.asarray(steps.split_into_patches(jnp.asarray(images / 255, jnp.float32), 8))
    else:
        normalized = jnp.asarray((images / 255 - np.array(MEAN)) / np.array(STD), jnp.float32)
        patches = model.apply(variables(params, {}), normalized, method="encode_patches_frozen")
        described = np.asarray(l2_normalize(patches))
    for label in range(3):
        own = described[labels == label]
        np.testing.assert_allclose(found.mean[label], own.mean(axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.squares[label], (own**2).sum(-1).mean(axis=0), rtol=1e-4)
        assert found.count[label] == len(own)


def test_classes_that_cannot_be_compared():
    with pytest.raises(ConfigError, match="none of the classes anger, fear is neutral; set"):
        motion_prior.neutral_class(("anger", "fear"))
    assert motion_prior.neutral_class(("Anger", "No_Expression")) == 1
    step = devices.data_parallel(steps.make_patch_sum_step(Forward(tiny.model(), MEAN, STD), 4, "images"))
    with pytest.raises(ConfigError, match=r"two images or more of each class, found fewer of d \(0\); raise"):
        motion_prior.patch_means([tiny.batch()], tiny.clip_params(), step, tuple("abcd"))


@pytest.fixture(scope="module")
def planted(sample, tmp_path_factory):
    """The sample with a white patch in every happy face, to the left of the middle."""
    folder = tmp_path_factory.mktemp("planted") / "faces"
    shutil.copytree(sample / "faces", folder)
    for path in (folder / "train" / "happiness").glob("*.png"):
        image = decode_rgb(path.read_bytes())
        unit = image.width / 8  # the sample's CLIP has eight by eight patches
        image.paste((255, 255, 255), tuple(round(unit * x) for x in (1, 3, 2, 4)))  # row 3, column 1
        image.save(path)
    return folder


def test_a_planted_difference_is_found_with_its_mirror_image(sample, planted, tmp_path):
    config = runs.config(sample, **{"data.dir": str(planted), "head.motion_prior": "images"})
    dataset = load_dataset(config.data)
    built = build.build_experiment(config, dataset.class_names, build.load_frozen_clip(config))
    weights = np.array(motion_prior.patch_weights(config, tmp_path, dataset.train, built))
    assert weights.shape == (5, 64)
    np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=1e-5)
    happy = weights[dataset.class_names.index("happiness")].reshape(8, 8)
    np.testing.assert_allclose(happy, happy[:, ::-1], rtol=1e-6)
    assert set(np.argsort(happy.ravel())[-2:].tolist()) == {3 * 8 + 1, 3 * 8 + 6}
    (stored,) = tmp_path.glob("motion-*.npy")
    before = stored.stat().st_mtime_ns
    assert np.array_equal(motion_prior.patch_weights(config, tmp_path, dataset.train, built), weights)
    assert stored.stat().st_mtime_ns == before  # read, not made again
    even = config.model_copy(update={"head": config.head.model_copy(update={"motion_strength": 0.0})})
    np.testing.assert_array_equal(motion_prior.patch_weights(even, tmp_path, dataset.train, built), 1)
    features = runs.config(sample, **{"data.dir": str(planted), "head.motion_prior": "features"})
    motion_prior.patch_weights(features, tmp_path, dataset.train, built)
    assert len(list(tmp_path.glob("motion-*.npy"))) == 2
    with pytest.raises(ConfigError, match="train_splits is empty, so there are no faces to compare"):
        motion_prior.measure(config, built, dataset.train.take(np.array([], np.int64)), "images")


def test_no_more_images_are_compared_than_prototypes_are_made_of(sample):
    config = runs.config(sample, **{"prototypes.images_per_class": 2})
    dataset = load_dataset(config.data)
    built = build.build_experiment(config, dataset.class_names, build.load_frozen_clip(config))
    assert motion_prior.measure(config, built, dataset.train, "images").count.tolist() == [2] * 5


def test_maps_are_made_anew_for_all_that_they_depend_on(sample, tmp_path, monkeypatch):
    config = runs.config(sample)
    dataset = load_dataset(config.data)
    built = build.build_experiment(config, dataset.class_names, build.load_frozen_clip(config))
    measured = []

    def measure(*arguments):
        measured.append(arguments)
        return PatchMeans(np.random.default_rng(0).normal(size=(5, 64, 2)), np.full((5, 64), 9.0), np.full(5, 10.0))

    monkeypatch.setattr(motion_prior, "measure", measure)

    def is_made(split=dataset.train, experiment=built, **changes):
        before = len(measured)
        changed = runs.config(sample, **{"head.motion_prior": "images", **changes})
        motion_prior.patch_weights(changed, tmp_path, split, experiment)
        return len(measured) > before

    few = {"prototypes.images_per_class": 3}
    assert is_made()
    for changes in (
        *({"clip.dtype": "bfloat16"}, {"clip.dtype": "bfloat16", "clip.residual_dtype": "bfloat16"}),
        *({"data.mean": (0.5, 0.5, 0.5)}, {"data.std": (0.5, 0.5, 0.5)}, {"data.grayscale": True}),
        *(few, {**few, "seed": 5}, {"prototypes.images_per_class": 4}, {"head.motion_prior": "features"}),
        *({"split": dataset.train.take(np.arange(40))}, {"experiment": dataclasses.replace(built, clip_hash="other")}),
    ):
        assert is_made(**changes), changes
        assert not is_made(**changes), changes
    for changes in ({}, {"seed": 5}, {"head.motion_strength": 0.1}, {"train.num_steps": 3}):
        assert not is_made(**changes), changes


def test_a_configurations_image_and_table(sample, planted, tmp_path):
    table = write_motion_sheet(runs.config(sample, **{"data.dir": str(planted)}), tmp_path / "new" / "prior.png")
    with Image.open(tmp_path / "new" / "prior.png") as image:
        assert image.width > 5 * 100
        assert image.height > 3 * 100
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:5]] for line in table.splitlines()}
    assert rows["neutral"][1:] == ["0.0000", "0.0000"]
    distances = {name: float(cells[2]) for name, cells in rows.items() if cells[0].isdigit()}
    assert max(distances, key=distances.__getitem__) == "happiness"


def test_the_sheet_has_a_column_for_each_class_and_a_row_for_each_map():
    faces = np.full((3, 16, 16, 3), 128, np.uint8)
    faces[2] = 7
    weights = np.ones((3, 4))
    weights[1] = [0, 2, 2, 0]
    one, two = (motion_sheet(faces, dict.fromkeys(names, weights), ("a", "b", "c")) for names in (("x",), ("x", "y")))
    assert one.size == (6 + 3 * 150, 2 * 168)
    assert two.size == (6 + 3 * 150, 3 * 168)
    pixels = np.asarray(two)
    third = pixels[18 : 18 + 144, 6 + 2 * 150 : 6 + 2 * 150 + 144]
    assert np.all(third == 7)
    for row in (1, 2):
        top = row * 168 + 18
        tile = heat_overlay(faces[1], np.array([[0, 1], [1, 0]], np.float32), 144)
        np.testing.assert_array_equal(pixels[top : top + 144, 6 + 150 : 6 + 150 + 144], np.asarray(tile))


@pytest.fixture(scope="module")
def with_prior(sample, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("with_prior") / "run"
    return workdir, train.train_and_evaluate(runs.config(sample, **PRIOR), workdir)


@pytest.mark.training
def test_a_checkpoint_needs_no_training_images(sample, with_prior, finished, tmp_path):
    """Evaluation, prediction and an export give the run's numbers, from the test images alone."""
    workdir, summary = with_prior
    _, description, step = checkpoints.load(workdir, "best")
    weights = np.array(description.patch_weights)
    assert weights.shape == (5, 64)
    assert weights.std() > 0.05
    assert summary["best"]["test"]["cross_entropy"] != finished[1]["best"]["test"]["cross_entropy"]
    shutil.copytree(sample / "faces" / "test", tmp_path / "other" / "test")
    shutil.copytree(workdir, tmp_path / "moved")
    for path in (tmp_path / "moved").glob("*.npy"):
        path.unlink()
    assert export.export([str(tmp_path / "moved"), "--to=prompts,stablehlo", f"--out={tmp_path / 'exported'}"]) == 0
    for place, clip in (("moved", ""), ("exported", str(sample / "clip"))):  # an export names no folder
        other = {"data.dir": str(tmp_path / "other"), "data.train_splits": (), "eval.checkpoint": str(tmp_path / place)}
        config = runs.config(sample, **other)
        result = evaluate.evaluate_checkpoint(config, tmp_path / f"evaluated_{place}", clip=clip)
        assert result["step"] == step
        assert result["test"] == summary["best"]["test"]
    predictor = Predictor.from_checkpoint(tmp_path / "exported", clip=str(sample / "clip"), batch_sizes=(25,))
    files = sorted((sample / "faces" / "test").glob("*/*.png"))
    correct = [found.expression == file.parent.name for file, found in zip(files, predictor.stream(files), strict=True)]
    assert np.mean(correct) == pytest.approx(summary["best"]["test"]["war"])


def test_a_checkpoint_from_before_the_prior_has_none(finished):
    _, description, _ = checkpoints.load(finished[0], "last")
    values = json.loads(description.model_dump_json())
    assert values.pop("patch_weights") is None
    assert Description.model_validate(values) == description


def test_nothing_is_computed_where_nothing_reads_it(sample, tmp_path):
    config = runs.config(sample, **{**PRIOR, "head.local_weight": 0.0, "data.class_names": ("anger", "happiness")})
    motion_prior.check(config, ("anger", "happiness"))
    with pytest.raises(ConfigError, match="none of the classes anger, happiness is neutral"):
        train.prepare(runs.config(sample, **{**PRIOR, "data.class_names": ("anger", "happiness")}), tmp_path)
    run = train.prepare(config, tmp_path)
    assert run.description.patch_weights is None
    assert not list(tmp_path.glob("motion-*"))


def test_the_zero_shot_baseline_has_no_prior(sample, tmp_path):
    """It is made from labels, and zero-shot means without."""
    config = runs.config(sample, **PRIOR, **{"eval.baselines": ("zero_shot_global_local",)})
    run = train.prepare(config, tmp_path / "run")
    assert run.experiment.frozen.patch_weights is not None
    with_prior, without = (
        baselines.compute(config, run.dataset, experiment, 1)
        for experiment in (run.experiment, run.experiment.with_patch_weights(None))
    )
    assert with_prior == without


def test_it_is_read_and_left_whole(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.ones((2, 3), np.float32)

    path = tmp_path / "new" / "x.npy"
    for _ in range(2):
        np.testing.assert_array_equal(motion_prior.load_or_compute(path, compute, (2, 3)), np.ones((2, 3)))
    assert calls == [1]
    assert [p.name for p in path.parent.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "is damaged .* delete it"),
        (np.ones((3, 2), np.float32), r"holds float32 \[3, 2\], expected float32 \[2, 3\].* delete it"),
        (np.ones((2, 3)), r"holds float64 \[2, 3\], expected float32 \[2, 3\]"),
        (np.full((2, 3), np.nan, np.float32), r"holds float32 \[2, 3\], .* all of it finite; delete it"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, content, message):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=rf"x\.npy {message}"):
        motion_prior.load_or_compute(path, lambda: np.ones((2, 3), np.float32), (2, 3))


def test_what_is_not_finite_is_not_stored(tmp_path):
    with pytest.raises(NonFiniteError, match=r"x\.npy \(1 of 2\)"):
        motion_prior.load_or_compute(tmp_path / "x.npy", lambda: np.array([1, np.inf], np.float32), (2,))
    assert list(tmp_path.iterdir()) == []
