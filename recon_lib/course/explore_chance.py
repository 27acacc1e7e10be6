"""The chance explorer: many laboratories without a brain, and what they would publish."""

from functools import lru_cache

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import stats
from scipy.special import ndtr, ndtri

from recon_lib.course.explorer import Explorer, sheet, slider
from recon_lib.course.style import BLUE, GREY, INK, PALE, RED
from recon_lib.scores.identification import two_way_null_sd

EXPERIMENTS = 500
PERMUTING, BINOMIAL = {"color": BLUE}, {"color": RED, "linestyle": "--"}  # lines of the two tests


def binomial_sd(n):
    """SD of a score of n (n − 1) comparisons, if they were independent: that of a binomial."""
    return float(np.sqrt(0.25 / (n * (n - 1))))


def simulated_two_way(pictures, information, tries, seed=0):
    """Two-way scores (EXPERIMENTS,) of experiments whose reconstructions know little or nothing.

    Each experiment has `pictures`, two at least. A reconstruction's similarity to the picture seen
    is N(information, 1), to each of the others N(0, 1). Of `tries` reconstructions the one most
    similar to the picture seen is kept.
    """
    rng = np.random.default_rng(seed)
    # the largest of k uniform numbers is a uniform number to the power 1 / k
    own = information + ndtri(rng.random((EXPERIMENTS, pictures)) ** (1 / tries))
    wins = rng.binomial(pictures - 1, ndtr(own))  # rivals that are less alike
    return wins.mean(1) / (pictures - 1)


@lru_cache
def permutation_cut(pictures):
    """The score that one in twenty experiments without any information exceeds."""
    wins = np.random.default_rng(1).integers(0, pictures, (4000, pictures))  # all ranks alike
    return float(np.quantile(wins.mean(1), 0.95)) / (pictures - 1)


def chance_explorer():
    """How often would laboratories find an effect, and how often is there one?

    `numbers`: `scores` (two-way, one for each simulated experiment), `sd` (theirs), `binomial_sd`,
    `null_sd`, `pictures`, and the share of experiments that are significant at .05 (one-sided) by
    the binomial (`binomial`) and against the distribution of permuted labels (`permutation`).
    """
    controls = {
        "pictures": slider("test pictures", 113, 5, 500, 1),
        "information": slider("information (d')", 0.0, 0.0, 1.0, 0.05),
        "tries": slider("best of (by the truth)", 1, 1, 20, 1),
    }
    return Explorer(controls, chance_numbers, draw_chance, lambda n: (
        f"called significant: by the binomial {n['binomial']:.0%} of experiments, by permutation "
        f"{n['permutation']:.0%}; mean score {n['scores'].mean():.3f}"))


def chance_numbers(pictures, information, tries):
    """The numbers behind `chance_explorer`."""
    scores = simulated_two_way(pictures, information, tries)
    cut = stats.norm.ppf(0.95) * binomial_sd(pictures)
    return {
        "scores": scores, "pictures": pictures, "sd": float(scores.std()),
        "binomial_sd": binomial_sd(pictures), "null_sd": two_way_null_sd(pictures),
        "binomial": float((scores - 0.5 >= cut).mean()),
        "permutation": float((scores > permutation_cut(pictures)).mean()),
    }


def lay_chance(fig):
    """One pair of axes, under a legend that stays as it is."""
    fig.subplots().set_yticks([])
    fig.legend([Patch(color=PALE), Line2D([], [], **PERMUTING), Line2D([], [], **BINOMIAL)],
               ["experiments", "what permuting expects", "what the binomial expects"],
               loc="upper center", ncols=3, labelcolor=INK, fontsize=11, columnspacing=1.2,
               handlelength=1.6)
    fig.subplots_adjust(0.05, 0.17, 0.95, 0.86)


@sheet(3.4, lay_chance)
def draw_chance(fig, numbers):
    """Scores of all experiments, under the two normal curves that the tests expect by chance."""
    (ax,) = fig.axes
    scores = numbers["scores"]
    wide = max(4 * numbers["null_sd"], np.abs(scores - 0.5).max())
    wide = min(np.ceil(20 * wide) / 20, 0.5)  # in steps: mostly unchanged, so ticks are kept
    at = np.linspace(0.5 - wide, 0.5 + wide, 800)
    ax.stairs(*np.histogram(scores, 40, density=True), fill=True, color=PALE)
    for key, style in (("null_sd", PERMUTING), ("binomial_sd", BINOMIAL)):
        ax.plot(at, stats.norm.pdf(at, 0.5, numbers[key]), **style)
    ax.axvline(0.5, color=GREY, linewidth=0.8)
    ax.set(xlabel=f"two-way identification, {numbers['pictures']} test pictures",
           xlim=(at[0], at[-1]), ylim=(0, 3 * stats.norm.pdf(0, 0, numbers["null_sd"])))
    ax.spines["left"].set_visible(False)
