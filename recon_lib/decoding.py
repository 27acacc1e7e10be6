"""The main job: betas of test trials in; pictures, controls and scores out."""

import h5py
import numpy as np
from sklearn.covariance import ledoit_wolf

from recon_lib.baselines import mean_image, retrieval, ridge_to_pixels, shuffled_brain
from recon_lib.betas import noise_ceiling
from recon_lib.drawing import MODEL, SAMPLING, load_conditional, load_guide, sample_pictures
from recon_lib.encoding import fit_encoding_model, log_likelihood
from recon_lib.errors import DataError
from recon_lib.features import embed, load_factor_net
from recon_lib.files import read_dataset, readable
from recon_lib.latents import coarse_pixels, fit_decoder
from recon_lib.loading import read_truth
from recon_lib.memory import aids, refuse_remembered, remembered
from recon_lib.metrics import report


def refuse_other_split(path, info, experiment):
    """Stop if a model was trained on another split: it may have seen the pictures to be tested."""
    trained, held = info.get("split", "repeated"), info.get("held", [])
    if trained != experiment.split or not set(experiment.held) <= set(held):
        what = [f"{name} split" + (f" (held out: {', '.join(gone)})" if gone else "")
                for name, gone in ((trained, held), (experiment.split, experiment.held))]
        raise DataError(
            f"{path} was trained with the {what[0]}, so it may have seen the test pictures of the "
            f"{what[1]}; train it again with --split {experiment.split}"
        )


def judge_space(train_images):
    """The space in which pictures are compared: what the judge sees, and the coarse pixels.

    Every dimension is standardised on the training pictures; things and pixels weigh the same.

    Returns
    -------
    function images (n, H, W, C) -> features (n, d)
    """
    judge = load_factor_net("judge")

    def raw(images):
        return [np.tanh(embed(judge, images)), coarse_pixels(images)]

    scales = [(part.mean(0), part.std(0) + 1e-3) for part in raw(train_images)]

    def features(images):
        return np.concatenate(
            [(part - mean) / spread / part.shape[1] ** 0.5
             for part, (mean, spread) in zip(raw(images), scales, strict=True)], axis=1
        )

    return features


def ideal_observer(experiment, candidates=None):
    """The decoder that knows the subject: log p(betas | candidate) from the simulation's truth.

    It knows each voxel's true response to each picture; the slope with which betas follow it and
    the covariance of their noise are measured on the training trials, with the truth in hand.

    Parameters
    ----------
    experiment : Experiment
        A simulated one.
    candidates : (m,) int array, optional
        Which of `experiment.images`; default: the test pictures.

    Returns
    -------
    function betas (trials, V) -> log-likelihoods (trials, candidates)
        None when voxels were dropped, so that nobody can tell which are left.
    """
    x = experiment
    with readable(x.truth), h5py.File(x.truth) as file:
        roi = read_dataset(file, "subject/roi").astype(str)
    voxels = np.concatenate([np.flatnonzero(roi == area) for area in dict.fromkeys(x.roi)])
    if not np.array_equal(roi[voxels], x.roi):
        return None
    responses = read_truth(x.truth, "responses", x.names)[:, voxels]
    train, shown = x.betas[~x.test], responses[x.image[~x.test]]
    slope = (shown * train).mean(0) / (shown**2).mean(0)
    noise, _ = ledoit_wolf(train - shown * slope)
    expected = responses[x.test_index if candidates is None else candidates] * slope
    return lambda betas: log_likelihood(betas, expected, noise)


