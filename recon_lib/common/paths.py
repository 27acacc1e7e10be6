"""Where data go: beside the code, or on a Google Drive that outlives a Colab session."""

import os
import sys
from pathlib import Path

DRIVE = Path("/content/drive")
FOLDER = "RECON_LIB_DATA"  # environment variable that overrides the place


def data_folder():
    """Folder of simulated and fetched data: `data/` beside the code, or $RECON_LIB_DATA."""
    beside = Path(__file__).resolve().parents[2] / "data"
    return Path(os.environ.get(FOLDER) or beside)


def on_colab():
    """Whether this is a Colab session."""
    return "google.colab" in sys.modules


def use_drive():
    """Mount the user's Drive (it asks for leave) and keep data there from now on.

    Returns
    -------
    Path
        The folder on the Drive.
    """
    from google.colab import drive

    drive.mount(str(DRIVE))
    folder = DRIVE / "MyDrive" / "recon_lib"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(folder)
    return folder
