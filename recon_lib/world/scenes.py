"""TinyScenes: pictures drawn from factors, so that everything about each picture is known.

A scene is an object of one of 14 categories before a background (6) under a light (3), with a
colour, a place, a size and a tilt of its own. The same factors always give the same pixels.
"""

import numpy as np
from PIL import Image, ImageDraw

from recon_lib.world.things import DRAWINGS, Pen, palette

CATEGORIES = tuple(DRAWINGS)
BACKGROUNDS = ("beach", "forest", "city", "mountains", "room", "meadow")
LIGHTS = ("day", "sunset", "night")

FACTORS = np.dtype([
    ("category", "i2"),  # index into CATEGORIES
    ("background", "i2"),  # index into BACKGROUNDS
    ("light", "i2"),  # index into LIGHTS
    ("hue", "f4"),  # colour of the object, 0 to 1 around the colour circle
    ("x", "f4"),  # centre of the object, 0 (left) to 1 (right)
    ("y", "f4"),  # centre of the object, 0 (top) to 1 (bottom)
    ("size", "f4"),  # side of the object, as a share of the picture's
    ("tilt", "f4"),  # degrees
    ("detail", "i4"),  # seed of the small things: clouds, trunks, windows, tiles
])

# Factors on the colours of all that is lit; colours of the sky at the top and at the horizon.
TINTS = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.80, 0.66), "night": (0.46, 0.52, 0.74)}
SKIES = {
    "day": ((92, 164, 232), (208, 232, 246)),
    "sunset": ((110, 72, 138), (255, 168, 92)),
    "night": ((10, 14, 44), (44, 54, 104)),
}


def sample_factors(n: int, seed: int) -> np.ndarray:
    """Draw the factors of `n` scenes, independent of one another: (n,) of dtype `FACTORS`."""
    rng = np.random.default_rng(seed)
    factors = np.zeros(n, FACTORS)
    factors["category"] = rng.integers(len(CATEGORIES), size=n)
    factors["background"] = rng.integers(len(BACKGROUNDS), size=n)
    factors["light"] = rng.integers(len(LIGHTS), size=n)
    factors["hue"] = rng.random(n)
    factors["x"] = rng.uniform(0.28, 0.72, n)
    factors["y"] = rng.uniform(0.46, 0.70, n)
    factors["size"] = rng.uniform(0.40, 0.62, n)
    factors["tilt"] = rng.normal(0, 4, n)
    factors["detail"] = rng.integers(2**31 - 1, size=n)
    return factors


def draw(factors: np.ndarray, size: int = 64) -> np.ndarray:
    """Draw the scenes of `factors`, see `sample_factors`: (n, size, size, 3) uint8."""
    factors = np.atleast_1d(factors)
    images = np.empty((len(factors), size, size, 3), np.uint8)
    for image, scene in zip(images, factors, strict=True):
        image[:] = draw_one(scene, size)
    return images


def draw_one(scene, size=64):
    """Draw one scene at four times its size and average down: (size, size, 3) uint8."""
    side = 4 * size
    light = LIGHTS[scene["light"]]
    rng = np.random.default_rng(scene["detail"])
    horizon = rng.uniform(0.46, 0.56)
    canvas = Image.fromarray(sky(light, side, horizon)).resize((side, side), Image.NEAREST)
    pen = Pen(ImageDraw.Draw(canvas), (side / 2, side / 2), side / 2, tint=TINTS[light])
    BACKDROPS[BACKGROUNDS[scene["background"]]](pen, light, 2 * horizon - 1, rng)

    centre = scene["x"] * side, scene["y"] * side
    half = scene["size"] * side / 2
    ink = Pen(pen.draw, centre, half, scene["tilt"], np.maximum(pen.tint, 0.62))
    category = CATEGORIES[scene["category"]]
    extra = {"seed": scene["detail"]} if category == "scrambled" else {}
    DRAWINGS[category](ink, *palette(float(scene["hue"])), **extra)
    return np.asarray(canvas.reduce(4))


