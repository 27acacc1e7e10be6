"""The whole road from a shell: `python -m recon_lib --help`."""

import inspect
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Literal

import typer

from recon_lib.common.errors import DataError, Interrupted, enough_memory
from recon_lib.common.folders import is_complete
from recon_lib.common.paths import FOLDER, data_folder, experiment_folder, results_folder

app = typer.Typer(
    help="Read a picture back from the brain signal that it evoked.\n\n"
         f"Data are kept in {data_folder()}, results in {results_folder()}, wherever you stand; "
         f"${FOLDER} names another folder for both.",
    add_completion=False, pretty_exceptions_enable=False)
train = typer.Typer(help="Train one of the networks on a release; see also train-pictures.")
app.add_typer(train, name="train")
MOVED = {  # options that a command took once, and the command that has them now
    "reconstruct": ("--images --betas --trials --groups --runs --size --folds --train-steps",
                    "reconstruct-arrays"),
    "train": ("--images --size", "train-pictures"),
    "quality": ("--dream --prior", "quality-prior --data"),
}


def finite(value):
    """Refuse NaN and infinity: they pass through comparisons."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def positive(value):
    """Refuse a learning rate that is none."""
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{value} is not above 0 and up to 1")
    return value


def subject_names(text):
    """Refuse what cannot be the names of subjects, such as a path."""
    if not re.fullmatch(r"\w+(,\w+)*", text):
        raise typer.BadParameter(f"{text!r} names no subject; expected a name such as CSI1")
    return text


def subject_name(text):
    """The name of one subject; fMRIPrep's folders have "sub-" before it."""
    if "," in subject_names(text := text.removeprefix("sub-")):
        raise typer.BadParameter(f"{text!r} names several subjects; expected one")
    return text


def writable(path):
    """Refuse, before any work, a folder that could not be written in the end."""
    place = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise typer.BadParameter(f"{place} is not a folder that you may write to; name another, or "
                                 f"one for data and results by ${FOLDER}")
    return path


def made(path):
    """A folder to make; one that is whole is only read."""
    return path if is_complete(path) else writable(path)


def present(device):
    """The device, or what takes its place on this machine."""
    from recon_lib.training.device import pick_device

    return pick_device(device)


def option(text, *flags, **more):
    """An option with its help."""
    return typer.Option(*flags, help=text, **more)


def folder(text, default, told, **more):
    """A folder; its default (in words: `told`) is asked for when the program runs."""
    return option(text, default_factory=default, show_default=told, **more)


def into(*parts):
    """A folder of results."""
    return folder("Folder of results.", lambda: results_folder().joinpath(*parts),
                  "/".join(["results", *parts]), callback=writable)


Data = Annotated[Path, folder("The experiment, or a BOLD5000 release.", experiment_folder,
                              "the experiment")]
NewData = Annotated[Path, folder("Folder to make.", experiment_folder, "the experiment",
                                 callback=made)]
Out = Annotated[Path, into()]
Images = Annotated[Path, option("Your pictures: a folder, or an array file.")]
File = Path | None
Seed = Annotated[int, option("Same seed, same result: bit for bit on one CPU with one number of "
                             "threads, see docs/library.md.", min=0, max=2**31 - 1)]
Subject = Annotated[str, option("CSI1 to CSI4.", callback=subject_name)]
Subjects = Annotated[str, option("CSI1 to CSI4, or several: CSI1,CSI2.", callback=subject_names)]
Model = Annotated[str, option("Conditional model: a file, or a shipped one: conditional or "
                               "student.")]
Teacher = Annotated[str, option("Conditional model: a file, or the shipped one: conditional.")]
Size = Annotated[int, option("Side of the pictures in pixels.", min=1, max=1024)]
Steps = Annotated[int, option("Steps of the sampler.", min=1, max=1000)]
Samples = Annotated[int, option("Samples.", min=8, max=100_000)]
Mirror = Annotated[bool, option("Mirror half of the pictures.", "--mirror")]
Extra = Annotated[int | None, option("Scenes to add to the training pictures. Default: "
                                            "45,000 for TinyScenes, else none.", min=0,
                                            max=1_000_000)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"],
                   option("Where networks run.", callback=present)]
