"""Explorers of BOLD: move a slider, see the picture and the numbers change."""

import numpy as np
from scipy.signal import lfilter

from recon_lib.bold import hrf
from recon_lib.bold.betas import areas_of
from recon_lib.bold.design import nuisance
from recon_lib.bold.events import regressors
from recon_lib.bold.glm import trial_design, trial_estimator
from recon_lib.brain.patterns import compare_rdms, rdm, unit_rows
from recon_lib.course.explorer import Explorer, choice, sheet, slider
from recon_lib.course.style import BLUE, GREY, INK, RED


def hrf_explorer():
    """What the parameters of a double gamma do, and how responses to several pictures add up.

    `numbers`: `t`, `response` (to one picture), `train` (to pictures every `spacing` seconds),
    `peak_time`, `width` (at half height), `undershoot` (relative to the peak).
    """
    controls = {
        "peak": slider("peak at (s)", 5.0, 2.5, 9.0, 0.1),
        "dispersion": slider("dispersion (s)", 1.0, 0.5, 2.0, 0.05),
        "ratio": slider("undershoot ratio", 0.17, 0.0, 0.6, 0.01),
        "duration": slider("picture shown (s)", 1.0, 0.5, 12.0, 0.5),
        "spacing": slider("picture every (s)", 10.0, 2.0, 30.0, 0.5),
    }
    return Explorer(controls, hrf_numbers, draw_hrf, lambda n: (
        f"peak {n['peak_time']:.1f} s after onset, {n['width']:.1f} s wide at half height, "
        f"undershoot {n['undershoot']:.0%} of the peak; {len(n['onsets'])} pictures add up to "
        f"{n['train'].max():.2f} times one"))


def hrf_numbers(peak, dispersion, ratio, duration, spacing):
    """The numbers behind `hrf_explorer`; a volume every 0.1 s."""
    kernel = hrf.kernel(2.0, 20, delay=peak + dispersion, dispersion=dispersion,
                        undershoot=peak + 10.0, ratio=ratio)
    t = np.arange(600) * 0.1
    onsets = np.arange(0.0, 60.0, spacing)
    each = regressors(onsets, duration, 600, 0.1, kernel, oversampling=1)
    response = each[:, 0] / each[:, 0].max()
    high = np.flatnonzero(response > 0.5)
    return {
        "t": t, "response": response, "train": each.sum(1) / each[:, 0].max(), "onsets": onsets,
        "peak_time": float(t[response.argmax()]), "width": float(t[high[-1]] - t[high[0]]),
        "undershoot": float(-response.min()),
    }


@sheet(3.2, lambda fig: fig.subplots(1, 2, sharey=True))
def draw_hrf(fig, numbers):
    """One response, and the sum of many."""
    one, many = fig.axes
    one.plot(numbers["t"], numbers["response"], color=BLUE)
    one.plot(numbers["peak_time"], 1, "o", color=BLUE)
    one.set(title="one picture", xlabel="seconds", ylabel="response", xlim=(0, 30),
            xticks=(0, 10, 20, 30))  # few ticks: they are what takes time to draw
    one.locator_params("y", nbins=4)
    many.plot(numbers["t"], numbers["train"], color=RED)
    many.plot(numbers["onsets"], np.full(len(numbers["onsets"]), -0.45), "|", color=INK)
    many.set(title=f"{len(numbers['onsets'])} pictures", xlabel="seconds", xticks=(0, 20, 40, 60))
    for ax in (one, many):
        ax.axhline(0, color=GREY, linewidth=0.8)
    low, high = min(-0.5, numbers["train"].min()), max(1.2, numbers["train"].max())
    one.set_ylim(low * 1.05, high * 1.05)
    fig.subplots_adjust(0.11, 0.17, 0.99, 0.91, wspace=0.06)


def glm_playground():
    """One voxel, one run, single-trial betas: what makes them good or bad?

    `numbers`: `bold`, `fit` (volumes,), `truth`, `estimate` (trials,), `r` (their correlation),
    `trials`, `error` (root mean square, in %), `efficiency` (1 / variance of a beta if the noise
    were white and 1 % large; larger is better).
    """
    drift_models = [("1/128 Hz", 1 / 128), ("1/50 Hz", 0.02), ("none", 1e-9)]
    controls = {
        "spacing": slider("picture every (s)", 10.0, 3.0, 20.0, 1.0),
        "noise": slider("noise (%)", 0.5, 0.0, 3.0, 0.1),
        "drift": slider("drift (%)", 1.0, 0.0, 5.0, 0.5),
        "peak": slider("true HRF peaks at (s)", 5.0, 3.0, 7.0, 0.25),
        "high_pass": choice("drift model", drift_models),
        "method": choice("method", ["lsa", "lss"]),
        "seed": slider("another draw", 0, 0, 20, 1),
    }
    return Explorer(controls, glm_numbers, draw_glm, lambda n: (
        f"{n['trials']} trials; estimate and truth correlate {n['r']:.2f}; "
        f"typical error {n['error']:.2f} %; efficiency {n['efficiency']:.2f}"))


