"""Shows the facial-motion prior of a configuration's training images, before anything is trained with it.

    python -m mpafer_jax.cli.motion_prior --config=configs/quickstart.py --out=motion_prior.png

The image has a column for each class: its mean face, and over it the weights of its patches in the local score, once
from the frozen CLIP's patch features (`head.motion_prior=features`) and once from pixels (`images`), both at
`head.motion_strength`. Prints how far each class is from neutral: the root mean square of its map.

Exit code 0: done. 2: a mistake in the configuration or the data, or none of the classes is neutral.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import sys
from collections.abc import Sequence

from absl import flags, logging

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.jobs.studies.motion_sheet import write_motion_sheet
from mpafer_jax.runtime import console
from mpafer_jax.runtime.errors import ConfigError, DataError, PromptError

_CONFIG = define_config()
_OUT = flags.DEFINE_string("out", "motion_prior.png", "PNG file to write.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    runner.refuse_arguments(argv)
    try:
        out = runner.folder(str(_OUT.value), "--out")
        config = Config.from_config_dict(_CONFIG.value)
        runner.import_libraries_without_torch()
        table = write_motion_sheet(config, out)
    except (PromptError, ConfigError, DataError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        sys.exit(2)
    console.markdown(table)
    console.line(f"{out}: the mean faces and the weights over them")


if __name__ == "__main__":
    runner.start(main, required=["config"])
