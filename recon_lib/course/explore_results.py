"""The reconstruction browser: one test picture at a time, and what each decoder made of it."""

import ipywidgets
import numpy as np

from recon_lib.course.explorer import Explorer, sheet, slider
from recon_lib.course.plots import LABELS, show
from recon_lib.course.style import GREY, WIDTH
from recon_lib.scores.metrics import pixel_correlation


def reconstruction_browser(rows: dict[str, np.ndarray], alike: dict[str, np.ndarray]) -> Explorer:
    """Leaf through test pictures; with the seen one covered, guess it first.

    Parameters
    ----------
    rows : dict of str to uint8 array (n, H, W, 3)
        As for `plots.reconstructions`: the pictures seen come first.
    alike : dict of str to array (n, n)
        For each row but the first the similarity of its pictures to all pictures seen.

    Returns
    -------
    Explorer
        `numbers`: `pictures` {label: (H, W, 3)}, and for each reconstruction its `pixcorr` and
        the `rank` of the picture seen among all n (1 is right).
    """
    first, *made = rows
    n = len(rows[first])
    pixcorr = {name: pixel_correlation(rows[name], rows[first]) for name in made}
    rank = {name: 1 + (alike[name] > np.diag(alike[name])[:, None]).sum(1) for name in made}

    def numbers(picture, cover):
        pictures = {name: images[picture] for name, images in rows.items()}
        if cover:
            pictures[first] = np.full_like(pictures[first], 225)
        return {
            "pictures": pictures, "covered": cover, "of": n,
            "pixcorr": {name: float(pixcorr[name][picture]) for name in made},
            "rank": {name: int(rank[name][picture]) for name in made},
        }

    controls = {
        "picture": slider("test picture", 0, 0, n - 1, 1),
        "cover": ipywidgets.Checkbox(value=False, description="cover the picture seen"),
    }
    return Explorer(controls, numbers, draw_browser, lambda now: "; ".join(
        f"{LABELS.get(name, name)}: right picture ranked {rank} of {n}"
        for name, rank in now["rank"].items()))


@sheet(1)
def draw_browser(fig, numbers):
    """The pictures side by side, with their scores below."""
    (ax,), pictures = fig.axes, np.stack(list(numbers["pictures"].values()))
    high = WIDTH / len(pictures) + 0.9
    fig.set_figheight(high)
    ax.set_position((0, 0.5 / high, 1, 1 - 0.9 / high))
    n, height, width, _ = pictures.shape
    gap = max(2, width // 16)
    _, *left = show(ax, pictures, n, gap, [LABELS.get(k, k) for k in numbers["pictures"]], 11)
    for x, (name, rank) in zip(left, numbers["rank"].items(), strict=True):
        ax.text(x + width / 2, height + gap, f"r = {numbers['pixcorr'][name]:.2f}\n"
                f"rank {rank} of {numbers['of']}", ha="center", va="top", fontsize=10)
    if numbers["covered"]:
        ax.text(width / 2, height / 2, "?", ha="center", va="center", fontsize=30, color=GREY)
