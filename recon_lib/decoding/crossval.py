"""Anybody's data: reconstruct every trial by a model that never saw its picture (or its run).

A hundred trials are too few to learn what pictures look like, but not too few to learn how this
brain's betas lie (`decoder.BrainDecoder`). So in each fold the decoder is fitted to the training
trials, and their pictures are cut and pasted into many more: a pool. For a pool the best
denoiser can be written down, and needs no training: its brain vector says which pictures of the
pool are probable. With more pictures, train a network on them; or bring a ready one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from recon_lib.bold.betas import zscore
from recon_lib.bold.whole_brain import digest
from recon_lib.brain.decoder import fit_decoder, vector_source
from recon_lib.brain.encoders import choose_encoder
from recon_lib.brain.features import FactorNet, coarse_pixels, embed
from recon_lib.brain.latents import fit_latent
from recon_lib.common.errors import DataError, Interrupted
from recon_lib.common.paths import results_folder
from recon_lib.data.arrays import ArrayData
from recon_lib.data.loader import create_loader, to_batch
from recon_lib.data.splits import folds as make_folds
from recon_lib.data.splits import refuse_divided, refuse_leak
from recon_lib.decoding.baselines import DRAWING, Training, Trials, shuffled_brain
from recon_lib.decoding.inverse_retinotopy import fit_inverse_retinotopy
from recon_lib.decoding.retrieval_prior import brain_guidance, mean_retrieval, refuse_trained_on
from recon_lib.decoding.sampling import PLAIN, SAMPLING, Sampling, load_conditional, sample_pictures
from recon_lib.diffusion import cosine_schedule, ideal_denoiser
from recon_lib.samplers import dpm_solver, initial_noise, to_uint8
from recon_lib.training.checkpoints import load_checkpoint, load_model
from recon_lib.training.loop import train_conditional_diffusion
from recon_lib.unet import UNet


@dataclass
class CrossValidation:
    """How anybody's trials are cross-validated.

    Attributes
    ----------
    folds : int or None
        Default: each group is a fold, or ten folds where there are more groups and no ready model.
    model_path : path or None
        A ready conditional model with its latent beside it. It must never have seen the pictures;
        one that was trained on them is refused.
    train_steps : int
        Train a network for so many steps of 16 pictures in each fold. 0: the exact denoiser of
        the pool, the better choice below a few thousand pictures.
    pool : int, optional
        Pictures after `cut_and_paste`; larger sets are left as they are, so 0 adds none. Default:
        4000, or 1000 where a large network looks at them.
    sampling : Sampling
        For a ready model; without one only `steps` counts.
    device : {"cpu", "cuda"}
        For a network.
    fit : function training -> (function trials -> pictures), optional
        A decoder of your own in the place of diffusion, such as
        ``partial(fit_pretrained, net, embeddings)``, with a row of embeddings for each picture.
    out_dir : path
        Where training writes; default: `own` in `paths.results_folder()`.
    encoder : str
        Which network gives features, see `encoders.choose_encoder`; a ready model has its own.
    gallery : (m, size, size, C) uint8 array, optional
        Pictures that retrieval may find beside the training pictures; none that is to be read.
    """

    folds: int | None = None
    model_path: str | Path | None = None
    train_steps: int = 0
    pool: int | None = None
    sampling: Sampling = SAMPLING
    device: str = "cpu"
    fit: Callable | None = None
    out_dir: str | Path = field(default_factory=lambda: results_folder() / "own")
    encoder: str = "auto"
    gallery: np.ndarray | None = None


def cut_and_paste(images, n, seed, shift=0.06):
    """Make `n` new pictures by pasting a random rectangle of one into another, a little shifted.

    `shift` is the largest, as a share of the side. Pixels that leave on one side are repeated on
    the other edge; left and right are never exchanged, because the visual field has sides.
    """
    rng = np.random.default_rng(seed)
    side = images.shape[1]
    most = round(shift * side)
    out = images[rng.integers(len(images), size=n)].copy()
    for picture, other in zip(out, rng.integers(len(images), size=n), strict=True):
        top, left = rng.integers(0, side, 2)
        height, width = rng.integers(side // 4, 3 * side // 4 + 1, 2)
        window = np.s_[top : top + height, left : left + width]
        picture[window] = images[other][window]
        dy, dx = rng.integers(-most, most + 1, 2)
        padded = np.pad(picture, ((most, most), (most, most), (0, 0)), mode="edge")
        picture[:] = padded[most + dy : most + dy + side, most + dx : most + dx + side]
    return out


def small_unet(size, channels, condition_size):
    """A network for little data: patches of 4 pixels, or fewer where the side asks for it."""
    patch = next((p for p in (4, 2, 1) if size % (4 * p) == 0), None)
    if patch is None:
        raise DataError(f"pictures of side {size}; expected a multiple of 4, best of 16: set size")
    return UNet(channels, (64, 96, 128), patch=patch, condition_size=condition_size, width=128)


def exact_sampler(decoder, pool, latents, seed, steps):
    """Sample from the pool by diffusion with the exact conditional denoiser; nothing is trained.

    `latents` (m, d) are those of the pool. It is a function trials -> uint8 (n, H, W, C).
    """
    alpha_bar = cosine_schedule()
    pictures = to_batch(pool)

    def draw(trials):
        log_prior = torch.from_numpy(decoder.log_likelihood(trials.vectors, latents)).float()
        noise = initial_noise(len(log_prior), pictures.shape[1:], seed)
        denoise = ideal_denoiser(pictures, alpha_bar, log_prior)
        return to_uint8(dpm_solver(denoise, noise, alpha_bar, steps))

    return draw


def trained_sampler(decoder, pool, latent, options, seed, folder):
    """Train a small conditional network on the pool, with simulated brain vectors.

    `folder` gets what `loop.train` writes; a training of just these data and options goes on there.
    What comes back is a function trials -> uint8 (n, H, W, C).
    """
    source = vector_source(decoder, latent.transform(pool), latent.blocks, repeats=(1,))
    size, channels = pool.shape[1], pool.shape[3]
    loader = create_loader(size, 16, images=pool, vectors=source, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = small_unet(size, channels, sum(latent.blocks) + 1)
    told = source(torch.arange(len(pool)), torch.Generator().manual_seed(seed)).numpy()
    job, checkpoint = digest(pool, told, seed, options.train_steps), Path(folder, "checkpoint.pt")
    try:
        begun = load_checkpoint(checkpoint).get("info", {}).get("fold") == job
    except DataError:  # none, or a damaged one
        begun = False
    try:
        train_conditional_diffusion(
            loader, lr=1e-3, image_size=size, device=options.device, model=net, out_dir=folder,
            steps=options.train_steps, seed=seed, warmup=50, grids=1, quiet=True,
            info={"fold": job}, model_in=checkpoint if begun else None)
    except Interrupted as error:
        raise Interrupted(f"the training of {Path(folder).name} was stopped and is not finished; "
                          "the same reconstruct-arrays command goes on where it stopped",
                          error.status) from error
    model, info = load_model(Path(folder, "model.safetensors"), options.device)
    plain = replace(PLAIN, steps=options.sampling.steps)
    return lambda trials: sample_pictures(model, info, trials.vectors, seed, plain)


def ready_sampler(net, decoder, sampling, seed):
    """A ready model that is told brain vectors, and its retrieval prior's MAP picture of each.

    The posterior of the main job, over all voxels, asks for more trials: of some 400, ten folds, it
    named .08 fewer of 113.
    """
    guidance = brain_guidance(decoder, net.latent, net.guidance_model)
    return lambda trials: sample_pictures(net.model, net.info, trials.vectors, seed, sampling,
                                          guidance)


def wrong_vectors(decoder, donors, train, betas):
    """Brain vectors (n, d + 1) of other trials, for the shuffled brain, as noisy as of new ones.

    A trial that the decoder was fitted to is predicted out of fold; the others are decoded.
    `donors` (n,) are the trials and `betas` (n, voxels) theirs, standardised as for the decoder;
    `train` (m,) are the trials that it was fitted to, in its order.
    """
    vectors = decoder.vector(betas)
    same = donors[:, None] == train  # (n, m)
    fitted = same.any(1)
    vectors[fitted, :-1] = decoder.ridge.out_of_fold[same.argmax(1)[fitted]]
    return vectors


def fit_fold(data, train, betas, known, options, seed):
    """The pool, the latent and the `Training` of decoders, of the training trials of a fold.

    `betas` (len(train), voxels) are theirs, standardised; `known` is the latent of a ready model,
    or the feature encoder to fit one with.
    """
    seen = data.trial_image[train]
    pool = data.images[np.unique(seen)]
    most = len(pool) - 1  # no more components than these pictures can teach
    latent = known
    if isinstance(known, torch.nn.Module):
        size = options.pool
        if size is None:
            size = 4000 if isinstance(known, FactorNet) else 1000
        if len(pool) < size:
            pool = np.concatenate([pool, cut_and_paste(pool, size - len(pool), seed)])
        latent = fit_latent(pool, known, min(40, most), min(56, most))
    shown = data.images[seen]
    latents = latent.transform(shown)
    decoder = fit_decoder(betas, latents, seen, seed)
    return pool, latent, Training(betas, shown, seen, latents, decoder, seed)


def retriever(training, latent, gallery=None, seen=()):
    """A decoder of trials: of training pictures and a gallery the likest to the posterior mean.

    `seen` are the coarse pixels and the features of the gallery's pictures.
    """
    pictures, codes = training.pictures, training.latents
    if gallery is not None:
        pictures = np.concatenate([pictures, gallery])
        codes = np.concatenate([codes, latent.project(*seen)])
    return lambda trials: pictures[mean_retrieval(training.decoder, latent, codes, trials.vectors)]


def cross_validate(data: ArrayData, options: CrossValidation | None = None, seed: int = 0,
                   say: Callable = print) -> dict[str, np.ndarray]:
    """Cross-validated reconstructions of every trial of `arrays.ArrayData`.

    Parameters
    ----------
    data : ArrayData
        See `arrays.load_trials`. Trials of one group are held out together.
    options : CrossValidation, optional
    seed : int
    say : function

    Returns
    -------
    dict of str to (trials, size, size, C) uint8 array
        `diffusion`, `shuffled_brain`, `ridge`, `retrieval`, `mean_image`, `posterior_retrieval`,
        `inverse_retinotopy`; and under `fold` the number of each trial's fold.
    """
    options = options or CrossValidation()
    groups, shown = np.asarray(data.groups), data.images[data.trial_image]
    k, ready = options.folds, None
    if k is None and options.model_path is None:
        k = min(10, len(np.unique(groups)))
    if options.train_steps:  # refuse pictures that it cannot take before any work is done
        small_unet(data.images.shape[2], data.images.shape[3], condition_size=1)
    order = shuffled_brain(data.trial_image, seed)
    if options.model_path is not None:
        ready = load_conditional(options.model_path, options.device, *data.images.shape[2:])
        refuse_trained_on(ready.latent, data.images)
    refuse_divided(groups, data.trial_image)
    out = {"fold": np.zeros(len(groups), int)}
    splits = make_folds(groups, k, seed)
    known = ready.latent if ready else choose_encoder(data.images, options.encoder, say)
    gallery, seen = options.gallery, ()
    if gallery is not None:
        refuse_leak(gallery, data.images)
        seen = coarse_pixels(gallery), embed(known.encoder if ready else known, gallery)
    for number, (train, test) in enumerate(splits):
        say(f"fold {number + 1} of {len(splits)}: {len(train)} training, {len(test)} test trials")
        refuse_leak(shown[train], shown[test])
        # the test trials, and for each the trial of a wrong brain
        betas, others = zscore(data.betas[train], data.betas[np.r_[test, order[test]]])
        held, wrong = np.split(others, 2)
        pool, latent, training = fit_fold(data, train, betas, known, options, seed)
        decoder = training.decoder
        if options.fit is not None:
            draw = options.fit(training)
        elif ready:
            draw = ready_sampler(ready, decoder, options.sampling, seed)
        elif options.train_steps:
            folder = Path(options.out_dir, f"fold_{number + 1}")
            draw = trained_sampler(decoder, pool, latent, options, seed, folder)
        else:
            draw = exact_sampler(decoder, pool, latent.transform(pool), seed,
                                 options.sampling.steps)
        once = np.ones(len(test), int)
        others = Trials(wrong, wrong_vectors(decoder, order[test], train, wrong), once)
        trials = Trials(held, decoder.vector(held), once, others)
        decoders = {"diffusion": draw, "shuffled_brain": lambda trials, draw=draw: draw(
            trials.shuffled)} | {k: fit(training) for k, fit in DRAWING.items()}
        decoders["posterior_retrieval"] = retriever(training, latent, gallery, seen)
        decoders["inverse_retinotopy"] = fit_inverse_retinotopy(training)
        for name, decode in decoders.items():
            part = decode(trials)
            out.setdefault(name, np.zeros((len(groups), *part.shape[1:]), np.uint8))[test] = part
        out["fold"][test] = number
    return out
