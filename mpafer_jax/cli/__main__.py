"""`python -m mpafer_jax.cli`, the same as `mpafer-jax`."""

from mpafer_jax.runtime import signals


def run() -> None:
    """Runs a command in a process of its own."""
    signals.listen()  # before what takes time to import
    from mpafer_jax.cli import main

    main.main()


if __name__ == "__main__":
    run()
