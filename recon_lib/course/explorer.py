"""The box around every widget: controls, a line of numbers and a figure that keep one another true.

An explorer is three parts: controls hold its state, a function turns their values into numbers, and
functions turn the numbers into a figure and a line of text. Nothing here needs more than
ipywidgets 7.7.
"""

import functools
import io

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from recon_lib.course.style import DRAWING, WIDTH, styled

HINT = "<small>Keys: Tab to go on, arrows to slide, space to press.</small>"


class Explorer(ipywidgets.VBox):
    """Controls, a line of numbers and a figure in one box that keeps itself up to date.

    Code can move it too: `box.controls["peak"].value = 4` moves a slider, `box.set(peak=4, ...)`
    several at once, `box.reset.click()` puts all back. `box.numbers` and `box.figure` are the
    latest; for pages without a kernel end a notebook cell with `box.still(message)`. A page that is
    loaded again shows the explorer as it was; a cell that runs again makes a new one at its start,
    for the cells after it rely on that.

    The values of `controls`, a dict of ipywidgets, are the arguments of `compute`, which gives a
    dict, all that the figure shows. `draw(numbers, fig=None)` gives a matplotlib Figure, see
    `sheet`, and `readout(numbers)` one line of text.
    """

    def __init__(self, controls, compute, draw, readout):
        self.controls, self.compute, self.draw, self.readout = controls, compute, draw, readout
        self.figure, self.painter, self._several = None, Painter(), False
        start = {name: control.value for name, control in controls.items()}
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.text = ipywidgets.HTML(layout={"min_height": "4em"})  # two lines: nothing below moves
        self.reset = ipywidgets.Button(description="Reset")
        tooltip(self.reset, "Put every control back")
        row = ipywidgets.HBox([self.reset, ipywidgets.HTML(HINT)])
        super().__init__([*controls.values(), row, self.text, self.image])
        for control in controls.values():
            control.style.description_width = "11em"
            control.layout.width = "30em" if hasattr(control, "max") else "100%"
            control.layout.max_width = "100%"
            limits = f": {control.min:g} to {control.max:g}" if hasattr(control, "max") else ""
            tooltip(control, control.description + limits)
            control.observe(self._update, "value")
        self.reset.on_click(lambda _: self.set(**start))
        self._update()

    def set(self, **values):
        """Move these controls and draw once."""
        with DRAWING:
            self._several = True
            try:
                for name, value in values.items():
                    self.controls[name].value = value
            finally:
                self._several = False
            self._update()

    def still(self, message):
        """The figure as it is now, on a sheet of its own, under a sentence with its message."""
        figure, more = self.draw(self.numbers), 0.4  # inches
        width, height = figure.get_size_inches()
        places = [ax.get_position(original=True).bounds for ax in figure.axes]
        part = height / (height + more)
        for ax, (x, y, wide, high) in zip(figure.axes, places, strict=True):
            ax.set_position((x, y * part, wide, high * part))
        for legend in figure.legends:
            legend.set_bbox_to_anchor((0, 0, 1, part), figure.transFigure)
        figure.set_size_inches(width, height + more)
        figure.text(0.01, 1 - 0.1 / (height + more), message, va="top", fontsize=13)
        return figure

    def _update(self, _=None):
        with DRAWING:  # two controls may be answered at once, each in a thread
            if self._several:
                return
            self.numbers = self.compute(**{name: c.value for name, c in self.controls.items()})
            self.figure = self.draw(self.numbers, self.figure)
            # one message each: the browser swaps the picture in place, so nothing jumps or flickers
            self.image.value = self.painter.png(self.figure)
            self.text.value = f"<b>{self.readout(self.numbers)}</b>"


class Painter:
    """Draws a figure that changes again and again: what stays the same is drawn once.

    Most of the time of a drawing goes to the axes' ticks and their labels. They are kept, and drawn
    anew where `look` says that they changed.
    """

    def __init__(self):
        self.kept, self.canvas = None, None

    def png(self, figure):
        """The figure as PNG: bytes; pixel by pixel what `figure.savefig` would write."""
        if self.canvas is None or self.canvas.figure is not figure:
            self.kept, self.canvas = None, FigureCanvasAgg(figure)
        now = look(figure)
        moving = [artist for ax in figure.axes for artist in moving_parts(ax)]
        if self.kept is None or self.kept[0] != now:
            for artist in moving:
                artist.set_visible(False)
            self.canvas.draw()
            for artist in moving:
                artist.set_visible(True)
            self.kept = now, self.canvas.copy_from_bbox(figure.bbox)
        self.canvas.restore_region(self.kept[1])
        for artist in moving:
            artist.draw(self.canvas.get_renderer())
        picture = io.BytesIO()
        image = Image.fromarray(np.asarray(self.canvas.buffer_rgba()))
        image.convert("RGB").save(picture, "png", compress_level=1)
        return picture.getvalue()


def moving_parts(ax):
    """What is drawn each time: all that is visible on the axes but ticks, in matplotlib's order."""
    still = {ax.patch, ax.xaxis, ax.yaxis} | (set() if ax.axison else set(ax.spines.values()))
    return sorted((artist for artist in ax.get_children() if artist.get_visible()
                   and artist not in still), key=lambda artist: artist.get_zorder())


def look(figure):
    """All that the ticks and their labels depend on."""
    found = [figure.dpi, *figure.get_size_inches()]
    for ax in figure.axes:
        ax.apply_aspect()
        found += [ax.axison, *ax.get_position().bounds]
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            places = axis.get_majorticklocs()
            found += [axis.get_scale(), axis.get_label_text(), *axis.get_view_interval(), *places,
                      *axis.get_major_formatter().format_ticks(places)]
    return found


def slider(description, value, low, high, step):
    """A slider that reports while it moves."""
    kind = ipywidgets.IntSlider if isinstance(value, int) else ipywidgets.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=description)


def choice(description, options, value=None):
    """A row of buttons, one of them pressed: `options` are names, or (name, value) pairs.

    Not a drop-down list: JupyterLab takes the arrow keys away from those.
    """
    control = ipywidgets.ToggleButtons(options=options, description=description)
    control.style.button_width = "auto"
    control.add_class("widget-inline-hbox")  # its label beside it, as the sliders have theirs
    if value is not None:
        control.value = value
    return control


def tooltip(control, text):
    """What the mouse resting on a control says; the name of this changed in ipywidgets 8."""
    old = control.has_trait("description_tooltip")
    control.set_trait("description_tooltip" if old else "tooltip", text)


def sheet(height, lay=Figure.subplots):
    """Decorate `draw(fig, numbers)`: it becomes `draw(numbers, fig=None)`, which returns a figure.

    It draws on new axes, made by `lay(figure)` on a sheet of so many inches, or on those of the
    figure it returned last, with everything on them taken off: axes and their ticks are what takes
    time to make, and old figures are slow to clear away.
    """

    def decorate(draw):
        @styled
        @functools.wraps(draw)
        def drawn(numbers, fig=None):
            if fig is None:
                fig = Figure(figsize=(WIDTH, height))
                lay(fig)
            for ax in fig.axes:
                for artist in [*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.texts]:
                    artist.remove()
                if ax.get_legend():
                    ax.get_legend().remove()
                ax.containers.clear()
                ax.relim()
            draw(fig, numbers)
            return fig

        return drawn

    return decorate