Encoder = Annotated[Literal["auto", "category-network", "efficientnet-lite0", "alexnet", "resnet50",
                            "clip", "dinov2"],
                    option("Which network gives features; auto: the category network for "
                           "TinyScenes, efficientnet-lite0 for all else.")]
Overwrite = Annotated[bool, option("Replace the training that is there.", "--overwrite")]
Permutations = Annotated[int, option("For p-values.", min=1, max=10**6)]
Report = Annotated[bool, option("Instead: why are my betas odd? A figure, tables and maps.",
                                "--report")]
Weight = float | None


@dataclass(kw_only=True)
class Source:
    """Which data of a release."""

    data: Data
    subject: Subject = "CSI1"
    release: Annotated[int, option("1: ROI time points; 2: single-trial betas.", min=1, max=2)] = 2
    split: Annotated[Literal["repeated", "category"], option("What is test.")] = "repeated"


@dataclass(kw_only=True)
class Sources(Source):
    """The same, of one subject or several."""

    subject: Subjects = "CSI1"


@dataclass(kw_only=True)
class Fitting:
    """How a diffusion model is trained."""

    start: Annotated[File, option("Checkpoint to resume, or model to start from.")] = None
    steps: Annotated[int | None, option("Default: 30,000; guidance model: 4,500.", min=1,
                                        max=10**9)] = None
    batch: Annotated[int, option("Pictures a step, in each process.", min=1, max=2**16)] = 32
    lr: Annotated[float, option("Peak learning rate.", callback=positive)] = 1.5e-3
    seed: Seed = 0
    device: Device = "auto"
    compiled: Annotated[bool, option("Compile the network first.", "--compile")] = False
    tensorboard: Annotated[bool, option("Log to TensorBoard too.", "--tensorboard")] = False
    overwrite: Overwrite = False

    def options(self, folder):
        """Keywords of `recipes.fit`, which may write into this folder."""
        going_on = self.start and self.start.resolve().parent == folder.resolve()
        refuse_finished(folder, ("model", "checkpoint"), self.overwrite or going_on)
        return {name: value for name, value in vars(self).items()
                if name != "overwrite" and (name != "steps" or value)}


@dataclass(kw_only=True)
class Lessons(Fitting):
    """How a student is trained."""

    steps: Annotated[int | None, option("Default: 2,000.", min=1, max=10**9)] = None
    batch: Annotated[int, option("Pictures a step, in each process.", min=1, max=2**16)] = 16
    lr: Annotated[float, option("Peak learning rate.", callback=positive)] = 3e-4


@dataclass(kw_only=True)
class Drawing:
    """How pictures are drawn, where other than was chosen on training trials."""

    scale: Annotated[Weight, option("Guidance scale; 1: none.", min=0, callback=finite)] = None
    steps: Annotated[int | None, option("Steps of the sampler.", min=1, max=1000)] = None
    strength: Annotated[Weight, option("Of the likelihood's pull; 0: none.", min=0,
                                       callback=finite)] = None
    candidates: Annotated[int | None, option("Drawn for each picture; the likeliest is kept.",
                                             min=1, max=1000)] = None
    pseudo_trials: Annotated[Weight, option("Weight of the retrieval prior, in trials; 0: none.",
                                            "--pseudo-trials", "--trust", min=0,
                                            callback=finite)] = None

    def sampling(self, model=None):
        """The way of sampling that was chosen for a model, with what was asked for."""
        from recon_lib.decoding.sampling import sampling_for
        from recon_lib.training.checkpoints import read_info

        given: dict = {name: value for name, value in vars(self).items() if value is not None}
        return sampling_for(read_info(model) if model else {}, **given)


