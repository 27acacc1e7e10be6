"""How fast does the diffusion model train and sample, and how good is it after the same seconds?

    python benchmarks/diffusion.py                                       # some minutes
    python benchmarks/diffusion.py --seconds 1800 --kid 500 --samples 1000    # some hours

All on one thread, in one process, on 64 x 64 TinyScenes, with batches of the same size, the same
optimiser and, unless `--precision` says otherwise, the precision that `recon_lib` would choose
here. Ours is `UNet()`, the network of the live trainings; the shipped one stands among the peers.
A step is a whole one: batch, noise, loss, gradient, clipping, AdamW. Seconds are CPU seconds
of the one thread, so that other processes on the machine cost nobody anything but cache. diffusers'
example is the network of its unconditional training script at that script's default size, 64 x 64.
Peers train with the objective that they are published with (epsilon; v for
denoising-diffusion-pytorch). Their learning rate is above the published ones, because short
trainings want it high. The loss is for all the same: the error of the guessed clean picture on
scenes never trained on, weighed as in `diffusion_loss`. A row says how many steps each network took
in its seconds: after a step or two a network is as good as untrained, and the ratio tells its speed
alone. KID needs hundreds of samples to say anything, so the short run prints it for the shipped
model only, with its error.
"""

import argparse
import contextlib
import copy
import functools
import sys
import tempfile
import time
from unittest import mock

import _table
import numpy as np
import torch
from accelerate import Accelerator

from recon_lib import diffusion, recipes
from recon_lib.data.loader import to_batch
from recon_lib.samplers import ddpm, dpm_solver, initial_noise, to_uint8
from recon_lib.scores import quality
from recon_lib.training import loop
from recon_lib.training.checkpoints import load_model
from recon_lib.training.cost import count
from recon_lib.training.device import pick_precision
from recon_lib.training.muon import Muon
from recon_lib.training.run import Run
from recon_lib.training.step import learning_rate, update_average
from recon_lib.unet import UNet
from recon_lib.world import scenes

ALPHA_BAR = diffusion.cosine_schedule()
PARTS = {"noise": (loop, "draw_noise"), "forward": (loop, "diffusion_loss"),
         "backward": (Accelerator, "backward"), "clipping": (Accelerator, "clip_grad_norm_"),
         "Muon": (Muon, "step"), "averaging": (loop, "update_average")}
OURS, SHIPPED = "recon_lib", "the shipped, finer network"
BATCH = 16  # pictures in a timed forward pass


def diffusers_net(channels, attend, layers):
    """diffusers' network with attention at one level, as in its training example."""
    from diffusers import UNet2DModel

    kinds = ["Attn" if i == attend else "" for i in range(len(channels))]
    return UNet2DModel(
        sample_size=64, layers_per_block=layers, block_out_channels=channels,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in kinds[::-1]],
    )


def networks():
    """Name -> (network, function (network, x_t, t), what it predicts, peak learning rate)."""
    from _plain_unet import PlainUNet
    from denoising_diffusion_pytorch import Unet as LucidUnet

    torch.manual_seed(0)
    plain = lambda net, x, t: net(x, t)  # noqa: E731
    wrapped = lambda net, x, t: net(x, t).sample  # noqa: E731
    equal = diffusers_net((64, 128, 128), attend=2, layers=1)
    example = diffusers_net((128, 128, 256, 256, 512, 512), attend=4, layers=2)
    diffusers = _table.package("diffusers")
    return {
        OURS: (UNet().to(memory_format=torch.channels_last), plain, "x0", 1e-3),
        SHIPPED: (UNet(**recipes.NETWORK).to(memory_format=torch.channels_last), plain, "x0", 1e-3),
        f"{diffusers}, equal size": (equal, wrapped, "eps", 3e-4),
        f"{diffusers}, its 64 x 64 example": (example, wrapped, "eps", 3e-4),
        _table.package("denoising-diffusion-pytorch"): (LucidUnet(64), plain, "v", 3e-4),
        "plain U-Net": (PlainUNet(), plain, "eps", 3e-4),
    }


def low(precision):
    """The context in which networks compute."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def trainer(net, ask, prediction, images, batch, precision):
    """A function that takes one training step at a learning rate."""
    optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), fused=True)
    generator = torch.Generator().manual_seed(0)

    def step(rate=1e-5):
        x0 = images[torch.randint(len(images), (batch,), generator=generator)]
        t = diffusion.stratified_times(batch, 1000, generator)
        noise = torch.randn(x0.shape, generator=generator)
        if isinstance(net, UNet):  # as `loop.train` does
            x0 = x0.to(memory_format=torch.channels_last)
        with low(precision):
            loss = diffusion.diffusion_loss(
                lambda x, t, *_: ask(net, x, t), x0, ALPHA_BAR, t, noise, prediction)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()

    return step


def matmul_peak(precision, size=2048):
    """FLOP/s of a large matrix product, the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, best = torch.ones(size, size, dtype=dtype), np.inf
    for _ in range(6):
        start = time.process_time()
        x @ x
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best


