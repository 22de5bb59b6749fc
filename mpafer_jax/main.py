"""`python -m mpafer_jax.main`; the command itself is `mpafer_jax.cli.train`."""

from __future__ import annotations

from mpafer_jax.runtime import signals

if __name__ == "__main__":
    signals.listen()  # before what takes time to import
    from mpafer_jax.cli import train

    train.train.start()
