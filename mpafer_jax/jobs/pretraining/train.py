"""Contrastive image-text pre-training of a small CLIP."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import time
from collections.abc import Callable
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.artifacts.description import Described, package_versions
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import CLIP, ClipConfig, plain_config
from mpafer_jax.backbones.clip.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from mpafer_jax.backbones.files import CONFIG
from mpafer_jax.config.fields import FrozenModel
from mpafer_jax.data import pipeline
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.jobs.fit import Loop, fit
from mpafer_jax.jobs.pretraining import batches, evaluation, steps, teacher
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.jobs.pretraining.initial import initial_params, mimetic, whiten_patches
from mpafer_jax.jobs.pretraining.labelled import read_labelled
from mpafer_jax.jobs.pretraining.optimizer import make_optimizer
from mpafer_jax.jobs.pretraining.sources import CaptionedImages, load_source
from mpafer_jax.method import optim
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.templates import every_prompt
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics
from mpafer_jax.runtime import devices, distributed, files, preemption, progress
from mpafer_jax.runtime.errors import ConfigError, DataError

CLIP_FOLDER, TOKENIZER_FOLDER, IMAGES_FOLDER, TEACHER_FOLDER = "clip", "tokenizer", "images", "teacher"
_WHITENED = 512  # images for whitening the patch embedding: 32,768 patches for the CLIPs that ship


class PretrainDescription(Described):
    """Description stored in a pre-training checkpoint.

    Attributes:
      data: fingerprint of the images and captions.
      vocab_size: number of tokens.
      vocabulary: digest of the tokens and merges; empty in checkpoints of earlier versions.
      versions: of packages.
      hours: training time over all starts of the run; 0 if unknown.
    """

    config_kind: ClassVar[type[FrozenModel]] = PretrainConfig

    data: str
    vocab_size: int
    versions: dict[str, str]
    vocabulary: str = ""
    hours: float = 0.0

    def unchanged(self) -> dict[str, Any]:
        """The data and the vocabulary, which must not change on resume."""
        learned = {"the vocabulary": self.vocabulary} if self.vocabulary else {}
        return {"the training data": self.data, "the vocabulary's size": self.vocab_size, **learned}


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Everything that pre-training reads."""

    config: PretrainConfig
    workdir: pathlib.Path
    model: CLIP
    train: CaptionedImages
    held_out: CaptionedImages
    tokenizer: Tokenizer
    make_batch: batches.TrainBatches
    statement_texts: batches.StatementTexts | None
    evaluator: evaluation.Evaluator
    description: PretrainDescription
    schedule: optax.Schedule
    tx: optax.GradientTransformation