def glm_numbers(spacing, noise, drift, peak, high_pass, method, seed):
    """The numbers behind `glm_playground`: a 388 s run, TR 2 s, AR(1) noise of 0.3."""
    tr, volumes = 2.0, 194
    rng = np.random.default_rng(seed)
    onsets = np.arange(6.0, 370.0, spacing)
    truth = rng.normal(1.0, 0.5, len(onsets))
    kernel = hrf.kernel(tr, delay=peak + 1.0, undershoot=peak + 11.0)
    errors = lfilter([np.sqrt(1 - 0.3**2)], [1, -0.3], rng.normal(size=volumes))
    time = np.arange(volumes) / volumes
    slow = np.sin(2 * np.pi * (1.5 * time + rng.random())) + 2 * time
    signal = trial_design(onsets, volumes, tr, kernel) @ truth
    bold = signal + noise * errors + drift * (slow - slow.mean())
    model = hrf.spm_hrf(tr)
    matrix = trial_estimator(onsets, volumes, tr, model, method=method, high_pass=high_pass)
    estimate = matrix @ bold
    confounds = nuisance(volumes, tr, high_pass)
    fit = trial_design(onsets, volumes, tr, model) @ estimate
    fit += confounds @ np.linalg.lstsq(confounds, bold - fit)[0]
    return {
        "time": np.arange(volumes) * tr, "onsets": onsets, "bold": bold, "truth": truth,
        "fit": fit, "estimate": estimate, "trials": len(onsets),
        "r": float(np.corrcoef(truth, estimate)[0, 1]),
        "error": float(np.sqrt(np.mean((estimate - truth) ** 2))),
        "efficiency": float(1 / np.mean(np.sum(matrix**2, axis=1))),
    }


@sheet(3.2, lambda fig: fig.subplots(1, 2, width_ratios=(1.7, 1)))
def draw_glm(fig, numbers):
    """The voxel and the fit; estimates against the truth."""
    left, right = fig.axes
    left.plot(numbers["time"], numbers["bold"], color=GREY, linewidth=1, label="BOLD")
    left.plot(numbers["time"], numbers["fit"], color=BLUE, linewidth=1.5, label="fit")
    left.set(title="first 120 s", xlabel="seconds", ylabel="% signal change", xlim=(0, 120),
             xticks=(0, 40, 80, 120))
    left.legend(loc="upper left", ncols=2)
    right.plot(numbers["truth"], numbers["estimate"], "o", color=BLUE, markersize=4)
    right.plot([-1, 3], [-1, 3], color=INK, linestyle="--", linewidth=1)
    low, high = min(-2, numbers["estimate"].min() - 0.2), max(4, numbers["estimate"].max() + 0.2)
    right.set(title="betas (%)", xlabel="truth", ylabel="estimate", xlim=(-1, 3), ylim=(low, high))
    for ax in (left, right):
        ax.locator_params("y", nbins=5)
    fig.subplots_adjust(0.09, 0.17, 0.99, 0.91, wspace=0.3)


def roi_explorer(betas: np.ndarray, roi: np.ndarray, what: dict[str, np.ndarray]) -> Explorer:
    """What does an area know, and how many voxels does it take?

    Half of the trials give a mean pattern for each category. The other half are named by the
    pattern with which they correlate best.

    Parameters
    ----------
    betas : (trials, voxels) float32 array
        Z-scored.
    roi : (voxels,) str array
    what : dict of str to (trials,) array of names
        Ways to sort the trials, such as "object".

    Returns
    -------
    Explorer
        `numbers`: `names`, `rdm` and `confusion` (m, m), `accuracy`, `chance`, `voxels`, `stable`
        (rank correlation of the two halves' RDMs).
    """
    area_of = areas_of(roi)
    areas = list(dict.fromkeys(area_of.tolist()))
    order = np.random.default_rng(0).permutation(len(roi))
    sums = {}  # what -> names, (half, m, voxels) mean patterns, category of each trial
    for key, labels in what.items():
        names, which = np.unique(labels, return_inverse=True)
        halves = [np.eye(len(names), dtype=betas.dtype)[which[h::2]].T for h in (0, 1)]
        means = [half @ betas[h::2] / half.sum(1, keepdims=True) for h, half in enumerate(halves)]
        sums[key] = names, np.stack(means), which

    def numbers(area, what, voxels):
        names, means, which = sums[what]
        inside = np.isin(area_of, areas if area == "all" else [area])
        used = order[inside[order]][:voxels]
        pattern = unit_rows(means[0][:, used] - means[0][:, used].mean(0))
        named = (betas[1::2][:, used] @ pattern.T).argmax(1)
        confusion = np.zeros((len(names), len(names)))
        np.add.at(confusion, (which[1::2], named), 1)
        rdms = [rdm(half[:, used]) for half in means]
        return {
            "names": names, "rdm": sum(rdms) / 2,
            "confusion": confusion / confusion.sum(1, keepdims=True),
            "accuracy": float((named == which[1::2]).mean()), "chance": 1 / len(names),
            "voxels": len(used), "stable": compare_rdms(*rdms),
        }

    controls = {
        "area": choice("area", [*areas, "all"]),
        "what": choice("sort trials by", list(what)),
        "voxels": slider("voxels, at most", 200, 5, len(roi), 5),
    }
    return Explorer(controls, numbers, draw_roi, lambda n: (
        f"{n['voxels']} voxels name {n['accuracy']:.0%} of trials (chance {n['chance']:.0%}); "
        f"RDMs of the two halves agree {n['stable']:.2f}"))


@sheet(3.6, lambda fig: fig.subplots(1, 2))
def draw_roi(fig, numbers):
    """Dissimilarities of the mean patterns, and which category was taken for which."""
    titles = "dissimilarity of mean patterns", "single trials: named as"
    for ax, key, title in zip(fig.axes, ("rdm", "confusion"), titles, strict=True):
        ax.imshow(numbers[key], vmin=0, vmax=numbers[key].max())
        ax.set_title(title, fontsize=12)
        ax.set(xticks=[], yticks=[])
        ax.tick_params(length=0, labelsize=10)
        ax.spines[:].set_visible(False)
    fig.axes[0].set_yticks(range(len(numbers["names"])), numbers["names"])
    fig.subplots_adjust(0.13, 0.03, 0.99, 0.9, wspace=0.05)
