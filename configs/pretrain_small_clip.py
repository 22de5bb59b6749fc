"""Pre-training of `small-face-clip`, on drawn faces and on FERPlus' training photographs.

    mpafer-jax clip pretrain --config=configs/pretrain_small_clip.py --workdir=runs/small_clip \\
      --config.data.labelled.dir=/data/FERPlus
"""

from ml_collections import ConfigDict

from mpafer_jax.jobs.pretraining.config import PretrainConfig


def get_config() -> ConfigDict:
    config = ConfigDict(PretrainConfig().model_dump())
    config.model.image_size, config.model.patch_size = 48, 6
    config.model.vision.num_layers, config.model.initial = 6, "mimetic"
    config.data.images, config.data.held_out = 5256, 256
    config.data.grayscale_at_use = True  # of the photographs none have colours
    config.data.labelled.dataset = "ferplus"
    config.data.labelled.label_rule = "majority_votes"
    config.data.augment.crop_scale, config.data.augment.crop_ratio = (0.7, 1.0), (0.85, 1.18)
    config.data.augment.brightness = config.data.augment.contrast = 0.3
    config.loss.guidance, config.loss.attributes_alone_steps = 5.0, 5400
    config.optimizer.learning_rate = 3.0e-3
    config.train.kept_patches, config.train.num_steps = 0.5, 6600
    config.teacher.num_steps = 2000
    return config.lock()
