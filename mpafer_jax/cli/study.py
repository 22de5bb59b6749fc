"""`mpafer-jax study`: many runs, checkpoints or images, and the table of them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mpafer_jax.cli.parser import UsageError, checked, several, whole_numbers
from mpafer_jax.cli.runner import ANY_CHECKPOINT, CLIP, WHICH, WORKDIR, argument, command, number, path, refuse_idle
from mpafer_jax.runtime import files


def _paths(text: str) -> list[Path]:
    return [files.local_path(name, "--reuse") for name in text.split(",")]


@command(
    "study sweep",
    argument("--sweep", required=True, help="sweep file and its argument, as above"),
    path("--workdir", required=True, help="folder of the sweep"),
    argument("--seeds", type=whole_numbers, default=[], help="with commas between them (default: the sweep's, 0,1,2)"),
    argument("--folds", type=whole_numbers, default=[], help="of video clips, in place of seeds: 1,2,3,4,5"),
    argument("--only", type=several(), default=(), help="points or tables to run, with commas between them"),
    number("--trials", 0, help="of the search for each method, if the sweep has one (default: the sweep's); 0: none"),
    number("--jobs", 1, help="runs at once (default: 1; with --gpus one for each)"),
    number("--together", 1, default=1, help="runs of one shape that a job trains at once (default: 1)"),
    argument("--gpus", type=several(), default=(), help="numbers of GPUs; a job runs on one of them"),
    number("--retries", 0, default=1, help="how often what failed is started again"),
    argument("--reuse", type=checked(_paths), default=[], help="folders of sweeps whose equal runs to take"),
    argument("--dry_run", action="store_true", help="print the commands that are left to run, and run none"),
    argument("--slurm", action="store_true", help="queue the runs as an array of Slurm jobs"),
    argument("--sbatch", type=shlex.split, default=[], help="with --slurm: options of sbatch, as one word"),
    passes_on=True,
)
def sweep(arguments: argparse.Namespace) -> int:
    """Runs the configurations of a sweep over several seeds, or folds, and makes their table.

        mpafer-jax study sweep --sweep=configs/sweeps/components.py:quickstart --workdir=runs/components
        mpafer-jax study sweep --sweep=configs/sweeps/top_k.py:rafdb --workdir=runs/top_k --config.data.dir=/data/RAF-DB

    From the root of the checkout. Every run is an ordinary one of `python -m mpafer_jax.main`, in
    `<workdir>/<table>/<point>/seed_<n>`: what has ended is not made again, what was stopped goes on, what failed is
    tried again, so the same command resumes wherever it stopped. `--config.field=value` changes the base of all runs.
    After every run results.md, results.csv, results.tex and results.png are written anew (docs/experiments.md says how
    to read them).

    A sweep with trials, as configs/sweeps/methods.py, searches each method's hyper-parameters first, on validation, and
    then runs what was chosen over other seeds; search.md and search.json have ranges, trials and chosen values.

    Exit code 1: runs failed, the others have ended.
    """
    here = "runs on this machine, and --slurm queues them"
    refuse_idle(
        arguments,
        dict.fromkeys(("--gpus", "--retries", "--together"), here) if arguments.slurm else {"--sbatch": "--slurm"},
    )
    from absl import logging

    from mpafer_jax.jobs.sweeps import launch, report
    from mpafer_jax.jobs.sweeps.sweep import Record
    from mpafer_jax.runtime import console

    for folder in arguments.reuse:
        Record.read(folder)  # refuses a folder that holds no sweep
    root: Path = arguments.workdir
    chosen = {name: getattr(arguments, name) for name in ("seeds", "folds", "only", "trials")}
    plan = launch.Plan.make(arguments.sweep, root, arguments.rest, **chosen)
    if arguments.slurm:
        print(plan.queue(arguments.jobs or 0, arguments.sbatch, arguments.reuse, dry_run=arguments.dry_run))
        return 0
    if arguments.dry_run:
        print("".join(f"{line}\n" for line in plan.commands()), end="")
        return 0
    jobs = arguments.jobs or len(arguments.gpus) or 1
    tables, failures = plan.run(
        jobs=jobs,
        retries=arguments.retries,
        gpus=arguments.gpus,
        together=arguments.together,
        others=arguments.reuse,
    )
    console.markdown(tables.text("markdown"))
    logging.info("the same as files: %s", ", ".join(str(tables.root / name) for name in report.FORMATS.values()))
    for failure in failures:
        logging.error("failed: %s: %s", failure.run.name, failure.reason)
    return 1 if failures else 0


def _member(run: str) -> tuple[Path, str, list[str]]:
    """Workdir, FILE of --config=FILE, and the words --config.field=value of a run that is given as one word."""
    expected = "expected 'WORKDIR --config=FILE --config.field=value ...', as one word"
    try:
        words = shlex.split(run)
    except ValueError as error:
        raise UsageError(f"RUN cannot be read: {run} ({error})") from error
    if not words:
        raise UsageError(f"RUN is empty; {expected}")
    folders, bases, changes = list[str](), list[str](), list[str]()
    for word in words:
        if word.startswith("--config="):
            bases.append(word.removeprefix("--config="))
        elif word.startswith("--config.") and "=" in word:
            changes.append(word)
        elif word.startswith("-"):
            raise UsageError(f"RUN holds {word}: {run}; {expected}")
        else:
            folders.append(word)
    for what, found in (("workdir", folders), ("configuration", bases)):
        if len(found) != 1:
            named = f"{len(found)} {what}s, {' and '.join(found)}" if found else f"no {what}"
            raise UsageError(f"RUN names {named}: {run}; {expected}")
    return files.any_path(folders[0], "RUN"), bases[0], changes


@command(
    "study group",
    argument("runs", nargs="+", metavar="RUN", help="'WORKDIR --config=FILE --config.field=value', as one word"),
    processes=True,
)
def group(arguments: argparse.Namespace) -> int:
    """Trains several runs at once that differ only in seeds and numbers, such as the learning rate.

        mpafer-jax study group 'runs/a --config=configs/quickstart.py --config.seed=0' \\
          'runs/b --config=configs/quickstart.py --config.loss.beta=0.5'

    One compiled step trains all of them. Each leaves in its folder what the main command leaves, and the same command
    resumes them. Runs that differ in more are trained one by one.

    Exit code 1: runs failed, the others have ended.
    """
    from absl import logging

    from mpafer_jax.config.schema import Config
    from mpafer_jax.evaluation import table
    from mpafer_jax.jobs import group
    from mpafer_jax.jobs.sweeps import plan
    from mpafer_jax.runtime import console, distributed

    members = [_member(words) for words in arguments.runs]
    folders = [folder for folder, _, _ in members]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"two runs have the workdir {folder}; give each a folder")
    configs: list[Config] = []
    for folder, base, changes in members:
        with group.naming(folder):
            configs.append(plan.parse(base, changes))
    results = group.train_group(list(zip(configs, folders, strict=True)))
    failed = 0
    for folder, result in zip(folders, results, strict=True):
        if isinstance(result, Exception):
            failed += 1
            logging.error("failed: %s: %s", folder, result)
        elif distributed.is_first():
            console.markdown(f"{folder}\n\n{table.render(result)}")
    return 1 if failed else 0


@command(
    "study tables",
    path("folders", nargs="+", metavar="folder", help="of sweeps"),
    argument("--format", choices=("markdown", "csv", "latex"), default="markdown", help="what is printed"),
    argument("--baseline", default="", help="row that the others are compared with (default: the sweep's)"),
)
def tables(arguments: argparse.Namespace) -> None:
    """Makes the tables of sweeps from the runs in their folders.

        mpafer-jax study tables runs/components --baseline=text_only
        mpafer-jax study tables runs/components runs/top_k --format=latex

    A sweep's folder is what `study sweep` leaves; results.md, results.csv, results.tex and results.png in it are
    written anew, and one of the first three is printed. docs/experiments.md says how to read them.
    """
    from mpafer_jax.jobs.sweeps import report
    from mpafer_jax.runtime import console

    for found in [report.read(folder, arguments.baseline) for folder in arguments.folders]:
        found.write()
        show = console.markdown if arguments.format == "markdown" else console.line
        show(found.text(arguments.format))


@command(
    "study ranks",
    path("folders", nargs="+", metavar="folder", help="of sweeps"),
    argument("--metric", choices=("war", "uar"), default="war", help="what is ranked (default war, the accuracy)"),
)
def ranks(arguments: argparse.Namespace) -> None:
    """Ranks methods over datasets: which differ, by Friedman's test and Nemenyi's critical difference.

        mpafer-jax study ranks runs/methods_rafdb runs/methods_ferplus runs/methods_affectnet7

    Every table of the sweeps is a dataset; methods are the rows that all of them have, by name. Prints the table;
    docs/experiments.md says how to read it.
    """
    from mpafer_jax.jobs.sweeps import ranks, report
    from mpafer_jax.runtime import console

    console.markdown(ranks.render([report.read(folder) for folder in arguments.folders], arguments.metric))


@command(
    "study base-to-new",
    WORKDIR,
    argument("--seeds", type=whole_numbers, default=[0], help="of the runs and of their few-shot draws (default 0)"),
    config=True,
    processes=True,
)
def base_to_new(arguments: argparse.Namespace) -> None:
    """Base-to-new generalisation: trains on half of the classes, tests on either half.

        mpafer-jax study base-to-new --config=configs/rafdb.py --workdir=runs/base_to_new \\
          --config.data.dir=/data/RAF-DB --config.data.train_per_class=16 --config.train.num_steps=600 \\
          --config.train.num_epochs=0 --seeds=0,1,2

    The classes are the dataset's, in its order, or those of `data.class_names` in theirs; the first half, rounded up,
    is trained on. The other half's names are put behind the learned context, which therefore has to be one that all
    classes share (`ctx.class_specific=False`). Beside it stands the same CLIP without training, under the configured
    hard prompts.

    Leaves `base_to_new.md` and `base_to_new.json`, and for each seed an ordinary run in `seed_N`. The same command goes
    on with what is missing.
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.config.semantics import SEED_FIELDS
    from mpafer_jax.jobs.studies import base_to_new
    from mpafer_jax.runtime import console, distributed

    if own := [name for name in base_to_new.OWN_FIELDS if name in arguments.fields]:
        by = "what --seeds sets" if own[0] in SEED_FIELDS else "set by this command"
        raise UsageError(f"--config.{own[0]} is {by}; leave it out")
    text = base_to_new.measure(Config.from_config_dict(arguments.config), arguments.workdir, arguments.seeds)
    if distributed.is_first():
        console.markdown(text)


