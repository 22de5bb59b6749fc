"""The two starts that `tests.bench.preparation` measures, each as a process of its own: `prepare` and `start`.

It runs with the packages of any checkout, so it uses what all of them have. Prints JSON: seconds since the start of the
process at the end of each stage.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pathlib
import time
from typing import Any


def seconds_since_start() -> float:
    """Seconds since this process was started, by the system's clock."""
    ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def stages(which: str, folder: str) -> dict[str, float]:
    """Runs `prepare` or `start` on a dataset in RAF-DB's layout."""
    import importlib

    # By name: another checkout may lie on the path.
    section: Any = importlib.import_module("mpafer_jax.config.data_section")
    data = section.DataSection(dataset="rafdb", dir=folder)
    ends: dict[str, float] = {}
    if which == "prepare":
        registry: Any = importlib.import_module("mpafer_jax.data.registry")
        prepared: Any = importlib.import_module("mpafer_jax.data.prepared")
        ends["imports"] = seconds_since_start()
        index = registry.read_source(data)
        ends["index"] = seconds_since_start()
        prepared.prepare(index, registry.prepared_root(data), data.on_bad_image)
        ends["preparation"] = seconds_since_start()
        return ends
    splits: Any = importlib.import_module("mpafer_jax.data.splits")
    pipeline: Any = importlib.import_module("mpafer_jax.data.pipeline")
    ends["imports"] = seconds_since_start()
    train = splits.load_dataset(data).train
    train.class_counts()
    ends["dataset"] = seconds_since_start()
    batches = pipeline.train_batches(
        train, section=data, image_size=224, batch_size=64, seed=0, start_step=0, num_steps=10**6
    )
    next(batches)
    ends["first batch"] = seconds_since_start()
    batches.close()
    return ends


def main() -> None:
    """Runs one start, with a profile if asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("prepare", "start"))
    parser.add_argument("folder")
    parser.add_argument("--profile", default="")
    arguments = parser.parse_args()
    profile = cProfile.Profile() if arguments.profile else None
    with profile or contextlib.nullcontext():
        ends = stages(arguments.which, arguments.folder)
    if profile is not None:
        profile.dump_stats(arguments.profile)
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
