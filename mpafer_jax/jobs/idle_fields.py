"""Fields that were set and that the values of others leave unread.

They are warned of and not refused: an override may be meant for all points of a sweep, of which some read it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable

from mpafer_jax.config.fields import settings
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation.baselines import BASELINES
from mpafer_jax.method import motion_prior
from mpafer_jax.method.losses import Objective


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a run reads some fields.

    Attributes:
      fields: by dotted name.
      where: completes 'read only ..'.
      reads: whether a configuration's run reads them.
    """

    fields: tuple[str, ...]
    where: str
    reads: Callable[[Config], bool]


def _contrasts(config: Config) -> bool:
    loss, terms = config.loss, Objective.of(config.loss).weights
    distances = {"token_alignment": loss.token_distance, "prompt_alignment": loss.prompt_distance}
    return any(distance == "contrastive" for term, distance in distances.items() if term in terms)


def _reads_bank(config: Config) -> bool:
    return config.hard_prompts.type == 3 or any(BASELINES[name].reads_bank for name in config.eval.baselines)


# Not among them is what `configs` set together with values that leave it unread: head.top_k suits a CLIP's number of
# patches and hard_prompts.bank a dataset's classes, whatever the method; loss.prompt_distance goes with few images,
# also where a sweep sets beta to 0.
RULES = (
    Rule(("lora.rank", "lora.alpha"), "with learner 'lora'", lambda config: config.learner == "lora"),
    Rule(("mask_width",), "with learner 'cafe'", lambda config: config.learner == "cafe"),
    Rule(
        ("hard_prompts.granularity", "hard_prompts.paraphrases", "hard_prompts.combine"),
        "with hard_prompts.type 3, or by baselines of that type",
        _reads_bank,
    ),
    Rule(
        ("head.motion_prior", "head.center_patch_scores"),
        "with a head.local_weight above 0",
        lambda config: config.head.local_weight > 0,
    ),
    Rule(("head.motion_strength",), "with a head.motion_prior and a local_weight above 0", motion_prior.is_read),
    Rule(("loss.temperature",), "by a contrastive token_alignment or prompt_alignment in the loss", _contrasts),
    Rule(
        ("loss.prototype_distance",),
        "with prototype_alignment in the loss",
        lambda config: "prototype_alignment" in Objective.of(config.loss).weights,
    ),
    Rule(
        ("prototypes.normalize",),
        "with a term of prototypes in the loss",
        lambda config: Objective.of(config.loss).reads_prototypes,
    ),
    Rule(
        ("prototypes.images_per_class",),
        "with a term of prototypes in the loss, or a head.motion_prior",
        lambda config: Objective.of(config.loss).reads_prototypes or motion_prior.is_read(config),
    ),
    Rule(
        ("loss.effective_number_beta",),
        "with loss.class_weights 'effective_number'",
        lambda config: config.loss.class_weights == "effective_number",
    ),
    Rule(
        ("optimizer.average_mean", "optimizer.average_std"),
        "with an optimizer.average above 0",
        lambda config: config.optimizer.average > 0,
    ),
)


def idle_fields(config: Config) -> list[str]:
    """Sentences on fields that differ from their defaults and have no effect."""
    found: list[str] = []
    for rule in RULES:
        values = {name: operator.attrgetter(name)(config) for name in rule.fields}
        changed = {name: value for name, value in values.items() if value != settings(Config)[name].default}
        if changed and not rule.reads(config):
            found += [
                f"config.{name} is {value!r}, which is read only {rule.where}: it has no effect"
                for name, value in changed.items()
            ]
    return found
