"""Lists of fields that other packages ask for, computed from where the fields are declared (`fields.option`)."""

from __future__ import annotations

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.fields import FrozenModel, Role, settings
from mpafer_jax.config.schema import Config


def with_role(kind: type[FrozenModel], *roles: Role) -> tuple[str, ...]:
    """Dotted names of the fields of a configuration that have one of these roles."""
    return tuple(name for name, setting in settings(kind).items() if setting.role in roles)


def free_fields(kind: type[FrozenModel]) -> frozenset[str]:
    """Fields that may differ when a run is resumed: they change how it is carried out, or what is measured beside it,
    and not what it trains. A moved dataset or CLIP is recognised by its content when a checkpoint is restored."""
    return frozenset(with_role(kind, "content", "free"))


# What a study sets by the seed of a run.
SEED_FIELDS = with_role(Config, "seed")
# Fields that change what is trained on, and not which images are held out.
TRAINING_ONLY = frozenset(with_role(Config, "training", "seed"))
# Names of datasets and CLIPs: where their content is not read, the names alone tell two runs apart.
CONTENT_FIELDS = with_role(Config, "content")
# Sections and single fields, and fields of the data section, that a checkpoint brings wherever it is used.
MODEL_SECTIONS = (
    *(name for name, section in Config() if isinstance(section, FrozenModel) and section.role == "model"),
    *(name for name in with_role(Config, "model") if "." not in name),
)
NORMALIZATION = tuple(name for name, setting in settings(DataSection).items() if setting.role == "model")
# Parts of the method that are off at 0.
PARTS = tuple(name for name, setting in settings(Config).items() if setting.off_at_zero)
