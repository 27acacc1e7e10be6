"""What is read, what is found and what is drawn: on training trials that nothing was fitted to.

    python benchmarks/posterior.py           # some fifteen minutes of one core
    python benchmarks/posterior.py finite    # a part of it: held or finite

Some training pictures of the embedded experiment are held out, with their trials: no decoder is
fitted to them and the retrieval prior forgets them. From one trial each is named among 113 of them:
by rankings that draw nothing, by what the retrieval prior finds, and by what the diffusion model
draws when it is told the posterior mean. Each share comes with a bootstrap interval over
pictures, and the pairs that matter with the interval of their difference. Then: does the posterior
know how sure it may be? Sets of categories that it gives 50 to 95 % must hold the true one as
often. No test trial is touched; `posterior.TEMPERATURE` was chosen so. Last, samplers are held
against the exact posterior of a finite world, see `_finite`.
"""

import sys
from dataclasses import replace
from functools import partial

import _finite
import _table
import numpy as np

from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.edges import fit_edges
from recon_lib.brain.encoding import fit_encoding_model
from recon_lib.brain.families import feature_families
from recon_lib.brain.features import coarse_pixels
from recon_lib.brain.patterns import similarity
from recon_lib.data import release
from recon_lib.decoding.baselines import Training, Trials, ideal_observer
from recon_lib.decoding.posterior import Posterior
from recon_lib.decoding.reconstruct import posterior_sampler
from recon_lib.decoding.retrieval_prior import map_retrieval, prior_pictures, prior_rows
from recon_lib.decoding.sampling import (
    MODEL,
    SAMPLING,
    STUDENT,
    load_conditional,
    sampling_for,
)
from recon_lib.scores.identification import bootstrap_interval
from recon_lib.scores.report import evaluation_space, load_classifiers
from recon_lib.world import experiment

HELD, AMONG, SEED = 565, 113, 7
LEVELS, SAID = (0.5, 0.8, 0.9, 0.95), (0.0, 0.5, 0.7, 0.9)


