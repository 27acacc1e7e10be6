"""The box around every widget: controls, a line of numbers and a figure that keep one another true.

An explorer is three parts: controls hold its state, a function turns their values into numbers, and
functions turn the numbers into a figure and a line of text. Nothing here needs more than
ipywidgets 7.7.
"""

import functools
import io

import ipywidgets
from matplotlib.figure import Figure

from recon_lib.course.style import DRAWING, WIDTH, styled

HINT = "<small>Keys: Tab to go on, arrows to slide, space to press.</small>"


class Explorer(ipywidgets.VBox):
    """Controls, a line of numbers and a figure in one box that keeps itself up to date.

    Code can move it too: `box.controls["peak"].value = 4` moves a slider, `box.set(peak=4, ...)`
    several at once, `box.reset.click()` puts all back. `box.numbers` and `box.figure` are the
    latest; end a notebook cell with the figure.

    The values of `controls`, a dict of ipywidgets, are the arguments of `compute`, which gives a
    dict, all that the figure shows. `draw(numbers, fig=None)` gives a matplotlib Figure, see
    `sheet`, and `readout(numbers)` one line of text.
    """

    def __init__(self, controls, compute, draw, readout):
        self.controls, self.compute, self.draw, self.readout = controls, compute, draw, readout
        self.figure, self._several = None, False
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

    def _update(self, _=None):
        with DRAWING:  # two controls may be answered at once, each in a thread
            if self._several:
                return
            self.numbers = self.compute(**{name: c.value for name, c in self.controls.items()})
            self.figure = self.draw(self.numbers, self.figure)
            picture = io.BytesIO()
            self.figure.savefig(picture, format="png", pil_kwargs={"compress_level": 1})
            # one message each: the browser swaps the picture in place, so nothing jumps or flickers
            self.image.value = picture.getvalue()
            self.text.value = f"<b>{self.readout(self.numbers)}</b>"


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
