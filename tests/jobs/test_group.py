"""Runs that are trained together: a reader of their folders sees no difference."""

import gc
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from configs.common import METHODS
from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.jobs import group, train
from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import ConfigError, NonFiniteError
from tests.jobs import runs

OTHER = {"seed": 1, "loss.beta": 0.5, "optimizer.learning_rate": 3e-3}


def restored(workdir, step):
    params, _, _ = checkpoints_lib.load(pathlib.Path(workdir) / "checkpoints" / f"step_{step}", "last")
    return params


def files(workdir):
    """Those whose names are not random."""
    paths = [path.relative_to(workdir) for path in workdir.rglob("*")]
    return sorted(str(path) for path in paths if not {"tensorboard", "d"} & {*path.parts})


@pytest.fixture(scope="module")
def members(sample):
    return [runs.config(sample), runs.config(sample, **OTHER)]


@pytest.fixture(scope="module")
def together(members, shared):
    def build(out):
        summaries = group.train_group([(config, out / str(number)) for number, config in enumerate(members)])
        assert summaries == [runs.summary(out / "0"), runs.summary(out / "1")]

    return shared("together", build)


@pytest.mark.training
def test_each_run_leaves_what_it_leaves_alone(members, together, tmp_path):
    for number, config in enumerate(members):
        alone, grouped = tmp_path / str(number), together / str(number)
        train.train_and_evaluate(config, alone)
        for name, value in restored(alone, 12).items():
            np.testing.assert_allclose(restored(grouped, 12)[name], value, rtol=1e-5, atol=1e-5)
        for one, other in zip(runs.metrics(grouped), runs.metrics(alone), strict=True):
            assert one.pop("kind") == other.pop("kind")
            assert one == pytest.approx(other, rel=1e-3, abs=1e-3)
        assert runs.summary(grouped).keys() == runs.summary(alone).keys()
        assert files(grouped) == files(alone)


@pytest.mark.processes
def test_a_group_that_is_stopped_resumes_to_the_bit(together, sample, tmp_path):
    words = [
        shlex.join([str(tmp_path / str(number)), *runs.words(sample, **changes)])
        for number, changes in enumerate(({}, OTHER))
    ]
    arguments = [sys.executable, "-m", "mpafer_jax.cli", "study", "group", *words]
    environment, metrics = runs.environment(devices=jax.local_device_count()), tmp_path / "1" / "metrics.jsonl"
    code, errors = runs.stop(
        arguments, environment, signal.SIGTERM, lambda: metrics.is_file() and '"step": 3,' in metrics.read_text()
    )
    assert code == signals.EXIT_CODE, errors
    assert f"of 12, which is saved in {tmp_path / '0'}, {tmp_path / '1'}; the same command resumes" in errors
    assert not (tmp_path / "1" / "summary.json").exists()
    resumed = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert resumed.stderr.count("resuming after step") == 2
    assert "2 runs are trained together" in resumed.stderr
    for number in "01":
        for name, value in restored(together / number, 12).items():
            np.testing.assert_array_equal(value, restored(tmp_path / number, 12)[name])
        assert runs.metrics(tmp_path / number) == runs.metrics(together / number)
        assert f"{tmp_path / number}: validation after step 12" in resumed.stderr
        assert f"{tmp_path / number}\n" in resumed.stdout  # above the run's table


@pytest.mark.training
def test_runs_at_different_steps_go_on_one_by_one(members, together, tmp_path):
    root = shutil.copytree(together, tmp_path / "group")
    shutil.rmtree(root / "1" / "checkpoints" / "step_12")
    group.train_group([(config, root / str(number)) for number, config in enumerate(members)])
    for number in "01":
        for name, value in restored(together / number, 12).items():
            np.testing.assert_allclose(restored(root / number, 12)[name], value, rtol=1e-5, atol=1e-5)
    # The first was only evaluated again, the second went on.
    assert runs.summary(root / "0")["process"] == runs.summary(together / "0")["process"]
    assert runs.summary(root / "1")["process"]["resumed_after_step"] == 10


