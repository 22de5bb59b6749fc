"""Every field of a run: its meaning, its unit, and where its value comes from.

Sources: (paper) MPA-FER, arXiv 2506.21017; (relative) what CoOp, MaPLe, PromptSRC, KgCoOp and VPT use where the paper
is silent; (ours) our own choice, for a stated reason.

The other files of this folder change a few fields each. All of them take the same optional arguments after a colon,
several joined by commas, unknown ones refused:

    --config=configs/rafdb.py:vit_l14,runlocal

    vit_b32, vit_l14, vit_l14_336   another CLIP of OpenAI's (default: ViT-B/16)
    bf16                            CLIP's image tower in bfloat16, for accelerators
    no_validation                   train on the validation images too, choose nothing, report the last step
    whole                           for --mode=eval: evaluate on all of a dataset, its splits joined
    tiny_clip                       the small CLIP that ships, with the quickstart's settings: any dataset, no download
    runlocal                        a minute on a laptop: few images, few steps, small batches
    coop, vpt_deep, ivlp, kgcoop    another method in place of MPA-FER (docs/baselines.md), with what else is configured
"""

import difflib
from typing import Any

from ml_collections import ConfigDict

# Other CLIPs than the default, as what they change of a configuration.
CLIPS: dict[str, dict[str, Any]] = {
    "vit_b32": {"clip.name": "openai/clip-vit-base-patch32"},
    "vit_l14": {"clip.name": "openai/clip-vit-large-patch14"},
    "vit_l14_336": {"clip.name": "openai/clip-vit-large-patch14-336"},
    # The one that ships with the package, and what suits it; docs/quickstart.md says how the settings were chosen.
    "tiny_clip": {
        "clip.name": "tiny-face-clip",
        # The names of the expressions mean nothing to this CLIP, so each class learns words of its own. [ours]
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
        # In steps and not in epochs, so that few-shot runs are as long. [ours]
        "train.num_steps": 600,
        "train.num_epochs": 0.0,
        "train.eval_every": 100,
        "train.checkpoint_every": 100,
        "eval.batch_size": 200,
    },
}
# Cross-entropy of the global logits and nothing else.
_CROSS_ENTROPY: dict[str, Any] = {"loss.beta": 0.0, "loss.gamma": 0.0, "head.local_weight": 0.0}
# Class texts that start as, or stay, "a photo of a [class]."
_A_PHOTO: dict[str, Any] = {"ctx.num_ctx": 4, "ctx.class_specific": False, "ctx.init_text": "a photo of a"}
# Methods as what they change of a configuration; docs/baselines.md has their sources.
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
        "loss.beta": 8.0,
        "loss.token_weight": 0.0,
        "loss.prompt_weight": 1.0,
        "loss.prompt_distance": "cosine",
    },
}
_ARGUMENTS = (*CLIPS, "bf16", "no_validation", "whole", "runlocal", *METHODS)


