"""What the configurations share: the defaults of all fields (docs/configuration.md), and the arguments.

The other files of this folder change a few fields each. All of them take the same optional arguments after a colon,
several joined by commas, unknown ones refused:

    --config=configs/rafdb.py:vit_l14,runlocal

    vit_b32, vit_l14, vit_l14_336   another CLIP of OpenAI's (default: ViT-B/16)
    bf16                            CLIP's image tower in bfloat16, for accelerators and CPUs with AMX
    no_validation                   train on the validation images too, choose nothing, report the last step
    whole                           for --mode=eval: evaluate on all of a dataset, its splits joined
    tiny_clip, small_clip           the CLIPs that ship (tiny-face-clip: drawn faces, small-face-clip: photographs too),
                                    with the quickstart's settings: any dataset, no download
    1_per_class, 16_per_class ..    that many training images of each class, and what suits few
    runlocal                        a minute on a laptop: few images, few steps, small batches
    coop, vpt_deep, ivlp, kgcoop, maple, ceprompt, promptsrc, cafe, lora
                                    another method in place of MPA-FER (docs/methods.md), with what else is configured
"""

import difflib
import operator
import re
from typing import Any

from ml_collections import ConfigDict

from mpafer_jax.config.schema import Config
from mpafer_jax.config.search_space import Choice, Factor, Space

