"""Which part of the reconstruction loses most? One after the other is replaced by its ideal.

    python benchmarks/limits.py          # five minutes of one core, 10 GB of memory

Measured on training pictures that were held out, one trial of each, as in `posterior`. First the
likelihood: in place of the encoding model stand the simulation's own tuning of every voxel, and the
covariance of what this tuning leaves of the training trials' betas. Then all of the reading: for
the network the latent of the picture itself counts as 60 trials without noise, and the search shows
the picture of the prior whose latent is nearest to it. Last the start: the student starts from the
picture that the search found, noised to two of its four times (SDEdit, Meng et al. 2022, arXiv
2108.01073), and not from noise. Prior, network and all else stay as they are.

The score is the share named right among 113 by what is shown, with bootstrap intervals over
pictures. Then: how far are the object's hue and place, as the evaluation classifier reads them,
from those that were seen?
"""

from dataclasses import replace

import _table
import numpy as np
import torch
from posterior import AMONG, HELD, HeldOut, tell
from unseen import prior_factors

from recon_lib.brain.encoding import log_likelihood, shrunk_covariance
from recon_lib.brain.features import read_factors
from recon_lib.brain.patterns import similarity
from recon_lib.data import release
from recon_lib.data.bold5000 import VOXELS
from recon_lib.data.loader import to_batch
from recon_lib.decoding.baselines import voxels_by_area
from recon_lib.decoding.reconstruct import posterior_sampler
from recon_lib.decoding.retrieval_prior import prior_pictures, training_pictures
from recon_lib.decoding.sampling import STUDENT, sampling_for
from recon_lib.diffusion import SCHEDULES, add_noise, denoiser
from recon_lib.samplers import initial_noise, to_uint8, walk
from recon_lib.scores.report import evaluation_space, load_classifiers
from recon_lib.world import experiment, tuning

BEGIN = 2  # how many of a student's times are left out where it starts from a picture


def known_responses(held, voxels, seed):
    """The betas that the prior's pictures evoke without noise, by the simulation's own tuning.

    Returns
    -------
    responses : (pictures of the prior, V) float32 array
    noise : (V, V) array
        Covariance of what is left of the training trials' betas.
    """
    x, n = held.x, len(held.x.images)
    order = voxels_by_area(np.repeat(list(voxels), list(voxels.values())), x.roi)
    responses = tuning.responses(
        np.concatenate([x.images, training_pictures(x, None, held.rows)]),
        np.concatenate([x.factors, prior_factors(x)[held.rows]]), voxels, seed)[:, order]
    betas, shown = held.training.betas, responses[held.training.image]
    centre, mean = shown.mean(0), betas.mean(0)
    slope = ((shown - centre) * (betas - mean)).mean(0) / shown.var(0)
    noise = shrunk_covariance(betas - mean - (shown - centre) * slope)
    return mean + (responses[n:] - centre) * slope, noise


def known_posterior(held, voxels=VOXELS["CSI1"], seed=0):
    """As `held.trials.found`, by the true likelihood: what somebody who knows the subject finds."""
    fit = log_likelihood(held.trials.betas, *known_responses(held, voxels, seed))
    weights = np.exp(fit - fit.max(1, keepdims=True))
    mean = weights / weights.sum(1, keepdims=True) @ held.latent.prior
    return replace(held.trials.found, index=fit.argmax(1), mean=mean.astype(np.float32),
                   nearest=similarity(mean, held.latent.prior).argmax(1))


