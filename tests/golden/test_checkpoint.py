"""A checkpoint of version 0.1.0 and its exported prompts load and give the numbers that they gave then.

`data/run_v1` is the workdir of the run in conftest.py, with what loading needs of it; `exported` in it is what
`mpafer-jax export --to=prompts` wrote. They are never made anew: a user's are not either.
"""

import hashlib
import json
import shutil

import pytest
import safetensors.numpy

from tests.golden import store
from tests.golden.conftest import RUN
from tests.golden.store import EXPORTED, RUN_V1
from tests.golden.test_runs import TOLERANCE, without_moments


def contents(path):
    arrays = safetensors.numpy.load_file(path)
    return {
        name: [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        for name, value in sorted(arrays.items())
    }


def test_parameters_have_their_names_and_an_export_of_today_holds_the_same_bits(commands, tmp_path):
    out = tmp_path / "exported"
    places = {"RUN_V1": RUN_V1, "OUT": out}
    done = commands.run("mpafer_jax.cli", "export", RUN_V1, "--to=prompts", f"--out={out}", places=places)
    assert done.code == 0, done.err
    store.check("checkpoint_parameters", contents(EXPORTED / "prompts.safetensors"))
    assert contents(out / "prompts.safetensors") == contents(EXPORTED / "prompts.safetensors")


def evaluated(commands, workdir, *flags):
    places = {"RUN_V1": RUN_V1, "WORKDIR": workdir}
    done = commands.run("mpafer_jax.main", "--mode=eval", f"--workdir={workdir}", *flags, places=places)
    assert done.code == 0, done.err
    text = (workdir / "evaluation.json").read_text()
    for name, place in {**places, "CACHE": commands.cache}.items():
        text = text.replace(str(place), name)
    return {"shown": done.out.splitlines(), "evaluation": without_moments(json.loads(text))}


def test_it_is_evaluated_in_its_workdir(commands, tmp_path):
    workdir = shutil.copytree(RUN_V1, tmp_path / "run")
    found = evaluated(commands, workdir, *RUN, "--config.eval.report=none")
    store.check("checkpoint_evaluation/workdir", found, **TOLERANCE)


@pytest.mark.parametrize("path", [RUN_V1, EXPORTED], ids=["run", "exported"])
def test_it_is_evaluated_on_faces_of_another_style(commands, tmp_path, path):
    found = evaluated(
        commands,
        tmp_path / "elsewhere",
        "--config=configs/quickstart.py",
        f"--config.eval.checkpoint={path}",
        "--config.eval.batch_size=32",
        "--config.eval.report=none",
        "--config.data.synthface.style=paint",
        "--config.data.synthface.seed=11",
        "--config.data.synthface.train=8",
        "--config.data.synthface.validation=16",
        "--config.data.synthface.test=48",
    )
    store.check(f"checkpoint_evaluation/{path.name}", found, **TOLERANCE)
