"""Writes an image that shows what is in a dataset: one row of images for each class.

    python -m mpafer_jax.cli.contact_sheet --config=configs/rafdb.py --config.data.dir=D --out=sheet.png

Images come from the prepared dataset (which is prepared first where it is not yet), so they are what a run would
see before resizing. Which ones are shown is drawn by --sheet_seed; every row has its class's name and, beside it, how
many images the split has of it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import sys
from collections.abc import Sequence

from absl import flags

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.data.contact_sheet import contact_sheet
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, DataError

_CONFIG = define_config()
_OUT = flags.DEFINE_string("out", None, "PNG file to write.")
_SPLIT = flags.DEFINE_string("split", "train", "The owner's split to show.")
_PER_CLASS = flags.DEFINE_integer("per_class", 8, "Images of each class.", lower_bound=1)
_TILE = flags.DEFINE_integer("tile", 96, "Side of a shown image in pixels.", lower_bound=16)
_SHEET_SEED = flags.DEFINE_integer("sheet_seed", 0, "Seed of the choice of images.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Writes the sheet of the configured dataset."""
    runner.refuse_arguments(argv)
    try:
        out = runner.folder(str(_OUT.value), "--out")
        data = Config.from_config_dict(_CONFIG.value).data
        sheet = contact_sheet(data, _SPLIT.value, _PER_CLASS.value, _TILE.value, _SHEET_SEED.value)
    except (ConfigError, DataError, OSError) as error:
        print(error)
        sys.exit(2)
    with files.replacing(out) as temporary:
        sheet.save(temporary, "PNG")
    print(f"{out}: {sheet.width}x{sheet.height} pixels")


if __name__ == "__main__":
    runner.start(main, required=["config", "out"])
