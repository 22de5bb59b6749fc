"""`python -m mpafer_jax.predict` and `mpafer-predict`; the command itself is `mpafer_jax.cli.predict`."""

from __future__ import annotations

from mpafer_jax.runtime import signals


def run() -> None:
    """Runs the command in a process of its own."""
    signals.listen()  # before what takes time to import
    from mpafer_jax.cli import predict

    predict.predict.start()


if __name__ == "__main__":
    run()
