"""Pre-training of the small CLIP that ships with the package, on drawn faces with captions.

    python -m mpafer_jax.cli.pretrain_clip --config=configs/pretrain_tiny_clip.py --workdir=runs/tiny_clip

The captions say what is seen (brows, lids, nose, lips, hair, light) and never name an expression. For images of your
own: `--config.data.source=folder --config.data.dir=FOLDER` (images with a metadata.jsonl), or `tfds`. What comes out
is `WORKDIR/clip`, a folder in the Hub's layout.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Seed of the weights, the order, the augmentation and the choice of captions.
    config.seed = 0

    config.model = model = ConfigDict()
    # Towers: width, layers, heads. MLPs are four times as wide.
    model.vision = ConfigDict({"hidden_size": 128, "num_layers": 4, "num_heads": 4})
    model.text = ConfigDict({"hidden_size": 96, "num_layers": 3, "num_heads": 4})
    # D, size of the joint space.
    model.projection_dim = 64
    # Sides of images and of patches, in pixels.
    model.image_size = 96
    model.patch_size = 12
    # Tokens at most.
    model.vocab_size = 1500
    # Banks whose words the vocabulary shall know besides those of the captions.
    model.vocabulary_banks = ("expressions", "compound")
    # Tokens that a text may have.
    model.max_position_embeddings = 77

    config.data = data = ConfigDict()
    # synthface (drawn here), folder (images and metadata.jsonl), or tfds (prepared as array_record).
    data.source = "synthface"
    # synthface: where drawn faces are kept (empty: 'images' in the workdir). folder: which. tfds: its data_dir.
    data.dir = ""
    # tfds: 'dataset:version/split', and the names of the features with the image and the caption(s); one inside
    # another is written with a slash, as in 'captions/text'.
    data.name = ""
    data.image_feature = "image"
    data.text_feature = "caption"
    # Images at the end that training never sees; retrieval and statements are measured on them.
    data.held_out = 1024
    # synthface: images in all, held-out ones included; the styles, drawn evenly; the seed of the faces.
    data.images = 40000
    data.styles = ("colour", "paint", "grey")
    data.seed = 1
    # Mean and standard deviation of each colour, on the scale 0..1. [CLIP's]
    data.mean = (0.48145466, 0.4578275, 0.40821073)
    data.std = (0.26862954, 0.26130258, 0.27577711)
    # Processes that decode and augment; 0: threads of this one.
    data.num_workers = 0

    # Strengths as in configs/common.py. Mirroring must not change what captions say.
    data.augment = augment = ConfigDict()
    augment.crop_scale = (0.85, 1.0)
    augment.crop_ratio = (0.9, 1.1)
    augment.flip = 0.5
    augment.brightness = 0.0
    augment.contrast = 0.0
    augment.saturation = 0.0
    augment.hue = 0.0
    augment.erase = 0.25
    augment.erase_scale = (0.02, 0.1)

    config.loss = loss = ConfigDict()
    # Weight of the symmetric image-text contrast (Radford et al., 2021), negatives over all devices.
    loss.contrastive = 1.0
    # Weight of telling true statements from false ones by the whole image; 0 leaves it out, as everywhere.
    loss.statements = 5.0
    # The same by the k patches that agree most with a statement: patches come to mean something.
    loss.local_statements = 5.0
    # The same by a linear reading of all patches, which is thrown away at the end.
    loss.attributes = 5.0
    # So many first updates have that last term alone.
    loss.attributes_alone_steps = 500
    # k, the patches that speak for a statement.
    loss.top_k = 4
    # Probability that a token of a caption is replaced by a random one.
    loss.token_noise = 0.05

    config.optimizer = optimizer = ConfigDict()
    # Peak learning rate of Muon (the layers' matrices) and of AdamW (all else), then cosine decay to 0.
    optimizer.learning_rate = 5.0e-3
    # Share of the learning rate by which the layers' matrices shrink at every update.
    optimizer.weight_decay = 0.05
    # Updates of linear warm-up.
    optimizer.warmup_steps = 100
    # Largest global norm of the gradient, 0 for no limit.
    optimizer.clip_norm = 1.0

    config.train = train = ConfigDict()
    # Images of one update, over all devices; each is told apart from all the others.
    train.batch_size = 128
    train.num_steps = 5000
    # Updates between lines of metrics, evaluations on held-out images, and checkpoints.
    train.log_every = 50
    train.eval_every = 500
    train.checkpoint_every = 500
    # How many of the newest checkpoints are kept.
    train.keep = 2
    return config.lock()
