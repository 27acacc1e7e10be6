"""Explorers of noise, of its schedules and of the U-Net."""

import time

import numpy as np
import torch
from matplotlib.patches import Rectangle

from recon_lib.brain.features import NAMED, FactorNet
from recon_lib.course.explorer import Explorer, choice, sheet, slider
from recon_lib.course.plots import show
from recon_lib.course.style import BLUE, GREY, INK, ORANGE, PALE, RED
from recon_lib.data.loader import to_batch
from recon_lib.diffusion import SCHEDULES, add_noise, shift_schedule, snr
from recon_lib.samplers import initial_noise, to_uint8
from recon_lib.training.cost import count
from recon_lib.unet import UNet

BATCH = 64  # pictures in a step of training, where `unet_tour` counts seconds


def noising_scrubber(images: np.ndarray, reader: FactorNet) -> Explorer:
    """Slide a picture into noise; a classifier says what it still reads.

    Parameters
    ----------
    images : (n, 64, 64, 3) uint8 array
    reader : FactorNet
        Reads the noisy picture as it is.

    Returns
    -------
    Explorer
        `numbers`: `t`, `alpha_bar`, `snr`, `x_t` (3, 64, 64) float32, `read` (a dict: factor to
        the name read and its probability), `curve` (the schedule), `pictures` (2, 64, 64, 3)
        uint8, clean and noisy.
    """
    clean = to_batch(images)
    curves = {name: schedule() for name, schedule in SCHEDULES.items()}

    @torch.no_grad()
    def numbers(picture, t, schedule, draw):
        curve, x0 = curves[schedule], clean[picture : picture + 1]
        x_t = add_noise(x0, torch.tensor([t]), initial_noise(1, x0.shape[1:], draw), curve)
        out, read = reader(x_t), {}
        for factor, names in NAMED.items():
            p, i = out[factor][0].softmax(0).max(0)
            read[factor] = names[i], float(p)
        return {
            "t": t, "alpha_bar": float(curve[t]), "snr": float(snr(curve[t])), "x_t": x_t[0],
            "read": read, "curve": curve.numpy(), "pictures": to_uint8(torch.cat([x0, x_t])),
        }

    controls = {
        "t": slider("time t", 300, 0, 999, 1),
        "picture": slider("picture", 0, 0, len(images) - 1, 1),
        "schedule": choice("schedule", list(SCHEDULES)),
        "draw": slider("another noise", 0, 0, 20, 1),
    }
    return Explorer(controls, numbers, draw_noising, lambda n: (
        f"{n['alpha_bar']:.1%} of the variance is picture, SNR {n['snr']:.3g}; read as "
        + ", ".join(f"{name} ({p:.0%})" for name, p in n["read"].values())))