# What suits the CLIPs that ship with the package, both of 64 patches; docs/quickstart.md says how it was chosen.
_SMALL: dict[str, Any] = {
    # The names of the expressions mean nothing to these CLIPs, so each class learns words of its own. [ours]
    "ctx.class_specific": True,
    # Of 64 patches; the paper's 16 are of 196.
    "head.top_k": 6,
    # From relatives' SGD a small CLIP's prompts would hardly move. [ours]
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 0.1,
    "optimizer.weight_decay": 0.0,
    "optimizer.warmup_steps": 20,
    "optimizer.lr_scales": (("ctx", 0.3), ("visual_prompts", 1.0)),
    # A small CLIP underfits what stronger changes leave of an image. [ours]
    "data.augment.crop_scale": (0.9, 1.0),
    "data.augment.crop_ratio": (0.95, 1.05),
    "data.augment.erase": 0.1,
    "data.grayscale": False,
    # In steps and not in epochs, so that few-shot runs are as long. [ours]
    "train.num_steps": 600,
    "train.num_epochs": 0.0,
    "train.eval_every": 100,
    "train.checkpoint_every": 100,
    "eval.batch_size": 200,
}
# Baselines that the quickstart measures. ADAPTERS, which are made for few images of each class, are measured where
# `eval.baselines` names them.
BASELINES = (
    "majority",
    "zero_shot_type1",
    "zero_shot_type2",
    "zero_shot_type3",
    "zero_shot_permuted",
    "zero_shot_global_local",
    "linear_probe",
    "text_context",
)
ADAPTERS = ("tip_adapter", "tip_adapter_f", "clip_adapter")
# Other CLIPs than the default, as what they change of a configuration.
CLIPS: dict[str, dict[str, Any]] = {
    "vit_b32": {"clip.name": "openai/clip-vit-base-patch32"},
    "vit_l14": {"clip.name": "openai/clip-vit-large-patch14"},
    "vit_l14_336": {"clip.name": "openai/clip-vit-large-patch14-336"},
    "tiny_clip": {"clip.name": "tiny-face-clip", **_SMALL},
    # Of the photographs that it has seen none had colours.
    "small_clip": {"clip.name": "small-face-clip", **_SMALL, "data.grayscale": True},
}
# Names of the CLIPs that ship.
SHIPPED = (CLIPS["tiny_clip"]["clip.name"], CLIPS["small_clip"]["clip.name"])
# Cross-entropy of the global logits and nothing else.
_CROSS_ENTROPY: dict[str, Any] = {"loss.terms": ("cross_entropy",), "head.local_weight": 0.0}
# Class texts that start as, or stay, "a photo of a [class]."
_A_PHOTO: dict[str, Any] = {"ctx.num_ctx": 4, "ctx.class_specific": False, "ctx.init_text": "a photo of a"}
# Deep prompts of both towers, the visual ones a linear map of those of the text.
_COUPLED: dict[str, Any] = {
    "learner": "maple",
    "ctx.num_ctx": 2,
    "visual_prompts.num_prompts": 2,
    "visual_prompts.before_ln_pre": True,
    "optimizer.lr_scales": ((".*", 1.0),),
}
# Methods as what they change of a configuration; docs/methods.md has their sources.
METHODS: dict[str, dict[str, Any]] = {
    # Text context alone, the run's own in number and initial values.
    "coop": {**_CROSS_ENTROPY, "visual_prompts.num_prompts": 0},
    # Deep visual prompts alone, class texts fixed.
    "vpt_deep": {**_CROSS_ENTROPY, **_A_PHOTO, "optimizer.lr_scales": (("ctx", 0.0), ("visual_prompts", 1.0))},
    # Text context and deep visual prompts, independent of each other: MPA-FER's prompts without its losses and head.
    "ivlp": _CROSS_ENTROPY,
    # Text context, held near the fixed texts "a photo of [class]": L = L_ce + 8 (1 - cos(theta(t_c), theta(t*_c))).
    "kgcoop": {
        **_CROSS_ENTROPY,
        **_A_PHOTO,
        "visual_prompts.num_prompts": 0,
        "hard_prompts.type": 1,
        "loss.terms": ("cross_entropy", "prompt_alignment"),
        "loss.beta": 8.0,
        "loss.prompt_weight": 1.0,
        "loss.prompt_distance": "cosine",
    },
    # Coupled prompts alone.
    "maple": {**_CROSS_ENTROPY, **_A_PHOTO, **_COUPLED},
    # Coupled prompts, and global and local scores that are normalised over the classes: CEPrompt's second stage.
    "ceprompt": {
        **_A_PHOTO,
        **_COUPLED,
        "ctx.init_text": "a photo of",
        "loss.terms": ("cross_entropy",),
        "head.local_weight": 1.0,
        "head.normalize_scores": True,
    },
    # Deep prompts of both towers, held near the frozen CLIP's features of images and texts and its logits; all texts of
    # the bank; averaged over training.
    "promptsrc": {
        **_CROSS_ENTROPY,
        **_A_PHOTO,
        "learner": "promptsrc",
        "visual_prompts.num_prompts": 4,
        "visual_prompts.before_ln_pre": True,
        "hard_prompts.type": 3,
        "hard_prompts.granularity": ("holistic", "template", "brows", "eyes", "nose", "cheeks", "mouth", "chin"),
        "hard_prompts.paraphrases": 0,
        "loss.terms": ("cross_entropy", "image_consistency", "text_consistency", "logit_consistency"),
        "loss.image_consistency": 10.0,
        "loss.text_consistency": 25.0,
        "loss.logit_consistency": 1.0,
        "optimizer.lr_scales": ((".*", 1.0),),
        "optimizer.average": 20,
    },
    # A mask on the channels of the frozen image feature, class texts fixed.
    "cafe": {
        **_CROSS_ENTROPY,
        **_A_PHOTO,
        "learner": "cafe",
        "visual_prompts.num_prompts": 0,
        "loss.terms": ("cross_entropy", "channel_separation", "channel_diversity"),
        "loss.channel_separation": 1.5,
        "loss.channel_diversity": 5.0,
        "optimizer.lr_scales": ((".*", 1.0),),
    },
    # Low-rank updates of both towers' attention, class texts fixed; CLIP-LoRA's optimizer.
    "lora": {
        **_CROSS_ENTROPY,
        **_A_PHOTO,
        "learner": "lora",
        "visual_prompts.num_prompts": 0,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 2e-4,
        "optimizer.weight_decay": 0.01,
        "optimizer.lr_scales": ((".*", 1.0),),
    },
}
# What a search (configs/sweeps/methods.py) draws for MPA-FER, "full", and for each of the methods: the learning rate
# and weights of losses over three decades, mostly below the default. A config's learning rate is one for prompts, which
# matrices (MaPLe's, CAFE's) do not bear with Adam; a weight near 0 leaves the term out. Numbers of prompts and the like
# stay: they decide how many parameters are trained.
_RATE = {"optimizer.learning_rate": Factor(0.01, 10.0)}
_WEIGHT = Factor(0.01, 10.0)
SPACES: dict[str, Space] = {
    "full": {
        **_RATE,
        "loss.beta": _WEIGHT,
        "loss.gamma": _WEIGHT,
        "head.local_weight": Choice((0.1, 0.3, 1.0)),  # not a number of the compiled step: each value is a group
    },
    "coop": _RATE,
    "vpt_deep": _RATE,
    "ivlp": _RATE,
    "kgcoop": {**_RATE, "loss.beta": _WEIGHT},
    "maple": _RATE,
    "ceprompt": _RATE,
    "promptsrc": {
        **_RATE,
        "loss.image_consistency": _WEIGHT,
        "loss.text_consistency": _WEIGHT,
        "loss.logit_consistency": _WEIGHT,
    },
    "cafe": {**_RATE, "loss.channel_separation": _WEIGHT, "loss.channel_diversity": _WEIGHT},
    "lora": _RATE,
}
_ARGUMENTS = (*CLIPS, "bf16", "no_validation", "whole", "16_per_class", "runlocal", *METHODS)
# Updates in place of epochs, of which the usual number would be a handful of updates of few images (30 epochs of 7
# images make 3), fewer than the warm-up. [ours]
FEW_UPDATES = {"train.num_steps": 600, "train.num_epochs": 0.0, "train.eval_every": 100, "train.checkpoint_every": 100}


def get_common() -> ConfigDict:
    """The defaults that all configs start from: those of `Config`, to be changed and then locked."""
    return ConfigDict(Config().model_dump())