@torch.no_grad()
def begun(held, student, pictures, seed=0):
    """What a student draws from noised `pictures` (n, H, W, C), given the posterior mean."""
    alpha_bar, ladder = SCHEDULES[student.info["schedule"]](), student.info["ladder"]
    told = torch.from_numpy(
        held.posterior.vectors(held.trials.betas, held.trials.repeats, found=held.trials.found))
    drawn = []
    for i in range(0, len(told), 64):
        x, condition = to_batch(pictures[i : i + 64]), told[i : i + 64]
        noise = initial_noise(len(x), tuple(x.shape[1:]), seed, i)
        x_t = add_noise(x, torch.full((len(x),), ladder[BEGIN]), noise, alpha_bar)
        denoise = denoiser(student.model, student.info["prediction"], alpha_bar, condition)
        drawn.append(to_uint8(walk(denoise, x_t, alpha_bar, ladder[BEGIN:])))
    return np.concatenate(drawn)


def shown(held, student, known):
    """The pictures that each way of reconstructing shows, by its name."""
    trials, latents = held.trials, held.latents[held.pictures]
    true = replace(trials.found, mean=latents, nearest=similarity(
        latents, held.latent.prior).argmax(1))
    draw = posterior_sampler(student, held.posterior, sampling_for(student.info), 0)
    made = {"fitted likelihood, MAP": trials.found.index, "known likelihood, MAP": known.index,
            "fitted likelihood, nearest to the mean": trials.found.nearest,
            "known likelihood, nearest to the mean": known.nearest,
            "the picture's own latent, nearest": true.nearest}
    made = {name: prior_pictures(held.x, held.whole, held.rows[index])
            for name, index in made.items()}
    begin = made["fitted likelihood, nearest to the mean"]
    return made | {
        "fitted likelihood, drawn": draw(trials),
        "fitted likelihood, drawn, begun from the nearest": begun(held, student, begin),
        "known likelihood, drawn": draw(replace(trials, found=known)),
        "the picture's own latent, drawn": draw(replace(trials, found=true))}


PAIRS = (("fitted likelihood, drawn", "fitted likelihood, MAP"),
         ("fitted likelihood, drawn", "fitted likelihood, nearest to the mean"),
         ("fitted likelihood, drawn, begun from the nearest",
          "fitted likelihood, nearest to the mean"),
         ("known likelihood, MAP", "fitted likelihood, MAP"),
         ("known likelihood, drawn", "fitted likelihood, drawn"),
         ("known likelihood, drawn", "known likelihood, MAP"),
         ("the picture's own latent, drawn", "the picture's own latent, nearest"))


def errors_of(classifier, pictures, factors):
    """Errors (n,) of the object's hue, in degrees, and of its place, in sides of the picture."""
    read = read_factors(classifier, pictures)
    hue = 360 * np.abs((read["hue"] - factors["hue"] + 0.5) % 1 - 0.5)
    return {"hue": hue, "place": np.hypot(*(read[axis] - factors[axis] for axis in "xy"))}


def rows(model=STUDENT, held=HELD, voxels=VOXELS["CSI1"], seed=0):
    held = HeldOut(release.load_experiment(experiment.ready()), model, held)
    classifier, factors = load_classifiers()[""], held.x.factors[held.pictures]
    space = evaluation_space(held.training.pictures, classifier)
    truth = space(held.x.images[held.pictures])
    made = shown(held, held.net, known_posterior(held, voxels, seed))
    named = {name: held.right(similarity(space(pictures), truth)).astype(float)
             for name, pictures in made.items()}
    for name, hits in named.items():
        tell(f"named right of {AMONG}, {name}", hits)
    for one, other in PAIRS:
        tell(f"{one} - {other}", named[one] - named[other])
    errors = {name: errors_of(classifier, pictures, factors) for name, pictures in made.items()}
    for one, other in PAIRS[:2]:
        for what in ("hue", "place"):
            tell(f"error of the {what}, {one}", errors[one][what])
            tell(f"the same, less that of {other}", errors[one][what] - errors[other][what])
    return [_table.row(f"{one}, one trial of {len(held.pictures)} training pictures held out",
                       named[one].mean(), "top-1", named[other].mean(), other, "more")
            for one, other in PAIRS]


if __name__ == "__main__":
    _table.main(rows)