def pretrain(config: PretrainConfig, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a CLIP and writes it to `<workdir>/clip` in the Hub's layout, and `<workdir>/summary.json`.

    A rerun with the same arguments resumes.

    Raises:
      CheckpointError: images or captions have changed since the checkpoint.
      ConfigError: the configuration does not fit the workdir, the devices or the images, or the processes have
        different configurations, vocabularies or packages.
      DataError: images or captions are missing or invalid.
      NonFiniteError: a loss term, parameter or feature became NaN or infinite.
      PromptError: a description bank is missing, or a caption has more tokens than the text tower has positions.
      signals.Preempted: stopped on request; the state is saved.
    """
    with preemption.Notice() as notice:
        workdir_lib.check(workdir, config)
        workdir_lib.check_same(config)
        workdir_lib.check_shared(workdir)
        with workdir_lib.hold(workdir, config):
            run = prepare(config, workdir)
            run.description.check_same()
            return _run(run, train_teacher(run, notice) if config.teacher.num_steps else None, notice)


def _run(run: Pretraining, taught_by: teacher.Teacher | None, notice: preemption.Notice) -> dict[str, Any]:
    config, workdir = run.config, run.workdir
    writes = distributed.is_first()
    saved = Checkpoints(workdir, keep=config.train.keep, select_by="")
    start = time.monotonic()
    try:
        state = first_state(run)
        state = saved.restore_latest(devices.replicate(state), run.description) or devices.replicate(state)
        announce(run, state)
        if writes:
            workdir_lib.claim(workdir, config)
        earlier = saved.latest_description(PretrainDescription)
        before = earlier.hours if earlier else 0.0
        loop = make_loop(run, lambda: before + (time.monotonic() - start) / 3600, taught_by)
        state = fit(loop, state, saved, notice)
        described = saved.latest_description(PretrainDescription)
    finally:
        saved.close()
    metrics = run.evaluator(devices.to_host(state.params)["clip"])
    summary = {
        "held_out": metrics,
        "images": len(run.train),
        "held_out_images": len(run.held_out),
        "parameters": int(sum(x.size for x in jax.tree.leaves(state.params["clip"]))),
        "hours": described.hours if described else 0.0,
        "config": config.model_dump(mode="json"),
        "data": run.description.data,
        "versions": run.description.versions,
    }
    if writes:
        write_clip(run, devices.to_host(state.params)["clip"])
        files.write_json(workdir / workdir_lib.SUMMARY, summary)
    return summary


def train_teacher(run: Pretraining, notice: preemption.Notice) -> teacher.Teacher:
    """Trains the teacher in `<workdir>/teacher`, from its last checkpoint on if there is one."""
    config, data, section = run.config, run.config.data, run.config.teacher
    vision, groups = run.model.config.vision, run.train.groups()
    workdir = run.workdir / TEACHER_FOLDER
    net = teacher.ConvNet(section.widths, section.layers, len(run.train.statements))
    schedule = optim.make_schedule(
        learning_rate=section.learning_rate,
        warmup_steps=min(config.optimizer.warmup_steps, section.num_steps // 10),
        num_steps=section.num_steps,
    )
    tx = make_optimizer(schedule, weight_decay=section.weight_decay, clip_norm=1.0, matrices=teacher.kernels)
    variables = teacher.init(net, vision.image_size, config.seed)
    step = progress.announcing(
        teacher.make_train_step(net, tx, groups, data.mean, data.std), "compiling the teacher's training step"
    )
    make_batch = dataclasses.replace(run.make_batch, seed=config.seed + 1, kept_until=0)

    def as_function(variables: teacher.Variables) -> teacher.Teacher:
        return teacher.make_teacher(net, variables, data.mean, data.std, vision.image_size // vision.patch_size)

    def answer(variables: teacher.Variables, image: jax.Array) -> jax.Array:
        return as_function(variables)(image)[0]

    compiled = cast(Callable[..., jax.Array], jax.jit(answer))

    def evaluate(params: teacher.Variables) -> tuple[str, dict[str, float], str]:
        variables = devices.to_host(params)
        chunks = evaluation.chunks(run.held_out, vision.image_size)
        parts = [np.asarray(compiled(variables, chunk)) for chunk in chunks]
        logits = np.concatenate(parts)[: len(run.held_out)]
        return _held_out(evaluation.recalls(logits, run.held_out.truth, groups))

    loop = Loop(
        workdir=workdir,
        num_steps=section.num_steps,
        every=config.train,
        batches=lambda first: pipeline.iterate(make_batch, first, section.num_steps, data.num_workers),
        update=lambda _, state, batch: step(state, batch),
        schedule=schedule,
        evaluate=evaluate if groups else None,
        describe=lambda: run.description,
        shown=("loss",),
    )
    progress.fact("teacher", f"{sum(x.size for x in jax.tree.leaves(variables['params'])):,} parameters")
    saved = Checkpoints(workdir, keep=config.train.keep, select_by="")
    try:
        state = TrainState(step=jnp.zeros((), jnp.int32), params=variables, opt_state=tx.init(variables["params"]))
        state = saved.restore_latest(devices.replicate(state), run.description) or devices.replicate(state)
        if distributed.is_first():
            workdir_lib.claim(run.workdir, config)
        state = fit(loop, state, saved, notice)
    finally:
        saved.close()
    return as_function(devices.to_host(state.params))


def announce(run: Pretraining, state: TrainState) -> None:
    """Logs what is trained, on what, and where."""
    progress.fact("data", f"{len(run.train):,} images with captions, {len(run.held_out):,} held out")
    number = sum(x.size for x in jax.tree.leaves(state.params["clip"]))
    progress.fact("trained", f"{number:,} parameters, a vocabulary of {run.tokenizer.vocab_size:,} tokens")
    progress.fact("steps", f"{run.config.train.num_steps:,} of {run.config.train.batch_size} images")
    progress.fact("workdir", str(run.workdir))


def prepare(config: PretrainConfig, workdir: pathlib.Path) -> Pretraining:
    """Opens the images, makes the vocabulary and encodes all captions."""
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    schedule = optim.make_schedule(
        learning_rate=config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps,
        num_steps=config.train.num_steps,
    )
    for name in config.model.vocabulary_banks:  # a missing bank fails before faces are drawn
        load_bank(name)
    train_part, held_out = open_images(config, workdir / IMAGES_FOLDER)
    if differing := distributed.disagreement(f"{len(train_part)} images ({train_part.fingerprint[:16]})"):
        raise DataError(
            f"the processes of this run have read different images or captions: {differing}. Give every host the same "
            "files in config.data.dir"
        )
    _check_terms(config, train_part)
    positions = config.model.max_position_embeddings
    tokenizer = make_vocabulary(train_part, config, workdir / TOKENIZER_FOLDER)
    model = CLIP(clip_config(config, tokenizer))
    red, green, blue = (round(255 * value) for value in config.data.mean)
    patches = model.config.vision.num_patches
    make_batch = batches.TrainBatches(
        data=train_part,
        captions=batches.CaptionTable.of(train_part.captions, tokenizer.encode_many, positions),
        order=pipeline.ShuffledOrder(config.seed, len(train_part)),
        augment=config.data.augment,
        image_size=config.model.image_size,
        batch_size=config.train.batch_size,
        seed=config.seed,
        local=pipeline.local_positions(config.train.batch_size, jax.process_index(), jax.process_count()),
        fill=(red, green, blue),
        token_noise=config.loss.token_noise,
        vocab_size=tokenizer.vocab_size,
        num_patches=patches,
        kept_patches=max(1, round(config.train.kept_patches * patches)),
        kept_until=config.loss.attributes_alone_steps if train_part.statements else 0,
    )
    phrasings = [statement.phrasings for statement in train_part.statements]
    texts = batches.CaptionTable.of(phrasings, tokenizer.encode_many, positions) if phrasings else None
    return Pretraining(
        config=config,
        workdir=workdir,
        model=model,
        train=train_part,
        held_out=held_out,
        tokenizer=tokenizer,
        make_batch=make_batch,
        statement_texts=None if texts is None else batches.StatementTexts(texts, config.seed),
        evaluator=evaluation.make_evaluator(config, model, held_out, tokenizer),
        description=PretrainDescription(
            config=config.model_dump(mode="json"),
            data=train_part.fingerprint,
            vocab_size=tokenizer.vocab_size,
            vocabulary=_digest(workdir / TOKENIZER_FOLDER),
            versions=package_versions(),
        ),
        schedule=schedule,
        tx=make_optimizer(schedule, weight_decay=config.optimizer.weight_decay, clip_norm=config.optimizer.clip_norm),
    )


def open_images(config: PretrainConfig, folder: pathlib.Path) -> tuple[CaptionedImages, CaptionedImages]:
    """The images of the source and then the labelled ones: a training part, and one for evaluation.

    Args:
      folder: see `sources.load_source`.
    """
    data = config.data
    parts = [load_source(data, config.model.image_size, folder)] if data.source != "none" else []
    if data.labelled.dataset:
        parts.append(read_labelled(data.labelled, config.seed))
    train_parts, held_out = zip(*parts, strict=True)
    joined = CaptionedImages.joined
    return functools.reduce(joined, train_parts), functools.reduce(joined, held_out)


def _check_terms(config: PretrainConfig, data: CaptionedImages) -> None:
    if data.statements:
        if config.loss.attributes_alone_steps >= config.train.num_steps:
            raise ConfigError(
                f"config.train.num_steps is {config.train.num_steps} and config.loss.attributes_alone_steps is "
                f"{config.loss.attributes_alone_steps}: the text tower, which learns after these, would not be "
                "trained; train longer, or lower the latter"
            )
        return
    if config.teacher.num_steps:
        raise ConfigError(
            f"config.teacher.num_steps is {config.teacher.num_steps} and the images come without attributes, which are "
            "what a teacher learns; set it to 0, or give the images attributes"
        )
    if not config.loss.contrastive:
        raise ConfigError(
            "config.loss.contrastive is 0 and the images come without attributes, so that nothing would be trained; "
            "give contrastive a weight, or the images attributes"
        )
    logging.info(
        "the images come without attributes: the loss is the contrast alone, from the first update on "
        "(loss.statements, local_statements, attributes and attributes_alone_steps do not apply)"
    )


def make_vocabulary(data: CaptionedImages, config: PretrainConfig, folder: pathlib.Path) -> Tokenizer:
    """Learns a byte-pair vocabulary from the captions and the hard prompts of the configured banks.

    The banks make class names single tokens. Words that occur in no caption stay untrained. Process 0 writes it, the
    others read it.
    """
    texts = data.texts()
    for name in config.model.vocabulary_banks:
        # Repeated like a frequent caption; rare words would get no token.
        texts += 100 * every_prompt(load_bank(name))
    if distributed.is_first():
        try:
            train_tokenizer(texts, folder, config.model.vocab_size)
        except ValueError as error:
            raise ConfigError(f"config.model.{error}") from error
    distributed.wait_for_all("vocabulary written")
    return load_tokenizer(folder)


def _digest(tokenizer: pathlib.Path) -> str:
    """Of the tokens and merges of a tokenizer's folder."""
    content = b"".join((tokenizer / name).read_bytes() for name in ("vocab.json", "merges.txt"))
    return hashlib.sha256(content).hexdigest()


def clip_config(config: PretrainConfig, tokenizer: Tokenizer) -> ClipConfig:
    """Shape of the CLIP: plain ViT and text transformer with MLPs of four times the width."""
    sizes, vision, text = config.model, config.model.vision, config.model.text
    return plain_config(
        (vision.hidden_size, vision.num_layers, vision.num_heads),
        (text.hidden_size, text.num_layers, text.num_heads),
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        projection_dim=sizes.projection_dim,
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.eos_id,
        max_position_embeddings=sizes.max_position_embeddings,
    )


def first_state(run: Pretraining) -> TrainState:
    """A CLIP with random weights and a whitened patch embedding, the discarded head, and a fresh optimizer."""
    clip = initial_params(run.model.config, run.config.seed)
    if run.config.model.initial == "mimetic":
        clip["visual"] = mimetic(clip["visual"], run.model.config.vision, run.config.seed)
    vision, data = run.model.config.vision, run.config.data
    number = min(_WHITENED, len(run.train))
    images = evaluation.resized(run.train, range(number), vision.image_size)
    clip["visual"]["patch_embedding"]["kernel"] = whiten_patches(
        np.asarray(normalize_images(jnp.asarray(images), data.mean, data.std)),
        vision.patch_size,
        vision.hidden_size,
        run.config.seed,
    )
    guided = run.config.teacher.num_steps and run.config.loss.guidance
    maps = teacher.num_maps(run.config.teacher.widths) if guided else 0
    params = {
        "clip": jax.device_put(clip),
        "head": steps.init_head(run.model, len(run.train.statements), maps, run.config.seed),
    }
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=run.tx.init(params))