def sky(light, side, horizon):
    """The sky's colours from the top to the horizon, one column: (side, 1, 3) uint8."""
    top, low = (np.array(c, float) for c in SKIES[light])
    height = np.clip(np.linspace(0, 1, side) / horizon, 0, 1)[:, None]  # (side, 1)
    rows = top + (low - top) * height  # (side, 3)
    return np.round(rows).astype(np.uint8)[:, None]


def sun_moon_clouds_stars(pen, light, rng):
    """Sun, moon, clouds, stars: in their own colours, without the tint of the light."""
    shine = Pen(pen.draw, pen.centre, pen.half)
    x = rng.uniform(-0.8, 0.8)
    if light == "day":
        for _ in range(3):
            cx, cy = rng.uniform(-1, 1), rng.uniform(-0.9, -0.45)
            for dx in (-0.13, 0, 0.13):
                shine.oval(cx + dx, cy - 0.05 * (dx == 0), 0.13, 0.085, (246, 250, 252), 0)
    elif light == "sunset":
        shine.oval(x, -0.25, 0.2, 0.2, (255, 226, 130), 0)
    else:
        for _ in range(14):
            shine.oval(rng.uniform(-1, 1), rng.uniform(-1, -0.1), 0.018, 0.018, (240, 240, 225), 0)
        shine.oval(x, -0.7, 0.13, 0.13, (244, 240, 208), 0)


def beach(pen, light, horizon, rng):
    sun_moon_clouds_stars(pen, light, rng)
    pen.box(-1, horizon, 1, 1, (46, 132, 178), 0)
    for y in np.linspace(horizon + 0.06, 0.3, 4):
        x = rng.uniform(-0.9, 0.5)
        pen.line([(x, y), (x + rng.uniform(0.3, 0.6), y)], (150, 206, 222), 0.03)
    shore = rng.uniform(0.3, 0.42)
    edge = [(x, shore + 0.04 * np.sin(4 * x + rng.uniform(0, 0.4))) for x in np.linspace(-1, 1, 9)]
    pen.shape(edge + [(1, 1), (-1, 1)], (236, 212, 156), 0)
    pen.line(edge, (250, 250, 244), 0.04)


def forest(pen, light, horizon, rng):
    pen.box(-1, -1, 1, 1, (58, 104, 84), 0)
    pen.box(-1, -1, 1, -0.72, (34, 78, 58), 0)
    for x in np.linspace(-0.95, 0.95, 7) + rng.uniform(-0.1, 0.1, 7):
        w = rng.uniform(0.05, 0.1)
        pen.box(x - w, -1, x + w, horizon + rng.uniform(0.1, 0.3), (94, 66, 50), 0)
        pen.box(x - w, -1, x - 0.4 * w, horizon + 0.1, (66, 46, 38), 0)
    pen.shape([(-1, horizon + .22), (0, horizon + .3), (1, horizon + .2), (1, 1), (-1, 1)],
              (72, 94, 48), 0)
    for x, y in zip(rng.uniform(-1, 1, 9), rng.uniform(0.5, 0.95, 9), strict=True):
        pen.line([(x - 0.05, y - 0.1), (x, y), (x + 0.05, y - 0.1)], (104, 134, 62), 0.03)


