"""`python -m mpafer_jax.cli`, the same as `mpafer-jax`."""

import sys

from mpafer_jax.runtime import memory, signals

_WITH_STEPS = ("train", "evaluate", "clip", "study")  # first words of commands that compute for long


def run() -> None:
    """Runs a command in a process of its own."""
    if sys.argv[1:2] and sys.argv[1] in _WITH_STEPS:
        memory.keep_freed()
    signals.listen()  # before what takes time to import
    from mpafer_jax.cli import main

    main.main()


if __name__ == "__main__":
    run()