def refuse_finished(folder, names, overwrite):
    """Stop, before any work, if a folder holds a training that this one would replace."""
    there = [path for name in names for path in folder.glob(f"{name}.*")]
    if there and not overwrite:
        raise DataError(f"{there[0]} is there already; expected a folder without a training: take "
                        "another --out, go on with --start checkpoint.pt, or say --overwrite")


def refuse_idle(drawing, model, train_steps, encoder):
    """Stop, before any work, if options of `reconstruct-arrays` were given that would do nothing.

    A ready model has its own encoder and is not trained; without one nothing is guided.
    """
    if model is None:
        idle = {name for name, value in vars(drawing).items() if value is not None} - {"steps"}
        why = "without a ready model; leave it out, or name a --model"
    else:
        asked = {"train_steps": train_steps > 0, "encoder": encoder != "auto"}
        idle = {name for name, given in asked.items() if given}
        why = "with a ready --model; leave out one of the two"
    if idle:
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(idle))
        raise DataError(f"{names} would do nothing {why}")


def with_options(command):
    """A command of which a parameter that is a dataclass stands for an option for each field."""
    taken, bundles = [], {}
    for one in inspect.signature(command).parameters.values():
        if is_dataclass(one.annotation):
            bundles[one.name] = one.annotation
            taken += inspect.signature(one.annotation).parameters.values()
        else:
            taken.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def call(**given):
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)})
                for name, kind in bundles.items()}
        return command(**given, **made)

    call.__signature__ = inspect.Signature(taken)
    call.__annotations__ = {one.name: one.annotation for one in taken}
    return call


def say(text):
    """Tell the user what happens now; of several processes (accelerate launch) the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        typer.echo(text)
    except OSError as error:
        sys.stdout = None  # Python would try once more at the end
        raise DataError(f"cannot write to the standard output: {error.strerror}") from error


@app.command()
def fetch(dataset: Annotated[Literal["bold5000"], typer.Argument(case_sensitive=False)],
          out: Annotated[Path, folder("Where it goes.", lambda: data_folder() / "BOLD5000",
                                      "BOLD5000 among the data", callback=writable)],
          more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
          subject: Subjects = "CSI1",
          parts: Annotated[list[str] | None, option(
              "roi-betas images lists roi-times brain-betas masks runs; default: the first three.")]
          = None):
    """Fetch parts of BOLD5000; a broken download goes on where it stopped."""
    from recon_lib.data import fetch as fetching

    wanted = [*(parts or []), *(more or [])] or fetching.TRAINING
    fetching.fetch(subject.split(","), wanted, out, say)


@app.command()
def simulate(out: NewData, seed: Seed = 0,
             images: Annotated[File, option("Your pictures: a folder, or an array file.")] = None):
    """Simulate a subject who looks at pictures: raw BOLD runs in BOLD5000's layout."""
    from recon_lib.brain import encoders, features
    from recon_lib.data.arrays import load_pictures
    from recon_lib.world import experiment
    from recon_lib.world.subject import design_for

    if images is None:
        experiment.build(out, seed)
    else:
        own = load_pictures(images, experiment.SIZE, 3).images
        design = design_for(len(own))
        net = encoders.load_encoder(encoders.PHOTOGRAPHS, encoders.ANSWERED)
        say(f"higher areas answer to a layer of {net.name}, mixed at random")
        experiment.build(out, seed, own, higher=features.embed(net, own), **design)
    say(f"the experiment is in {out}")


@app.command()
def betas(
    data: Data, subject: Subject = "CSI1",
    whole_brain: Annotated[bool, option("Every voxel of the brain mask, with an HRF of its own, "
                                        "shrunk to its mean response.", "--whole-brain")] = False,
    report: Report = False):
    """Estimate single-trial betas from raw runs, and write them as the releases do."""
    from recon_lib.data import raw_betas

    writable(data)
    if report:
        if whole_brain:
            raise DataError("--report diagnoses the regions alone; leave out --whole-brain")
        show_report(raw_betas.raw_scans(data, subject), data / "derivatives/betas", subject)
        return

    if whole_brain:
        path, noise = raw_betas.estimate_whole_brain(data, subject)
        say(f"{noise}\nbetas of {subject} are in {path}")
        return
    say(raw_betas.estimate_betas(data, subject))
    say(f"betas of {subject} are in {data}: ROIs/ (release 1), {raw_betas.BETAS}/ (release 2)")


