"""One GPU for a quarter of an hour: the shipped recipe with more steps, and a wider network.

    python benchmarks/gpu.py                              # eight minutes in all, into results/gpu
    python benchmarks/gpu.py --dry --minutes .3           # a trial on the processor

The conditional recipe of `recipes.train_stage`, in batches of 128: the pictures that the starting
model knows, brain vectors simulated anew for every batch. First the starting model's network goes
on from its weights, then one half as wide again begins from nothing; both listen to the starting
model's latent and can take its place. They share the minutes left when the experiment is simulated
and the scenes are drawn.

Averaged weights are written in half precision, half a minute apart: `continued.safetensors` and
`wider.safetensors`, 57 MB. `scores.json` has a row for the starting model, too: loss on new scenes
without a vector, KID and precision of plain samples, and training trials named right among so many,
from out-of-fold vectors (of pictures that the networks know). A run that is cut off leaves these.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import _table
import numpy as np
import torch
from optimizers import picture_losses

from recon_lib import recipes
from recon_lib.brain.decoder import fit_decoder, vector_source
from recon_lib.brain.features import load_factor_net
from recon_lib.brain.latents import fingerprint, packed
from recon_lib.brain.patterns import similarity
from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.paths import results_folder
from recon_lib.data.loader import to_batch
from recon_lib.data.release import load_experiment, unique_pictures
from recon_lib.decoding.retrieval_prior import EXTRA, prior_rows, training_pictures
from recon_lib.decoding.sampling import (
    AUTOGUIDANCE,
    LATENT,
    Guidance,
    load_drawing,
    load_latent_of,
    sample_pictures,
)
from recon_lib.scores.identification import top_k
from recon_lib.scores.quality import quality_scores
from recon_lib.scores.report import evaluation_space
from recon_lib.training.checkpoints import read_weights, save_model
from recon_lib.unet import UNet
from recon_lib.world import experiment, scenes

FULL = dict(extra=EXTRA, batch=128, samples=1000, trials=226, held=384)
DRY = dict(extra=25, batch=8, samples=8, trials=6, held=4)


def keep(checkpoint, path, finished):
    """Write the averaged weights of a checkpoint now and then, and when training is finished."""
    done = False
    while not done:
        done = finished.wait(30)
        if checkpoint.exists():
            weights, config, info = read_weights(checkpoint)
            model = UNet(**config)
            model.load_state_dict(weights)
            save_model(model, path, info)


def drawn(x, extra):
    """`training_pictures`, drawn by all cores."""
    rows = np.arange(len(unique_pictures([x])) + extra)
    if len(rows) < 5000:
        return training_pictures(x, extra)
    parts = np.array_split(rows, os.cpu_count())
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(partial(training_pictures, x, extra), parts)))


class Trainer:
    """What both networks need, made once: pictures, latent, decoder."""

    def __init__(self, args):
        self.out, self.sizes = args.out, DRY if args.dry else FULL
        self.device = "cpu" if args.dry else "cuda"
        self.x = x = load_experiment(args.data or experiment.ready())
        self.latent = load_latent_of(args.start)
        own = len(unique_pictures([x]))
        self.pictures = drawn(x, min(len(self.latent.prior) - own, self.sizes["extra"]))
        self.latent.prior = self.latent.prior[:len(self.pictures)]
        if (prior_rows(self.latent.prior, self.latent.transform(self.pictures[-8:])) < 0).any():
            raise DataError(f"{args.start} was trained on other pictures; give its experiment")
        self.decoder = fit_decoder(x.betas[~x.test], self.latent.transform(x.train_pictures),
                                   x.image[~x.test])

    def train(self, name, seconds, network, start):
        """Train for so many seconds; return the path of the weights in `out`."""
        path, finished = self.out / f"{name}.safetensors", threading.Event()
        vectors = vector_source(self.decoder, self.latent.prior, self.latent.blocks)
        info = dict(split=self.x.split, held=list(self.x.held), latent=fingerprint(self.latent))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder, "checkpoint.pt")
            watch = threading.Thread(target=keep, args=(checkpoint, path, finished))
            watch.start()
            try:
                recipes.fit(self.pictures, vectors, folder, info, start, network,
                            self.sizes["batch"], steps=None, epochs=None, seconds=seconds,
                            device=self.device, checkpoint_minutes=0.5, grids=0,
                            beside={LATENT: packed(self.latent)})
            finally:
                finished.set()
                watch.join()
        return path

    def scores(self, path):
        """The row of `scores.json` of a model."""
        (model, info), x, sizes = load_drawing(path, self.device), self.x, self.sizes
        new = scenes.draw(scenes.sample_factors(2 * sizes["samples"], recipes.NEW_SEED))
        losses = picture_losses(model, to_batch(new[:sizes["held"]]))
        classifier = load_factor_net("evaluation_classifier")
        plain = quality_scores(sample_pictures(model, info, sizes["samples"]),
                               new[sizes["samples"]:], classifier)
        shown = x.image[~x.test]
        rows = np.sort(np.unique(shown, return_index=True)[1])
        some = np.random.default_rng(0).permutation(rows)[:sizes["trials"]]
        vectors = np.column_stack([self.decoder.ridge.out_of_fold[some], np.ones(len(some))])
        made = sample_pictures(model, info, vectors, 0, replace(AUTOGUIDANCE, steps=8),
                               Guidance(load_drawing("guidance", self.device)))
        space = evaluation_space(x.train_pictures, classifier)
        named = top_k(similarity(space(made), space(x.images[shown[some]])), np.arange(len(some)))
        return dict(loss=losses.mean(), loss_error=losses.std(ddof=1) / len(losses) ** 0.5, **plain,
                    named=named, among=len(some), steps=info.get("steps"),
                    parameters=sum(p.numel() for p in model.parameters()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="in all")
    parser.add_argument("--start", default="conditional", help="a model to go on from")
    parser.add_argument("--data", help="the experiment; default: the embedded one, simulated")
    parser.add_argument("--out", type=Path, default=results_folder() / "gpu")
    parser.add_argument("--dry", action="store_true", help="on the processor, a few pictures")
    args, began = parser.parse_args(), time.monotonic()
    if not (args.dry or torch.cuda.is_available()):
        sys.exit("no CUDA GPU found; use a machine that has one, or --dry for a trial without")
    args.out.mkdir(parents=True, exist_ok=True)
    trainer, made = Trainer(args), {}

    def scored(name, path):
        made[name] = trainer.scores(path)
        with atomic_write(args.out / "scores.json") as partial:
            partial.write_text(json.dumps(dict(
                rows=made, minutes=args.minutes, machine=_table.machine(), dry=args.dry,
                gpu=None if args.dry else torch.cuda.get_device_name()), indent=1, default=float))
        print(f"{time.monotonic() - began:.0f} s: {name} {made[name]}", flush=True)

    begin = time.monotonic()
    scored("start", args.start)
    scoring = time.monotonic() - begin
    config = read_weights(args.start)[1]
    network = {k: v for k, v in config.items() if k not in ("image_channels", "condition_size")}
    wider = network | {"channels": [16 * round(1.5 * c / 16) for c in network["channels"]]}
    for left, name, plan in ((2, "continued", (network, args.start)), (1, "wider", (wider, None))):
        rest = 60 * args.minutes - (time.monotonic() - began) - left * (1.2 * scoring + 10)
        scored(name, trainer.train(name, max(rest / left, 1), *plan))


if __name__ == "__main__":
    main()
