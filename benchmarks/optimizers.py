"""AdamW against Muon and against weights of fixed length, after equal seconds of one core.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py --minutes 10 30     # of each; then the table
    OMP_NUM_THREADS=1 python benchmarks/optimizers.py --network NETWORK --arms AdamW Muon

Muon is `training/muon.py`, at so many times AdamW's rate. With fixed lengths the weights into each
channel of a hidden convolution get back, after each step, the length at which they began (the
forced normalisation of EDM2, arXiv 2312.02696, without its other layers); convolutions that begin
at zero stay free.

All start from the same weights; step n of each sees the same pictures, times and noise. How long
a step of each takes is measured once, in turns, the median; each then takes as many steps as so
many seconds hold, so that other work on the machine is no part of the comparison. The learning
rate falls to zero at the last of the `--minutes`; a row of fewer minutes is on the way there.

The loss is that of averaged weights on new scenes, the same times and noise for all, so that
differences are paired over pictures. Averages of two other lengths are carried along: today's moves
by 9 / (10 + n), which is EDM2's power function, until n is 9,000. Weights, samples and a checkpoint
lie in the folder `--out`, from which a run that was cut off goes on.
"""

import argparse
import copy
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recon_lib import diffusion, recipes
from recon_lib.brain.features import load_factor_net
from recon_lib.common.paths import results_folder
from recon_lib.data.loader import to_batch
from recon_lib.decoding.sampling import sample_pictures
from recon_lib.scores.quality import quality_scores
from recon_lib.training.checkpoints import load_model, save_checkpoint, save_model
from recon_lib.training.device import make_accelerator
from recon_lib.training.muon import Muon, hidden_convolutions
from recon_lib.training.step import draw_noise, gradient_step, learning_rate, update_average
from recon_lib.unet import UNet
from recon_lib.world import scenes

ALPHA_BAR = diffusion.cosine_schedule()
INFO = dict(prediction="x0", schedule="cosine", image_size=64)
MOVES = {"today": 9, "shorter": 18, "longer": 4.3}  # an average moves by this over 10 + n
ARMS = {"AdamW": {}, "AdamW, rate x 2": dict(rate=2), "AdamW, rate x 4": dict(rate=4),
        "AdamW, batches of 16": dict(batch=16), "AdamW, batches of 64": dict(batch=64),
        "Muon": dict(muon=1), "Muon, rate x 2": dict(muon=2), "Muon, rate x 4": dict(muon=4),
        "AdamW, fixed lengths": dict(fixed=True),
        "AdamW, fixed lengths, rate x 4": dict(fixed=True, rate=4)}


class Arm(torch.nn.Module):
    """One of `ARMS` in training; `state_dict` is its checkpoint."""

    def __init__(self, start, rate=1.0, batch=32, muon=0, fixed=False):
        super().__init__()
        self.net, self.batch, self.lr = copy.deepcopy(start), batch, rate * recipes.TRAINING["lr"]
        self.averages = torch.nn.ModuleDict({name: copy.deepcopy(start) for name in MOVES})
        self.optimizer = Muon(self.net, self.lr, muon) if muon else torch.optim.AdamW(
            self.net.parameters(), self.lr, betas=(0.9, 0.99), fused=True)
        self.fixed = [(w, lengths(w)) for w in hidden_convolutions(self.net)
                      if fixed and lengths(w).all()]
        self.n, self.seconds = 0, 0.0  # steps behind it, how long one takes

    def get_extra_state(self):
        return dict(optimizer=self.optimizer.state_dict(), n=self.n, seconds=self.seconds)

    def set_extra_state(self, state):
        self.n, self.seconds = state["n"], state["seconds"]
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, images, progress, accelerator):
        """A step as `loop.train` takes it."""
        torch.manual_seed(self.n)
        some = images[torch.randint(len(images), (self.batch,))].float().div_(127.5).sub_(1)
        t, noise, _ = draw_noise(some, len(ALPHA_BAR), 0.0, accelerator)
        loss = diffusion.diffusion_loss(self.net, some, ALPHA_BAR, t, noise)
        gradient_step(accelerator, self.net, self.optimizer, loss,
                      self.lr * learning_rate(self.n, progress, 200))
        with torch.no_grad():
            for weight, length in self.fixed:
                weight.mul_(length / lengths(weight))
        for name, average in self.averages.items():
            update_average(average, self.net, min(0.999, max(0, 1 - MOVES[name] / (10 + self.n))))
        self.n += 1


def lengths(weight):
    """The length of the weights into each channel of a convolution, (out, 1, 1, 1)."""
    return weight.detach().square().sum((1, 2, 3), keepdim=True).sqrt()