def get_common() -> ConfigDict:
    """The defaults that all configs start from."""
    config = ConfigDict()
    # Seed of initial prompts, data order, augmentation and the choice of prototype images. [ours]
    config.seed = 0

    config.clip = clip = ConfigDict()
    # Name on the Hub, a folder in the Hub's layout, or tiny-face-clip, which ships with the package. --mode=eval and
    # predict take the CLIP that the checkpoint names, unless --config.clip.name says where it is now. [paper: ViT-B/16
    # and ViT-L/14]
    clip.name = "openai/clip-vit-base-patch16"
    # Branch, tag or commit of the Hub's repository; not read for a folder. [ours]
    clip.revision = "main"
    # Where the Hub's files are kept; empty: the Hub library's own cache (HF_HUB_CACHE, HF_HOME). [ours]
    clip.cache_dir = ""
    # Type of the image tower's frozen weights and products: float32 or bfloat16; the text tower, prompts, features,
    # losses and optimizer are float32 in either case. [ours]
    clip.dtype = "float32"
    # Type of the image tower's residual stream: float32, or, with that dtype, bfloat16, which is less exact and faster
    # where memory traffic is the limit (docs/performance.md). [ours]
    clip.residual_dtype = "float32"
    # What the backward pass keeps of each layer: none (everything), dots (products without a batch axis), full
    # (nothing but each layer's input: least memory, most time). The numbers do not change. [ours]
    clip.remat = "dots"

    config.ctx = ctx = ConfigDict()
    # M, context vectors of a soft prompt. [paper]
    ctx.num_ctx = 10
    # Whether every class has its own context vectors; otherwise all share one set. [ours: shared; paper unclear]
    ctx.class_specific = False
    # Standard deviation of their initial values. [paper]
    ctx.init_std = 0.02
    # Words whose token embeddings they start from, of exactly num_ctx tokens (a photo of a: 4); empty: random values.
    # [relative: CoOp's and KgCoOp's option; paper: random]
    ctx.init_text = ""

    config.visual_prompts = visual_prompts = ConfigDict()
    # N_p, visual prompts a layer; 0 for none. [paper]
    visual_prompts.num_prompts = 8
    # Layers that get prompts, counted from 1; empty for all. [paper: all]
    visual_prompts.layers = ()
    # Whether layer 1's prompts pass CLIP's first normalisation (MaPLe's habit) or join after it. [ours: after]
    visual_prompts.before_ln_pre = False
    # Standard deviation of their initial values. [paper]
    visual_prompts.init_std = 0.02

    config.hard_prompts = hard_prompts = ConfigDict()
    # Description banks for type 3, their texts pooled: names of those that ship with the package (expressions,
    # compound) or paths of JSON files. [ours]
    hard_prompts.bank = ("expressions",)
    # 1: a photo of [class]; 2: a photo of a person making a facial expression of [class]; 3: type 2 and the
    # description. [paper: 3 is best]
    hard_prompts.type = 3
    # What type 3 describes, one or several of: template (nothing, as type 2), holistic (the whole face), brows, eyes,
    # nose, cheeks, mouth, chin; each description makes a text of its own. [paper: one description of the whole face]
    hard_prompts.granularity = ("holistic",)
    # Texts taken from each bank for every class and granularity, the file's first; 0 for all. [paper: one]
    hard_prompts.paraphrases = 1
    # How several texts of a class are aligned with: mean (by the mean of their normalised features) or separate (each
    # granularity by a term of its own, the terms averaged; docs/hard_prompts.md). [ours; the same with one text]
    hard_prompts.combine = "mean"

    config.head = head = ConfigDict()
    # k, patches averaged for each class in the local score. [paper]
    head.top_k = 16
    # lambda, weight of the local score beside the global one; 0 leaves it out. [paper]
    head.local_weight = 1.0
    # Subtract each patch's mean over the classes before choosing the k patches. [relative; paper: no]
    head.center_patch_scores = False
    # Weights of the patches in each class's local score, by how far the class differs there from neutral over the
    # images that make prototypes: none (equal weights), features (the frozen CLIP's patch features), images (pixels).
    # Needs a class that is neutral. [ours, after Facial Motion Prior Networks, Chen et al. 2019; paper: none]
    head.motion_prior = "none"
    # Share of a patch's weight that follows the difference, at least 0 and below 1; the rest is equal. [ours: of 0.5
    # and 0.9 on drawn faces]
    head.motion_strength = 0.9

    config.loss = loss = ConfigDict()
    # beta, weight of the hard-soft alignment; 0 leaves it out, as for every weight here. [paper]
    loss.beta = 1.0
    # gamma, weight of the prototype alignment. [paper]
    loss.gamma = 1.0
    # Weight of the token-level term inside the hard-soft alignment. [paper: 1]
    loss.token_weight = 1.0
    # Weight of the prompt-level term inside the hard-soft alignment. [paper: 1]
    loss.prompt_weight = 1.0
    # Form of the token-level term: contrastive or l1. [paper: contrastive]
    loss.token_distance = "contrastive"
    # Form of the prompt-level term: contrastive, l1, or cosine (KgCoOp's). [paper unclear: the first two exist]
    loss.prompt_distance = "contrastive"
    # tau of the contrastive forms. [ours: CLIP's own, 1 / 100]
    loss.temperature = 0.01
    # M of Eq. 7: cosine or l1. [ours: cosine; paper unclear]
    loss.prototype_distance = "cosine"
    # Share of each label that is spread evenly over the classes. [paper: none]
    loss.label_smoothing = 0.0

    config.prototypes = prototypes = ConfigDict()
    # Training images of each class that make its prototype, drawn by seed; 0 for all. [ours; an ablation of the paper]
    prototypes.images_per_class = 0
    # Whether features are normalised before they are averaged; not with l1. [ours: no; paper unclear]
    prototypes.normalize = False

    config.optimizer = optimizer = ConfigDict()
    # sgd or adamw. [relative: CoOp, MaPLe, PromptSRC, KgCoOp use SGD; paper unknown]
    optimizer.name = "sgd"
    # Peak learning rate, reached after the warm-up, then cosine decay to 0. [relative: 2e-3 to 2.5e-3]
    optimizer.learning_rate = 2.0e-3
    # Ordered (pattern, factor) pairs: the first that matches a parameter's name scales its learning rate, 0 freezes
    # it. Parameters are `ctx` and `visual_prompts`. [ours: 1 for both]
    optimizer.lr_scales = (("ctx", 1.0), ("visual_prompts", 1.0))
    # Momentum of SGD; b1 of AdamW. [relative]
    optimizer.momentum = 0.9
    # Weight decay. [relative: CoOp's 5e-4]
    optimizer.weight_decay = 5.0e-4
    # Updates of linear warm-up. [relative: about one epoch of few-shot data]
    optimizer.warmup_steps = 50
    # Largest norm of the gradient of all that is trained, 0 for no limit. [ours]
    optimizer.clip_norm = 0.0

    config.data = data = ConfigDict()
    # Which reader: rafdb, rafdb_compound, ferplus, affectnet, fer2013, sfew, ckplus, jaffe, folder, or synthface (faces
    # drawn on first use).
    data.dataset = "folder"
    # Folder with the dataset in its owner's layout (docs/datasets.md), or its gs:// or s3:// URL, which is copied here
    # first. Has to be given, except for synthface: where drawn faces are kept, empty: `mpafer_jax/synthface` in
    # $XDG_CACHE_HOME or ~/.cache.
    data.dir = ""
    # Where the prepared copy goes, on this machine; empty: `mpafer_tfds` inside data.dir or its copy. [ours]
    data.prepared_dir = ""
    # Classes to use, in this order, matched by name (synonyms count); empty: all of the dataset's, in its order.
    data.class_names = ()
    # How votes become labels, FERPlus only: majority_labelcsv, majority_csv, argmax, distribution; else owner.
    data.label_rule = "owner"
    # An image that is missing or cannot be decoded: error, or skip (counted and logged).
    data.on_bad_image = "error"
    # The owner's splits to train on, joined; empty for --mode=eval on a dataset of which all is to be evaluated.
    data.train_splits = ("train",)
    # The owner's split that chooses the checkpoint; empty: carve validation_fraction out of train.
    data.validation_split = ""
    # Share of train that is carved out for validation, class by class, or person by person where the dataset says who
    # is who. [ours: so that the test split chooses nothing]
    data.validation_fraction = 0.1
    # The owner's split for the final numbers; empty: carve test_fraction out of train, or none; all: all splits that
    # there are, joined, where nothing is trained on (train_splits empty).
    data.test_split = "test"
    # Share of train that is carved out for the test.
    data.test_fraction = 0.0
    # A file with a name of an image a line that test_split is restricted to, such as the lists of occluded or turned
    # faces (docs/datasets.md); empty: all of it.
    data.test_subset = ""
    # Seed of the carving; apart from `seed`, so that runs of several seeds share their splits. [ours]
    data.split_seed = 0
    # Training images of each class, drawn by few_shot_seed; 0 for all. [few-shot experiments]
    data.train_per_class = 0
    # Seed of that draw; apart from split_seed, so that few-shot runs differ in what they train on and not in what they
    # are measured on. [ours]
    data.few_shot_seed = 0
    # Share of the training images of each class whose label is replaced by that of another class, drawn by
    # label_noise_seed; validation and test keep theirs. [noise experiments, as in Self-Cure Network; 0: none]
    data.label_noise = 0.0
    # Seed of that draw; apart from the others, so that noise can vary alone or stay. [ours]
    data.label_noise_seed = 0
    # Images of each class in validation and test, drawn by split_seed; 0 for all. [to try things out]
    data.eval_per_class = 0
    # shuffle (each image once an epoch) or class_balanced (classes equally likely, with replacement; common on
    # AffectNet, harmful on RAF-DB).
    data.sampler = "shuffle"
    # Mean and standard deviation of each colour, on the scale 0..1. [CLIP's]
    data.mean = (0.48145466, 0.4578275, 0.40821073)
    data.std = (0.26862954, 0.26130258, 0.27577711)
    # Processes that decode and augment; 0: threads of this one. [ours]
    data.num_workers = 0
    # Keep the images decoded too, in a memory-mapped file in the prepared folder (width x height x 3 bytes each, grey
    # ones a third). The batches are the same; docs/performance.md says what it gains. [ours: off]
    data.cache_decoded = False
    # Where the frozen CLIP's features are kept, for prototypes and baselines of all runs on these images (4 x D bytes
    # an image); empty: `features` in the prepared folder. [ours]
    data.features_dir = ""

    data.augment = augment = ConfigDict()
    # Share of the image's area that a random crop keeps, (low, high); (1, 1) with crop_ratio (1, 1) for no crop.
    # [relative: CoOp's is (0.08, 1), which loses the face's parts]
    augment.crop_scale = (0.7, 1.0)
    # Its width over its height, (low, high). [relative]
    augment.crop_ratio = (0.75, 4.0 / 3.0)
    # Probability of a mirror image. [relative]
    augment.flip = 0.5
    # Strength of brightness, contrast and saturation changes: factors in 1 +- this. [ours: off]
    augment.brightness = 0.0
    augment.contrast = 0.0
    augment.saturation = 0.0
    # Largest turn of the hue, in turns of the colour circle, at most 0.5. [ours: off]
    augment.hue = 0.0
    # Probability of erasing a rectangle. [relative: FER code's random erasing]
    augment.erase = 0.25
    # Share of the image's area that it covers, (low, high). [relative]
    augment.erase_scale = (0.02, 0.1)

    # Read only if dataset is synthface. [ours, all of them]
    data.synthface = synthface = ConfigDict()
    # How faces are drawn: colour, paint, grey, sketch, print, faint, neon, poster or infrared; see
    # mpafer_jax/synthface/styles.py.
    synthface.style = "sketch"
    # Seed of persons, expressions and scenes.
    synthface.seed = 0
    # Images in each split; no person is in two splits.
    synthface.train = 2800
    synthface.validation = 400
    synthface.test = 1400
    # Side of the images in pixels, 32 to 224.
    synthface.image_size = 96

    config.train = train = ConfigDict()
    # Images of one update, over all devices. [relative: 32 to 128]
    train.batch_size = 64
    # Parts into which each device's share of a batch is cut, one after the other, to save memory. Same update. [ours]
    train.accumulate = 1
    # Classes that the text tower encodes at once, to save memory where there are hundreds; 0: all. Same update. [ours]
    train.text_chunk = 0
    # Updates in all; 0: counted from num_epochs. Exactly one of the two is set.
    train.num_steps = 0
    # Passes over the training images. [relative: 20 to 50; paper unknown]
    train.num_epochs = 30.0
    # Updates between lines of training metrics. [ours]
    train.log_every = 50
    # Updates between evaluations on the validation split. [ours]
    train.eval_every = 500
    # Updates between checkpoints; every evaluation makes one too. [ours]
    train.checkpoint_every = 500
    # How many of the newest checkpoints are kept; the best is kept besides. [ours]
    train.keep = 2
    # A workdir or checkpoint whose prompts to start from, where they fit; empty: fresh prompts.
    train.warm_start = ""

    config.eval = evaluation = ConfigDict()
    # Images at once, over all devices; also when prototypes are made.
    evaluation.batch_size = 64
    # What makes a checkpoint the best on validation: war (accuracy), uar (mean recall) or macro_f1. [relative: war]
    evaluation.select_by = "war"
    # Whether the test split chooses the checkpoint, to compare with literature that did so; its accuracy is then better
    # than on new images, and every table says so. Needs `no_validation`. [ours: no]
    evaluation.select_on_test_split = False
    # --mode=eval, --mode=predict: the checkpoint, a workdir or one step's folder; empty: the workdir's own.
    evaluation.checkpoint = ""
    # Which of a workdir's checkpoints these modes and train.warm_start take: best or last.
    evaluation.which = "best"
    # --mode=eval: the classes to choose among: checkpoint (those that it was trained on; images of others are left
    # out), common (those of them that the dataset has), or dataset (the dataset's, trained on or not: what the learned
    # context is worth for new classes; not with ctx.class_specific). [ours: checkpoint]
    evaluation.classes = "checkpoint"
    # What to measure beside the method, on the same splits, from CLIP's frozen features; empty: nothing. Any of:
    #   majority                the most frequent class of train, always
    #   zero_shot_type1, 2, 3   CLIP's own zero-shot classification with the hard prompts of that type
    #   zero_shot_permuted      type 3 with the descriptions permuted (by `seed`) so that no class keeps its own
    #   zero_shot_global_local  the method's logits with the hard prompts as texts and no visual prompts
    #   linear_probe            logistic regression on z^g, its L2 penalty chosen on validation
    #   text_context            CoOp: the context alone, trained with the cross-entropy of the global logits; not beside
    #                           a run that freezes it (vpt_deep leaves it out)
    # --mode=eval does not compute them. [ours]
    evaluation.baselines = ()
    # What is left to look at, after training and after --mode=eval: full (predictions.npz and report.html), numbers
    # (the same without images of the dataset), predictions (predictions.npz alone), none. [ours]
    evaluation.report = "full"

    # Read by --mode=predict alone, beside data, eval.checkpoint, eval.which and eval.batch_size.
    config.predict = predict = ConfigDict()
    # Which part of the dataset, as the data section makes it: train, validation or test. [ours]
    predict.split = "test"
    # Images in one file of predictions. A run that is stopped goes on with the files that are missing, and processes
    # share the files among them, so there should be several for each. [ours]
    predict.images_per_part = 1000
    # Of those files: parquet or csv. [ours]
    predict.format = "parquet"
    return config


def apply_arguments(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Applies what stands after the colon of --config=configs/name.py:arguments, and locks the config.

    Raises:
      ValueError: an argument that does not exist; the message lists those that do.
    """
    names = [name for name in (arg or "").split(",") if name]
    unknown = sorted(set(names) - set(_ARGUMENTS))
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
    for changes in (*(CLIPS[name] for name in clips), *(METHODS[name] for name in methods)):
        config.update_from_flattened_dict(changes)
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
        _run_local(config)
    return config.lock()


def _run_local(config: ConfigDict) -> None:
    config.data.train_per_class = 16
    config.data.eval_per_class = 8
    config.train.batch_size = config.eval.batch_size = 8
    config.train.num_steps, config.train.num_epochs = 20, 0.0
    config.train.log_every = config.train.eval_every = config.train.checkpoint_every = 10
    config.optimizer.warmup_steps = 2
