"""Lists of fields by role, computed from their declarations (`fields.option`)."""

from __future__ import annotations

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.fields import FrozenModel, Role, settings
from mpafer_jax.config.schema import Config


def with_role(kind: type[FrozenModel], *roles: Role) -> tuple[str, ...]:
    """Dotted names of the fields with one of these roles."""
    return tuple(name for name, setting in settings(kind).items() if setting.role in roles)


def free_fields(kind: type[FrozenModel]) -> frozenset[str]:
    """Fields that may change on resume; datasets and CLIPs are checked by content when a checkpoint is restored."""
    return frozenset(with_role(kind, "content", "rounding", "free"))


def unrecorded_fields(kind: type[FrozenModel]) -> frozenset[str]:
    """Fields that records of results leave out, as they change no number or stand for contents recorded elsewhere."""
    return frozenset(with_role(kind, "content", "free"))


def traced_numbers(config: Config) -> dict[str, dict[str, float]]:
    """Numbers that the compiled training step takes as arguments, by section and field (`fields.option`).

    Without those that are 0: with these a part of the method is left out of the step.
    """
    numbers: dict[str, dict[str, float]] = {}
    for name, setting in settings(Config).items():
        section, _, field = name.rpartition(".")
        if setting.traced and (value := getattr(getattr(config, section), field)):
            numbers.setdefault(section, {})[field] = value
    return numbers


# Set by studies to the seed of a run.
SEED_FIELDS = with_role(Config, "seed")
# Change training, but not which images are held out.
TRAINING_ONLY = frozenset(with_role(Config, "training", "seed"))
# Names of datasets and CLIPs; they distinguish runs where the content is not read.
CONTENT_FIELDS = with_role(Config, "content")
# Taken from the checkpoint wherever it is loaded: sections and top-level fields; NORMALIZATION: of the data section.
MODEL_SECTIONS = (
    *(name for name, section in Config() if isinstance(section, FrozenModel) and section.role == "model"),
    *(name for name in with_role(Config, "model") if "." not in name),
)
NORMALIZATION = tuple(name for name, setting in settings(DataSection).items() if setting.role == "model")
# Parts of the method, disabled by 0.
PARTS = tuple(name for name, setting in settings(Config).items() if setting.off_at_zero)
