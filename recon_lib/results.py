"""The folder of results: reconstructions are kept in it as arrays, then scored and drawn."""

import hashlib
import importlib.metadata
import json
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.files import read_npz, readable
from recon_lib.common.folders import alone_in
from recon_lib.course import plots
from recon_lib.data.release import load_experiment
from recon_lib.decoding import crossval, reconstruct
from recon_lib.decoding.reconstruct import FIRST, spread
from recon_lib.decoding.sampling import LATENT, guidance_beside
from recon_lib.scores import report
from recon_lib.training.checkpoints import located, read_info
from recon_lib.training.device import computed_on

RELEASE, OWN, DRAWN = "reconstructions.npz", "own.npz", "drawn"
WHITE = 0.25  # expected error, as a share of the range of pixels, that a figure shows as white
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")


@dataclass
class Release:
    """Which experiment: see `release.load_experiment`."""

    data: Path
    subject: str = "CSI1"
    release: int = 2
    split: str = "repeated"
    held: list | None = None  # categories

    def load(self):
        """The `Experiment`."""
        return load_experiment(
            self.data, self.subject, self.release, split=self.split, held=self.held)


def reconstruct_release(out, source, model, seed, sampling, device, say):
    """Reconstruct the test pictures of a `Release` into `out`: `reconstruct_experiment`.

    Returns the evaluation space, see `report.evaluation_space`: `score` need not make it again.
    """
    if source.split != "repeated":
        source.held = read_info(model).get("held") or None  # what the model never saw
    x = source.load()
    say(x.report)
    begin = time.time()

    alone = ExitStack()

    def first(index, pictures):
        alone.enter_context(alone_in(out, f"another command is drawing into {out}; wait for its "
                                          "end, or choose another --out"))
        drawn.begin()
        rows = {"seen": x.images[x.test_index[index]], "diffusion": pictures}
        save_figure(out / "first.png", plots.reconstructions(rows))
        say(f"the first reconstructions are in {out / 'first.png'}; the whole table follows")

    told = asdict(source) | {"data": str(Path(source.data).absolute())}
    what = json.dumps([told, seed, asdict(sampling), device])
    path = located(model)
    beside = [path, path.with_name(LATENT), guidance_beside(path)]
    weights = [file.read_bytes() for file in beside if file and file.is_file()]
    arrays = map(np.ascontiguousarray, (x.betas, x.images))
    drawn = Drawn(out / DRAWN, [what.encode(), *arrays, *weights], say)
    rows = Rows(x, sampling, drawn, say)
    with alone:
        results = reconstruct.reconstruct_experiment(
            x, model, seed, sampling, device, say, first, rows.keep)
        arrays = {"experiment": signature(x)}
        for name, part in results.items():
            arrays[f"{name}/target"] = part["target"]
            for kind in ("pictures", "rankings", "posterior", "other_seeds"):
                arrays |= {f"{name}/{kind}/{key}": value
                           for key, value in part.get(kind, {}).items()}
        settings = told | dict(seed=seed, held=x.held, model=str(model), sampling=asdict(sampling),
                               seconds=round(time.time() - begin, 1), computed=computed_on(device))
        save_arrays(out / RELEASE, settings=json.dumps(settings), **arrays)
        drawn.forget()
    say(f"reconstructions are in {out / RELEASE}")
    return rows.features


def signature(x):
    """Numbers by which an `Experiment` is known again: betas and pictures of its test."""
    return np.concatenate([x.betas[x.test].mean(1), x.images[x.test_index].mean((1, 2, 3)) / 255])


class Drawn:
    """What a reconstruction has drawn so far, so that one that was stopped does not begin anew.

    `made_of` are bytes, all that the pictures depend on.
    """

    def __init__(self, folder, made_of, say):
        self.folder, self.say, self.mark = folder, say, folder / "made_of.txt"
        sums = hashlib.sha256()
        for part in made_of:
            sums.update(part)
        self.made_of = sums.hexdigest()

    def begin(self):
        """Remove what was drawn of something else."""
        if not self.mark.is_file() or self.mark.read_text() != self.made_of:
            self.forget()

    def keep(self, name, draw):
        """The pictures of this name: those that were kept, or new ones, which are kept."""
        path = self.folder / f"{name}.npz"
        if path.is_file():
            self.say(f"  {name.split('.')[-1].replace('_', ' ')}: drawn before, {path}")
            return read_npz(path)["pictures"]
        pictures = draw()
        if pictures is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.mark) as partial:
                partial.write_text(self.made_of)
            save_arrays(path, pictures=pictures)
        return pictures

    def forget(self):
        """Remove what was kept: these files and no others."""
        for path in [self.mark, *self.folder.glob("*.npz")]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or somebody else's file is in it
            self.folder.rmdir()


