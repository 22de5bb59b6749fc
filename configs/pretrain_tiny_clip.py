"""Pre-training of `tiny-face-clip`, which ships with the package, on drawn faces with captions.

    mpafer-jax clip pretrain --config=configs/pretrain_tiny_clip.py --workdir=runs/tiny_clip

The captions say what is seen (brows, lids, nose, lips, hair, light) and never name an expression. For images of your
own: `--config.data.source=folder --config.data.dir=FOLDER` (images with a metadata.jsonl), or `tfds`. What comes out
is `WORKDIR/clip`, a folder in the Hub's layout.
"""

from ml_collections import ConfigDict

from mpafer_jax.jobs.pretraining.config import PretrainConfig


def get_config() -> ConfigDict:
    return ConfigDict(PretrainConfig().model_dump()).lock()
