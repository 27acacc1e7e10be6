"""How such models as the shipped ones are made: pictures, seeds and steps, in order.

    python -m recon_lib train features
    python -m recon_lib train guidance
    python -m recon_lib train unconditional
    python -m recon_lib train conditional [--start results/unconditional/model.safetensors]
    python -m recon_lib train student [--teacher results/conditional/model.safetensors]

No test picture is seen by any of them; `retrieval_prior.training_pictures` refuses if one would be.
`train_own` trains the unconditional model on anybody's pictures in the same way.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recon_lib.brain import features
from recon_lib.brain.decoder import fit_decoder, vector_source
from recon_lib.brain.encoders import CATEGORY, choose_encoder
from recon_lib.brain.latents import fingerprint, fit_latent, packed
from recon_lib.common.errors import DataError
from recon_lib.data.arrays import load_pictures
from recon_lib.data.loader import create_loader
from recon_lib.data.release import subjects_source
from recon_lib.decoding.retrieval_prior import (
    EXTRA,
    EXTRA_SEED,
    sample_prior,
    several,
    training_pictures,
)
from recon_lib.decoding.sampling import (
    AUTOGUIDANCE,
    LATENT,
    MODEL,
    PLAIN,
    SAMPLING,
    Guidance,
    load_conditional,
    load_drawing,
    load_latent_of,
    sample_pictures,
)
from recon_lib.diffusion import SCHEDULES
from recon_lib.scores.hog_net import HogNet, distorted
from recon_lib.scores.quality import quality_scores
from recon_lib.training.checkpoints import read_weights
from recon_lib.training.cost import PEAK, count, hours, operations
from recon_lib.training.device import pick_device
from recon_lib.training.distil import distillation, ladder
from recon_lib.training.loop import (
    train,
    train_conditional_diffusion,
    train_unconditional_diffusion,
)
from recon_lib.training.options import Training
from recon_lib.unet import UNet
from recon_lib.world import scenes

READERS = {  # seed, scenes, epochs: no two share a seed or a picture
    "feature_encoder": (101, 20_000, 6, features.FactorNet, features.noisy),
    "evaluation_classifier": (202, 12_000, 5, features.FactorNet, features.noisy),
    "independent_classifier": (303, 10_000, 8, HogNet, distorted),  # another architecture
}
NETWORK = dict(channels=(32, 96, 192, 256), patch=2, attention=(2, 3))  # of the shipped models
TRAINING = dict(steps=30_000, lr=1.5e-3, seed=0, device="auto")
GUIDANCE_NETWORK = dict(channels=(32, 64, 96, 128), patch=2, attention=(2, 3))
STUDENT = dict(steps=2000, batch=16, lr=3e-4, ema=0.99)  # what differs for a student
STAGES = {"guidance": dict(steps=4500, network=GUIDANCE_NETWORK)}  # what differs for a stage
PLANS = {  # for BOLD5000, one subject, by machine; a step sees `batch` pictures over all GPUs
    "T4": dict(size=64, batch=64, steps=100_000, network=NETWORK),
    "A100": dict(size=128, batch=256, steps=150_000,
                 network=dict(channels=(128, 256, 384, 512), attention=(2, 3))),
    "8 x A100": dict(size=256, batch=512, steps=200_000,
                     network=dict(channels=(192, 384, 512, 768), attention=(2, 3), blocks=2)),
}
NEW_SEED = 998  # of scenes that no training sees, to score with


def train_readers(out):
    """Train the network that gives features and the two that score: `features`, `hog_net`."""
    held = scenes.sample_factors(1000, seed=999)
    pictures = scenes.draw(held)
    for name, (seed, n, epochs, kind, spoil) in READERS.items():
        factors = scenes.sample_factors(n, seed)
        net = features.train_factor_net(scenes.draw(factors), factors, seed, epochs, kind=kind,
                                        spoil=spoil)
        read = features.read_factors(net, pictures)
        right = {k: float((read[k].argmax(1) == held[k]).mean())
                 for k in ("category", "background", "light")}
        features.save_factor_net(net, Path(out, f"{name}.safetensors"), seed=seed, scenes=n,
                                 epochs=epochs, held_out_accuracy=right)


def train_stage(stage, experiment, out, extra=None, seed=0, encoder="auto", **options):
    """Train a diffusion model on an experiment: unconditional, conditional or guidance.

    The last is an unconditional model of few weights and few steps, see `guidance.guided`. With
    several subjects, each has its own decoder from its voxels to the latent; the diffusion model is
    shared. `out` gets `model.safetensors` and what `loop.train` writes; for the conditional model
    also `latent.safetensors`, without which it is of no use: latent and retrieval prior. For
    `extra` see `retrieval_prior.training_pictures`, for `encoder` `encoders.choose_encoder`, for
    all else `fit`.
    """
    subjects = several(experiment)
    pictures = training_pictures(subjects, extra)
    vectors, info = None, split_of(subjects)
    if stage == "conditional":
        shown = np.concatenate([x.train_pictures for x in subjects])
        start = options.get("start")
        if start is not None and read_weights(start)[1]["condition_size"] is not None:
            latent = load_latent_of(start)  # the one that it listens to
            if encoder not in ("auto", its := getattr(latent.encoder, "name", CATEGORY)):
                raise DataError(f"{start} listens to features of {its}, not of {encoder}; leave "
                                "out the encoder, or start from a model without a condition")
        else:
            latent = fit_latent(shown, choose_encoder(shown, encoder))
        vectors = simulated(subjects, latent, pictures, seed)
        options["beside"] = {LATENT: packed(latent)}
        info["latent"] = fingerprint(latent)
    return fit(pictures, vectors, out, info, seed=seed, **STAGES.get(stage, {}) | options)


def split_of(subjects):
    """What is noted with a model: the pictures that its training held out."""
    return {"split": subjects[0].split, "held": list(subjects[0].held)}


def simulated(subjects, latent, pictures, seed, **how):
    """Brain vectors of pictures as these subjects would send them, see `decoder.vector_source`.

    The latents of the pictures become the retrieval prior.
    """
    latent.prior, sources = latent.transform(pictures), []
    for x in subjects:
        mine = latent.transform(x.train_pictures)
        decoder = fit_decoder(x.betas[~x.test], mine, x.image[~x.test], seed)
        sources.append(vector_source(decoder, latent.prior, latent.blocks, **how))
    return subjects_source(sources)


def train_student(experiment, out, teacher=MODEL, extra=None, start=None, **options):
    """Train a student of a conditional model, which draws in four evaluations: `training.distil`.

    It begins as its teacher, or goes on from `start`; the guidance is the one that was chosen for
    the teacher, away from the guidance model beside it. `experiment`, `out` and `extra` are as for
    `train_stage`; `options` as for `fit`.
    """
    options = TRAINING | STUDENT | options
    batch, device, seed = (options.pop(name) for name in ("batch", "device", "seed"))
    subjects = several(experiment)
    net = load_conditional(teacher, pick_device(device))
    if "ladder" in net.info:
        raise DataError(f"{teacher} is a student itself; expected the model that taught it")
    if net.info["prediction"] != "x0":
        raise DataError(f"{teacher} predicts {net.info['prediction']}; expected x0: train it so")
    pictures = training_pictures(subjects, extra)
    vectors = simulated(subjects, net.latent, pictures, seed, repeats=(1, 4, 16, 64, 64, 64),
                        weaken=0.1)
    loader = create_loader(pictures.shape[1], batch, images=pictures, vectors=vectors, seed=seed)
    other = net.guidance_model and net.guidance_model[0]
    info = {"pictures": len(pictures), "batch": batch, **split_of(subjects),
            "latent": fingerprint(net.latent),
            "ladder": ladder(SCHEDULES[net.info["schedule"]]())}
    training = Training(seed=seed, info=info, beside={LATENT: packed(net.latent)}, drop=0.1,
                        schedule=net.info["schedule"], **options)
    return train(UNet(**net.model.config), loader, training, device, start or teacher, out,
                 distillation(net.model, other, SAMPLING.scale, SAMPLING.interval))


def plan_cost(machine):
    """What a plan costs: a dict with `parameters`, `pictures`, `operations` and `hours` (two)."""
    plan = PLANS[machine]
    pictures = plan["batch"] * plan["steps"]
    total = operations(plan["network"], plan["size"], pictures)
    return {"parameters": sum(row["parameters"] for row in count(plan["network"], plan["size"])),
            "pictures": pictures, "operations": total, "hours": hours(total, PEAK[machine])}


def train_own(pictures, out, size=64, stage="unconditional", say=print, **options):
    """Train the unconditional diffusion model, or its guidance model, on pictures of one's own.

    They are a folder of pictures of any kind, an array or an array file, see
    `arrays.load_pictures`, cut and resized to `size`, divisible by 16. `say` is told what was read;
    for `options` see `fit`.
    """
    source, pictures = pictures, load_pictures(pictures, size).images
    where = source if isinstance(source, str | Path) else "an array"
    say(f"{len(pictures)} pictures from {where}, {size} x {size}, {pictures.shape[-1]} channels")
    return fit(pictures, None, out, {}, **STAGES.get(stage, {}) | options)


def fit(pictures, vectors, out, info, start=None, network=NETWORK, batch=32, mirror=False,
        **options):
    """Train a network on pictures (n, size, size, C) uint8, with or without brain vectors.

    `vectors` are an array or function as for `loader.create_loader`, or None for the unconditional
    model. `out` gets what `run.Run` writes; `info` is stored with the model. `start` is a
    checkpoint to resume, or a model whose weights to start from; `network` holds arguments of
    `UNet`, such as those of `PLANS`; `batch` counts pictures in a step of each process; for
    `mirror` see `loader.BatchLoader`. `options` are `device`, and those of `options.Training`;
    where nothing is said, as in `TRAINING`, by Muon from nothing and by AdamW from a model's
    weights.
    """
    options = TRAINING | dict(optimizer="muon" if start is None else "adamw") | options
    loader = create_loader(pictures.shape[1], batch, images=pictures, vectors=vectors,
                           seed=options["seed"], mirror=mirror)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options["seed"])
        model = UNet(image_channels=loader.channels, condition_size=loader.condition_size,
                     **network)
    options |= dict(image_size=loader.image_size, model_in=start, model=model, out_dir=out,
                    info={"pictures": len(pictures), "batch": batch, **info})
    if vectors is None:
        return train_unconditional_diffusion(loader, **options)
    return train_conditional_diffusion(loader, drop=0.12, **options)


def with_decoder(model_path, experiment, seed=0, device="cpu"):
    """A conditional model, see `sampling.Conditional`, and a decoder of the training trials."""
    x, train = experiment, ~experiment.test
    net = load_conditional(model_path, device, *x.images.shape[2:])
    latents = net.latent.transform(x.train_pictures)
    return net, fit_decoder(x.betas[train], latents, x.image[train], seed)


def score_samples(model, info, vectors, seed, sampling, guidance):
    """Draw samples of TinyScenes and hold them against new scenes; see `sample_quality`."""
    made = sample_pictures(model, info, vectors, seed, sampling, guidance)
    n = len(made)
    new = scenes.draw(scenes.sample_factors(2 * n, NEW_SEED), info["image_size"])
    known = scenes.draw(scenes.sample_factors(EXTRA, EXTRA_SEED), info["image_size"])
    classifier = features.load_factor_net("evaluation_classifier")
    rows = {"samples": made, "new scenes": new[:n]}
    scores = {name: quality_scores(row, new[n:], classifier, known) for name, row in rows.items()}
    return scores, made


def sample_quality(path="unconditional", n=1000, steps=20, seed=0, device="cpu", away_from=None):
    """Scores of `n` samples without a brain, for the card of a TinyScenes model; the samples.

    The model is a path or the name of a shipped one; a conditional model draws without its
    condition, in so many steps of DPM-Solver++(2M). The samples move `away_from` a guidance
    model, if one is named, see `guidance.guided`. The scores are {"samples": …, "new scenes": …},
    see `quality.quality_scores`: the second row is what a perfect model of the scenes would get.
    Both are compared with `n` further new scenes.
    """
    sampling, guidance = replace(PLAIN, steps=steps), None
    if away_from is not None:
        sampling = replace(AUTOGUIDANCE, steps=steps)
        guidance = Guidance(load_drawing(away_from, device))
    return score_samples(*load_drawing(path, device), n, seed, sampling, guidance)


def prior_quality(experiment, path="conditional", n=1000, steps=20, seed=0, device="cpu"):
    """The same of a conditional model, with brain vectors that are drawn first, too.

    They are such as a subject of this experiment would have sent: `retrieval_prior.sample_prior`.
    """
    net, decoder = with_decoder(path, experiment, seed, device)
    vectors = sample_prior(decoder, net.latent.prior, n, SAMPLING.pseudo_trials, seed)
    sampling = replace(SAMPLING, steps=steps, strength=0.0, candidates=1)
    return score_samples(net.model, net.info, vectors, seed, sampling, Guidance(net.guidance_model))