def reconstruct(experiment, model_path=MODEL, seed=0, sampling=SAMPLING, device="cpu", say=print):
    """Reconstruct every test trial, and the average over trials of every test picture.

    Everything is fitted on training trials; test pictures are used for nothing but scores.

    Parameters
    ----------
    experiment : Experiment
    model_path : path
        A conditional model; its latent lies beside it, and its guide, if it has one.
    seed : int
    sampling : dict
        Options of `sample_pictures`. The likelihood is that of the brain decoder, the memory that
        of the model.
    device : str
    say : function
        Told what is being done.

    Returns
    -------
    dict
        For "single_trial" and "averaged" a dict with `target`, `pictures` (decoder -> uint8
        array) and `rankings` (decoder -> (trials, candidates) array).
    """
    x = experiment
    model, info, latent = load_conditional(model_path, device, x.images.shape[1])
    refuse_other_split(model_path, info, x)
    refuse_remembered(latent, x.images[x.test_index])
    train = ~x.test
    train_latents = latent.transform(x.images)[x.image[train]]
    say("fitting the brain decoder on the training trials")
    decoder = fit_decoder(x.betas[train], train_latents, x.image[train], seed)
    say("fitting the baselines: ridge to pixels, encoding model")
    ridge = ridge_to_pixels(x.betas[train], x.train_pictures, x.image[train], seed=seed)
    encoding = fit_encoding_model(train_latents, x.betas[train], x.image[train], seed=seed)
    known = latent.transform(x.images[x.test_index])
    observers = {
        "brain_vector": lambda betas: decoder.log_likelihood(decoder.vector(betas), known),
        "encoding_model": lambda betas: encoding.rank(betas, known),
    }
    ideal = None if x.truth is None else ideal_observer(x)
    if ideal is not None:
        observers["ideal_observer"] = ideal
    elif x.truth is not None:
        say("voxels were dropped: the ideal observer is left out")

    sampling = {"worse": load_guide(model_path, model, info)} | sampling
    options = aids(decoder, latent) | sampling
    if latent.memory is None:
        say(f"{model_path} has no memory: it does without")

    def sample(vectors, seed, label):
        return sample_pictures(model, info, vectors, seed=seed, label=label, **options)

    averaged, counts = x.averaged()
    free = sample_pictures(model, info, n=len(x.test_index), seed=seed + 1000,
                           steps=sampling["steps"], label="unconditional")
    unaided = sampling | dict(strength=0.0, candidates=1)
    results = {}
    for name, betas, repeats, target in (
        ("single_trial", x.betas[x.test], 1, x.target),
        ("averaged", averaged, counts, np.arange(len(averaged))),
    ):
        say(f"reconstructing {len(betas)} {name.replace('_', '-')} responses")
        vectors = decoder.vector(betas, repeats)
        order = shuffled_brain(target, seed)
        n = len(betas)
        results[name] = {
            "target": target,
            "pictures": {
                "diffusion": sample(vectors, seed, "diffusion"),
                "conditional": sample_pictures(model, info, vectors, seed=seed,
                                               label="network alone", **unaided),
                "ridge": ridge(betas),
                "retrieval": retrieval(vectors[:, :-1], train_latents, x.train_pictures),
                "mean_image": mean_image(x.train_pictures, n),
                "unconditional": np.resize(free, (n, *free.shape[1:])),
                "shuffled_brain": sample(vectors[order], seed, "shuffled brain"),
            },
            "rankings": {key: observer(betas) for key, observer in observers.items()},
        }
        memories = remembered(x, decoder, latent, vectors)
        if memories is not None:
            results[name]["pictures"]["remembered"] = memories
        elif latent.memory is not None:
            say("the memory is not of this experiment alone: what it recalls cannot be shown")
    for extra in (1, 2):  # for the eye only: the scores are of the first seed
        results["averaged"]["pictures"][f"diffusion_seed_{extra}"] = sample(
            decoder.vector(averaged, counts), seed + extra, f"seed {extra}"
        )
    return results


def score(experiment, results, permutations=1000, seed=0):
    """Score what `reconstruct` returned.

    Returns
    -------
    dict
        {"single_trial": {decoder: {metric: number}}, "averaged": {…}}.
    """
    x = experiment
    features = judge_space(x.train_pictures)
    truth = x.images[x.test_index]
    factors = None if x.factors is None else x.factors[x.test_index]
    category = None if factors is None else factors["kind"]
    shown = np.bincount(x.target).mean()  # trials of a test picture
    tables = {}
    for name, part in results.items():
        pictures = {k: v for k, v in part["pictures"].items() if "_seed_" not in k}
        repeats = shown if name == "averaged" else 1
        ceiling = noise_ceiling(x.betas[x.test], x.target, repeats).mean() / 100
        tables[name] = report(pictures, truth, part["target"], features, category,
                              part["rankings"], permutations, seed, factors, x.train_pictures,
                              ceiling)
    return tables