def per_class(word: str) -> int:
    """The number of an argument such as 16_per_class; 0 for another word."""
    found = re.fullmatch(r"([1-9]\d*)_per_class", word)
    return int(found[1]) if found else 0


def prior(images: int) -> dict[str, Any]:
    """What suits MPA-FER with few training images of each class: it begins with what CLIP knows, and stays near it.

    Class prompts begin as the descriptions. Features of soft prompts stay near those of the hard prompts, and features
    of images near those of the frozen CLIP; the local score counts little. The distances are those of KgCoOp and
    PromptSRC; they weigh like a prior, against a mean over images: the more, the fewer images there are. With 16 of
    each class the weights are 12.5, about what these two publish for 16 (8 and 10). docs/experiments.md says on what
    all was chosen. [ours]

    Args:
      images: of each class.
    """
    weight = 200 / images
    return {
        "ctx.num_ctx": 4,
        "ctx.init_text": "a photo of a",
        "ctx.words": "hard_prompt",
        "head.local_weight": 0.1,
        "loss.prompt_distance": "cosine",
        "loss.beta": weight,
        "loss.token_weight": 0.0,
        "loss.image_consistency": weight,
    }


def method_changes(name: str, clip: str) -> dict[str, Any]:
    """What a method of `METHODS` changes with a CLIP.

    To the CLIPs that ship, which were trained on descriptions, names of expressions mean nothing. Class prompts that
    begin with the words "a photo of a" go on with the class's description there, in place of its name: so these methods
    begin with a classifier of texts, as they do with OpenAI's CLIP. LoRA's learning rate, 2e-4 for thousands of updates
    of a CLIP with wide layers, hardly moves these in hundreds. [ours]

    Args:
      clip: `config.clip.name`.
    """
    changes = dict(METHODS[name])
    if clip in SHIPPED:
        if "ctx.init_text" in changes:
            changes |= {"ctx.words": "hard_prompt", "hard_prompts.type": 3}
        if name == "lora":
            changes["optimizer.learning_rate"] = 0.01
    return changes


def apply_arguments(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Applies what stands after the colon of --config=configs/name.py:arguments, and locks the config.

    Raises:
      ValueError: an argument that does not exist; the message lists those that do.
    """
    names = [name for name in (arg or "").split(",") if name]
    images = [number for name in names if (number := per_class(name))]
    unknown = sorted({name for name in names if not per_class(name)} - set(_ARGUMENTS))
    if unknown:
        near = difflib.get_close_matches(unknown[0], _ARGUMENTS, n=1)
        meant = f"did you mean {near[0]}? Known" if near else "known"
        raise ValueError(f"unknown config arguments {', '.join(unknown)}; {meant} are {', '.join(_ARGUMENTS)}")
    clips = [name for name in names if name in CLIPS]
    if len(clips) > 1:
        raise ValueError(f"config arguments {', '.join(clips)} name several CLIPs; give one")
    methods = [name for name in names if name in METHODS]
    if len(methods) > 1:
        raise ValueError(f"config arguments {', '.join(methods)} name several methods; give one")
    if len(images) > 1:
        raise ValueError(f"config arguments {', '.join(map(str, images))}_per_class: give one number of images")
    few = [{"data.train_per_class": number, **({} if methods else prior(number))} for number in images]
    if clips and config.clip.name in SHIPPED:
        # What suits a small CLIP does not suit those of OpenAI; the other small one sets it again.
        usual = get_common()
        config.update_from_flattened_dict({name: operator.attrgetter(name)(usual) for name in _SMALL})
    for changes in (*(CLIPS[name] for name in clips), *few):
        config.update_from_flattened_dict(changes)
    for name in methods:
        config.update_from_flattened_dict(method_changes(name, config.clip.name))
    if few and not config.train.num_steps:
        config.update_from_flattened_dict(FEW_UPDATES)
    if "vpt_deep" in methods:  # that baseline trains the context as the run beside it does, and this run freezes it
        config.eval.baselines = tuple(name for name in config.eval.baselines if name != "text_context")
    if "bf16" in names:
        config.clip.dtype = config.clip.residual_dtype = "bfloat16"
    if "no_validation" in names:
        if config.data.validation_split:
            config.data.train_splits = (*config.data.train_splits, config.data.validation_split)
        config.data.validation_split, config.data.validation_fraction = "", 0.0
    if "whole" in names:
        config.data.train_splits, config.data.test_split = (), "all"
        config.data.validation_split, config.data.validation_fraction, config.data.test_fraction = "", 0.0, 0.0
    if "runlocal" in names:
        _run_local(config, images[0] if images else 16)
    return config.lock()


def _run_local(config: ConfigDict, images: int) -> None:
    config.data.train_per_class = images
    config.data.eval_per_class = 8
    config.train.batch_size = config.eval.batch_size = 8
    config.train.num_steps, config.train.num_epochs = 20, 0.0
    config.train.log_every = config.train.eval_every = config.train.checkpoint_every = 10
    config.optimizer.warmup_steps = 2
