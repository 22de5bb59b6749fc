"""Names of files and folders: which are of this machine, which in a bucket, and which are refused."""

import importlib.util
import pathlib

import pytest

from mpafer_jax import files


def test_plain_names_are_of_this_machine(tmp_path):
    assert files.any_path("runs/a", "--workdir") == files.local_path("runs/a", "--workdir") == pathlib.Path("runs/a")
    assert not files.in_bucket(tmp_path)
    with files.local_copy(tmp_path / "a") as same:
        assert same == tmp_path / "a"


@pytest.mark.parametrize(("url", "package", "extra"), [("gs://b/x", "gcsfs", "gcs"), ("s3://b/x", "s3fs", "s3")])
def test_a_bucket_without_its_package_is_refused(url, package, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = rf"--workdir is '{url}', for which {package} is not installed: pip install -e '\.\[{extra}\]'"
    with pytest.raises(ValueError, match=message):
        files.any_path(url, "--workdir")


def test_folders_are_renamed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    files.rename_folder(tmp_path / "a", "c")
    assert [path.name for path in tmp_path.rglob("*")] == ["c", "b"]
