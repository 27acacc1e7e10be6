"""The main job: betas of test trials in; pictures, controls and scores out."""

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from tqdm import tqdm

from recon_lib.baselines import mean_image, retrieval, ridge_to_pixels, shuffled_brain
from recon_lib.betas import noise_ceiling
from recon_lib.checkpoints import load_model
from recon_lib.diffusion import SCHEDULES, denoiser
from recon_lib.encoding import fit_encoding_model, log_likelihood
from recon_lib.errors import DataError, enough_memory
from recon_lib.features import CHECKPOINTS, embed, load_factor_net
from recon_lib.files import readable
from recon_lib.latents import coarse_pixels, fit_decoder, load_latent
from recon_lib.loading import read_truth
from recon_lib.metrics import report
from recon_lib.posterior import evidence, steer
from recon_lib.runs import autocast
from recon_lib.samplers import dpm_solver, initial_noise

MODEL = CHECKPOINTS / "conditional.safetensors"
LATENT = "latent.safetensors"  # stands beside the model
# Chosen by `recipes.choose_sampling`, on training trials; see `sample_pictures`.
SAMPLING = dict(scale=2.0, interval=(0.3, 1.0), steps=20, strength=2.0, candidates=2)


def load_conditional(path, device="cpu", size=None, channels=3):
    """Read a conditional model and the latent beside it, and check that they fit.

    Parameters
    ----------
    path : path
    device : str
    size, channels : int, optional
        Of the pictures that are to be reconstructed.

    Returns
    -------
    model, info
        See `checkpoints.load_model`.
    latent : ImageLatent

    Raises
    ------
    DataError
        If a file is missing or damaged, or they do not fit each other or the pictures.
    """
    model, info = load_model(path, device)
    latent = load_latent(Path(path).with_name(LATENT))
    silent = {"prediction", "schedule", "image_size"} - info.keys()
    if silent:
        raise DataError(
            f"{path} does not say its {', '.join(sorted(silent))}; use a model that training wrote"
        )
    width = sum(latent.blocks) + 1
    if model.config["condition_size"] != width:
        raise DataError(
            f"{path} takes brain vectors of {model.config['condition_size']} numbers, the "
            f"latent beside it gives {width}; use a model and a latent of the same training"
        )
    made = info["image_size"], model.config["image_channels"]
    if size is not None and made != (size, channels):
        raise DataError(
            f"{path} makes pictures of {made[0]} pixels and {made[1]} channels, yours have {size} "
            f"and {channels}; bring them to one size and colour, or train a model on them"
        )
    return model, info, latent


def refuse_other_split(path, info, experiment):
    """Stop if a model was trained on another split: it may have seen the pictures to be tested."""
    trained, held = info.get("split", "repeated"), info.get("held", [])
    if trained != experiment.split or not set(experiment.held) <= set(held):
        what = [f"{name} split{' without ' if gone else ''}{', '.join(gone)}"
                for name, gone in ((trained, held), (experiment.split, experiment.held))]
        raise DataError(
            f"{path} was trained with the {what[0]}, so it may have seen the test pictures of the "
            f"{what[1]}; train it again with --split {experiment.split}"
        )


def sample_pictures(model, info, vectors=None, n=None, seed=0, scale=1.0, interval=None, steps=20,
                    batch_size=64, label="sample", likelihood=None, strength=1.0, candidates=1):
    """Draw pictures from a diffusion model, one for each brain vector.

    Parameters
    ----------
    model, info
        From `checkpoints.load_model`.
    vectors : (n, d) array, optional
        Brain vectors. None: `n` unconditional pictures.
    seed : int
        Picture i starts from noise that depends on (seed, i) alone.
    scale : float
        Guidance scale; 1 is plain conditional sampling.
    interval : (float, float), optional
        Noise amplitudes between which to guide and to steer; see `diffusion.denoiser`.
    steps : int
        Steps of DPM-Solver++(2M).
    batch_size : int
    label : str
        Of the progress bar.
    likelihood : function vectors (b, d) -> function pictures (b, C, H, W) -> (b,), optional
        `partial(posterior.evidence, decoder, latent)`: how well pictures explain brain vectors.
    strength : float
        How strongly the likelihood steers, see `posterior.steer`; 0: not at all.
    candidates : int
        Pictures drawn for each vector; the one that explains it best is kept.

    Returns
    -------
    (n, H, W, C) uint8 array

    Raises
    ------
    DataError
        If there are several candidates and nothing to choose by.
    """
    if (likelihood is None and candidates > 1) or (likelihood is not None and vectors is None):
        raise DataError(
            "found candidates without a likelihood to choose by, or a likelihood without brain "
            "vectors; give both vectors and likelihood, or neither and one candidate"
        )
    device = next(model.parameters()).device
    alpha_bar = SCHEDULES[info["schedule"]]().to(device)
    n = len(vectors) if vectors is not None else n
    shape = (model.config["image_channels"], info["image_size"], info["image_size"])
    pictures = []
    for first in tqdm(range(0, n, batch_size), label, disable=None, leave=False):
        count = min(batch_size, n - first)
        condition = None
        if vectors is not None:
            condition = np.ascontiguousarray(vectors[first : first + count], np.float32)
            condition = torch.from_numpy(condition).to(device)
        denoise = denoiser(model, info["prediction"], alpha_bar, condition, scale, interval)
        fit = None if likelihood is None else likelihood(condition)
        if fit is not None and strength:
            denoise = steer(denoise, fit, alpha_bar, strength, interval)
        drawn = []  # candidate k of sample i starts from noise number i + k n
        for start in range(first, first + candidates * n, n):
            noise = initial_noise(count, shape, seed, start).to(
                device, memory_format=torch.channels_last
            )
            with autocast(device), enough_memory("`batch_size`, the pictures drawn at a time"):
                drawn.append(dpm_solver(denoise, noise, alpha_bar, steps))  # (count, C, H, W)
        if candidates > 1:
            with torch.no_grad():
                best = torch.stack([fit(x0) for x0 in drawn]).argmax(0)  # (count,)
            drawn = [torch.stack(drawn)[best, torch.arange(count, device=device)]]
        pictures.append(to_uint8(drawn[0]))
    return np.concatenate(pictures)