def measure(arms, start, images, accelerator, rounds=20):
    """Note with each arm how long a step takes: the median of so many, taken in turns.

    Arms that differ by their rate alone share it.
    """
    kinds = {name: str(sorted((ARMS[name] | dict(rate=1, muon="muon" in ARMS[name])).items()))
             for name in arms}
    tries = {kind: (Arm(start, **ARMS[name]), []) for name, kind in kinds.items()}
    for _ in range(rounds):
        for arm, seconds in tries.values():
            began = time.process_time()
            arm.step(images, 0.1, accelerator)
            seconds.append(time.process_time() - began)
    for name, kind in kinds.items():
        arms[name].seconds = float(np.median(tries[kind][1][2:]))
        print(f"{name}: {arms[name].seconds:.3f} s a step", flush=True)


@torch.no_grad()
def picture_losses(net, held, times=4):
    """The loss of each new picture (n,), at so many times, the same for all networks."""
    generator = torch.Generator().manual_seed(1)
    t = diffusion.stratified_times(len(held) * times, 1000, generator).view(-1, times)
    noise = torch.randn(*t.shape, *held.shape[1:], generator=generator)
    device = next(net.parameters()).device
    return np.array([diffusion.diffusion_loss(
        net, x0.expand(times, -1, -1, -1).to(device), ALPHA_BAR.to(device), its.to(device),
        its_noise.to(device)).item() for x0, its, its_noise in zip(held, t, noise, strict=True)])


def train(names, network, minutes, out):
    """Train the arms in turn up to each of the minutes; averaged weights go into the folder."""
    torch.manual_seed(0)
    start = UNet(**network).to(memory_format=torch.channels_last)
    arms = torch.nn.ModuleDict({name: Arm(start, **ARMS[name]) for name in names})
    pictures = scenes.draw(scenes.sample_factors(20_000, recipes.EXTRA_SEED))
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    accelerator, saved = make_accelerator("cpu", "no"), time.monotonic()
    if (out / "arms.pt").exists():
        arms.load_state_dict(torch.load(out / "arms.pt", weights_only=True))
    else:
        measure(arms, start, images, accelerator)
    for now, (name, arm) in itertools.product(minutes, arms.items()):
        last = round(60 * minutes[-1] / arm.seconds)
        while arm.n < round(last * now / minutes[-1]):
            arm.step(images, arm.n / last, accelerator)
            if time.monotonic() > saved + 60:
                saved = time.monotonic()
                save_checkpoint(out / "arms.pt", arms.state_dict())
                print(f"{now:g} minutes, {name}: {arm.n} of {last} steps", flush=True)
        for length, average in arm.averages.items():
            path = out / f"{name}, {now:g} min, {length}.safetensors"
            if not path.exists():
                save_model(average, path, INFO | dict(steps=arm.n), half=False)
    save_checkpoint(out / "arms.pt", arms.state_dict())


def table(names, minutes, out, samples):
    """Print a row for each arm after each of the minutes; write its samples as pictures."""
    new = scenes.draw(scenes.sample_factors(1000, recipes.NEW_SEED))
    held = to_batch(new[:500])
    print("| | minutes | steps | " + " | ".join(f"loss, average {name}" for name in MOVES)
          + " | loss less the first's | KID | precision |\n|---|---|---|"
          + "---|" * (len(MOVES) + 3))
    for now in minutes:
        first = None
        for name in names:
            models = [load_model(out / f"{name}, {now:g} min, {length}.safetensors")
                      for length in MOVES]
            losses = [picture_losses(model, held) for model, _ in models]
            first = losses[0] if first is None else first
            less, (model, info) = losses[0] - first, models[0]
            line = [name, f"{now:g}", f"{info['steps']}", *(f"{x.mean():.5f}" for x in losses),
                    f"{less.mean():+.5f} ± {1.96 * less.std(ddof=1) / len(less) ** 0.5:.5f}"]
            if samples:
                made = sample_pictures(model, info, samples)
                rows = made[:samples // 8 * 8][:32].reshape(-1, 8, *made.shape[1:])
                Image.fromarray(np.vstack([np.hstack(row) for row in rows])).save(
                    out / f"{name}, {now:g} min.png")
                s = quality_scores(made, new[-samples:], load_factor_net("evaluation_classifier"))
                line += [f"{s['kid']:.3f} ± {s['kid_error']:.3f}", f"{s['precision']:.2f}"]
            print("| " + " | ".join(line) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[10], help="of one core, each")
    parser.add_argument("--network", default="GUIDANCE_NETWORK", help="a name in recipes")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--samples", type=int, default=500, help="for KID and precision; 0: none")
    parser.add_argument("--only", choices=("train", "table"), help="one of both parts")
    parser.add_argument("--out", type=Path, default=results_folder() / "optimizers")
    args = parser.parse_args()
    args.minutes.sort()
    args.out /= f"{args.network}, {' '.join(f'{now:g}' for now in args.minutes)} min"
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only != "table":
        train(args.arms, getattr(recipes, args.network), args.minutes, args.out)
    if args.only != "train":
        table(args.arms, args.minutes, args.out, args.samples)


if __name__ == "__main__":
    main()
