"""Whose run a folder holds."""

import json
import pathlib

import pytest

from mpafer_jax.artifacts import run_dir
from mpafer_jax.config.schema import Config
from mpafer_jax.runtime.errors import ConfigError


def test_a_run_of_an_earlier_version_has_the_defaults_of_newer_fields(tmp_path):
    values = json.loads(Config().to_json())
    del values["data"]["where"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    run_dir.check(tmp_path, Config())
    selected = Config.model_validate({"data": {"where": ("gender=female",)}})
    with pytest.raises(ConfigError, match=r"config\.data\.where: there \[\], here \['gender=female'\]"):
        run_dir.check(tmp_path, selected)


def test_a_folder_that_another_run_claimed_meanwhile_is_not_held(tmp_path):
    run_dir.check(tmp_path, Config(seed=1))
    run_dir.claim(tmp_path, Config())
    with pytest.raises(ConfigError, match=r"config\.seed: there 0, here 1"), run_dir.hold(tmp_path, Config(seed=1)):
        pytest.fail("two runs would share the folder")
    with run_dir.hold(tmp_path, Config()):
        pass


def test_a_folder_that_cannot_be_written_is_refused_before_work_and_none_is_made(tmp_path):
    for place in ("/sys", tmp_path / "file"):  # not even root writes there
        (tmp_path / "file").write_text("")
        message = rf"--workdir={place}/new/run cannot be written: {place}: .*; give a folder that can"
        with pytest.raises(ConfigError, match=message):
            run_dir.check_writable(pathlib.Path(f"{place}/new/run"))
    run_dir.check_writable(tmp_path)
    run_dir.check_writable(tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