def show_report(scans, folder, name):
    """Diagnose runs, and say where the figure, the tables and the maps are."""
    from recon_lib import results
    from recon_lib.course.plots_bold import diagnosis
    from recon_lib.data import raw_betas

    found = raw_betas.report(scans, folder, name)
    figure = diagnosis(found, scans.masks.roi, name, scans.masks.ijk)
    results.save_figure(folder / f"{name}_report.png", figure)
    say(f"{name}: {found.noise}; {found.runs['outlier volumes'].sum()} outlier volumes\n{folder}: "
        f"{name}_report.png, {name}_voxels.csv, {name}_runs.csv, and a map of each number a voxel "
        f"such as {name}_explained.nii.gz")


@app.command()
def betas_fmriprep(
    folder: Annotated[Path, typer.Argument(help="Of fMRIPrep, or the data set that holds it.")],
    subject: Annotated[str, option("Its label: 01 for sub-01.", callback=subject_name)],
    out: Annotated[Path, into("betas")],
    task: Annotated[str | None, option("Needed where there are several.")] = None,
    session: Annotated[str | None, option("Default: all.")] = None,
    run: Annotated[str | None, option("Default: all.")] = None,
    space: Annotated[str | None, option("Needed where there are several.")] = None,
    mask: Annotated[File, option("Mask or atlas in this space; default: the brain.")] = None,
    picture: Annotated[str, option("Column of the events that names the pictures.")] = "stim_file",
    where: Annotated[str, option("Which events are trials: trial_type=image,scene.")] = "",
    confounds: Annotated[str, option("Columns of the confounds, or patterns, with commas: "
                                     "a_comp_cor_0?,motion_outlier*. Default: the six of motion.")]
    = "", report: Report = False):
    """Estimate single-trial betas from fMRIPrep's preprocessed runs of any experiment."""
    from recon_lib.data import fmriprep, raw_betas

    wanted = fmriprep.Selection(task, session, run, space, mask, picture, where,
                                tuple(confounds.split(",")) if confounds else fmriprep.MOTION)
    path = out / f"sub-{subject}_betas.h5"
    if not report:
        raw_betas.refuse_there(path)
    runs, masks = fmriprep.read_subject(folder, subject, wanted)
    say("\n".join(fmriprep.told(runs, masks, wanted)))
    if report:
        show_report(raw_betas.preprocessed_scans(runs, masks), out, f"sub-{subject}")
        return
    say(str(raw_betas.estimate_preprocessed(runs, masks, path)))
    say(f"betas are in {path}; beside it the trials ({path.stem}_trials.csv) and maps of r2, peak "
        "and ratio")


def train_stage(stage, source, fitting, out, extra, train=None, **options):
    """Train a diffusion model on the training pictures of a release."""
    from recon_lib import recipes
    from recon_lib.data.release import load_subjects
    from recon_lib.training.device import close_process_group

    options |= fitting.options(out / stage)
    subjects = load_subjects(source.data, source.subject.split(","), source.release, source.split)
    say("\n".join(one.report for one in subjects.values()))
    train = train or partial(recipes.train_stage, stage)
    train(subjects.values(), out / stage, extra=extra, **options)
    close_process_group()
    say(f"done: see {out / stage}")


@train.command()
def features(out: Out, overwrite: Overwrite = False):
    """Train the networks that give features and that score, by a recipe of their own."""
    from recon_lib import recipes

    refuse_finished(out / "features", recipes.READERS, overwrite)
    recipes.train_readers(out / "features")
    say(f"done: see {out / 'features'}")


