"""Evaluation protocol of a run, for judging and reproducing its result: selection split, test data, label rule, seed,
CLIP and versions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mpafer_jax.config.schema import LossSection
from mpafer_jax.config.semantics import PARTS
from mpafer_jax.data.protocols import PROTOCOL
from mpafer_jax.data.records import CROPPED
from mpafer_jax.data.split_groups import NO_TEST
from mpafer_jax.data.splits import CLIPS, SKIPPED
from mpafer_jax.method import optim
from mpafer_jax.method.losses import TERMS, Objective

TEST_SELECTED = (
    "THE TEST SPLIT CHOSE THE CHECKPOINT (config.eval.select_on_test_split): accuracy on it is better than on new "
    "images, and is not to be compared with results whose checkpoint was chosen on other images."
)

# What the paper's method does not have beside its loss, by field.
_NAMED_FIELDS = {"optimizer.average": "averaged prompts", "head.normalize_scores": "normalised scores"}
_PRODUCTS = {
    "default": "rounded as JAX does by default on this device (TensorFloat-32 on GPUs that have it, bfloat16 on TPUs)"
}


def reported_split(splits: Collection[str]) -> str | None:
    """The split that is reported in detail: test, or validation if there is no test split."""
    return next((name for name in ("test", "validation") if name in splits), None)


def reported_checkpoint(summary: Mapping[str, Any]) -> str:
    """Which checkpoint of a run is reported: "best", or "last" if none was selected."""
    return "best" if "best" in summary else "last"


def reported(summary: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """What a run's summary says of the reported checkpoint, and the split that is reported, if one was held out."""
    checkpoint = summary[reported_checkpoint(summary)]
    return checkpoint, reported_split(checkpoint)


def selecting_split(summary: Mapping[str, Any]) -> str | None:
    """The split that selected a run's best checkpoint, "validation" or "test"; None if none was selected."""
    return str(summary["selected_by"]).split()[0] if "best" in summary else None


def unit(summary: Mapping[str, Any]) -> str:
    """What a run's `summary.json` or `evaluation.json` counts: "images" or "clips"."""
    return "clips" if _data_lines(summary, CLIPS) else "images"


def _data_lines(summary: Mapping[str, Any], *starts: str) -> list[str]:
    """The lines on the data that begin with one of the words; none in summaries of earlier versions."""
    return [line.strip() for line in summary.get("data", ()) if line.strip().startswith(starts)]


def method_name(config: Mapping[str, Any]) -> str:
    """A run's name in tables: "MPA-FER" if all of its parts are on, else "LoRA" or "tuned prompts".

    What the paper's loss does not have is appended: "MPA-FER + entropy", "MPA-FER + logit adjustment (tau 1)",
    "MPA-FER + averaged prompts".

    Args:
      config: the run's fields by dotted name.
    """
    options = _loss(config)
    terms = Objective.of(options).terms
    whole = all(term in terms for term in TERMS if term.equation) and all(config[part] for part in PARTS)
    learner = config.get("learner", "mpa")
    if whole := whole and learner == "mpa":
        whole = len(optim.trained(("ctx", "visual_prompts"), config["optimizer.lr_scales"])) == 2
    name = "MPA-FER" if whole else "LoRA" if learner == "lora" else "tuned prompts"
    others = [term.name for term in terms if not term.equation]
    others += [title for field, title in _NAMED_FIELDS.items() if config.get(field)]
    return " + ".join(filter(None, [name, *others, options.imbalance]))


def _loss(config: Mapping[str, Any]) -> LossSection:
    section = {name.removeprefix("loss."): value for name, value in config.items() if name.startswith("loss.")}
    return LossSection.model_validate_json(json.dumps(section))


def items(summary: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """The protocol of a run by item, as text.

    Args:
      summary: its `summary.json`, possibly from an earlier version.
      config: its fields by dotted name.
    """
    is_best, counted = reported_checkpoint(summary) == "best", unit(summary)
    described = {"checkpoint": f"best by {summary['selected_by']}" if is_best else "last step, nothing chosen"}
    checkpoint, split = reported(summary)
    if split is not None:
        measured = checkpoint[split]
        counts = [int(sum(row)) for row in measured["confusion"]]
        classes = zip(measured["class_names"], counts, strict=True)
        each = ", ".join(f"{name} {count}" for name, count in classes)
        described["measured on"] = f"{split}, {measured['count']} {counted}, in the order of the labels: {each}"
    for name, classes in summary.get("counts", {}).items():
        if name != split:
            each = ", ".join(f"{label} {count}" for label, count in classes.items())
            described[f"{name} {counted}"] = f"{sum(classes.values())}: {each}"
    said = _data_lines(summary, PROTOCOL, NO_TEST, CROPPED, CLIPS, SKIPPED)
    notes = [line.removeprefix(PROTOCOL) for line in said]
    sampler = "sampler that draws all classes equally often" if config.get("data.sampler") == "class_balanced" else ""
    imbalance = sampler or _loss(config).imbalance
    clip = summary["clip"]
    kind, number = summary["devices"]
    products = {}
    if "matmul_precision" in summary:  # absent in earlier versions
        precision = str(summary["matmul_precision"])
        products = {"products of float32 numbers": _PRODUCTS.get(precision, precision)}
    if config.get("clip.dtype") == "bfloat16" and (bfloat16_unit := summary.get("bfloat16_unit")):
        products["products of bfloat16 numbers"] = f"on the CPU's {bfloat16_unit}"
    settings = summary.get("settings")  # absent in earlier versions
    unusual = {"unusual settings": ", ".join(f"{name}={value}" for name, value in settings.items())} if settings else {}
    return {
        **described,
        "dataset": "; ".join([f"{config['data.dataset']}, label rule {config['data.label_rule']}", *notes]),
        **({"class imbalance": imbalance} if imbalance else {}),
        "seed": str(summary["seed"]),
        "updates": str(summary["num_steps"]),
        "CLIP": f"{clip['name']}, SHA-256 of its content {clip['hash'][:16]}",
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "devices": f"{number} x {kind}",
        **products,
        **unusual,
    }


def merge(protocols: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Merges the protocols of many runs; values that differ are listed with their number of runs."""
    merged: dict[str, dict[str, int]] = {}
    total = 0
    for protocol in protocols:
        total += 1
        for name, value in protocol.items():
            counts = merged.setdefault(name, {})
            counts[value] = counts.get(value, 0) + 1

    def text(counts: Mapping[str, int]) -> str:
        if list(counts.values()) == [total]:
            return next(iter(counts))
        return "; ".join(f"{value} ({count} of {total} runs)" for value, count in sorted(counts.items()))

    return {name: text(counts) for name, counts in merged.items()}


def to_markdown(protocol: Mapping[str, str]) -> str:
    """A Markdown list."""
    return "".join(f"- {name}: {value}\n" for name, value in protocol.items())