class Rows:
    """The table as it grows: how each decoder scores as soon as it has drawn, and a time to go."""

    def __init__(self, experiment, sampling, drawn, say):
        x = self.experiment = experiment
        self.drawn, self.say = drawn, say
        self.target = {"single_trial": x.target, "averaged": np.arange(len(x.test_index))}
        each = {"diffusion": sampling.candidates, "conditional": 1}
        self.left = {f"{name}.{key}": len(target) * count  # pictures that are still to be drawn
                     for name, target in self.target.items() for key, count in each.items()}
        self.seconds, self.done = 0.0, 0

    @cached_property
    def features(self):
        """The evaluation space; made with the first row, after the first figure."""
        return report.evaluation_space(
            self.experiment.train_pictures, report.load_classifiers()[""])

    @cached_property
    def criteria(self):
        """What scores a part's pictures."""
        x = self.experiment
        return {name: report.Criteria(x.images[x.test_index], target, self.features)
                for name, target in self.target.items()}

    def keep(self, name, draw):
        """The pictures of this name, see `Drawn.keep`; says how they score."""
        begin = time.monotonic()
        pictures, count = self.drawn.keep(name, draw), self.left.pop(name, 0)
        spent = time.monotonic() - begin
        if count and spent > 1:
            self.seconds, self.done = self.seconds + spent, self.done + count
        part, key = name.split(".")
        if pictures is not None:
            right = report.named_right(pictures, self.criteria[part])
            text = f"  {key.replace('_', ' ')}: {right.mean():.3f} named right, {spent:.0f} s"
            if self.done and self.left:
                rest = self.seconds / self.done * sum(self.left.values())
                text += f"; about {rest:.0f} s of drawing to go"
            self.say(text)
        return pictures


def reconstruct_arrays(out, own, options, seed, say):
    """Reconstruct every trial of anybody's data into `out`; see `crossval.cross_validate`."""
    pictures = crossval.cross_validate(own, options, seed, say)
    fold = pictures.pop("fold")
    settings = {"seed": seed, "computed": computed_on(options.device)}
    save_arrays(out / OWN, settings=json.dumps(settings), truth=own.images,
                trial_image=own.trial_image, fold=fold, **pictures)
    say(f"{len(fold)} reconstructions are in {out / OWN}; score them with "
        f"`python -m recon_lib score --out {out}`")


def score_release(out, permutations, say, features=None):
    """Score what `reconstruct_release` left in `out`; write the scores and two figures.

    `features`: the evaluation space, where that is there already.
    """
    arrays = load_arrays(out / RELEASE)
    settings = arrays.pop("settings")
    x = Release(**{f.name: settings[f.name] for f in fields(Release) if f.name in settings}).load()
    mine, drawn_of = signature(x), arrays.pop("experiment", None)
    if drawn_of is not None and not (  # a picture may be decoded a little otherwise elsewhere
            mine.shape == drawn_of.shape and np.allclose(mine, drawn_of, atol=2e-3)):
        raise DataError(f"{settings['data']} holds other test pictures or betas than {out} was "
                        "drawn from; expected the same: reconstruct anew")
    results = {}
    for key, value in arrays.items():
        name, *rest = key.split("/")
        part = results.setdefault(name, {"pictures": {}, "rankings": {}, "posterior": {},
                                         "other_seeds": {}})
        if rest == ["target"]:
            part["target"] = value
        else:
            part[rest[0]][rest[1]] = value
    classifiers = report.load_classifiers()
    criteria = report.criteria_of(x, results, classifiers, features)
    table = report.score(x, results, classifiers, permutations, settings["seed"], criteria)
    searches = "map_retrieval", "posterior_retrieval"
    paired = {f"diffusion_minus_{other}": report.paired_differences(
        results, criteria, settings["seed"], other=other) for other in searches}
    sure = report.how_sure(results, criteria)
    table["info"] = settings | paired | {
        "how_sure": sure,
        "sizes": {"train_trials": int((~x.test).sum()), "test_trials": int(x.test.sum()),
                  "test_pictures": len(x.test_index), "voxels": x.betas.shape[1]},
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
        "permutations": permutations,
    }
    write_scores(out, table)
    draw_release(out, x.images[x.test_index], results["averaged"])
    for name in ("single_trial", "averaged"):
        say(f"\n{name.replace('_', ' ')}\n{report.format_report(table[name])}")
        for other, found in zip(searches, paired.values(), strict=True):
            if name in found:
                say("top-1, diffusion minus {}: {top1:+.3f} ({top1_low:+.3f} to {top1_high:+.3f})"
                    .format(plots.LABELS[other], **found[name]))
        for factor, numbers in sure.get(name, {}).items():
            sure_of = (f"of those given .9 or more ({numbers['share_sure']:.3f} of trials), in "
                       f"{numbers['right_sure']:.3f}" if "right_sure" in numbers else
                       "none is given .9 or more")
            say(f"the likeliest {factor} is given {numbers['said']:.3f}, and right in "
                f"{numbers['right']:.3f}; {sure_of}")
    say(f"\nscores: {out / 'scores.json'}\nfigures: {out / 'reconstructions.png'}, "
        f"{out / 'grid.png'}")


