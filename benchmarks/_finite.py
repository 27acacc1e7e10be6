"""Samplers of a posterior on a world of finitely many pictures, where the posterior is known.

The world: latents of some pictures of the retrieval prior, all alike probable. A picture is taken,
its brain vector is simulated, and each method draws many answers to it; an answer is the picture of
the world that is nearest. The best denoiser of such a world can be written down
(`diffusion.ideal_denoiser`), so that what is wrong is the method's, not a network's.

With z the whitened vector of n trials, z = x H + noise / √n. Methods that are not in the package:

- Decoupled annealing (DAPS; Zhang et al. 2024, arXiv 2407.01521): from x_t to an estimate of x0 by
  a short walk, from there to a draw of N(x0; estimate, r²) p(z | x0), then noise of the next level
  anew. The inner draw is exact here, for all is Gaussian; DAPS takes Langevin steps.
- Steering of particles (Feynman-Kac; Singhal et al. 2025, arXiv 2501.06848): k walks of the prior
  with fresh noise, weighted by how likely z is at their estimates, resampled when few weigh all.
- The twisted filter (TDS; Wu et al. 2023, arXiv 2306.17775): the same, but each step leans along
  the gradient of that likelihood, and the weights count what the leaning changed.

In all three the likelihood at an estimate is widened by how far the picture may be from it, r² =
s² v / (s² + a² v) with v the variance of the pictures (Song et al. 2023, PiGDM).
"""

from functools import partial

import _table
import numpy as np
import torch

from recon_lib.brain.patterns import similarity
from recon_lib.decoding.retrieval_prior import add_trials
from recon_lib.decoding.sampling import SAMPLING
from recon_lib.diffusion import cosine_schedule, ideal_denoiser
from recon_lib.guidance import guided, steer
from recon_lib.samplers import dpm_solver, log_snr_times
from recon_lib.scores.identification import bootstrap_interval

PICTURES, TRIALS, DRAWS, SEED = 1000, 100, 16, 3
REPEATS = (0.25, 1, 4)  # trials behind a vector
LEVELS = (0.5, 0.8, 0.9, 0.95)
ALPHA_BAR = cosine_schedule()


