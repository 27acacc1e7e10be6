"""The reconstruction browser: one test picture at a time, and what each decoder made of it."""

import ipywidgets
import numpy as np

from recon_lib.course.explorer import explorer, sheet, slider
from recon_lib.course.plots import LABELS, tile
from recon_lib.course.style import GREY, INK, WIDTH, styled
from recon_lib.scores.metrics import pixel_correlation


def reconstruction_browser(rows, alike):
    """Leaf through test pictures; with the seen one covered, guess it first.

    Parameters
    ----------
    rows : dict of str to uint8 array (n, H, W, 3)
        As for `plots.reconstructions`: the pictures seen come first.
    alike : dict of str to array (n, n)
        For each row but the first the similarity of its pictures to all pictures seen.

    Returns
    -------
    ipywidgets.VBox
        `numbers`: `pictures` {label: (H, W, 3)}, and for each reconstruction its `pixcorr` and
        the `rank` of the picture seen among all n (1 is right).
    """
    names = list(rows)
    seen, made = rows[names[0]], names[1:]
    n = len(seen)
    pixcorr = {name: pixel_correlation(rows[name], seen) for name in made}
    rank = {name: 1 + (alike[name] > np.diag(alike[name])[:, None]).sum(1) for name in made}

    def numbers(picture, cover):
        pictures = {name: rows[name][picture] for name in names}
        if cover:
            pictures[names[0]] = np.full_like(seen[picture], 225)
        return {
            "pictures": pictures, "covered": cover, "of": n,
            "pixcorr": {name: float(pixcorr[name][picture]) for name in made},
            "rank": {name: int(rank[name][picture]) for name in made},
        }  # fmt: skip

    controls = {
        "picture": slider("test picture", 0, 0, n - 1, 1),
        "cover": ipywidgets.Checkbox(value=False, description="cover the picture seen"),
    }
    return explorer(controls, numbers, draw_browser, lambda now: "; ".join(
        f"{LABELS.get(name, name)}: right picture ranked {now['rank'][name]} of {n}"
        for name in made
    ))  # fmt: skip


@styled
def draw_browser(numbers, fig=None):
    """The pictures side by side, with their scores below."""
    pictures = numbers["pictures"]
    height, width = next(iter(pictures.values())).shape[:2]
    gap = max(2, width // 16)
    high = WIDTH / len(pictures) + 0.9
    fig = sheet(fig, (WIDTH, high), lambda fig: fig.add_axes((0, 0.5 / high, 1, 1 - 0.9 / high)))
    (ax,) = fig.axes
    ax.imshow(tile(np.stack(list(pictures.values())), len(pictures), gap))
    ax.axis("off")
    for i, name in enumerate(pictures):
        x = i * (width + gap) + width / 2
        ax.text(x, -gap, LABELS.get(name, name), ha="center", va="bottom", fontsize=11, color=INK)
        if name in numbers["rank"]:
            ax.text(x, height + gap, f"r = {numbers['pixcorr'][name]:.2f}\n"
                    f"rank {numbers['rank'][name]} of {numbers['of']}",
                    ha="center", va="top", fontsize=10, color=INK)
        elif numbers["covered"]:
            ax.text(x, height / 2, "?", ha="center", va="center", fontsize=30, color=GREY)
    return fig
