"""The box around every widget: controls, a line of numbers and a figure that keep one another true.

Its state can be set and read by code: `box.controls["peak"].value = 4` moves a slider,
`box.set(peak=4, ratio=0.2)` several at once, `box.numbers` holds what the figure shows. Nothing
here needs more than ipywidgets 7.7.
"""

import inspect
import io

import ipywidgets
from matplotlib.figure import Figure

HINT = "<small>Keys: Tab to go on, arrows to slide, space to press.</small>"


def explorer(controls, numbers, draw, readout):
    """Put controls, a line of numbers and a figure into one box that keeps itself up to date.

    Parameters
    ----------
    controls : dict of str to ipywidgets control
        Their values are the arguments of `numbers`.
    numbers : function
        `numbers(**values)` gives a dict: all that the figure shows.
    draw : function
        `draw(numbers)` gives a matplotlib Figure. One that takes `draw(numbers, fig)` is handed its
        last figure to draw on again (see `sheet`), which takes about half the time.
    readout : function
        `readout(numbers)` gives one line of text.

    Returns
    -------
    ipywidgets.VBox
        With attributes `controls`, `numbers` (the latest), `set` (a function: moves several
        controls and draws once) and `reset`, a button that puts every control back.
    """
    start = {name: control.value for name, control in controls.items()}
    again = len(inspect.signature(draw).parameters) > 1
    image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    text = ipywidgets.HTML(layout={"min_height": "4em"})  # two lines: the picture stays where it is
    reset = ipywidgets.Button(description="Reset")
    tooltip(reset, "Put every control back")
    row = ipywidgets.HBox([reset, ipywidgets.HTML(HINT)])
    box = ipywidgets.VBox([*controls.values(), row, text, image])
    box.controls, box.reset, box.numbers, box.figure = controls, reset, {}, None
    for control in controls.values():
        control.style.description_width = "11em"
        control.layout.width = "30em" if hasattr(control, "max") else "100%"
        control.layout.max_width = "100%"
        limits = f": {control.min:g} to {control.max:g}" if hasattr(control, "max") else ""
        tooltip(control, control.description + limits)

    def update(_=None):
        box.numbers = numbers(**{name: control.value for name, control in controls.items()})
        box.figure = draw(box.numbers, box.figure) if again else draw(box.numbers)
        picture = io.BytesIO()
        box.figure.savefig(picture, format="png", pil_kwargs={"compress_level": 1})
        # one message each: the browser swaps the picture in place, so nothing jumps or flickers
        image.value, text.value = picture.getvalue(), f"<b>{readout(box.numbers)}</b>"

    def set_values(**values):
        """Move these controls and draw once."""
        for name in values:
            controls[name].unobserve(update, "value")
        try:
            for name, value in values.items():
                controls[name].value = value
        finally:
            for name in values:
                controls[name].observe(update, "value")
        update()

    for control in controls.values():
        control.observe(update, "value")
    box.set = set_values
    reset.on_click(lambda _: set_values(**start))
    update()
    return box


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


def sheet(fig, size, lay):
    """Axes to draw on: new ones, or those of an earlier figure with everything on them taken off.

    Axes and their ticks are what takes time to make, and old figures are slow to clear away.

    Parameters
    ----------
    fig : Figure or None
        What an earlier call returned.
    size : (width, height)
        Inches.
    lay : function
        `lay(figure)` makes the axes of a new figure.

    Returns
    -------
    Figure
    """
    if fig is None:
        fig = Figure(figsize=size)
        lay(fig)
        return fig
    for ax in fig.axes:
        drawn = [*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.texts, ax.get_legend()]
        for artist in drawn:
            if artist is not None:
                artist.remove()
        ax.containers.clear()
        ax.relim()
    return fig