def bench_speed(nets, images, batch, precision, rounds=8):
    """Rows of training speed, and seconds a step: the best of eight, of a slow network of two."""
    steps = {name: trainer(copy.deepcopy(net), ask, prediction, images, batch, precision)
             for name, (net, ask, prediction, _) in nets.items()}
    best = dict.fromkeys(steps, np.inf)
    for one in range(1 + rounds):
        for name, step in steps.items():  # in turn: a disturbance meets all alike
            if one <= 2 or best[name] < 2:
                start = time.process_time()
                step()
                if one:  # the first step warms up
                    best[name] = min(best[name], time.process_time() - start)
    work = 6 * batch * sum(row["multiplications"] for row in count(UNet().config, 64))
    limit = batch * matmul_peak(precision) / work  # a step: forward once, backward twice as much
    name = f"training, batches of {batch}, {precision_name(precision)}"
    ours = batch / best[OURS]
    made = [_table.row(name, ours, "pictures/s", batch / seconds, peer, better="more")
            for peer, seconds in best.items() if peer != OURS]
    made.append(_table.row(f"{name}: share of the limit", ours, "pictures/s", limit,
                           "a matrix product's speed", better="more"))
    return made, best


def bench_parts(images, batch, precision, steps=10):
    """Rows of where the seconds of a step go, in `loop.train` itself, for the shipped network."""
    spent, marks, record = dict.fromkeys(PARTS, 0.0), [], Run.record

    def marked(run, *values):
        marks.append([*spent.values(), time.process_time()])
        record(run, *values)

    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for name, (owner, function) in PARTS.items():
            timed = on_the_clock(getattr(owner, function), spent, name)
            stack.enter_context(mock.patch.object(owner, function, timed))
        stack.enter_context(mock.patch.object(Run, "record", marked))
        recipes.fit(images, None, folder, {}, batch=batch, steps=steps + 3, quiet=True, grids=0,
                    device="cpu", precision=precision)
    *parts, whole = np.median(np.diff(marks, axis=0)[2:], axis=0)  # the first ones warm up
    parts = dict(zip(PARTS, parts, strict=True)) | {"pictures, log": whole - sum(parts)}
    work = 6 * batch * sum(row["multiplications"] for row in count(recipes.NETWORK, 64))
    name = f"a training step of the shipped network, {batch} pictures, {precision_name(precision)}"
    return [_table.row(name, whole, "s", work / matmul_peak(precision), "a matrix product's speed"),
            *(_table.row(f"{name}: {part}", seconds, "s", whole, "the whole step")
              for part, seconds in parts.items())]


def on_the_clock(function, spent, name):
    """The same function; the seconds of its calls are added to `spent[name]`."""
    def call(*arguments, **options):
        start = time.process_time()
        result = function(*arguments, **options)
        spent[name] += time.process_time() - start
        return result

    return call


def forward_seconds(nets, precision, batch=BATCH):
    """Seconds of a forward pass of a batch, the best of two, in turn: name -> (network, ask)."""
    best = dict.fromkeys(nets, np.inf)
    x, t = initial_noise(batch, (3, 64, 64), 0), torch.full((batch,), 500)
    with torch.no_grad(), low(precision):
        for one in range(3):
            for name, (net, ask) in nets.items():
                x_t = x.to(memory_format=torch.channels_last) if isinstance(net, UNet) else x
                start = time.process_time()
                ask(net, x_t, t)
                if one:  # the first pass warms up
                    best[name] = min(best[name], time.process_time() - start)
    return best


def bench_evaluations(nets, precision, evaluations=20):
    """Rows of sampling speed: so many forward passes a picture."""
    best = forward_seconds({name: (copy.deepcopy(net).eval(), ask)
                            for name, (net, ask, *_) in nets.items()}, precision)
    speed = {name: BATCH / (evaluations * seconds) for name, seconds in best.items()}
    size = f"{evaluations} evaluations, batches of {BATCH}, {precision_name(precision)}"
    return [_table.row(f"sampling, {ours}, {size}", speed[ours], "pictures/s", speed[peer], peer,
                       better="more")
            for ours in (OURS, SHIPPED) for peer in speed if peer not in (OURS, SHIPPED)]


def precision_name(precision):
    """How a precision is called in the table."""
    return {"no": "float32", "bf16": "bfloat16"}[precision]


def held_out_loss(guess, held, t, noise, batch=16):
    """The loss over whole batches of new pictures, and its standard error from batch to batch."""
    parts = (slice(i, i + batch) for i in range(0, len(held), batch))
    losses = [diffusion.diffusion_loss(guess, held[p], ALPHA_BAR, t[p], noise[p]).item()
              for p in parts]
    return np.mean(losses), np.std(losses, ddof=1) / len(losses) ** 0.5


