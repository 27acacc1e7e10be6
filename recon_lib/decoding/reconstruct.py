"""The main job: betas of test trials in; pictures and controls out."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from recon_lib.brain.decoder import brain_log_likelihood, fit_decoder
from recon_lib.brain.edges import fit_edges
from recon_lib.brain.encoding import fit_encoding_model
from recon_lib.brain.families import feature_families
from recon_lib.common.errors import DataError
from recon_lib.data.release import Experiment
from recon_lib.decoding.baselines import (
    DRAWING,
    RANKING,
    Training,
    Trials,
    ideal_observer,
    shuffled_brain,
)
from recon_lib.decoding.posterior import Posterior
from recon_lib.decoding.retrieval_prior import prior_pictures, refuse_trained_on
from recon_lib.decoding.sampling import (
    PLAIN,
    STUDENT,
    Guidance,
    Sampling,
    load_conditional,
    refuse_unlearnt,
    sample_pictures,
    sampling_for,
)

FIRST = 8  # test pictures that are shown before all else is drawn


def spread(n, some):
    """At most `some` of n indices, evenly spread; the first and the last are among them."""
    return np.linspace(0, n - 1, min(some, n)).round().astype(int)


def refuse_other_split(path, info, experiment):
    """Stop if a model was trained on another split: it may have seen the pictures to be tested."""
    trained, held = info.get("split", "repeated"), info.get("held", [])
    if trained != experiment.split or not set(experiment.held) <= set(held):
        what = [f"{name} split" + (f" (held out: {', '.join(gone)})" if gone else "")
                for name, gone in ((trained, held), (experiment.split, experiment.held))]
        raise DataError(
            f"{path} was trained with the {what[0]}, so it may have seen the test pictures of the "
            f"{what[1]}; train it again with --split {experiment.split}")


def posterior_sampler(net, posterior, sampling, seed):
    """A decoder by a ready model that is told the posterior mean, see `posterior`.

    Without a retrieval prior it is told the brain vector. Of several candidates the one is kept
    under which the betas are likeliest; steering needs a gradient, so where there is any, the brain
    vector's likelihood does both.
    """
    steering = None
    if sampling.strength:
        steering = partial(brain_log_likelihood, posterior.decoder, net.latent)
    guidance = Guidance(net.guidance_model, steering or posterior.likelihood)

    def draw(trials):
        told = trials.vectors
        if posterior.latent.prior is not None:
            told = posterior.vectors(trials.betas, trials.repeats, sampling.pseudo_trials,
                                     trials.found)
        measured = np.column_stack([trials.betas, trials.repeats])
        return sample_pictures(net.model, net.info, told, seed, sampling, guidance,
                               trials.vectors if steering else measured)

    return draw


def model_decoders(net, experiment, training, sampling, posterior):
    """The decoders that a ready model draws for: decoder -> draw(trials).

    Beside the model: the network without likelihood, prior and candidates; the network without
    vectors; and the pictures that two searches of its retrieval prior find, the likeliest and the
    one nearest to the posterior mean: None where they cannot be had.
    """
    model, info, n = net.model, net.info, len(experiment.test_index)
    alone = replace(sampling, strength=0.0, candidates=1)
    free = sample_pictures(model, info, n, training.seed + 1000,
                           replace(PLAIN, steps=sampling.steps, batch_size=sampling.batch_size))
    decoders = {
        "diffusion": posterior_sampler(net, posterior, sampling, training.seed),
        "conditional": lambda trials: sample_pictures(
            model, info, trials.vectors, training.seed, alone, Guidance(net.guidance_model)),
        "unconditional": lambda trials: np.resize(free, (len(trials.betas), *free.shape[1:])),
    }
    if net.latent.prior is not None:
        decoders["map_retrieval"] = lambda trials: prior_pictures(
            experiment, net.latent, trials.found.index)
        decoders["posterior_retrieval"] = lambda trials: prior_pictures(
            experiment, net.latent, trials.found.nearest)
    return decoders


def fit_observers(experiment, training, candidates, say):
    """All decoders that rank: decoder -> rank(trials)."""
    observers = {name: fit(training, candidates) for name, fit in RANKING.items()}
    ideal = None if experiment.truth is None else ideal_observer(experiment)
    if ideal is not None:
        observers["ideal_observer"] = lambda trials: ideal(trials.betas)
    elif experiment.truth is not None:
        say("voxels were dropped: the ideal observer is left out")
    return observers


def fit_all(experiment, net, seed, say):
    """What is fitted to the training trials: a `Training` and a `Posterior`."""
    x, train = experiment, ~experiment.test
    latents, shown = net.latent.transform(x.images), x.image[train]
    say("fitting the brain decoder on the training trials")
    decoder = fit_decoder(x.betas[train], latents[shown], shown, seed)
    say("fitting the encoding model: which features each voxel follows")
    once = np.unique(shown)
    edges = fit_edges(latents[once], x.images[once], seed)
    families = feature_families(net.latent, latents[shown], edges)
    encoding = fit_encoding_model(families, x.betas[train], shown, seed)
    training = Training(x.betas[train], x.train_pictures, shown, latents[shown], decoder, seed,
                        net.latent, encoding, edges)
    if net.latent.prior is None:
        say("the model has no retrieval prior: it does without")
    return training, Posterior(decoder, encoding, net.latent, edges)


def reconstruct_experiment(experiment: Experiment, model_path: str | Path = STUDENT, seed: int = 0,
                           sampling: Sampling | None = None, device: str = "cpu",
                           say: Callable = print, first: Callable | None = None,
                           keep: Callable = lambda name, draw: draw()) -> dict:
    """Reconstruct every test trial, and the average over trials of every test picture.

    Everything is fitted on training trials; test pictures are used for nothing but scores.

    Parameters
    ----------
    experiment : Experiment
    model_path : path
        A conditional model, or its student; its latent lies beside it, and its guidance model, if
        it has one.
    seed : int
    sampling : sampling.Sampling, optional
        Default: what was chosen for such a model, see `sampling.sampling_for`.
    device : str
    say : function
        Told what is being done.
    first : function (index (k,), pictures (k, H, W, C)), optional
        Given the reconstructions of a few test pictures, from their averaged betas, as soon as
        they are drawn: before the baselines are fitted and all else is drawn.
    keep : function (name, draw) -> pictures, optional
        Calls `draw()`, or returns what it kept of an earlier run.

    Returns
    -------
    dict
        For "single_trial" and "averaged" a dict with `target`, `pictures` (decoder -> uint8
        array), `rankings` (decoder -> (trials, candidates) array) and `posterior`, how sure it is
        (see `posterior.Found`); for "averaged" also `other_seeds`, a few test pictures drawn again.
    """
    x = experiment
    net = load_conditional(model_path, device, x.images.shape[1])
    sampling = sampling or sampling_for(net.info)
    refuse_unlearnt(net.info, sampling)  # before any work
    refuse_other_split(model_path, net.info, x)
    refuse_trained_on(net.latent, x.images[x.test_index])
    training, posterior = fit_all(x, net, seed, say)
    decoder = training.decoder
    averaged, counts = x.averaged()
    if first is not None:
        few = spread(len(averaged), FIRST)
        trials = Trials(averaged[few], decoder.vector(averaged[few], counts[few]), counts[few])
        first(few, posterior_sampler(net, posterior, sampling, seed)(trials))
    say("fitting the baselines: ridge to pixels, retrieval")
    decoders = {name: fit(training) for name, fit in DRAWING.items()}
    candidates = net.latent.transform(x.images[x.test_index])
    observers = fit_observers(x, training, candidates, say)
    decoders |= model_decoders(net, x, training, sampling, posterior)
    results: dict = {}
    for name, betas, repeats, target in (
        ("single_trial", x.betas[x.test], np.ones(len(x.target), int), x.target),
        ("averaged", averaged, counts, np.arange(len(averaged))),
    ):
        say(f"reconstructing {len(betas)} {name.replace('_', '-')} responses")
        found = None if net.latent.prior is None else posterior.find(betas, repeats)
        trials = Trials(betas, decoder.vector(betas, repeats), repeats, found=found)
        pictures = {key: made for key, draw in decoders.items()
                    if (made := keep(f"{name}.{key}", partial(draw, trials))) is not None}
        # what was drawn from the response to another picture
        pictures["shuffled_brain"] = pictures["diffusion"][shuffled_brain(target, seed)]
        if found and "map_retrieval" not in pictures:
            say("the prior is not of this experiment alone: what it retrieves cannot be shown")
        results[name] = {"target": target, "pictures": pictures,
                         "rankings": {key: rank(trials) for key, rank in observers.items()}}
        if found:
            results[name]["posterior"] = {"spread": found.spread, **found.share}
    some = trials.take(spread(len(averaged), FIRST))
    results["averaged"]["other_seeds"] = {  # to look at only: the scores are of the first seed
        f"seed_{extra + 1}": posterior_sampler(net, posterior, sampling, seed + extra)(some)
        for extra in (1, 2)}
    return results
