"""The objects in TinyScenes, of fourteen categories, each a few polygons on a unit canvas.

A drawing function takes a `Pen` and three colours (main, dark, light). Its world is the square
from (-1, -1), top left, to (1, 1), bottom right; the pen knows where in the picture that is.
"""

import colorsys
from functools import lru_cache
from math import cos, pi, radians, sin

import numpy as np

INK = (38, 34, 44)
ROUND = [(cos(a), sin(a)) for a in np.linspace(0, 2 * pi, 28, endpoint=False)]  # an oval's corners


@lru_cache(4096)
def lit(colour, tint):
    """A colour (red, green, blue) under a light that is its factor for each of the three."""
    return tuple(min(255, round(c * t)) for c, t in zip(colour, tint, strict=True))


class Pen:
    """Draw shapes given in unit coordinates at a place, size and tilt in a picture.

    `draw` is an ImageDraw; `centre` and `half` are the centre of the unit square and half its side,
    in canvas pixels; `tilt` is in degrees; `tint` holds the factors of the light on red, green and
    blue.
    """

    def __init__(self, draw, centre, half, tilt=0.0, tint=(1, 1, 1)):
        self.draw, self.centre, self.half, self.tint = draw, centre, half, tuple(tint)
        self.cos, self.sin = cos(radians(tilt)), sin(radians(tilt))

    def place(self, points):
        """Unit coordinates -> canvas pixels."""
        cx, cy = self.centre
        return [
            (cx + self.half * (self.cos * x - self.sin * y),
             cy + self.half * (self.sin * x + self.cos * y))
            for x, y in points
        ]

    def shape(self, points, colour, edge=0.045):
        """A filled polygon with an ink outline `edge` units wide (0: none)."""
        spots = self.place(points)
        self.draw.polygon(spots, fill=lit(colour, self.tint))
        if edge:
            width = max(1, round(edge * self.half))
            closed = spots + spots[:2]
            self.draw.line(closed, fill=lit(INK, self.tint), width=width, joint="curve")

    def oval(self, x, y, rx, ry, colour, edge=0.045, turn=0.0):
        """A filled ellipse around (x, y), turned by `turn` degrees."""
        c, s, x, y = cos(radians(turn)), sin(radians(turn)), float(x), float(y)
        self.shape([(x + rx * u * c - ry * v * s, y + rx * u * s + ry * v * c) for u, v in ROUND],
                   colour, edge)

    def box(self, left, top, right, bottom, colour, edge=0.045):
        """A filled rectangle."""
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.shape(corners, colour, edge)

    def line(self, points, colour=INK, width=0.06):
        """A line with round joints."""
        thick = max(1, round(width * self.half))
        self.draw.line(self.place(points), fill=lit(colour, self.tint), width=thick, joint="curve")


def palette(hue):
    """Main, dark and light version of a hue (0 to 1, around the colour circle)."""
    tones = ((0.78, 0.88), (0.85, 0.58), (0.42, 0.98))  # saturation, value
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, s, v)) for s, v in tones]


def bottle(pen, main, dark, light):
    body = [(-.38, 1), (-.38, -.1), (-.14, -.45), (-.14, -.85), (.14, -.85), (.14, -.45),
            (.38, -.1), (.38, 1)]
    pen.shape(body, main)
    pen.box(-0.17, -1, 0.17, -0.8, dark)
    pen.box(-0.38, 0.15, 0.38, 0.62, (245, 240, 225))
    pen.shape([(-.26, -.05), (-.17, -.17), (-.17, .1), (-.26, .1)], light, 0)


def cat(pen, main, dark, light):
    pen.line([(.45, .8), (.85, .6), (.82, .1), (.95, -.1)], dark, 0.17)
    pen.oval(0, 0.5, 0.55, 0.52, main)
    pen.shape([(-.5, -.35), (-.48, -1), (-.1, -.7)], main)
    pen.shape([(.5, -.35), (.48, -1), (.1, -.7)], main)
    pen.oval(0, -0.3, 0.55, 0.47, main)
    for side in (-1, 1):
        pen.oval(side * 0.22, -0.36, 0.12, 0.15, (235, 245, 190), 0)
        pen.oval(side * 0.22, -0.36, 0.05, 0.14, INK, 0)
        pen.oval(side * 0.27, 0.95, 0.19, 0.1, light)
    pen.shape([(-.08, -.14), (.08, -.14), (0, -.04)], (240, 130, 140), 0)


