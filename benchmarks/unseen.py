"""Drawing against search where the search must fail: no picture of the prior is the right kind.

    python benchmarks/unseen.py         # test pictures, one trial each; ten minutes of one core
    python benchmarks/unseen.py held    # training pictures that were held out: to choose with

For each picture that was seen, all pictures with its combination of category, hue and place leave
the retrieval prior. What is left says which picture is the likeliest (MAP retrieval), what the
posterior mean is, of which the network is told, and which picture is nearest to that mean. Each
answer is named among 113. Then the same with voxels in another order, and with the betas of another
picture (shuffled brain): at chance.

The networks are as they are: in training they have seen such combinations, and so have the fits of
the encoding model. So this asks whether a drawing can make what is between the pictures of a
search, not whether a network can invent what it never saw.
"""

import sys

import _table
import numpy as np
from posterior import AMONG, HeldOut, tell

from recon_lib.brain.patterns import similarity
from recon_lib.data import release
from recon_lib.decoding.baselines import Trials, shuffled_brain
from recon_lib.decoding.posterior import ROWS, Found
from recon_lib.decoding.reconstruct import fit_all, posterior_sampler
from recon_lib.decoding.retrieval_prior import EXTRA, EXTRA_SEED, prior_pictures
from recon_lib.decoding.sampling import MODEL, SAMPLING, load_conditional
from recon_lib.scores.report import Criteria, evaluation_space, load_classifiers, named_right
from recon_lib.world import experiment, scenes

HELD = "held" in sys.argv[1:]
HUES, ACROSS, DOWN = 6, 3, 2  # bins of hue, and of places across and down


def combination(factors):
    """A number for each combination of category, hue and place."""
    hue = np.minimum(factors["hue"] * HUES, HUES - 1).astype(int)
    across = np.clip((factors["x"] - 0.28) / 0.44 * ACROSS, 0, ACROSS - 1).astype(int)
    down = np.clip((factors["y"] - 0.46) / 0.24 * DOWN, 0, DOWN - 1).astype(int)
    return ((factors["category"] * HUES + hue) * ACROSS + across) * DOWN + down


def prior_factors(x):
    """Factors of the pictures of the whole prior, see `retrieval_prior.training_pictures`."""
    own = {str(x.names[i]): x.factors[i] for i in np.unique(x.image[~x.test])}
    mine = np.array([own[name] for name in sorted(own)], scenes.FACTORS)
    return np.concatenate([mine, scenes.sample_factors(EXTRA, EXTRA_SEED)])


def find_elsewhere(posterior, trials, kind, seen):
    """`Found` of trials when the pictures of the `kind` (prior,) that was `seen` (n,) are gone."""
    index, nearest, mean, gone = [], [], [], []
    for i in range(0, len(seen), ROWS):
        rows = slice(i, i + ROWS)
        fit = posterior.log_weights(trials.betas[rows], trials.repeats[rows])
        away = seen[rows, None] == kind
        fit[away] = -np.inf
        weights = np.exp(fit - fit.max(1, keepdims=True))
        index.append(weights.argmax(1))
        mean.append(weights @ posterior.latent.prior / weights.sum(1, keepdims=True))
        likeness = similarity(mean[-1], posterior.latent.prior)
        nearest.append(np.where(away, -1, likeness).argmax(1))
        gone.append(away.sum(1))
    print(f"of {len(kind)} pictures {np.concatenate(gone).mean():.0f} leave, on average")
    index, nearest, mean = map(np.concatenate, (index, nearest, mean))
    return Found(index, nearest, mean, {}, np.zeros(len(seen)))


class World:
    """What is asked: the test trials, or training trials that were held out.

    Attributes
    ----------
    trials : Trials
    shown : (n,) int array
        Which of `x.images` was seen.
    """

    def __init__(self, x, held, model=MODEL, few=None):
        self.x = x
        if held:
            kept = HeldOut(x, model)
            self.net, self.training, self.posterior = kept.net, kept.training, kept.posterior
            rows, self.whole, self.right = kept.rows, kept.whole, kept.right
            shown, betas = kept.pictures, kept.trials.betas
        else:
            self.net = load_conditional(model)
            self.training, self.posterior = fit_all(x, self.net, 0, print)
            rows, self.whole = np.arange(len(self.net.latent.prior)), self.net.latent
            shown, betas = x.image[x.test], x.betas[x.test]
        self.rows, self.kind = rows, combination(prior_factors(x))[rows]
        self.shown, betas = shown[:few], betas[:few]
        self.trials = Trials(betas, self.training.decoder.vector(betas), np.ones(len(betas), int))
        self.space = evaluation_space(self.training.pictures, load_classifiers()[""])

    def named(self, pictures):
        """Which trials' pictures are likest to what was seen, each among 113."""
        if self.x.test[np.isin(self.x.image, self.shown)].any():
            names, target = np.unique(self.shown, return_inverse=True)
            return named_right(pictures, Criteria(self.x.images[names], target, self.space))
        return self.right(similarity(self.space(pictures), self.space(self.x.images[self.shown])))

    def answers(self, trials, sampling):
        """What both searches and the drawing name right, of what is left of the prior."""
        trials.found = find_elsewhere(self.posterior, trials, self.kind,
                                      combination(self.x.factors[self.shown]))
        answers = {name: prior_pictures(self.x, self.whole, self.rows[index]) for name, index in (
            ("MAP retrieval", trials.found.index),
            ("nearest to the posterior mean", trials.found.nearest))}
        answers["drawn"] = posterior_sampler(self.net, self.posterior, sampling, 0)(trials)
        return {name: self.named(pictures) for name, pictures in answers.items()}


def rows(held=HELD, few=None, model=MODEL, sampling=SAMPLING, seed=0):
    """The rows of the table; `few` trials instead of all."""
    world = World(release.load_experiment(experiment.ready()), held, model, few)
    trials, n = world.trials, len(world.shown)
    order = np.random.default_rng(seed).permutation(trials.betas.shape[1])
    permuted = Trials(trials.betas[:, order], world.training.decoder.vector(
        trials.betas[:, order]), trials.repeats)
    wrong = trials.take(shuffled_brain(world.shown, seed))
    table, among = [], min(AMONG, len(np.unique(world.shown)))
    for name, what in (("", trials), (", voxels in another order", permuted),
                       (", shuffled brain", wrong)):
        hits = world.answers(what, sampling)
        for method, right in hits.items():
            tell(f"{method}{name}", right, world.shown)
        drawn = hits.pop("drawn").astype(float)
        for search, right in hits.items():
            tell(f"drawn - {search}{name}", drawn - right, world.shown)
            table.append(_table.row(
                f"named right of {among}, no picture of the prior of its combination{name}, {n} "
                "trials", drawn.mean(), "top-1", right.mean(), search, "more"))
    return table


if __name__ == "__main__":
    _table.main(rows)
