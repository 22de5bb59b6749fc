"""The same faces in several crops: the owner's images, and aligned copies of them.

    mpafer-jax data align --config=configs/rafdb.py --config.data.dir=/data/RAF-DB --out=/data/RAF-DB-aligned
    mpafer-jax study sweep --workdir=runs/alignment \
      --sweep=configs/sweeps/alignment.py:rafdb,owner=/data/RAF-DB,aligned=/data/RAF-DB-aligned

After the config and its arguments the argument names the folders, as many as there are, each with the title of its row;
the others are compared with the first. Copies with several margins are `mpafer-jax data align --margin=0.2` and so on.
3 runs for each folder. Runs on copies must have the same test images with the same labels: `--on_missing=keep`, the
default. The protocol below the table says how each was cropped.
"""

from configs.sweeps import common
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime.errors import ConfigError


def get_sweep(argument: str) -> Sweep:
    words = argument.split(",")
    folders = dict(word.split("=", 1) for word in words if "=" in word)
    if len(folders) < 2:
        raise ConfigError(
            "name the folders of at least two crops, the owner's first, as in "
            ":rafdb,owner=/data/RAF-DB,aligned=/data/RAF-DB-aligned"
        )
    return Sweep(
        title="Crops of the faces",
        base=common.base(",".join(word for word in words if "=" not in word)),
        points=tuple(Point(name, name, {"data.dir": folder}) for name, folder in folders.items()),
        baseline=next(iter(folders)),
    )