@command(
    "study cross-dataset",
    WORKDIR,
    argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a workdir or checkpoint, once for each; by default its name is the folder's. name='PATH/seed_*' makes "
        "one row of several runs",
    ),
    argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="name=FILE[:arguments] field=value ..., as after --config; once for each further dataset",
    ),
    argument(
        "--noown_datasets", action="store_true", help="the datasets that the checkpoints were trained on are no columns"
    ),
    argument(
        "--classes",
        choices=("common", "checkpoint", "dataset"),
        default="common",
        help="which to choose among, as config.eval.classes says",
    ),
    WHICH,
    argument(
        "--clip",
        action="append",
        default=[],
        help="where a checkpoint's CLIP is now, if not where it was; once for each such CLIP",
    ),
    number("--batch_size", 0, default=0, help="images at once; 0: as configured (default)"),
    processes=True,
)
def cross_dataset(arguments: argparse.Namespace) -> None:
    """Evaluates checkpoints on datasets, each on each: how well they carry over.

        mpafer-jax study cross-dataset --workdir=runs/matrix \\
          --checkpoint=runs/rafdb --checkpoint=runs/ferplus --checkpoint=affectnet=runs/affectnet7 \\
          --dataset='jaffe=configs/jaffe.py:whole data.dir=/data/JAFFE' \\
          --dataset='fer2013=configs/fer2013.py data.dir=/data/FER2013'

    The columns are the test splits of the datasets that the checkpoints were trained on, and those of --dataset.
    Classes are matched by name. By default a checkpoint chooses among the classes that it shares with the dataset
    (--classes=common), and images of others are left out and counted. Runs over several seeds are one row, with mean
    and sample standard deviation, where a checkpoint is given as --checkpoint='rafdb=runs/seeds/all/full/seed_*'.

    Leaves `matrix.md`, `matrix.json`, `matrix.png` and a file for each cell in the workdir. The same command resumes
    with the cells that are missing, or that are of other prompts or images.
    """
    from mpafer_jax.artifacts import checkpoints
    from mpafer_jax.jobs.studies import cross_dataset as study
    from mpafer_jax.runtime import console, distributed

    paths = [study.parse_named(text, "checkpoint")[1] for text in arguments.checkpoint]
    if single := [place for place in paths if checkpoints.holds_one(place)]:
        refuse_idle(arguments, {"--which": f"{checkpoints.SEVERAL}, which {single[0]} is not"})
    rows = study.load_checkpoints(arguments.checkpoint, arguments.which)
    own = not arguments.noown_datasets
    targets = study.load_targets(rows, arguments.dataset, own=own, batch_size=arguments.batch_size)
    text = study.measure(rows, targets, arguments.workdir, arguments.classes, arguments.words, arguments.clip)
    if distributed.is_first():
        console.markdown(text)