def to_uint8(x):
    """Tensor (n, C, H, W) in [-1, 1] -> uint8 array (n, H, W, C)."""
    x = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return x.permute(0, 2, 3, 1).cpu().numpy()


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
        roi = file["subject/roi"][()].astype(str)
    voxels = np.concatenate([np.flatnonzero(roi == area) for area in dict.fromkeys(x.roi)])
    if not np.array_equal(roi[voxels], x.roi):
        return None
    responses = read_truth(x.truth, "responses", x.names)[:, voxels]
    train, shown = x.betas[~x.test], responses[x.image[~x.test]]
    slope = (shown * train).mean(0) / (shown**2).mean(0)
    noise, _ = ledoit_wolf(train - shown * slope)
    expected = responses[x.test_images if candidates is None else candidates] * slope
    return lambda betas: log_likelihood(betas, expected, noise)


def reconstruct(experiment, model_path=MODEL, seed=0, sampling=SAMPLING, device="cpu", say=print):
    """Reconstruct every test trial, and the average over trials of every test picture.

    Everything is fitted on training trials; test pictures are used for nothing but scores.

    Parameters
    ----------
    experiment : Experiment
    model_path : path
        A conditional model; its latent lies beside it.
    seed : int
    sampling : dict
        Options of `sample_pictures`. The likelihood is that of the brain decoder.
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
    train = ~x.test
    train_latents = latent.transform(x.images)[x.image[train]]
    say("fitting the brain decoder on the training trials")
    decoder = fit_decoder(x.betas[train], train_latents, x.image[train], seed)
    say("fitting the baselines: ridge to pixels, encoding model")
    ridge = ridge_to_pixels(x.betas[train], x.train_images, x.image[train], seed=seed)
    encoding = fit_encoding_model(train_latents, x.betas[train], x.image[train], seed=seed)
    known = latent.transform(x.images[x.test_images])
    observers = {"encoding_model": lambda betas: encoding.rank(betas, known)}
    ideal = None if x.truth is None else ideal_observer(x)
    if ideal is not None:
        observers["ideal_observer"] = ideal
    elif x.truth is not None:
        say("voxels were dropped: the ideal observer is left out")

    likelihood = partial(evidence, decoder, latent)

    def sample(vectors, seed, label):
        return sample_pictures(model, info, vectors, seed=seed, label=label, likelihood=likelihood,
                               **sampling)

    averaged, counts = x.averaged()
    free = sample_pictures(model, info, n=len(x.test_images), seed=seed + 1000,
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
                                               label="without likelihood", **unaided),
                "ridge": ridge(betas),
                "retrieval": retrieval(vectors[:, :-1], train_latents, x.train_images),
                "mean_image": mean_image(x.train_images, n),
                "unconditional": np.resize(free, (n, *free.shape[1:])),
                "shuffled_brain": sample(vectors[order], seed, "shuffled brain"),
            },
            "rankings": {key: observer(betas) for key, observer in observers.items()},
        }
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
    features = judge_space(x.train_images)
    truth = x.images[x.test_images]
    factors = None if x.factors is None else x.factors[x.test_images]
    category = None if factors is None else factors["kind"]
    shown = np.bincount(x.target).mean()  # trials of a test picture
    tables = {}
    for name, part in results.items():
        pictures = {k: v for k, v in part["pictures"].items() if "_seed_" not in k}
        repeats = shown if name == "averaged" else 1
        ceiling = noise_ceiling(x.betas[x.test], x.target, repeats).mean() / 100
        tables[name] = report(pictures, truth, part["target"], features, category,
                              part["rankings"], permutations, seed, factors, x.train_images,
                              ceiling)
    return tables