@train.command("guide", hidden=True)  # its name once
@train.command()
@with_options
def guidance(source: Sources, fitting: Fitting, out: Out, extra: Extra = None,
             mirror: Mirror = False):
    """Train a small guidance model, for samples to move away from: see quality --guidance."""
    train_stage("guidance", source, fitting, out, extra, mirror=mirror)


@train.command()
@with_options
def unconditional(source: Sources, fitting: Fitting, out: Out, extra: Extra = None,
                  mirror: Mirror = False):
    """Train the diffusion model that draws without a brain."""
    train_stage("unconditional", source, fitting, out, extra, mirror=mirror)


@train.command()
@with_options
def conditional(source: Sources, fitting: Fitting, out: Out, extra: Extra = None,
                encoder: Encoder = "auto"):
    """Train the diffusion model that brain vectors drive."""
    train_stage("conditional", source, fitting, out, extra, encoder=encoder)


@train.command()
@with_options
def student(source: Sources, fitting: Lessons, out: Out, extra: Extra = None,
            teacher: Teacher = "conditional"):
    """Train a student of a conditional model: it draws in four steps, guidance included."""
    from recon_lib.recipes import train_student

    train_stage("student", source, fitting, out, extra, train_student, teacher=teacher)


@app.command()
@with_options
def train_pictures(
    images: Images, fitting: Fitting, out: Out, size: Size = 64, mirror: Mirror = False,
    guidance: Annotated[bool, option("Train a guidance model.", "--guidance", "--guide")] = False):
    """Train the unconditional model on pictures of your own; their side is divisible by 16."""
    from recon_lib import recipes
    from recon_lib.training.device import close_process_group

    stage = "guidance" if guidance else "unconditional"
    recipes.train_own(images, out / stage, size, stage, say, mirror=mirror,
                      **fitting.options(out / stage))
    close_process_group()
    say(f"done: see {out / stage}")


def show(out, name, table, figure):
    """Write scores and a figure, and say where they are."""
    from recon_lib import results

    results.write_scores(out, table)
    results.save_figure(out / name, figure)
    say(f"\nscores: {out / 'scores.json'}\nfigure: {out / name}")


def show_quality(out, device, table, pictures):
    """Tell the scores of samples, and draw the first of them."""
    from recon_lib.course import plots
    from recon_lib.training.device import computed_on

    table["computed"] = computed_on(device)
    for name, value in table["samples"].items():
        say(f"{name:>16}  {value:8.4f}   new scenes {table['new scenes'][name]:8.4f}")
    show(out, "samples.png", table, plots.image_grid(pictures[:36], columns=6))


@app.command()
def quality(out: Annotated[Path, into("quality")],
            model: Annotated[str, option("A model of TinyScenes.")] = "unconditional",
            guidance: Annotated[str | None, option("Guidance model: 'guidance', or a file.",
                                                   "--guidance", "--guide")] = None,
            n: Samples = 1000, steps: Steps = 20, seed: Seed = 0, device: Device = "auto"):
    """Draw samples without a brain and score them: KID, precision, recall, confidence, copies."""
    from recon_lib import recipes

    show_quality(out, device, *recipes.sample_quality(model, n, steps, seed, device, guidance))


@app.command()
def quality_prior(out: Annotated[Path, into("quality")], data: Data, model: Model = "conditional",
                  n: Samples = 1000, steps: Steps = 20, seed: Seed = 0, device: Device = "auto"):
    """The same as quality, of a conditional model that is told random brain vectors."""
    from recon_lib import recipes
    from recon_lib.data.release import load_experiment

    show_quality(out, device, *recipes.prior_quality(load_experiment(data), model, n, steps, seed,
                                                     device))


@app.command()
@with_options
def reconstruct(source: Source, drawing: Drawing, out: Out, model: Model = "student",
                seed: Seed = 0, device: Device = "auto"):
    """Reconstruct the test pictures of a release.

    How to sample was chosen on training trials; --scale, --steps, --strength, --candidates and
    --pseudo-trials choose otherwise. For data of your own: reconstruct-arrays.
    """
    from recon_lib import results

    release = results.Release(**vars(source))
    results.reconstruct_release(out, release, model, seed, drawing.sampling(model), device, say)


