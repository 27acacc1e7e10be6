"""How much of what the brain says does a short training bring out, and how close is that to all?

    python benchmarks/identification.py    # on a machine at rest: seconds are seconds

A conditional model is trained from nothing for so many seconds on the training trials of the
embedded experiment, and reconstructs the mean response to each test picture. Its score is top-1:
the share of pictures that are named right among all, by the evaluation classifier's features.
Beside it stand the peers that need no network, by the same judge, and the ideal observer, who knows
the subject: no method can name more.
"""

import tempfile
from dataclasses import replace

import _table
import numpy as np
import torch

from recon_lib.brain.decoder import fit_decoder, vector_source
from recon_lib.brain.features import load_factor_net
from recon_lib.brain.latents import fit_latent
from recon_lib.brain.patterns import similarity
from recon_lib.data import release
from recon_lib.data.loader import create_loader
from recon_lib.decoding import baselines
from recon_lib.decoding.baselines import retrieval, ridge_to_pixels
from recon_lib.decoding.sampling import PLAIN, SAMPLING, sample_pictures
from recon_lib.scores import report
from recon_lib.scores.identification import top_k
from recon_lib.training.loop import train_conditional_diffusion
from recon_lib.unet import UNet
from recon_lib.world import experiment

SECONDS = (60, 180, 600)
BATCH, SEED = 16, 0


def train(x, latent, decoder, seconds):
    """A conditional model after so many seconds, and what it predicts."""
    pictures = x.images[np.unique(x.image[~x.test])]
    vectors = vector_source(decoder, latent.transform(pictures), latent.blocks)
    loader = create_loader(x.images.shape[1], BATCH, images=pictures, vectors=vectors, seed=SEED)
    torch.manual_seed(SEED)
    model = UNet(condition_size=loader.condition_size)
    with tempfile.TemporaryDirectory() as folder:
        model = train_conditional_diffusion(
            loader, epochs=None, lr=7e-4, image_size=x.images.shape[1], device="auto", grids=0,
            model=model, out_dir=folder, seconds=seconds, drop=0.12, seed=SEED, quiet=True,
        )
    return model, {"prediction": "x0", "schedule": "cosine", "image_size": x.images.shape[1]}


def rows():
    x = release.load_experiment(experiment.ready())
    train_trials = ~x.test
    latent = fit_latent(x.train_pictures, load_factor_net("feature_encoder"))
    known = latent.transform(x.train_pictures)
    decoder = fit_decoder(x.betas[train_trials], known, x.image[train_trials], SEED)
    betas, counts = x.averaged()
    vectors = decoder.vector(betas, counts)
    target = np.arange(len(betas))
    space = report.evaluation_space(x.train_pictures, load_factor_net("evaluation_classifier"))
    candidates = space(x.images[x.test_index])

    def top1(pictures):
        return top_k(similarity(space(pictures), candidates), target)

    ridge = ridge_to_pixels(x.betas[train_trials], x.train_pictures, x.image[train_trials],
                            seed=SEED)
    peers = {
        "ridge to pixels": top1(ridge(betas)),
        "nearest training picture": top1(retrieval(vectors[:, :-1], known, x.train_pictures)),
        "ideal observer": top_k(baselines.ideal_observer(x)(betas), target),
    }
    made = []
    for seconds in SECONDS:
        model, info = train(x, latent, decoder, seconds)
        sampling = replace(PLAIN, steps=SAMPLING.steps, scale=SAMPLING.scale,
                           interval=SAMPLING.interval)
        ours = top1(sample_pictures(model, info, vectors, SEED, sampling))
        name = f"name 1 of {len(target)} pictures after {seconds} s of training"
        made += [_table.row(name, ours, "top-1", score, peer, better="more")
                 for peer, score in peers.items()]
    return made


if __name__ == "__main__":
    _table.main(rows)