def draw_release(out, seen, averaged):
    """The two figures of a release: what some decoders drew, and many pairs of seen and drawn."""
    pictures, show = averaged["pictures"], spread(len(seen), FIRST)
    rows = {"seen": seen[show], "ridge to pixels": pictures["ridge"][show],
            "diffusion, seed 1": pictures["diffusion"][show]}
    rows |= {f"diffusion, {key.replace('_', ' ')}": drawn
             for key, drawn in averaged["other_seeds"].items()}
    if averaged["posterior"]:
        side = seen.shape[1] // averaged["posterior"]["spread"].shape[1]
        unsure = np.kron(averaged["posterior"]["spread"][show], np.ones((side, side)))
        unsure = np.repeat((unsure.clip(0, WHITE) * 255 / WHITE).astype(np.uint8)[..., None],
                           seen.shape[3], 3)
        rows[f"expected error\n(white: {WHITE})"] = unsure
    figure = plots.reconstructions(rows | {"shuffled brain": pictures["shuffled_brain"][show]})
    save_figure(out / "reconstructions.png", figure)
    many = spread(len(seen), 48)
    grid = plots.pairs(seen[many], pictures["diffusion"][many],
                       title="seen, and below it what was read from the averaged betas")
    save_figure(out / "grid.png", grid)


def score_arrays(out, permutations, say):
    """Score what `cross_validate` left in `out`; write the scores and the figure."""
    arrays = load_arrays(out / OWN)
    settings = arrays.pop("settings")
    table = report.score_cross_validated(arrays, permutations)
    table["info"] |= settings
    write_scores(out, table)
    _, show = np.unique(arrays["trial_image"], return_index=True)
    show = show[spread(len(show), FIRST)]
    rows = {"seen": arrays["truth"][arrays["trial_image"]]}
    rows |= {k: arrays[k] for k in ("ridge", "inverse_retinotopy", "diffusion", "shuffled_brain")
             if k in arrays}  # the second is not in older files
    figure = plots.reconstructions({k: v[show] for k, v in rows.items()})
    save_figure(out / "reconstructions.png", figure)
    say(f"\ncross-validated, every trial\n{report.format_report(table['single_trial'])}")
    say(f"\nscores: {out / 'scores.json'}\nfigure: {out / 'reconstructions.png'}")


def score(out, permutations, say, features=None):
    """Score what is in `out`: of a release or of anybody's data, whichever was made last.

    `features`: as for `score_release`.
    """
    there = [out / name for name in (RELEASE, OWN) if (out / name).exists()]
    last = max(there, key=lambda path: path.stat().st_mtime_ns, default=out / RELEASE)
    if len(there) > 1:
        say(f"scoring {last}, the newer of the two results in {out}")
    if last.name == OWN:
        score_arrays(out, permutations, say)
    else:
        score_release(out, permutations, say, features)


def save_arrays(path, **arrays):
    """Write an .npz whole or not at all."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(path):
    """An .npz that `reconstruct_release` or `cross_validate` wrote, its settings as a dict."""
    if not path.exists():
        raise DataError(f"no file {path}; run `python -m recon_lib reconstruct` first")
    arrays = read_npz(path)
    missing = {OWN: {"truth", "trial_image", "fold"}}.get(path.name, {"settings"}) - set(arrays)
    if missing:
        raise DataError(f"{path} has no {', '.join(sorted(missing))}; write it with `reconstruct`")
    with readable(path):
        return arrays | {"settings": dict(json.loads(str(arrays.get("settings", "{}"))))}


def write_scores(out, table):
    """Write scores.json whole or not at all."""
    with atomic_write(out / "scores.json") as partial:
        partial.write_text(json.dumps(table, indent=2) + "\n")


def save_figure(path, figure):
    """Write a figure as PNG whole or not at all."""
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)