class HeldOut:
    """The experiment, with some training pictures kept apart, and all that is fitted to the rest.

    Attributes
    ----------
    trials : Trials
        One of each picture that was kept apart.
    pictures : (n,) int array
        Which of `x.images` they show.
    """

    def __init__(self, x, model=MODEL, held=HELD, seed=SEED):
        net = load_conditional(model)
        train = np.flatnonzero(~x.test)
        names, first = np.unique(x.image[train], return_index=True)
        some = np.random.default_rng(seed).permutation(len(names))[:held]
        kept, rest = train[first[some]], train[~np.isin(x.image[train], names[some])]
        latents = net.latent.transform(x.images)
        known = prior_rows(net.latent.prior, latents[x.image[kept]])
        prior = np.delete(net.latent.prior, known[known >= 0], axis=0)
        self.rows = np.setdiff1d(np.arange(len(net.latent.prior)), known)
        latent = replace(net.latent, prior=prior)
        shown = x.image[rest]
        once = np.unique(shown)
        edges = fit_edges(latents[once], x.images[once])
        self.families = feature_families(latent, latents, edges)
        decoder = fit_decoder(x.betas[rest], latents[shown], shown)
        encoding = fit_encoding_model({k: v[shown] for k, v in self.families.items()},
                                      x.betas[rest], shown)
        self.x, self.net = x, replace(net, latent=latent)
        self.latents, self.latent, self.whole = latents, latent, net.latent
        self.observer = ideal_observer(replace(x, test=~np.isin(np.arange(len(x.test)), rest)),
                                       x.image[kept])
        self.training = Training(x.betas[rest], x.images[shown], shown, latents[shown], decoder, 0,
                                 latent, encoding, edges)
        self.posterior = Posterior(decoder, encoding, latent, edges)
        betas = x.betas[kept]
        self.trials = Trials(betas, decoder.vector(betas), np.ones(len(kept), int),
                             found=self.posterior.find(betas))
        self.pictures = x.image[kept]

    def right(self, fit):
        """Which trials are named right, each among its set, from (trials, pictures) numbers."""
        sets = np.array_split(np.arange(len(fit)), max(len(fit) // AMONG, 1))
        return np.concatenate([fit[np.ix_(s, s)].argmax(1) == np.arange(len(s)) for s in sets])


def rankings(held):
    """Which trials each ranking names: name -> (trials,) bool array."""
    trials, shown = held.trials, held.pictures
    plain = fit_encoding_model(held.training.latents, held.training.betas, held.training.image)
    fits = {
        "brain vector": held.training.decoder.log_likelihood(trials.vectors, held.latents[shown]),
        "encoding model, one ridge": plain.rank(trials.betas, held.latents[shown]),
        "encoding model, families": held.training.encoding.rank(
            trials.betas, {k: v[shown] for k, v in held.families.items()}),
        "ideal observer": held.observer(trials.betas),
    }
    return {name: held.right(fit) for name, fit in fits.items()}


def counted(net, draw, trials):
    """What is drawn, and how many evaluations of a network each picture took."""
    asked, networks = [], [net.model, *(net.guidance_model or ())[:1]]
    hooks = [network.register_forward_hook(lambda module, told, answer: asked.append(len(answer)))
             for network in networks]
    try:
        return draw(trials), sum(asked) / len(trials.betas)
    finally:
        for hook in hooks:
            hook.remove()


def pictures(held, sampling=SAMPLING):
    """What each way of finding or drawing shows: name -> (pictures, evaluations a picture)."""
    x, trials = held.x, held.trials
    by_vector = map_retrieval(held.training.decoder, held.latent.prior, trials.vectors)
    found = {name: (prior_pictures(x, held.whole, held.rows[index]), 0) for name, index in
             (("MAP by brain vector", by_vector), ("MAP by all voxels", trials.found.index),
              ("nearest to the posterior mean", trials.found.nearest))}
    draws = {"drawn, posterior mean": (
        held.net, posterior_sampler(held.net, held.posterior, sampling, 0))}
    student = load_conditional(STUDENT)
    if student.info["latent"] == held.net.info.get("latent"):  # it listens to the same vectors
        draws["drawn by the student, posterior mean"] = (
            student, posterior_sampler(student, held.posterior, sampling_for(student.info), 0))
    return found | {name: counted(net, draw, trials) for name, (net, draw) in draws.items()}


def coverage(held):
    """Share of sets of categories that hold the true one: level -> (trials,) bool array."""
    share = held.trials.found.share["category"]  # (trials, categories)
    order = np.argsort(-share, axis=1)
    before = np.cumsum(np.take_along_axis(share, order, 1), 1) - np.take_along_axis(share, order, 1)
    truth = held.x.factors["category"][held.pictures]
    place = (order == truth[:, None]).argmax(1)
    return {level: before[np.arange(len(truth)), place] < level for level in LEVELS}


def said_and_right(held):
    """Is the posterior right as often as it says? Of its likeliest categories, and of places.

    Returns
    -------
    dict
        For ranges of the share of the likeliest category: that share, and (trials,) whether it was
        right. Under "place": the expected error of coarse pictures, and the errors (n, 16, 16).
    """
    found, truth = held.trials.found, held.x.factors["category"][held.pictures]
    top, right = found.share["category"].max(1), found.share["category"].argmax(1) == truth
    table = {}
    for low, high in zip(SAID, (*SAID[1:], 1.01), strict=True):
        rows = (top >= low) & (top < high)
        if rows.any():
            table[f"{low:g} to {min(high, 1):g}"] = top[rows].mean(), right[rows]
    seen = (coarse_pixels(held.x.images[held.pictures]).reshape(-1, 3, *found.spread.shape[1:])
            + 1) / 2
    error = np.square(seen - held.posterior.coarse(found.mean)[0]).mean(1)
    return table | {"place": (found.spread, error)}


def tell(name, hits, image=None):
    """Print a mean with its 95 % bootstrap interval over pictures."""
    low, high = bootstrap_interval(hits, np.arange(len(hits)) if image is None else image)
    print(f"{name}: {np.mean(hits):.3f} ({low:.3f} to {high:.3f})", flush=True)


def of_held_out(held, sampling=SAMPLING):
    """What is read, found and drawn of training trials that were held out: rows."""
    named, evaluations = rankings(held), {}
    classifiers = load_classifiers()
    space = evaluation_space(held.training.pictures, classifiers[""])
    known = space(held.x.images[held.pictures])
    for name, (drawn, evaluations[name]) in pictures(held, sampling).items():
        named[name] = held.right(similarity(space(drawn), known))
        print(f"evaluations of both networks a picture, {name}: {evaluations[name]:.0f}")
    for name, hits in named.items():
        tell(f"named right of {AMONG}, {name}", hits)
    ours = named["drawn, posterior mean"].astype(float)
    for other in ("MAP by all voxels", "nearest to the posterior mean"):
        tell(f"drawn, posterior mean - {other}", ours - named[other])
    covered = coverage(held)
    for level, hits in covered.items():
        tell(f"sets of categories of {level:.0%} that hold the true one", hits)
    sure = said_and_right(held)
    spread, error = sure.pop("place")
    for name, (said, right) in sure.items():
        tell(f"right, of {len(right)} trials whose likeliest category has a share of {name} "
             f"(mean {said:.3f})", right)
    for part in np.array_split(np.argsort(spread, axis=None), 4):
        print(f"places whose expected error is {np.sqrt(np.mean(spread.flat[part] ** 2)):.3f}: "
              f"{np.sqrt(error.flat[part].mean()):.3f}")
    few = f"one trial of {len(held.pictures)} training pictures held out"
    table = [_table.row(f"{name}, {few}", named[name].mean(), "top-1",
                        named["ideal observer"].mean(), "ideal observer", "more")
             for name in named if name != "ideal observer"]
    table += [_table.row(f"evaluations of both networks a picture, {name}", number, "evaluations")
              for name, number in evaluations.items() if number]
    return table + [_table.row(f"categories in sets of {level:.0%}, {few}", hits.mean(), "share",
                               level, "asked for", "more") for level, hits in covered.items()]


def rows(model=MODEL, held=HELD, sampling=SAMPLING, parts=("held", "finite")):
    held = HeldOut(release.load_experiment(experiment.ready()), model, held)
    made = of_held_out(held, sampling) if "held" in parts else []
    if "finite" in parts:
        kinds = held.posterior.pictures[1]["category"].argmax(1)
        made += _finite.rows(held.training.decoder, held.latent.prior, kinds)
    return made


if __name__ == "__main__":
    if sys.argv[1:]:
        rows = partial(rows, parts=sys.argv[1:])
    _table.main(rows)