def chair(pen, main, dark, light):
    for x in (-0.5, 0.5):
        pen.box(x - 0.08, 0.2, x + 0.08, 1, dark)
    pen.box(-0.56, -1, -0.4, 0.2, dark)
    pen.box(0.4, -1, 0.56, 0.2, dark)
    for top in (-0.95, -0.55):
        pen.box(-0.5, top, 0.5, top + 0.26, main)
    pen.shape([(-.5, -.02), (.5, -.02), (.68, .28), (-.68, .28)], light)


def face(pen, main, dark, light):
    pen.oval(0, -0.12, 0.78, 0.86, main)  # hair
    pen.oval(0, 0.1, 0.64, 0.84, (240, 200, 170))
    pen.shape([(-.62, -.15), (-.45, -.62), (.1, -.72), (.5, -.6), (.62, -.15), (.2, -.4)],
              main, 0)
    for side in (-1, 1):
        pen.oval(side * 0.26, 0.02, 0.13, 0.085, (255, 255, 255), 0)
        pen.oval(side * 0.26, 0.02, 0.065, 0.08, INK, 0)
        pen.line([(side * 0.14, -0.16), (side * 0.38, -0.18)], dark, 0.07)
    pen.line([(0.02, 0.05), (-0.06, 0.32), (0.06, 0.34)], (190, 140, 115), 0.06)
    pen.shape([(-.26, .54), (0, .6), (.26, .54), (.12, .7), (-.12, .7)], (205, 70, 80), 0)


def house(pen, main, dark, light):
    pen.box(0.38, -0.95, 0.62, -0.3, dark)
    pen.box(-0.75, -0.15, 0.75, 1, light)
    pen.shape([(-.98, -.1), (0, -1), (.98, -.1)], main)
    pen.box(-0.18, 0.4, 0.18, 1, dark)
    for x in (-0.48, 0.48):
        pen.box(x - 0.17, 0.08, x + 0.17, 0.42, (255, 246, 190))


def scissors(pen, main, dark, light):
    steel = (205, 212, 222)
    for side in (-1, 1):
        blade = [(side * .1, .18), (side * -.42, -1), (side * -.5, -.9), (side * -.12, .22)]
        pen.shape(blade, steel)
        pen.line([(side * 0.02, 0.1), (side * 0.3, 0.42)], INK, 0.2)
        pen.line([(side * 0.02, 0.1), (side * 0.3, 0.42)], main, 0.12)
        pen.oval(side * 0.42, 0.66, 0.32, 0.34, main)
        pen.oval(side * 0.42, 0.66, 0.15, 0.17, (236, 234, 228))
    pen.oval(0, 0.05, 0.08, 0.08, dark, 0)


def shoe(pen, main, dark, light):
    upper = [(-.95, .5), (-.95, -.3), (-.6, -.45), (-.25, -.3), (.1, .05), (.7, .18), (.97, .5)]
    pen.shape(upper, main)
    pen.shape([(.45, .14), (.7, .18), (.97, .5), (.5, .5)], light)
    pen.box(-0.98, 0.48, 1.0, 0.7, (248, 246, 240))
    for x in (-0.25, -0.05, 0.15):
        pen.line([(x - 0.06, 0.14), (x + 0.16, -0.1)], (248, 246, 240), 0.08)


def scrambled(pen, main, dark, light, seed=0):
    """Tiles in the colours of an object, mixed at random: all the colours, no object."""
    rng = np.random.default_rng(seed)
    tones = [main, dark, light, INK, (240, 236, 226)]
    steps = np.linspace(-0.85, 0.85, 7)
    for top, bottom in zip(steps[:-1], steps[1:], strict=True):
        for left, right in zip(steps[:-1], steps[1:], strict=True):
            tone = tones[rng.choice(5, p=(0.35, 0.2, 0.2, 0.1, 0.15))]
            pen.box(left, top, right, bottom, tone, 0)
    frame = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85), (-0.85, -0.85)]
    pen.line(frame, INK, 0.05)


