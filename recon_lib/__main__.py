"""The whole road from a shell: `python -m recon_lib --help`."""

import os
import sys
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recon_lib.common.errors import DataError, Interrupted, enough_memory

app = typer.Typer(
    help="Read a picture back from the brain signal that it evoked.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)

Data = Annotated[Path, typer.Option(help="Folder of the experiment, or of a BOLD5000 release.")]
Out = Annotated[Path, typer.Option(help="Where results go.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Subject = Annotated[str, typer.Option(help="CSI1 to CSI4.")]
Release = Annotated[int, typer.Option(help="1: ROI time points; 2: single-trial betas.")]
Split = Annotated[str, typer.Option(help="What is test: repeated (pictures), or category.")]
Model = Annotated[Path | None, typer.Option(help="Conditional model; default: the shipped one.")]
Scale = Annotated[float | None, typer.Option(help="Guidance scale; 1: none.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the sampler.", min=1)]
Strength = Annotated[float | None, typer.Option(help="Of the likelihood's pull; 0: none.")]
PseudoTrials = Annotated[float | None, typer.Option(
    "--pseudo-trials", "--trust", help="Weight of the retrieval prior, in trials; 0: none."
)]
Candidates = Annotated[
    int | None, typer.Option(help="Drawn for each picture; the likeliest is kept.", min=1)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]

EXPERIMENT, RESULTS = Path("data/experiment"), Path("results")


def say(text):
    """Tell the user what happens now; of several processes (accelerate launch) the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text)


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="bold5000, the only one so far.")],
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    subject: Annotated[str, typer.Option(help="CSI1 to CSI4, or several: CSI1,CSI2.")] = "CSI1",
    parts: Annotated[list[str] | None, typer.Option(
        help="roi-betas images lists roi-times brain-betas masks runs; default: the first three."
    )] = None,
    out: Annotated[Path | None, typer.Option(help="Default: data/BOLD5000, by the code.")] = None,
):
    """Fetch parts of BOLD5000; a broken download goes on where it stopped."""
    from recon_lib.common.paths import data_folder
    from recon_lib.data import fetch as fetching

    if dataset.lower() != "bold5000":
        raise DataError(f"no data set {dataset}; expected bold5000")
    wanted = [*(parts or []), *(more or [])] or list(fetching.PARTS)[:3]
    out = out or data_folder() / "BOLD5000"
    fetching.fetch(subject.split(","), wanted, out, say)


@app.command()
def simulate(
    out: Data = EXPERIMENT, seed: Seed = 0,
    images: Annotated[Path | None, typer.Option(help="Your pictures: folder or array.")] = None,
):
    """Simulate a subject who looks at pictures: raw BOLD runs in BOLD5000's layout."""
    from recon_lib.world import experiment
    from recon_lib.world.subject import design_for

    if images is None:
        experiment.build(out, seed)
    else:
        from recon_lib.data.arrays import load_pictures

        own = load_pictures(images, experiment.SIZE, 3).images
        experiment.build(out, seed, own, **design_for(len(own)))
    say(f"the experiment is in {out}")


@app.command()
def betas(
    data: Data = EXPERIMENT, subject: Subject = "CSI1",
    whole_brain: Annotated[bool, typer.Option(
        "--whole-brain", help="Every voxel of the brain mask, with an HRF and a ridge of its own."
    )] = False,
):
    """Estimate single-trial betas from raw runs, and write them as the releases do."""
    from recon_lib.data import raw_betas

    if whole_brain:
        say(f"betas of {subject} are in {raw_betas.estimate_whole_brain(data, subject)}")
        return
    raw_betas.estimate_betas(data, subject)
    say(f"betas of {subject} are in {data}: ROIs/ (release 1), {raw_betas.BETAS}/ (release 2)")


class Stage(StrEnum):
    """What to train."""

    features = "features"
    guide = "guide"
    unconditional = "unconditional"
    conditional = "conditional"


@app.command()
def train(
    stage: Stage,
    data: Data = EXPERIMENT, out: Out = RESULTS, release: Release = 2, split: Split = "repeated",
    subject: Annotated[str, typer.Option(help="CSI1 to CSI4, or several: CSI1,CSI2.")] = "CSI1",
    start: Annotated[Path | None, typer.Option(help="Checkpoint to resume, model to start from.")]
    = None,
    steps: Annotated[int | None, typer.Option(
        help="Training steps; default: 30,000, for the guide 4,500.", min=1
    )] = None,
    batch: Annotated[int, typer.Option(help="Pictures a step, in each process.", min=1)] = 32,
    extra: Annotated[int | None, typer.Option(help="TinyScenes to add to the training pictures.")]
    = None,
    images: Annotated[Path | None, typer.Option(
        help="Your own pictures (folder or array file), no brain; not --data."
    )] = None,
    size: Annotated[int, typer.Option(help="Side of your own pictures, divisible by 16.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1.5e-3,
    mirror: Annotated[bool, typer.Option("--mirror", help="Mirror half of the pictures; no brain.")]
    = False,
    seed: Seed = 0, device: Device = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to TensorBoard too.")]
    = False,
):
    """Train a stage: the networks that see, the unconditional or the conditional model, or a guide.

    The networks that see (features) have a recipe of their own; for them only --out counts. The
    guide is a small unconditional model for samples to move away from (see `quality --guide`).
    """
    from recon_lib import recipes
    from recon_lib.data.release import load_subjects
    from recon_lib.training.device import close_process_group

    if images is not None and (stage not in ("unconditional", "guide") or extra is not None):
        raise DataError("--images is for the unconditional model and its guide, without --extra; "
                        "to train on pictures with your betas, see `reconstruct --images --betas`")
    options = dict(start=start, batch=batch, lr=lr, mirror=mirror, seed=seed, device=device,
                   compiled=compiled, tensorboard=tensorboard)
    if steps is not None:
        options["steps"] = steps
    if stage == "features":
        recipes.train_readers(out / stage)
    elif images is not None:
        recipes.train_own(images, out / stage, size, stage, **options)
    else:
        subjects = load_subjects(data, subject.split(","), release, split).values()
        recipes.train_stage(stage, subjects, out / stage, extra, **options)
    close_process_group()
    say(f"done: see {out / stage}")


@app.command()
def quality(
    model: Annotated[str, typer.Option(help="A model of TinyScenes.")] = "unconditional",
    out: Out = RESULTS / "quality", n: Annotated[int, typer.Option(help="Samples.")] = 1000,
    steps: Steps = 20, seed: Seed = 0, device: Device = "auto",
    prior: Annotated[Path | None, typer.Option(
        "--prior", "--dream", help="Experiment whose retrieval prior gives brain vectors."
    )] = None,
    guide: Annotated[str | None, typer.Option(
        help="Guidance model to move away from: the shipped one is 'guide'."
    )] = None,
):
    """Draw samples without a brain and score them: KID, precision, recall, confidence, copies."""
    from recon_lib import recipes, results
    from recon_lib.course import plots
    from recon_lib.data.release import load_experiment
    from recon_lib.training.device import pick_device

    experiment = None if prior is None else load_experiment(prior)
    table, made = recipes.sample_quality(model, n, steps, seed, pick_device(device), experiment,
                                         guide)
    results.write_scores(out, table)
    results.save_figure(out / "samples.png", plots.image_grid(made[:36], columns=6))
    for name, value in table["samples"].items():
        say(f"{name:>16}  {value:8.4f}   new scenes {table['new scenes'][name]:8.4f}")
    say(f"\nscores: {out / 'scores.json'}\nfirst 36 samples: {out / 'samples.png'}")


@app.command()
def reconstruct(
    data: Data = EXPERIMENT, out: Out = RESULTS, subject: Subject = "CSI1", release: Release = 2,
    split: Split = "repeated",
    images: Annotated[str | None, typer.Option(help="Your pictures: folder or array file.")] = None,
    betas: Annotated[str | None, typer.Option(help="Your betas: (trials, voxels) file.")] = None,
    trials: Annotated[str | None, typer.Option(help="Picture of each trial: index, name.")] = None,
    groups: Annotated[str | None, typer.Option(help="What to hold out together; default: picture.")]
    = None,
    runs: Annotated[str | None, typer.Option(help="Run of each trial, held out whole.")] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures, for your own data.")] = 64,
    folds: Annotated[int | None, typer.Option(help="Number of folds, for your own data.")] = None,
    train_steps: Annotated[int, typer.Option(help="0: no network, the exact denoiser.")] = 0,
    model: Model = None, seed: Seed = 0, scale: Scale = None, steps: Steps = None,
    strength: Strength = None, candidates: Candidates = None, pseudo_trials: PseudoTrials = None,
    device: Device = "auto",
):
    """Reconstruct held-out pictures: from a release (--data), or from your own arrays.

    How to sample was chosen on training trials; --scale, --steps, --strength, --candidates and
    --pseudo-trials choose otherwise.
    """
    from recon_lib import results
    from recon_lib.decoding.crossval import CrossValidation
    from recon_lib.decoding.sampling import MODEL, SAMPLING
    from recon_lib.training.device import pick_device

    asked: dict = dict(scale=scale, steps=steps, strength=strength, candidates=candidates,
                 pseudo_trials=pseudo_trials)
    sampling = replace(SAMPLING, **{k: v for k, v in asked.items() if v is not None})
    device = pick_device(device)
    if (images is None) != (betas is None):
        raise DataError("--images and --betas belong together; give both, or neither for --data")
    if images is None and any(v is not None for v in (trials, groups, runs, folds)):
        raise DataError("--trials, --groups, --runs and --folds are for your own data; give "
                        "--images and --betas too")
    if images is None:
        source = results.Release(data, subject, release, split)
        results.reconstruct_release(out, source, model or MODEL, seed, sampling, device, say)
        return
    from recon_lib.data.arrays import load_trials

    own = load_trials(images, betas, trials, groups, runs, size)
    say("\n".join(own.report))
    if groups is None and runs is not None:
        own.groups = own.runs
    options = CrossValidation(folds, model, train_steps, sampling=sampling, device=device,
                              out_dir=out / "folds")
    results.reconstruct_arrays(out, own, options, seed, say)


@app.command()
def score(
    out: Out = RESULTS,
    permutations: Annotated[int, typer.Option(help="For p-values.", min=1)] = 1000,
):
    """Score what `reconstruct` left in the folder of results, and draw the figure."""
    from recon_lib import results

    results.score(out, permutations, say)


@app.command()
def haxby(out: Out = RESULTS / "haxby", model: Model = None, seed: Seed = 0, steps: Steps = None):
    """A real brain: Haxby's recordings drive the model, leave-one-run-out."""
    from recon_lib import results
    from recon_lib.course import plots
    from recon_lib.decoding.haxby import drive
    from recon_lib.decoding.sampling import MODEL, SAMPLING
    from recon_lib.scores.haxby import score_blocks
    from recon_lib.scores.report import load_classifiers

    result = drive(model or MODEL, seed, steps or SAMPLING.steps, say)
    table = score_blocks(result, load_classifiers(), seed)
    results.write_scores(out, table)
    results.save_figure(out / "reconstructions.png", plots.reconstructions(result["figure"]))
    for name, value in table["scores"].items():
        say(f"{name:>40}  {value:.3f}")
    say(f"\nscores: {out / 'scores.json'}\nfigure: {out / 'reconstructions.png'}")


@app.command()
def run(data: Data = EXPERIMENT, out: Out = RESULTS, seed: Seed = 0):
    """The main job: simulate, estimate betas, reconstruct, score. What is there is kept."""
    from recon_lib.common.files import is_complete
    from recon_lib.world import experiment

    start = time.time()
    say("1 of 4: a simulated subject looks at 4916 pictures in 142 runs")
    simulate(data, seed)
    say("2 of 4: single-trial betas from the BOLD")
    if not is_complete(data / experiment.BETAS):
        betas(data)
    say("3 of 4: pictures from betas")
    reconstruct(data, out, seed=seed)
    say("4 of 4: scores")
    score(out)
    say(f"\ndone in {time.time() - start:.0f} s. Open the notebooks with `make lab`.")


def main():
    """Entry point: an error about data, disk or memory is one line and exit status 2.

    A training stopped by Ctrl-C or SIGTERM: one line, and status 130 or 143.
    """
    try:
        with enough_memory("--batch in training, or the number of pictures or voxels"):
            app(standalone_mode=True)
    except (DataError, FloatingPointError, Interrupted) as error:  # the second: a loss that burst
        print(f"recon_lib: {error}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, Interrupted) else 2)


if __name__ == "__main__":
    main()