def city(pen, light, horizon, rng):
    sun_moon_clouds_stars(pen, light, rng)
    glow = Pen(pen.draw, pen.centre, pen.half, tint=(1, 1, 1) if light == "night" else pen.tint)
    left = -1.0
    while left < 1:
        width, top = rng.uniform(0.24, 0.42), rng.uniform(-0.7, -0.1)
        grey = rng.integers(110, 165)
        pen.box(left, top, left + width, 0.4, (grey, grey - 4, grey + 12), 0)
        for wx in np.arange(left + 0.05, left + width - 0.06, 0.11):
            for wy in np.arange(top + 0.08, horizon, 0.16):
                lamp = light == "night" and rng.random() < 0.6
                pane = (255, 224, 130) if lamp else (72, 88, 112)
                (glow if lamp else pen).box(wx, wy, wx + 0.06, wy + 0.08, pane, 0)
        left += width + 0.02
    pen.box(-1, 0.3, 1, 1, (108, 106, 110), 0)
    pen.box(-1, 0.3, 1, 0.4, (176, 172, 168), 0)
    for x in np.arange(-1, 1, 0.5) + rng.uniform(0, 0.4):
        pen.box(x, 0.68, x + 0.25, 0.73, (240, 234, 200), 0)


def mountains(pen, light, horizon, rng):
    sun_moon_clouds_stars(pen, light, rng)
    for x in rng.permutation([-0.75, 0.0, 0.75]) + rng.uniform(-0.15, 0.15, 3):
        top, wide = rng.uniform(-0.75, -0.4), rng.uniform(0.6, 0.85)
        pen.shape([(x - wide, 0.3), (x, top), (x + wide, 0.3)], (112, 116, 138), 0)
        pen.shape([(x, top), (x + wide, 0.3), (x + 0.12, 0.3)], (84, 88, 112), 0)
        cap, drop = 0.3 * wide, 0.3 * (0.3 - top)
        pen.shape([(x - cap, top + drop), (x, top), (x + cap, top + drop), (x, top + 0.7 * drop)],
                  (246, 248, 252), 0)
    pen.box(-1, 0.26, 1, 1, (126, 122, 104), 0)
    for x, y in zip(rng.uniform(-1, 1, 8), rng.uniform(0.4, 0.95, 8), strict=True):
        pen.oval(x, y, 0.09, 0.05, (98, 96, 86), 0)


def room(pen, light, horizon, rng):
    wall = (232, 216, 196)
    pen.box(-1, -1, 1, 0.36, wall, 0)
    for x in np.arange(-1, 1, 0.25) + rng.uniform(0, 0.2):
        pen.box(x, -1, x + 0.07, 0.36, (220, 200, 178), 0)
    x = rng.uniform(-0.7, 0.3)
    glass = Pen(pen.draw, pen.centre, pen.half)
    glass.box(x, -0.8, x + 0.5, -0.2, SKIES[light][light == "sunset"], 0)
    frame = (250, 246, 238)
    pen.line([(x, -.8), (x + .5, -.8), (x + .5, -.2), (x, -.2), (x, -.8)], frame, 0.06)
    pen.line([(x + 0.25, -0.8), (x + 0.25, -0.2)], frame, 0.04)
    pen.box(-1, 0.36, 1, 1, (158, 106, 74), 0)
    pen.box(-1, 0.34, 1, 0.4, (246, 240, 230), 0)
    for y in np.linspace(0.52, 0.9, 4):
        pen.line([(-1, y), (1, y)], (132, 86, 60), 0.025)


def meadow(pen, light, horizon, rng):
    sun_moon_clouds_stars(pen, light, rng)
    a, b = rng.uniform(-0.14, 0.14, 2)
    xs = np.linspace(-1, 1, 13)
    far = [(x, horizon + a * np.sin(2.5 * x + 8 * b)) for x in xs]
    pen.shape(far + [(1, 1), (-1, 1)], (136, 184, 92), 0)
    near = [(x, horizon + 0.32 + b * np.cos(2 * x + 8 * a)) for x in xs]
    pen.shape(near + [(1, 1), (-1, 1)], (104, 162, 70), 0)
    for x, y in zip(rng.uniform(-1, 1, 12), rng.uniform(0.4, 0.97, 12), strict=True):
        pen.oval(x, y, 0.03, 0.03, (252, 240, 160), 0)


BACKDROPS = {name: globals()[name] for name in BACKGROUNDS}
