"""Datasets of the Hub: downloaded from a real server, then read from the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backbones import hub_server
from tests.data import layouts

pytestmark = pytest.mark.processes

# In a process of its own, since huggingface_hub reads its environment once.
READ = """
import json, sys
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data.registry import prepared_root, read_source
from mpafer_jax.runtime.errors import DataError
data = DataSection(dataset=sys.argv[1], dir=sys.argv[2])
try:
    index = read_source(data)
except DataError as error:
    sys.exit(str(error))
counts = {split: len(records) for split, records in index.splits.items()}
print(json.dumps([index.class_names, counts, str(prepared_root(data))]))
"""


def read(dataset: str, place: str, url: str, home: Path) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = {**keep, "HF_HOME": str(home), "HF_ENDPOINT": url, "NO_PROXY": "127.0.0.1", "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-c", READ, dataset, place]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_dataset_of_the_hub(tmp_path: Path) -> None:
    served = tmp_path / "served" / "owner" / "faces"
    for split, first in (("train", 0), ("test", 10)):
        layouts.write_parquet(served / "data" / f"{split}-00000-of-00001.parquet", [0, 1, 0], ("sad", "happy"), first)
    (served / "raw.zip").write_bytes(b"not needed")
    place, home = "hf://datasets/owner/faces", tmp_path / "home"
    with hub_server.serve(tmp_path / "served") as hub:
        done = read("parquet", place, hub.url, home)
        assert done.returncode == 0, done.stderr
        classes, counts, prepared = json.loads(done.stdout)
        assert (classes, counts) == (["sad", "happy"], {"train": 3, "test": 3})
        assert Path(prepared).is_relative_to(home / "mpafer_jax" / "datasets")
        assert sorted(hub.downloads) == [
            f"owner/faces/data/{split}-00000-of-00001.parquet" for split in ("test", "train")
        ]
        pinned = read("parquet", f"{place}@{hub_server.COMMIT}", hub.url, home)
        assert pinned.stdout.rpartition(",")[0] == done.stdout.rpartition(",")[0]
        absent = read("parquet", "hf://datasets/owner/other", hub.url, home)
        assert "config.data.dir is 'hf://datasets/owner/other', which was not received from the Hub" in absent.stderr
    # Without a network what is in the cache is read.
    assert read("parquet", place, hub.url, home).stdout.rpartition(",")[0] == done.stdout.rpartition(",")[0]
    offline = read("parquet", place, hub.url, tmp_path / "another home")
    assert "run `hf download owner/faces --repo-type=dataset --local-dir=FOLDER` elsewhere" in offline.stderr
