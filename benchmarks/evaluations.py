"""What 1, 2, 4, 8 and 20 evaluations of a network buy: pictures named, and pictures a second.

    python benchmarks/evaluations.py        # some three minutes of one core
    python benchmarks/evaluations.py 565    # five times as many pictures

The shipped conditional model and its student draw training pictures that were held out, see
`posterior.HeldOut`: each is told the posterior mean of one trial. The teacher moves away from its
guidance model, which takes half of its evaluations (with one evaluation it goes without). Beyond
eight it draws two candidates. The student draws in four evaluations, so with eight it has two
candidates, with 20 five; with one or two it is cut off after so many of its times, which it was not
trained for. Its settings are no choice of this script: nothing is tuned here. Seconds are those of
the whole drawing on one thread in float32, choice among candidates included; the peers' are those
of their networks alone.
"""

import functools
import sys
import time
from dataclasses import replace

import _table
import diffusion
import torch
from posterior import AMONG, HeldOut, counted, tell

from recon_lib.brain.patterns import similarity
from recon_lib.data import release
from recon_lib.decoding.reconstruct import posterior_sampler
from recon_lib.decoding.sampling import FEW_STEPS, MODEL, SAMPLING, STUDENT, load_conditional
from recon_lib.scores.report import evaluation_space, load_classifiers
from recon_lib.training.cost import count
from recon_lib.world import experiment

BUDGETS = (1, 2, 4, 8, 20)


def ways(net, n):
    """A model and its `Sampling` for a budget of n evaluations a picture."""
    ladder = net.info.get("ladder")
    if ladder is not None:
        ladder = ladder[:n]
        net = replace(net, info=net.info | {"ladder": ladder})
        return net, replace(FEW_STEPS, steps=len(ladder), candidates=n // len(ladder))
    if n == 1:
        return net, replace(SAMPLING, steps=1, candidates=1, scale=1.0, interval=None)
    candidates = 1 if n <= 8 else 2
    return net, replace(SAMPLING, steps=n // (2 * candidates), candidates=candidates)


def drawn(held, nets):
    """Which trials are named, and pictures a second: two dicts, (name, budget) -> value."""
    space = evaluation_space(held.training.pictures, load_classifiers()[""])
    known, named, speed = space(held.x.images[held.pictures]), {}, {}
    for n in BUDGETS:
        for name, net in nets.items():
            net, sampling = ways(net, n)
            draw = posterior_sampler(net, held.posterior, sampling, 0)
            start = time.process_time()
            pictures, asked = counted(net, draw, held.trials)
            speed[name, n] = len(pictures) / (time.process_time() - start)
            if asked != n:
                raise ValueError(f"{name} was asked {asked:g} times a picture; expected {n}")
            named[name, n] = held.right(similarity(space(pictures), known))
            tell(f"named right of {AMONG}, {name}, {n} evaluations, {speed[name, n]:.1f} "
                 "pictures/s", named[name, n])
        tell(f"    {' - '.join(nets)}", named["student", n].astype(float) - named["teacher", n])
    return named, speed


def inference(batch=64):
    """The row of the shipped network's forward pass beside a matrix product of as many FLOPs."""
    net = load_conditional(MODEL)
    work = 2 * batch * sum(part["multiplications"] for part in count(net.model.config, 64))
    vectors = torch.zeros(batch, net.model.config["condition_size"])
    seconds = diffusion.forward_seconds({"": (net.model, lambda m, x, t: m(x, t, vectors))}, "no",
                                        batch)[""]
    return _table.row(f"a forward pass of the shipped network, {batch} pictures, float32", seconds,
                      "s", work / diffusion.matmul_peak("no"), "a matrix product's speed")


def rows(held=AMONG, model=MODEL, student=STUDENT):
    torch.set_num_threads(1)
    nets = {"student": load_conditional(student), "teacher": load_conditional(model)}
    pictures = HeldOut(release.load_experiment(experiment.ready()), model, held)
    named, speed = drawn(pictures, nets)
    peers = {name: (net.eval(), ask) for name, (net, ask, *_) in diffusion.networks().items()
             if name not in (diffusion.OURS, diffusion.SHIPPED)}
    seconds = diffusion.forward_seconds(peers, "no")
    made = [inference()]
    for n in BUDGETS:
        size = f"{n} evaluation{'s' * (n > 1)} a picture"
        made.append(_table.row(f"named right of {AMONG}, student, {size}",
                               named["student", n].mean(), "top-1", named["teacher", n].mean(),
                               "its teacher", "more"))
        made += [_table.row(f"sampling, student, {size}, float32", speed["student", n],
                            "pictures/s", other, name, "more")
                 for name, other in [("its teacher", speed["teacher", n]),
                                     *((k, diffusion.BATCH / (n * s)) for k, s in seconds.items())]]
    return made


if __name__ == "__main__":
    if sys.argv[1:]:
        rows = functools.partial(rows, int(sys.argv[1]))
    _table.main(rows)