def _held_out(measured: dict[str, float]) -> tuple[str, dict[str, float], str]:
    """What `Loop.evaluate` returns."""
    return "held_out", measured, ", ".join(f"{name} {value:.3f}" for name, value in measured.items())


def _weights(run: Pretraining, *, alone: bool, taught: bool) -> steps.Weights:
    loss = run.config.loss
    terms = {"contrastive": loss.contrastive}
    if run.train.statements:
        others = {"statements": loss.statements, "local_statements": loss.local_statements}
        terms = {**({} if alone else {**terms, **others}), "attributes": loss.attributes}
        terms |= {"guidance": loss.guidance} if taught else {}
    return {name: weight for name, weight in terms.items() if weight}


def make_loop(run: Pretraining, hours: Callable[[], float], taught_by: teacher.Teacher | None = None) -> Loop:
    """The run as a `Loop` for `fit`; `hours` is the training time so far, over all starts of the run."""
    every = run.config.train
    update_by = {
        alone: progress.announcing(_make_step(run, taught_by, alone=alone), "compiling the training step")
        for alone in (True, False)
    }
    alone_steps = run.config.loss.attributes_alone_steps if run.train.statements else 0

    def update(step: int, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        statements = run.statement_texts.draw(step) if run.statement_texts else {}
        return update_by[step <= alone_steps](state, statements, batch)

    def evaluate(params: dict[str, Any]) -> tuple[str, dict[str, float], str]:
        return _held_out(run.evaluator(devices.to_host(params)["clip"]))

    return Loop(
        workdir=run.workdir,
        num_steps=every.num_steps,
        every=every,
        batches=lambda first: pipeline.iterate(run.make_batch, first, every.num_steps, run.config.data.num_workers),
        update=update,
        schedule=run.schedule,
        evaluate=evaluate,
        describe=lambda: run.description.model_copy(update={"hours": hours()}),
        shown=(
            "loss",
            "contrastive",
            "caption_accuracy",
            "statements",
            "local_statements",
            "attributes",
            "guidance",
            "logit_scale",
        ),
        end_of_stage=alone_steps,
    )


def _make_step(run: Pretraining, taught_by: teacher.Teacher | None, *, alone: bool) -> steps.Step:
    return steps.make_train_step(
        model=run.model,
        tx=run.tx,
        terms=steps.Terms(
            weights=_weights(run, alone=alone, taught=taught_by is not None),
            top_k=run.config.loss.top_k,
            groups=run.train.groups(),
            teacher=taught_by,
            taught=run.config.teacher.share,
        ),
        mean=run.config.data.mean,
        std=run.config.data.std,
    )


def write_clip(run: Pretraining, params: dict[str, Any]) -> pathlib.Path:
    """Writes the CLIP in the Hub's layout to `<workdir>/clip`, unless it exists."""
    folder = run.workdir / CLIP_FOLDER
    if (folder / CONFIG).is_file():  # written atomically, and the workdir belongs to this configuration
        logging.info("%s is there already and stays as it is", folder)
        return folder
    save_clip(
        folder,
        config=run.model.config,
        params=jax.tree.map(np.asarray, params),
        tokenizer_folder=run.workdir / TOKENIZER_FOLDER,
        image_mean=run.config.data.mean,
        image_std=run.config.data.std,
        grayscale=run.config.data.grayscale_at_use,
    )
    logging.info("written: %s", folder)
    return folder