@command(
    "study faithfulness",
    argument("--checkpoint", required=True, metavar="RUN", help=ANY_CHECKPOINT),
    WHICH,
    CLIP,
    number(
        "--images",
        0,
        default=200,
        help="of the test split, drawn by --curves_seed; 0 for all (default 200)",
    ),
    number("--curve_steps", 2, default=16, help="parts that are deleted and inserted"),
    number("--curves_seed", 0, default=0, help="of the images' choice and the random maps"),
    path("--curves", help="JSON file for the curves (default: none)"),
    config=True,
)
def faithfulness(arguments: argparse.Namespace) -> None:
    """Measures how faithful heat maps are: deletion and insertion curves of a test split.

        mpafer-jax study faithfulness --config=configs/quickstart.py --checkpoint=runs/quickstart \\
          --images=200 --curves=faithfulness.json

    Prints a table of the curves' areas, each map against a random one and one from the centre outwards, and writes the
    curves. Labels are not read: the curves follow the class that the model predicts. See docs/predict.md.
    """
    from mpafer_jax.artifacts import checkpoints
    from mpafer_jax.config.schema import Config
    from mpafer_jax.inference import Predictor, faithfulness
    from mpafer_jax.runtime import console

    if checkpoints.holds_one(arguments.checkpoint):
        refuse_idle(arguments, {"--which": checkpoints.SEVERAL})
    data = Config.from_config_dict(arguments.config).data
    predictor = Predictor.from_checkpoint(arguments.checkpoint, which=arguments.which, clip=arguments.clip)
    number, maps = faithfulness.measure_split(
        predictor, data, arguments.images, steps=arguments.curve_steps, seed=arguments.curves_seed
    )
    console.markdown(faithfulness.table(maps))
    print(f"{number} images of test, {arguments.curve_steps} steps; mean area under the curve ± standard error.")
    if arguments.curves:
        files.write_json(arguments.curves, {"images": number, "steps": arguments.curve_steps, "maps": maps})


@command(
    "study motion-prior",
    path("--out", default=Path("motion_prior.png"), help="PNG file to write"),
    config=True,
)
def motion_prior(arguments: argparse.Namespace) -> None:
    """Shows the facial-motion prior of a configuration's training images.

        mpafer-jax study motion-prior --config=configs/quickstart.py --out=motion_prior.png

    The image has a column for each class: its mean face, and over it the weights of its patches in the local score,
    once from the frozen CLIP's patch features (`head.motion_prior=features`) and once from pixels (`images`), both at
    `head.motion_strength`. Prints how far each class is from neutral: the root mean square of its map.
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.jobs.studies.motion_sheet import write_motion_sheet
    from mpafer_jax.runtime import console

    console.markdown(write_motion_sheet(Config.from_config_dict(arguments.config), arguments.out))
    console.line(f"{arguments.out}: the mean faces and the weights over them")