@sheet(2.7, lambda fig: fig.subplots(1, 3, width_ratios=(1, 1, 1.3)))
def draw_noising(fig, numbers):
    """The clean picture, the noisy one, and where on the schedule we are."""
    *pictures, ax = fig.axes
    titles = "clean", f"t = {numbers['t']}"
    for axis, picture, title in zip(pictures, numbers["pictures"], titles, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.axis("off")
        axis.set_title(title)
    ax.plot(numbers["curve"], color=GREY)
    ax.plot(numbers["t"], numbers["alpha_bar"], "o", color=RED, markersize=9)
    ax.set(title="alpha_bar", xlabel="t", ylim=(-0.05, 1.05), xticks=(0, 500, 1000),
           yticks=(0, 0.5, 1))
    fig.subplots_adjust(0.01, 0.19, 0.97, 0.88, wspace=0.24)


def schedule_designer(image: np.ndarray) -> Explorer:
    """What a schedule spends its steps on.

    Parameters
    ----------
    image : (64, 64, 3) uint8 array

    Returns
    -------
    Explorer
        `numbers`: `alpha_bar`, `snr` (steps,), `share` of the steps that are "nearly clean"
        (SNR above 100), "between" and "nearly noise" (below 1/100), `left` (alpha_bar at the last
        step), `strip` (8, 64, 64, 3) uint8 at `times`, equally spaced.
    """
    x0 = to_batch(image[None]).repeat(8, 1, 1, 1)
    noise = initial_noise(1, x0.shape[1:]).repeat(8, 1, 1, 1)  # the same in all eight

    def numbers(schedule, factor, steps):
        alpha_bar = shift_schedule(SCHEDULES[schedule](steps), factor)
        ratio = snr(alpha_bar.double()).numpy()
        times = torch.linspace(0, steps - 1, 8).long()
        clean, noisy = float((ratio > 100).mean()), float((ratio < 0.01).mean())
        return {
            "alpha_bar": alpha_bar.numpy(), "snr": ratio, "left": float(alpha_bar[-1]),
            "share": {"nearly clean": clean, "between": 1 - clean - noisy, "nearly noise": noisy},
            "times": times.numpy(), "strip": to_uint8(add_noise(x0, times, noise, alpha_bar)),
        }

    controls = {
        "schedule": choice("schedule", list(SCHEDULES)),
        "factor": slider("noise shifted by", 1.0, 0.25, 8.0, 0.25),
        "steps": slider("steps", 1000, 50, 1000, 50),
    }
    return Explorer(controls, numbers, draw_schedule, lambda n: (
        ", ".join(f"{value:.0%} of the steps {name}" for name, value in n["share"].items())
        + f"; {n['left']:.1e} of the picture is left at the end"))


def lay_schedule(fig):
    """A strip of pictures above two panels."""
    top, bottom = fig.add_gridspec(2, 1, height_ratios=(1, 2), left=0.09, right=0.97, top=0.99,
                                   bottom=0.14, hspace=0.38)
    fig.add_subplot(top)
    bottom.subgridspec(1, 2, wspace=0.22).subplots()


@sheet(3.9, lay_schedule)
def draw_schedule(fig, numbers):
    """The picture at eight times, alpha_bar, and how many steps go to which SNR."""
    ax, left, right = fig.axes
    show(ax, numbers["strip"], 8)
    left.plot(numbers["alpha_bar"], color=BLUE)
    left.plot(numbers["times"], numbers["alpha_bar"][numbers["times"]], "o", color=BLUE)
    steps = len(numbers["alpha_bar"])
    left.set(title="alpha_bar", xlabel="step", ylim=(-0.05, 1.05), xticks=(0, steps // 2, steps),
             yticks=(0, 0.5, 1))  # few ticks: they are what takes time to draw
    decades = np.clip(np.log10(numbers["snr"]), -5.99, 4.99)
    taken, edges = np.histogram(decades, np.arange(-6, 5.01, 0.5))
    right.axvspan(-2, 2, color=PALE, alpha=0.4)
    right.stairs(100 * taken / taken.sum(), edges, fill=True, color=ORANGE)
    right.set(title="% of the steps", xlabel="log10 of the SNR", xlim=(5, -6), ylim=(0, 30),
              xticks=(4, 2, 0, -2, -4), yticks=(0, 10, 20, 30))


def unet_tour() -> Explorer:
    """Turn the knobs of a U-Net: what has which shape, and what does it cost?

    The seconds are an estimate: multiplications over the speed of one small network, measured
    here when the explorer is made, and a step of training counted as three passes forward.

    Returns
    -------
    Explorer
        `numbers`: `rows` (see `cost.count`), `config` (builds this network), `parameters`,
        `multiplications` (one picture, forward), `seconds` (a step of training).
    """
    speed = multiplications_per_second()

    def numbers(size, patch, levels, base, blocks, attention):
        channels = [base * (1 + level) for level in range(levels)]
        while size % (patch * 2 ** (len(channels) - 1)):
            channels.pop()  # no level below one place
        every = list(range(len(channels)))
        attend = {"lowest level": every[-1:], "middle only": [], "every level": every}[attention]
        config = dict(patch=patch, channels=channels, blocks=blocks, attention=attend)
        rows = count(config, size)
        total = {k: sum(row[k] for row in rows) for k in ("parameters", "multiplications")}
        seconds = 3 * BATCH * total["multiplications"] / speed
        return {"rows": rows, "config": config, "seconds": seconds, **total}

    controls = {
        "size": choice("picture", [32, 64, 128, 256], 64),
        "patch": choice("patch", [1, 2, 4, 8], 4),
        "levels": slider("levels", 3, 1, 4, 1),
        "base": slider("channels, first level", 64, 16, 128, 16),
        "blocks": slider("blocks a level", 1, 1, 3, 1),
        "attention": choice("attention", ["lowest level", "middle only", "every level"]),
    }
    return Explorer(controls, numbers, draw_unet, lambda n: (
        f"{n['parameters'] / 1e6:.2f} million parameters, {n['multiplications'] / 1e6:,.0f} "
        f"million multiplications a picture, about {n['seconds']:.2g} s a step of {BATCH} pictures"
    ))


@torch.no_grad()
def multiplications_per_second():
    """Speed of this machine's CPU on a small U-Net, the best of three passes."""
    with torch.random.fork_rng(devices=[]):
        model = UNet(channels=(64, 128)).eval()
    x, t, taken = torch.zeros(8, 3, 64, 64), torch.zeros(8, dtype=torch.long), []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        model(x, t)
        taken.append(time.perf_counter() - start)
    work = sum(row["multiplications"] for row in count(model.config, 64))
    return len(x) * work / min(taken[1:])


@sheet(3.9, lambda fig: fig.subplots(1, 2, width_ratios=(1.9, 1)))
def draw_unet(fig, numbers):
    """The U with its shapes, and what each level costs."""
    ax, costs = fig.axes
    deep = len(numbers["config"]["channels"])  # the middle is below all levels
    rows = {row["part"]: row for row in numbers["rows"]}
    for level in range(deep):
        for x, part in ((-1, f"down {level}"), (1, f"up {level}")):
            box(ax, x, -level, rows[part], attend=level in numbers["config"]["attention"])
        arrow(ax, (-0.5, -level), (0.5, -level), color=GREY, linestyle=":")
        if level:
            arrow(ax, (-1, 0.7 - level), (-1, 0.27 - level))
            arrow(ax, (1, 0.27 - level), (1, 0.7 - level))
    box(ax, 0, -deep, rows["middle"], attend=True)
    arrow(ax, (-0.8, 0.7 - deep), (-0.53, 0.1 - deep))
    arrow(ax, (0.53, 0.1 - deep), (0.8, 0.7 - deep))
    ax.text(0, 0.12, "skip", ha="center", color=GREY, fontsize=10)
    ax.set(xlim=(-1.75, 1.75), ylim=(-deep - 0.45, 0.45))
    ax.axis("off")
    names = [*map(str, range(deep)), "middle"]
    for offset, key, colour in ((-0.2, "parameters", BLUE), (0.2, "multiplications", ORANGE)):
        part = [sum(row[key] for row in numbers["rows"] if row["part"].split()[-1] == name)
                for name in names]
        costs.barh(np.arange(deep + 1) + offset, 100 * np.array(part) / numbers[key], 0.36,
                   color=colour, label=key)
    costs.set_yticks(range(deep + 1), [*(f"level {level}" for level in range(deep)), "middle"])
    costs.tick_params(axis="y", length=0)
    costs.set(xlabel="% of all", ylim=(deep + 0.6, -0.6), xlim=(0, 100))
    costs.legend(loc="lower left", bbox_to_anchor=(-0.25, 0.99), fontsize=10, ncols=2,
                 columnspacing=0.8, handlelength=1, borderpad=0)
    fig.subplots_adjust(0.0, 0.14, 0.96, 0.92, wspace=0.2)


def arrow(ax, start, end, color=INK, **style):
    """An arrow from `start` to `end`, (x, y) each."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": color, **style})


def box(ax, x, y, row, attend):
    """A part of the network: its shape inside, thick-rimmed where it attends."""
    c, side, _ = row["shape"]
    rim = {"edgecolor": RED, "linewidth": 2.5} if attend else {"edgecolor": GREY, "linewidth": 1}
    ax.add_patch(Rectangle((x - 0.5, y - 0.26), 1.0, 0.52, facecolor="#DCEBF5", **rim))
    shape = f"{c} × {side} × {side}"
    ax.text(x, y, shape, ha="center", va="center", fontsize=11 if len(shape) < 13 else 9)