class Finite:
    """The world, `TRIALS` simulated brain vectors of `repeats` trials, and the exact posterior."""

    def __init__(self, decoder, latents, kinds, repeats):
        some = np.random.default_rng(SEED).permutation(len(latents))[:PICTURES]
        self.latents, self.kinds, self.decoder, self.repeats = (
            latents[some], kinds[some], decoder, repeats)
        self.size = np.abs(self.latents).max()  # samplers want numbers in -1 to 1
        self.x = torch.from_numpy(self.latents / self.size).float()
        self.truth = np.random.default_rng(SEED + 1).integers(0, PICTURES, TRIALS)
        self.generator = torch.Generator().manual_seed(SEED)
        vectors = decoder.simulate(torch.from_numpy(self.latents[self.truth]),
                                   torch.full((TRIALS,), float(repeats)), self.generator).numpy()
        self.fit = decoder.log_likelihood(vectors, self.latents)
        self.weights = np.exp(self.fit - self.fit.max(1, keepdims=True))
        self.weights /= self.weights.sum(1, keepdims=True)
        self.mean = (self.weights @ self.latents).astype(np.float32)
        told = add_trials(decoder, vectors, self.mean, SAMPLING.pseudo_trials)
        self.told = decoder.log_likelihood(told, self.latents)
        forward, root = decoder.forward, decoder.noise_cholesky
        base = forward.y_mean - forward.x_mean @ forward.weights
        self.h = torch.from_numpy(np.linalg.solve(root, forward.weights.T).T * self.size).float()
        self.z = torch.from_numpy(np.linalg.solve(root, (vectors[:, :-1] - base).T).T).float()
        self.variance = self.x.var(0).mean().item()
        self.values, self.axes = torch.linalg.eigh(self.h @ self.h.T)
        self.calls = 0

    def rows(self, values, k=1):
        """Numbers of each trial, once for each of its draws (and k particles of a draw)."""
        return torch.as_tensor(values).float().repeat_interleave(DRAWS * k, 0)

    def denoiser(self, log_prior=None):
        """The ideal denoiser of the world; counts how many pictures it was asked for."""
        ideal = ideal_denoiser(self.x, ALPHA_BAR, log_prior)

        def denoise(x_t, t):
            self.calls += len(x_t)
            return ideal(x_t, t)

        return denoise

    def noise(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def nearest(self, x):
        """Which picture of the world each draw is: (trials, draws)."""
        return torch.cdist(x.flatten(1), self.x).argmin(1).numpy().reshape(TRIALS, -1)

    def log_likelihood(self, x, z, spread=0.0):
        """log p(z | x) (b,) if the picture is spread² about x (b, d, 1, 1)."""
        error = z - x.flatten(1) @ self.h
        # by the eigenvalues of H H', for I / n + spread² H' H has them too
        inside = error @ self.h.T @ self.axes
        n, values = self.repeats, self.values.clamp(min=0)
        wider = 1 + n * spread**2 * values
        return -(n * error.square().sum(1) - (inside.square() * (n * spread) ** 2 / wider).sum(1)
                 + wider.log().sum()) / 2


def levels(t):
    """Amplitudes a, s of a time as numbers; without noise for None."""
    if t is None:
        return 1.0, 0.0
    return ALPHA_BAR[t].sqrt().item(), (1 - ALPHA_BAR[t]).sqrt().item()


def spread(world, t):
    a, s = levels(t)
    return (s**2 * world.variance / (s**2 + a**2 * world.variance)) ** 0.5


def asked(x, t):
    return torch.full((len(x),), t)


def solved(world, denoise, steps=SAMPLING.steps):
    """By DPM-Solver, as the package draws."""
    noise = world.noise(TRIALS * DRAWS, world.x.shape[1], 1, 1)
    return dpm_solver(denoise, noise, ALPHA_BAR, steps)


def conditional(world, log_prior, scale=1.0):
    """The exact conditional denoiser, guided away from the one without condition."""
    told, free = world.denoiser(world.rows(log_prior)), world.denoiser()
    return world.nearest(solved(world, guided(told, free, ALPHA_BAR, scale)))


def likelier_of_two(world):
    """As the main job: told the posterior mean; of two draws the one is kept that fits better."""
    pair = np.stack([conditional(world, world.told) for _ in range(2)])
    fits = np.stack([np.take_along_axis(world.fit, one, 1) for one in pair])
    return np.take_along_axis(pair, fits.argmax(0)[None], 0)[0]


def steered(world, steps=20):
    """The prior's denoiser steered by the likelihood, as `guidance.steer` runs."""
    fit = partial(world.log_likelihood, z=world.rows(world.z))
    return world.nearest(solved(world, steer(world.denoiser(), fit, ALPHA_BAR), steps))


def decoupled(world, anneal=20, walk=3):
    """DAPS."""
    denoise, z, n = world.denoiser(), world.rows(world.z), world.repeats
    x = world.noise(len(z), world.x.shape[1], 1, 1)
    times = log_snr_times(ALPHA_BAR, anneal)
    for t, t_next in zip(times, [*times[1:], None], strict=True):
        here = np.linspace(t, 0, walk + 1).round().astype(int)[:-1].tolist()
        for now, then in zip(here, [*here[1:], None], strict=True):  # DDIM to no noise
            (a, s), (a_next, s_next) = levels(now), levels(then)
            x0 = denoise(x, asked(x, now))
            x = a_next * x0 + s_next * (x - a * x0) / max(s, 1e-4)
        precision = 1 / max(spread(world, t), 1e-4) ** 2
        root = (precision + n * world.values).rsqrt()  # of the covariance, in its axes
        centre = (precision * x.flatten(1) + n * z @ world.h.T) @ world.axes
        x = (centre * root + world.noise(*centre.shape)) * root @ world.axes.T
        if t_next is not None:
            a, s = levels(t_next)
            x = (a * x + s * world.noise(*x.shape))[..., None, None]
    return world.nearest(x)


def particles(world, k, twisted=False, steps=20):
    """One picture of k particles, each run of which is weighted and resampled."""
    denoise, z = world.denoiser(), world.rows(world.z, k)
    x, weight, before = world.noise(len(z), world.x.shape[1], 1, 1), torch.zeros(len(z)), 0.0
    moved, times = 0.0, log_snr_times(ALPHA_BAR, steps)
    for t, t_next in zip(times, [*times[1:], None], strict=True):
        with torch.set_grad_enabled(twisted):
            x.requires_grad_(twisted)
            x0 = denoise(x, asked(x, t))
            fit = world.log_likelihood(x0, z, spread(world, t))
            lean = torch.autograd.grad(fit.sum(), x)[0] if twisted else 0.0
        x, x0, fit = x.detach(), x0.detach(), fit.detach()
        weight = weight + fit - before + moved
        x, x0, lean, weight, fit = resample(world, k, x, x0, lean, weight, fit)
        before = fit
        (a, s), (a_next, s_next) = levels(t), levels(t_next)
        fresh = s_next / s * max(0.0, 1 - (a / a_next) ** 2) ** 0.5
        if t_next is None:
            break
        middle = a_next * x0 + max(0.0, s_next**2 - fresh**2) ** 0.5 * (x - a * x0) / s
        ratio = max(a / a_next, 1e-3)
        shift = (1 - ratio**2) / ratio * lean  # what the score's gain adds to the step's mean
        noise = world.noise(*x.shape)
        x = middle + shift + fresh * noise
        if twisted:  # the prior's density of this step over that of the one taken
            moved = (noise.square() - (noise + shift / fresh).square()).flatten(1).sum(1) / 2
    chance = torch.softmax(weight.view(-1, k), 1)
    chosen = torch.multinomial(chance, 1, generator=world.generator)[:, 0]
    return world.nearest(x0.view(-1, k, world.x.shape[1])[torch.arange(len(chosen)), chosen])


def resample(world, k, x, x0, lean, weight, fit):
    """Systematic resampling of the runs whose effective number of particles is below k / 2."""
    chance = torch.softmax(weight.view(-1, k), 1)
    few = 1 / chance.square().sum(1) < k / 2
    start = torch.rand((len(chance), 1), generator=world.generator)
    place = torch.searchsorted(chance.cumsum(1), (start + torch.arange(k)) / k).clamp(max=k - 1)
    place = torch.where(few[:, None], place, torch.arange(k))
    index = (place + torch.arange(len(chance))[:, None] * k).flatten()
    weight = torch.where(few[:, None], 0.0, weight.view(-1, k)).flatten()
    lean = lean[index] if torch.is_tensor(lean) else lean
    return x[index], x0[index], lean, weight, fit[index]


def exact(world):
    """Draws from the posterior itself: what so few draws can show."""
    chance = torch.from_numpy(world.weights)
    return torch.multinomial(chance, DRAWS, True, generator=world.generator).numpy()


def alike(index):
    """An answer that is always the same, as often as others draw."""
    return np.repeat(index[:, None], DRAWS, 1)


METHODS = {
    "draws from the posterior itself": exact,
    "MAP retrieval": lambda world: alike(world.fit.argmax(1)),
    "nearest to the posterior mean": lambda world: alike(
        similarity(world.mean, world.latents).argmax(1)),
    "exact conditional denoiser": lambda world: conditional(world, world.fit),
    "the same, guidance 3": lambda world: conditional(world, world.fit, 3.0),
    "told the posterior mean": lambda world: conditional(world, world.told),
    "told the posterior mean, likelier of two": likelier_of_two,
    "prior, steered": steered,
    "decoupled annealing": decoupled,
    "4 particles": partial(particles, k=4),
    "16 particles": partial(particles, k=16),
    "4 twisted particles": partial(particles, k=4, twisted=True),
    "16 twisted particles": partial(particles, k=16, twisted=True),
}


def judged(world, drawn):
    """Total variation to the exact weights, and two curves of calibration at `LEVELS`.

    Returns
    -------
    (trials,) total variation; (levels, trials) share of draws in the exact set of that level, less
    the probability that the set has; (levels, trials) does the method's own set of categories, made
    of its draws, hold the true one?
    """
    seen = np.zeros_like(world.weights)
    np.add.at(seen, (np.arange(TRIALS)[:, None], drawn), 1 / DRAWS)
    share = seen @ np.eye(world.kinds.max() + 1)[world.kinds]
    right = share[np.arange(TRIALS), world.kinds[world.truth]]
    # what comes before the true one: alike shares count half
    before = np.where(share > right[:, None], share, 0).sum(1) + (
        np.where(share == right[:, None], share, 0).sum(1) - right) / 2
    inside = []
    for level in LEVELS:
        order = np.argsort(-world.weights, 1)
        ahead = np.cumsum(np.take_along_axis(world.weights, order, 1), 1)
        kept = ahead - np.take_along_axis(world.weights, order, 1) < level
        within = np.zeros(kept.shape, bool)
        np.put_along_axis(within, order, kept, 1)
        inside.append((seen * within).sum(1) - (world.weights * within).sum(1))
    own = [(before < level - 1e-9) & (right > 0) for level in LEVELS]
    return np.abs(seen - world.weights).sum(1) / 2, np.array(inside), np.array(own)


def rows(decoder, latents, kinds, methods=METHODS, repeats=REPEATS):
    """Print every method's numbers; the rows of one trial are returned."""
    made = []
    for n in repeats:
        world = Finite(decoder, latents, kinds, n)
        print(f"\n{PICTURES} pictures, {n:g} trials behind a vector; {TRIALS} vectors, {DRAWS} "
              f"draws each. In sets of {', '.join(f'{level:.0%}' for level in LEVELS)}:\n"
              "| method | evaluations | total variation | own sets of categories hold the truth | "
              "90 %: interval | draws in the exact sets, less their probability |\n"
              "|---|---|---|---|---|---|")
        for name, draw in methods.items():
            world.calls = 0
            with torch.no_grad():
                far, inside, own = judged(world, draw(world))
            calls = world.calls / TRIALS / DRAWS
            low, high = bootstrap_interval(own[2], np.arange(TRIALS))
            curve = ", ".join(f"{hits.mean():.2f}" for hits in own)
            excess = ", ".join(f"{more.mean():+.2f}" for more in inside)
            print(f"| {name} | {calls:.0f} | {far.mean():.2f} | {curve} | {low:.2f} to {high:.2f} "
                  f"| {excess} |", flush=True)
            if n == 1:
                made.append(_table.row(f"finite world, {name}, {calls:.0f} evaluations: 90 % sets",
                                       own[2].mean(), "share", 0.9, "asked for", "more"))
    return made