def tree(pen, main, dark, light):
    pen.shape([(-.14, 1), (-.1, 0), (.1, 0), (.14, 1)], (130, 88, 58))
    for x, y, r in ((-0.38, -0.1, 0.4), (0.38, -0.1, 0.4), (0, -0.5, 0.5)):
        pen.oval(x, y, r, r, main)
    pen.oval(0, -0.15, 0.36, 0.3, main, 0)
    for x, y in ((-0.4, -0.15), (0.3, -0.05), (0.05, -0.55), (-0.15, -0.3)):
        pen.oval(x, y, 0.09, 0.09, light, 0)


def car(pen, main, dark, light):
    pen.shape([(-.6, 0), (-.38, -.45), (.28, -.45), (.6, 0)], main)
    pen.shape([(-.42, -.03), (-.28, -.33), (-.06, -.33), (-.06, -.03)], (205, 232, 245))
    pen.shape([(.05, -.03), (.05, -.33), (.22, -.33), (.42, -.03)], (205, 232, 245))
    pen.shape([(-1, .42), (-.95, 0), (.75, 0), (.97, .12), (1, .42)], main)
    for x in (-0.55, 0.55):
        pen.oval(x, 0.42, 0.23, 0.23, INK, 0)
        pen.oval(x, 0.42, 0.1, 0.1, (215, 215, 222), 0)
    pen.oval(0.88, 0.17, 0.09, 0.09, (255, 245, 180), 0)


def fish(pen, main, dark, light):
    pen.shape([(.45, 0), (.98, -.48), (.88, 0), (.98, .48)], dark)
    pen.shape([(-.25, -.4), (.1, -.75), (.3, -.35)], dark)
    pen.oval(-0.18, 0, 0.76, 0.47, main)
    for x in (-0.1, 0.2):
        pen.line([(x, -0.36), (x + 0.1, 0), (x, 0.36)], light, 0.1)
    pen.oval(-0.58, -0.1, 0.13, 0.13, (255, 255, 255), 0)
    pen.oval(-0.6, -0.1, 0.06, 0.06, INK, 0)


def cup(pen, main, dark, light):
    pen.oval(0.6, 0.15, 0.36, 0.38, main)
    pen.oval(0.6, 0.15, 0.18, 0.2, (236, 234, 228))
    pen.shape([(-.68, -.45), (.62, -.45), (.46, .85), (-.52, .85)], main)
    pen.oval(-0.03, -0.45, 0.65, 0.18, light)
    pen.oval(-0.03, -0.42, 0.5, 0.11, (105, 66, 42), 0)
    for x in (-0.3, 0.2):
        pen.line([(x, -0.7), (x + 0.08, -0.82), (x, -0.95)], (250, 250, 250), 0.08)


def flower(pen, main, dark, light):
    pen.line([(0, 0), (0.04, 1)], (70, 140, 70), 0.13)
    pen.oval(0.28, 0.62, 0.28, 0.12, (84, 160, 80), 0.03, -25)
    for a in np.arange(6) * pi / 3:
        x, y = 0.42 * cos(a), -0.35 + 0.42 * sin(a)
        pen.oval(x, y, 0.29, 0.29, main)
    pen.oval(0, -0.35, 0.24, 0.24, (250, 205, 70))


def bird(pen, main, dark, light):
    for x in (-0.1, 0.16):
        pen.line([(x, 0.5), (x, 0.95)], (226, 140, 50), 0.08)
    pen.shape([(.4, .05), (1, -.12), (.95, .22), (.5, .35)], dark)
    pen.oval(0, 0.18, 0.6, 0.45, main)
    pen.oval(-0.42, -0.38, 0.38, 0.37, main)
    pen.shape([(-.76, -.42), (-1, -.28), (-.74, -.2)], (240, 170, 50))
    pen.oval(-0.5, -0.46, 0.08, 0.08, INK, 0)
    pen.oval(0.12, 0.15, 0.36, 0.22, light, turn=-15)


DRAWINGS = {
    draw.__name__: draw
    for draw in (bottle, cat, chair, face, house, scissors, shoe, scrambled,
                  tree, car, fish, cup, flower, bird)
}
