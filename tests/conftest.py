"""A miniature of the embedded experiment, and a small untrained model, made once for all tests."""

import pytest
import torch
from filelock import FileLock

from recon_lib.brain.features import load_factor_net
from recon_lib.brain.latents import fit_latent, packed
from recon_lib.data import release
from recon_lib.data.bold5000 import KEYS
from recon_lib.decoding.retrieval_prior import training_pictures
from recon_lib.diffusion import cosine_schedule
from recon_lib.training.checkpoints import load_model, save_model
from recon_lib.training.distil import ladder
from recon_lib.unet import UNet
from recon_lib.world import experiment
from recon_lib.world import miniature as mini

VOXELS = dict(zip(KEYS, (12, 12, 10, 10, 4, 4, 8, 8, 3, 3), strict=True))
DESIGN = dict(runs_per_session=(3, 3), repeated=6, test_trials=24)


def random_unet(condition_size, image_channels=3, patch=8):
    """A network whose every parameter does something, zero-initialised branches included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet(image_channels, (16, 32), patch=patch, attention=(), width=32,
                   condition_size=condition_size)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return net


@pytest.fixture(scope="session")
def once(tmp_path_factory, request):
    """`once(name, make)` is a folder that `make(folder)` filled, once for all workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        base = base.parent  # that of this run of pytest; each worker's own lies in it

    def folder(name, make):
        made = base / name
        with FileLock(base / f"{name}.lock"):
            if not (base / f"{name}.done").exists():
                made.mkdir()
                make(made)
                (base / f"{name}.done").touch()
        return made

    return folder


@pytest.fixture(scope="session")
def miniature(once):
    """Folder of a whole experiment of 222 trials and 74 voxels, betas estimated. Leave it as is."""
    def make(folder):
        experiment.build(folder / "mini", 0, voxels=VOXELS, **DESIGN)
        experiment.estimate_betas(folder / "mini")

    return once("experiment", make) / "mini"


@pytest.fixture(scope="session")
def loaded(miniature):
    """The miniature as an `Experiment`."""
    return release.load_experiment(miniature)


@pytest.fixture(scope="session")
def tiny_model(loaded, once):
    """Path of a random conditional model, its latent beside it."""
    def make(folder):
        encoder = load_factor_net("feature_encoder")
        latent = fit_latent(loaded.train_pictures, encoder, pixels=6, features=8)
        latent.prior = latent.transform(training_pictures(loaded, extra=25))
        (folder / "latent.safetensors").write_bytes(packed(latent))
        info = dict(prediction="x0", schedule="cosine", image_size=64)
        save_model(random_unet(15), folder / "model.safetensors", info)

    return once("model", make) / "model.safetensors"


@pytest.fixture
def tiny_student(tiny_model, tmp_path):
    """The random model as a student, its latent beside it."""
    model, info = load_model(tiny_model)
    save_model(model, tmp_path / "model.safetensors", info | {"ladder": ladder(cosine_schedule())})
    (tmp_path / "latent.safetensors").write_bytes(
        tiny_model.with_name("latent.safetensors").read_bytes())
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="session", autouse=True)
def full_precision():
    """Tests mean the same on a CPU with fast bfloat16 and on one without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recon_lib.training.device.cpu_has_bf16_units", lambda: False)
        yield


PEOPLE = {"CSI1": (1, 1), "CSI2": (1, 1), "CSI4": (1,)}
VOXELS_OF = {
    "CSI1": dict(zip(KEYS, (4, 5, 3, 2, 2, 3, 4, 1, 2, 3), strict=True)),
    "CSI2": dict(zip(KEYS, (8, 7, 6, 5, 3, 4, 5, 6, 4, 2), strict=True)),
    "CSI4": dict(zip(KEYS, (3, 3, 2, 4, 2, 2, 3, 2, 2, 2), strict=True)),
}


@pytest.fixture(scope="session")
def mini_release(once):
    """Folder of a miniature of BOLD5000 with three subjects. Leave it as it is."""
    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mini, "REPEATED", 4)
            mini.build(folder / "BOLD5000", PEOPLE, VOXELS_OF)

    return once("release", make) / "BOLD5000"
