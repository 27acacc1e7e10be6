# NBVAL_IGNORE_OUTPUT
# Setup, the same in every notebook. On a machine without the course it fetches and installs it.
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

DRIVE = False  # on Colab, True keeps what is simulated and fetched on your Google Drive
REPOSITORY, TAG = "https://github.com/visual-reconstruction/recon_lib", "v0.1.0"
if getattr(util.find_spec("recon_lib"), "origin", None) is None:
    inside = Path("../recon_lib/__init__.py").exists()
    home = Path(".." if inside else "recon_lib_course").resolve()
    if not home.exists():
        asked = ["git", "ls-remote", "--exit-code", "--tags", REPOSITORY, TAG]
        branch = [f"--branch={TAG}"]
        if subprocess.run(asked, capture_output=True).returncode == 2:  # it answers: no such tag
            print(f"There is no {TAG} yet: the newest state of the course is fetched instead.")
            branch = []
        git = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth=1"]
        subprocess.check_call([*git, *branch, REPOSITORY, home])
    # Keep what this machine has: a hosted GPU session breaks when torch or numpy is replaced.
    keep = ("torch", "torchvision", "numpy", "ipykernel", "ipywidgets")
    pins = {d.name: d.version for d in metadata.distributions() if d.name in keep}
    constraints = home / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    subprocess.check_call([*pip, "--editable", f"{home}[neuro]"])
    sys.path.insert(0, str(home))

from recon_lib.course.style import start_notebook

device = start_notebook(DRIVE)