@pytest.mark.training
def test_the_others_go_on_without_a_run_that_fails(members, together, sample, tmp_path):
    failing = runs.config(sample, **{**OTHER, "optimizer.learning_rate": 1e38})
    sound, failed = group.train_group([(members[0], tmp_path / "0"), (failing, tmp_path / "1")])
    assert isinstance(failed, NonFiniteError)
    assert not (tmp_path / "1" / "summary.json").exists()
    assert [(tmp_path / number / "diverged.txt").exists() for number in "01"] == [False, True]
    assert sound["last"] == runs.summary(together / "0")["last"]
    for name, value in restored(together / "0", 12).items():
        np.testing.assert_array_equal(value, restored(tmp_path / "0", 12)[name])


@pytest.mark.training
def test_an_error_before_training_names_the_run(members, sample, tmp_path):
    broken = runs.config(sample, **{"optimizer.warmup_steps": 12})
    with pytest.raises(ConfigError, match="warmup_steps") as raised:
        group.train_group([(members[0], tmp_path / "0"), (broken, tmp_path / "1")])
    assert raised.value.__notes__ == [f"This is of the run in {tmp_path / '1'}."]
    assert not (tmp_path / "0").exists()


def test_runs_keep_one_copy_of_their_clip(members, tmp_path):
    def number(shape):
        gc.collect()
        return sum(array.shape == shape for array in jax.live_arrays())

    prepared = [train.prepare(members[0], tmp_path / "0")]
    shapes = [leaf.shape for leaf in jax.tree.leaves(prepared[0].experiment.frozen.backbone)]
    largest = max(shapes, key=np.prod)
    before = number(largest)
    prepared.append(group._with_one_backbone(train.prepare(members[1], tmp_path / "1"), prepared))
    assert number(largest) == before
    assert shapes.count(largest) <= before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["W"], "RUN names no configuration: W; expected 'WORKDIR --config=FILE"),
        (["--config=F --config.seed=1"], "RUN names no workdir: --config=F --config.seed=1; expected"),
        (["W V --config=F"], "RUN names 2 workdirs, W and V: "),
        (["W --config=F --config=G"], "RUN names 2 configurations, F and G: "),
        (["W --config=F --mode=eval"], "RUN holds --mode=eval: W --config=F --mode=eval; expected"),
        (["W --config=F --config.seed 1"], "RUN holds --config.seed: "),
        (["W --config.seed=1 --config=configs/sample.py"] * 2, "two runs have the workdir W; "),
        (["W --config.seed=x --config=configs/sample.py"], "This is of the run in W."),
        (["V --config=configs/sample.py", "--config=configs/absent.py W"], "This is of the run in W."),
    ],
)
def test_runs_are_named_each_with_its_configuration(words, problem):
    done = runs.call("study group", *words)
    assert done.code == 2
    assert problem in done.err


@pytest.mark.parametrize("differing", ["", "seed", "data", "train"])
def test_runs_share_batches_of_the_same_images_in_the_same_order(sample, differing):
    """All three decide what a batch holds; augmentation is among the data's fields."""

    def run(number):
        flip = number / 2 if differing == "data" else 0.0
        config = runs.config(sample, seed=number if differing == "seed" else 0, **{"data.augment.flip": flip})
        train = types.SimpleNamespace(fingerprint=str(number) if differing == "train" else "same")
        return types.SimpleNamespace(config=config, dataset=types.SimpleNamespace(train=train))

    assert group._see_the_same_batches([run(0), run(1)]) is (differing == "")


@pytest.mark.parametrize("method", ["coop", "vpt_deep", "lora"])
def test_a_batch_has_features_in_common_if_its_images_are_encoded_by_the_frozen_clip(sample, method, tmp_path):
    run = train.prepare(runs.config(sample, **METHODS[method]), tmp_path)
    assert group._have_image_features_in_common(run) is (method == "coop")


def test_what_runs_of_a_group_may_differ_in(sample):
    one = runs.config(sample)
    alike = group.shape(one)
    assert group.shape(runs.config(sample, **OTHER, **{"train.keep": 3})) == alike
    for changes in ({"loss.beta": 0.0}, {"head.top_k": 3}, {"train.batch_size": 32}, {"loss.token_distance": "l1"}):
        assert group.shape(runs.config(sample, **changes)) != alike
    # They may change on resume, but runs of a group share the compiled step.
    for changes in ({"train.accumulate": 2}, {"train.text_chunk": 2}, {"clip.remat": "full"}):
        assert group.shape(runs.config(sample, **changes)) != alike