@app.command()
@with_options
def reconstruct_arrays(
    images: Images, betas: Annotated[Path, option("Your betas: a (trials, voxels) file.")],
    drawing: Drawing, out: Out,
    trials: Annotated[File, option("Picture of each trial: index from 0, or name.")] = None,
    groups: Annotated[File, option("What to hold out together; default: run, or picture.")] = None,
    runs: Annotated[File, option("Run of each trial, held out whole.")] = None,
    size: Size = 64,
    folds: Annotated[int | None, option("Number of folds. Default: ten, or one for each group "
                                        "where there are fewer or with --model.", min=2)] = None,
    train_steps: Annotated[int, option("Of a network in each fold; 0: the exact denoiser.",
                                       min=0, max=10**9)] = 0,
    model: Annotated[str | None, option("A ready conditional model.")] = None,
    gallery: Annotated[File, option("More pictures that retrieval may find: a folder, or an array "
                                    "file.")] = None,
    encoder: Encoder = "auto", seed: Seed = 0, device: Device = "auto"):
    """Reconstruct every trial of your own pictures and betas, cross-validated."""
    from recon_lib import results
    from recon_lib.data.arrays import load_pictures, load_trials
    from recon_lib.decoding.crossval import CrossValidation

    refuse_idle(drawing, model, train_steps, encoder)
    own = load_trials(images, betas, trials, groups, runs, size)
    say("\n".join(own.report))
    if groups is None and runs is not None:
        own.groups = own.runs
    more = load_pictures(gallery, size, own.images.shape[-1]).images if gallery else None
    options = CrossValidation(folds, model, train_steps, sampling=drawing.sampling(model),
                              gallery=more, device=device, out_dir=out / "folds", encoder=encoder)
    results.reconstruct_arrays(out, own, options, seed, say)


@app.command()
def decode_features(
    features: Annotated[Path, option("A (pictures, d) file: each picture's embedding.")],
    betas: Annotated[Path, option("Your betas: a (trials, voxels) file.")],
    out: Annotated[Path, into("features")],
    trials: Annotated[File, option("Picture of each trial: its row in --features, from 0.")] = None,
    groups: Annotated[File, option("What to hold out together; default: picture.")] = None,
    folds: Annotated[int | None, option("Number of folds; default: ten.", min=2)] = None,
    permutations: Permutations = 1000,
    seed: Seed = 0):
    """Which picture was seen, from embeddings of the pictures alone: no picture is needed."""
    from recon_lib import results
    from recon_lib.data.arrays import load_embedded
    from recon_lib.decoding.embeddings import decode_embeddings
    from recon_lib.scores import embeddings, report

    own = load_embedded(features, betas, trials, groups)
    say("\n".join(own.report))
    decoded = decode_embeddings(own.betas, own.images, own.trial_image, own.groups, folds, seed,
                                say)
    table = embeddings.score_embeddings(decoded, permutations, seed)
    table["info"] |= {"noise_ceiling": embeddings.ceilings(own.betas, own.trial_image)}
    for name in ("single_trial", "averaged"):
        say(f"\n{name.replace('_', ' ')}; top-1 of {table['info']['n_way']}\n"
            + report.format_report(table[name], embeddings.SHOWN))
    for name, percent in table["info"]["noise_ceiling"].items():
        say(f"noise ceiling, {name.replace('_', ' ')}: {percent:.1f}")
    results.write_scores(out, table)
    say(f"\nscores: {out / 'scores.json'}")


@app.command()
def score(out: Out, permutations: Permutations = 1000):
    """Score what a reconstruction left in the folder of results, and draw the figure."""
    from recon_lib import results

    results.score(out, permutations, say)


