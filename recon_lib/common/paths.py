"""Where things are: what ships with the code, what is simulated or fetched, and results.

One place, wherever the program is started: `data/` and `results/` of a checkout; for an installed
package `recon_lib_data` in the user's home. $RECON_LIB_DATA, which `use_drive` sets in a Colab
session, moves both.
"""

import os
import sys
from pathlib import Path

import recon_lib

DRIVE = Path("/content/drive")
FOLDER = "RECON_LIB_DATA"  # environment variable that overrides the place
PACKAGE = Path(recon_lib.__file__).resolve().parent
INSTALLED = PACKAGE / "shipped"  # where an ordinary `pip install` puts the files of data/


def shipped(name):
    """Path of a file that ships with the code, in a checkout (`data/`) or an installed package."""
    return (INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "data") / name


def data_folder():
    """Folder of simulated and fetched data: see above."""
    own = "~/recon_lib_data" if INSTALLED.is_dir() else PACKAGE.parent / "data"
    return Path(os.path.abspath(os.path.expanduser(os.environ.get(FOLDER) or own)))


def results_folder():
    """Folder of models, reconstructions and scores: `results/` of the checkout, or of the data."""
    data = data_folder()
    return (data.parent if data == PACKAGE.parent / "data" else data) / "results"


def experiment_folder():
    """Folder of the embedded experiment."""
    return data_folder() / "experiment"


def on_colab():
    """Whether this is a Colab session."""
    return "google.colab" in sys.modules


def use_drive():
    """Mount the user's Drive (it asks for leave) and keep data there from now on: a folder."""
    from google.colab import drive

    drive.mount(str(DRIVE))
    folder = DRIVE / "MyDrive" / "recon_lib"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(folder)
    return folder