def bench_quality(nets, images, held, truth, args, precision, seconds):
    """Rows of the loss on new scenes (and of KID) after the same seconds of training.

    `seconds` are those that a step of each network takes: the rate warms up over 5 % of its steps.
    """
    losses, distances, steps = {}, {}, {}
    generator = torch.Generator().manual_seed(1)
    t = diffusion.stratified_times(len(held), 1000, generator)
    noise = torch.randn(held.shape, generator=generator)
    for name, (net, ask, prediction, peak) in nets.items():
        net, average = copy.deepcopy(net), copy.deepcopy(net).requires_grad_(False)
        step = trainer(net, ask, prediction, images, args.batch, precision)
        warmup = max(1, 0.05 * args.seconds / seconds[name])
        n, progress, start = 0, 0.0, time.process_time()
        while progress < 1:
            step(peak * learning_rate(n, progress, warmup))
            update_average(average, net, min(0.999, (1 + n) / (10 + n)))
            n, progress = n + 1, (time.process_time() - start) / args.seconds

        def guess(x_t, t, *_, net=average, ask=ask, prediction=prediction):
            with torch.no_grad(), low(precision):
                output = ask(net, x_t, t).float()
            return diffusion.to_x0(output, x_t, t, ALPHA_BAR, prediction).clamp(-1, 1)

        steps[name] = f"{n} step{'s' * (n > 1)}"
        losses[name], error = held_out_loss(guess, held, t, noise)
        print(f"  {name}: {steps[name]}, loss {losses[name]:.4f} ± {error:.4f}", flush=True)
        if args.kid:
            pictures = draw(guess, dpm_solver, args.kid, 20)
            distances[name], error = quality.kid(truth, quality.classifier_features(pictures))
            print(f"      KID {distances[name]:.4f} ± {error:.4f}", flush=True)
    made = []
    for score, values in (("loss on new scenes", losses), (f"KID of {args.kid}", distances)):
        ours = values.pop(OURS, None)
        name = f"{score} after {args.seconds:g} s of training ({steps[OURS]})"
        made += [_table.row(name, ours, "", value, f"{peer} ({steps[peer]})")
                 for peer, value in values.items()]
    return made


def draw(guess, sampler, n, steps, batch=32):
    """n samples from fixed noise: (n, 64, 64, 3) uint8."""
    starts = [initial_noise(min(batch, n - i), (3, 64, 64), 0, i) for i in range(0, n, batch)]
    return np.concatenate([to_uint8(sampler(guess, x, ALPHA_BAR, steps)) for x in starts])


def bench_sampling(n, truth, precision):
    """Rows of DPM-Solver++ with 20 steps beside DDPM with 1000: speed and KID, shipped model."""
    model, info = load_model("unconditional")
    denoise = diffusion.denoiser(model, info["prediction"], ALPHA_BAR)
    result = {}
    for name, sampler, steps in (("DPM-Solver++, 20 steps", dpm_solver, 20),
                                 ("DDPM, 1000 steps", ddpm, 1000)):
        start = time.process_time()
        with low(precision):
            pictures = draw(denoise, sampler, n, steps)
        seconds = time.process_time() - start
        result[name] = n / seconds, *quality.kid(truth, quality.classifier_features(pictures))
        print(f"  {name}: KID of {n} {result[name][1]:.4f} ± {result[name][2]:.4f}", flush=True)
    (fast, kid, _), (slow, other, _) = result.values()
    ours, peer = result
    return [_table.row(f"sampling, {ours}", fast, "pictures/s", slow, peer, better="more"),
            *(_table.row(f"KID of {n} samples, {name}", value, "")  # near 0 a ratio says nothing
              for name, value in ((ours, kid), (peer, other)))]


def rows(arguments=()):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--seconds", type=float, default=15, help="of training for each network")
    parser.add_argument("--kid", type=int, default=0, help="samples for a KID after training")
    parser.add_argument("--samples", type=int, default=24, help="samples of the shipped model")
    parser.add_argument("--precision", choices=("no", "bf16"), help="default: the faster one here")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    precision = args.precision or pick_precision("cpu")
    images = to_batch(scenes.draw(scenes.sample_factors(2000, 1)))
    new = scenes.draw(scenes.sample_factors(1000, 998))
    truth, nets = quality.classifier_features(new), networks()
    made, seconds = bench_speed(nets, images, args.batch, precision)
    made += bench_parts(scenes.draw(scenes.sample_factors(500, 1)), args.batch, precision)
    made += bench_evaluations(nets, precision)
    print(_table.table(made), flush=True)
    made += bench_quality(nets, images, to_batch(new[:128]), truth, args, precision, seconds)
    return made + bench_sampling(args.samples, truth, precision)


if __name__ == "__main__":
    rows = functools.partial(rows, sys.argv[1:])
    _table.main(rows)
