"""`mpafer-jax clip`: a CLIP of one's own."""

from __future__ import annotations

import argparse

from mpafer_jax.cli.runner import argument, command, path


@command(
    "clip pretrain",
    path("--workdir", required=True, metavar="FOLDER", help="of the run"),
    config=True,
    processes=True,
)
def pretrain(arguments: argparse.Namespace) -> None:
    """Trains a small CLIP from scratch on images with captions, in the Hub's layout.

        mpafer-jax clip pretrain --config=configs/pretrain_tiny_clip.py --workdir=runs/tiny_clip

    Running the same command again resumes.
    """
    from mpafer_jax.jobs.pretraining.config import PretrainConfig
    from mpafer_jax.jobs.pretraining.train import pretrain
    from mpafer_jax.runtime import distributed

    summary = pretrain(PretrainConfig.from_config_dict(arguments.config), arguments.workdir)
    if distributed.is_first():
        for name, value in summary["held_out"].items():
            print(f"{name}: {value:.4f}")


@command(
    "clip convert",
    argument("source", metavar="SOURCE", help="a file, a folder, OpenAI's ViT-B/16, or a repository of the Hub"),
    path("out", metavar="FOLDER", help="new folder"),
    argument(
        "--activation", choices=("quick_gelu", "gelu"), default="", help="of the towers, if the source does not say it"
    ),
    argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the numbers in the file; float16 halves it, and makes another CLIP of it",
    ),
    argument("--revision", default="main", help="branch, tag or commit of a repository"),
    argument("--cache_dir", default="", metavar="FOLDER", help="as config.clip.cache_dir"),
)
def convert(arguments: argparse.Namespace) -> None:
    """Converts a CLIP to the Hub's layout, which is read without PyTorch.

        mpafer-jax clip convert ~/.cache/clip/ViT-B-16.pt clips/vit_b16
        mpafer-jax clip convert ViT-B/16 clips/vit_b16

    Writes config.json, model.safetensors, the tokenizer's files and, where mean and standard deviation of the images
    are known, preprocessor_config.json. `--config.clip.name=clips/vit_b16` takes that folder, as transformers does. In
    float32 it counts as the same CLIP as SOURCE: prompts trained on one fit the other. docs/clip.md lists what is read,
    and what files do not say.
    """
    from mpafer_jax.backbones.convert import convert_clip

    clip = convert_clip(
        arguments.source,
        arguments.out,
        dtype=arguments.dtype,
        revision=arguments.revision,
        cache_dir=arguments.cache_dir,
        activation=arguments.activation,
    )
    spec = clip.backbone.spec
    print(
        f"{arguments.out}: {spec.vision.num_layers} layers of {spec.vision.width} for images of {spec.image_size} "
        f"pixels, {spec.text.num_layers} of {spec.text.width} for texts; content hash {clip.content_hash[:16]}"
    )
    if clip.image_mean is None:
        print(
            "The source says no mean and standard deviation of its images, so there is no preprocessor_config.json: "
            "training takes config.data.mean and config.data.std, prediction with --zero_shot needs the file"
        )