@app.command()
def haxby(out: Annotated[Path, into("haxby")], model: Model = "conditional", seed: Seed = 0,
          steps: Steps = 20):
    """A real brain: Haxby's recordings drive the model, leave-one-run-out."""
    from recon_lib.course import plots
    from recon_lib.decoding.haxby import drive
    from recon_lib.scores.haxby import score_blocks
    from recon_lib.scores.report import load_classifiers

    result = drive(model, seed, steps, say)
    table = score_blocks(result, load_classifiers(), seed)
    for name, value in table["scores"].items():
        say(f"{name:>40}  {value:.3f}")
    show(out, "reconstructions.png", table, plots.reconstructions(result["figure"]))


@app.command()
def run(data: NewData, out: Out, seed: Seed = 0):
    """The main job: simulate, estimate betas, reconstruct, score. What is there is kept."""
    from recon_lib import results
    from recon_lib.world import experiment

    start = time.time()
    say(f"1 of 4: a simulated subject looks at 4916 pictures in 142 runs ({data})")
    experiment.build(data, seed)
    say("2 of 4: single-trial betas from the BOLD")
    experiment.ready(data, seed)
    say("3 of 4: pictures from betas")
    space = results.reconstruct_release(out, results.Release(data), "student", seed,
                                        Drawing().sampling("student"), present("auto"), say)
    say("4 of 4: scores")
    results.score(out, 1000, say, space)
    say(f"\ndone in {time.time() - start:.0f} s. Open the notebooks with `make lab`.")


def at_home(word):
    """An argument with ~ as the user's home, which not every shell puts in."""
    return re.sub(r"^(--[\w-]+=)?~(?=[/\\]|$)", lambda m: f"{m[1] or ''}{os.path.expanduser('~')}",
                  word)


def told(error):
    """A refusal by the command-line library as one line, with the command that does it now."""
    text = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    path = error.ctx.command_path if getattr(error, "ctx", None) else "recon_lib"
    for command, (options, now) in MOVED.items():
        option = getattr(error, "option_name", None)
        if command in path.split() and option in options.split():
            return f"{text}; that is `python -m recon_lib {now}` now"
    return f"{text}; see `{path} --help`"


def main():
    """Entry point: what went wrong is one line on stderr and exit status 2.

    Stopped by Ctrl-C or SIGTERM: one line, and status 130 or 143.
    """
    warnings.formatwarning = lambda text, *_, **__: f"note: {' '.join(str(text).split())}\n"
    for stream in (sys.stdout, sys.stderr):  # a code page may lack a letter: never for that
        if stream is not None:
            stream.reconfigure(errors="replace")
    refusal = typer.BadParameter.__mro__[2]  # ClickException, of the click that this typer uses
    status, caught = 2, [signal.SIGINT]

    def stop(number, frame):
        caught.append(number)
        raise KeyboardInterrupt  # so that what is half written is removed, as after Ctrl-C

    alone = threading.current_thread() is threading.main_thread()  # elsewhere none can be set
    usual = signal.signal(signal.SIGTERM, stop) if alone else None
    try:
        with enough_memory("--batch in training, or the number of pictures or voxels"):
            code = app(args=[*map(at_home, sys.argv[1:])] or ["--help"], standalone_mode=False)
            if code == 128 + signal.SIGINT:  # newer typers make that of it
                raise KeyboardInterrupt
            sys.exit(code)
    except refusal as error:
        line = told(error)
    except (DataError, FloatingPointError) as error:  # the second: of a loss that is not finite
        line = error
    except OSError as error:  # the system refuses, where nobody thought of it
        line = f"{error.filename or 'the system'}: {error.strerror or error}"
    except Interrupted as error:  # of a training, which says how to go on
        line, status = error, error.status
    except (typer.Abort, KeyboardInterrupt):
        line = "stopped; no file is half written"
        status = 128 + caught[-1]
    finally:
        if alone:
            signal.signal(signal.SIGTERM, usual or signal.SIG_DFL)
    print(f"recon_lib: {line}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
