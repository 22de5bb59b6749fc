"""Commands that are installed under names of their own."""

from __future__ import annotations

from mpafer_jax import preemption


def predict() -> None:
    """`mpafer-predict`."""
    preemption.listen()  # before what takes seconds to import
    from mpafer_jax import predict

    predict.run()
