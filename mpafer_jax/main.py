"""`python -m mpafer_jax.main`; the command itself is `mpafer_jax.cli.train`."""

from __future__ import annotations

from mpafer_jax.runtime import memory, signals

if __name__ == "__main__":
    memory.keep_freed()
    signals.listen()  # before what takes time to import
    from mpafer_jax.cli import train

    train.train.start()
