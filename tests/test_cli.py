"""The shell: what works, and one line on stderr with exit status 2 for what cannot."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from conftest import random_unet
from PIL import Image

from recon_lib import __main__ as shell
from recon_lib import results
from recon_lib.brain.latents import load_latent, packed
from recon_lib.common.errors import DataError
from recon_lib.common.folders import alone_in
from recon_lib.data.arrays import load_pictures
from recon_lib.data.loader import create_loader
from recon_lib.data.splits import folds
from recon_lib.decoding.sampling import PLAIN, SAMPLING, Guidance, load_conditional, sample_pictures
from recon_lib.diffusion import cosine_schedule
from recon_lib.training import run as runs
from recon_lib.training.checkpoints import load_model, save_model
from recon_lib.training.device import pick_device
from recon_lib.training.distil import ladder

DECODERS = {"diffusion", "conditional", "map_retrieval", "posterior_retrieval", "ridge",
            "retrieval", "mean_image", "unconditional", "shuffled_brain", "brain_vector",
            "encoding_model", "ideal_observer", "chance", "truth", "noise_ceiling"}
NPY = "BOLD5000_GLMsingle_ROI_betas/py/CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{}.npy"
RNG = np.random.default_rng(0)


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the program in this process: `run("score", "--out", folder)` -> code, out, err."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["recon_lib", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            shell.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def refused(run):
    """Call the program and see it refuse in one line, in which `words` are found."""

    def call(words, *args):
        code, _, err = run(*args)
        lines = [line for line in err.splitlines() if line.strip()]
        assert code == 2 and len(lines) == 1 and lines[0].startswith("recon_lib: "), err
        for word in words.split(" ... "):
            assert word in lines[0], lines[0]

    return call


@pytest.fixture
def copy(miniature, tmp_path):
    """The miniature, to be broken."""
    shutil.copytree(miniature, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def own(tmp_path):
    """Ten pictures in a folder and ten trials of betas."""
    (tmp_path / "pictures").mkdir()
    for i in range(10):
        picture = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    np.save(tmp_path / "betas.npy", RNG.standard_normal((10, 12)))
    return tmp_path


def own_args(own, **change):
    options = {"images": own / "pictures", "betas": own / "betas.npy", "out": own / "out",
               "folds": 2, "steps": 1, "device": "cpu"} | change
    options |= {} if "model" in change else {"encoder": "category-network"}  # it has its own
    return ["reconstruct-arrays", *(x for k, v in options.items() for x in (f"--{k}", v))]


def release_args(data, model, out, *more):
    return ["reconstruct", "--data", data, "--model", model, "--out", out, "--steps", 1,
            "--device", "cpu", *more]


@pytest.mark.slow
def test_reconstruct_and_score_a_release(run, refused, miniature, tiny_model, tmp_path):
    code, out, err = run(*release_args(miniature, tiny_model, tmp_path, "--seed", 3))
    assert code == 0 and "reconstructions.npz" in out
    code, out, err = run("score", "--out", tmp_path, "--permutations", 20)
    assert code == 0 and "scores.json" in out and "ideal_observer" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores) == {"single_trial", "averaged", "info"}
    assert set(scores["single_trial"]) == set(scores["averaged"]) == DECODERS
    assert {"top1", "two_way", "pixcorr", "ssim", "p_value"} <= set(scores["averaged"]["diffusion"])
    info = scores["info"]
    assert info["sampling"]["steps"] == 1 and info["sampling"]["candidates"] >= 1
    assert info["seed"] == 3 and info["seconds"] > 0 and "torch" in info["versions"]
    assert info["sizes"] == {"train_trials": 198, "test_trials": 24, "test_pictures": 6,
                             "voxels": 74}
    with Image.open(tmp_path / "reconstructions.png") as figure:
        assert min(figure.size) > 300
    assert {p.name for p in tmp_path.iterdir()} == {
        ".lock", "first.png", "grid.png", "reconstructions.npz", "reconstructions.png",
        "scores.json"}
    copy = shutil.copytree(miniature, tmp_path / "data")
    betas = next(copy.rglob("*_allses_LHLOC.npy"))
    np.save(betas, np.load(betas)[::-1])  # the same values, of other trials
    with np.load(tmp_path / "reconstructions.npz") as file:
        arrays = dict(file)
    settings = json.loads(str(arrays["settings"])) | {"data": str(copy)}
    np.savez(tmp_path / "reconstructions.npz", **arrays | {"settings": json.dumps(settings)})
    refused("other test pictures or betas ... reconstruct anew", "score", "--out", tmp_path)


@pytest.mark.slow
def test_a_reconstruction_that_was_stopped_goes_on(miniature, tiny_model, tmp_path):
    """What was drawn is not drawn again, and the end is bit-equal; other settings begin anew."""
    source, one_step = results.Release(miniature), replace(SAMPLING, steps=1, candidates=1)

    def reconstruct(out, say, seed=0):
        results.reconstruct_release(out, source, str(tiny_model), seed, one_step, "cpu", say)
        with np.load(out / "reconstructions.npz") as file:
            return {k: file[k] for k in file.files if k != "settings"}

    def stop(text):
        if "averaged" in text:
            raise KeyboardInterrupt

    whole = reconstruct(tmp_path / "whole", lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(tmp_path / "out", stop)
    kept = {path.name for path in (tmp_path / "out" / "drawn").glob("*.npz")}
    assert {f"single_trial.{k}.npz" for k in ("diffusion", "ridge", "conditional")} <= kept
    said = []
    after = reconstruct(tmp_path / "out", said.append)
    assert sum("drawn before" in text for text in said) == len(kept)
    rows = [text for text in said if "named right" in text]  # the table as it grows
    assert {text.split(":")[0].strip().replace(" ", "_") for text in rows} >= {
        "diffusion", "conditional", "ridge", "map_retrieval"}
    assert set(after) == set(whole) and all(np.array_equal(after[k], whole[k]) for k in whole)
    assert not (tmp_path / "out" / "drawn").exists()
    with pytest.raises(KeyboardInterrupt):
        reconstruct(tmp_path / "out", stop)
    said.clear()
    with alone_in(tmp_path / "out"), pytest.raises(DataError, match="another command is drawing"):
        reconstruct(tmp_path / "out", said.append, seed=1)
    assert {path.name for path in (tmp_path / "out" / "drawn").glob("*.npz")} == kept
    reconstruct(tmp_path / "out", said.append, seed=1)
    assert not any("drawn before" in text for text in said)


@pytest.mark.slow
def test_the_evaluation_space_is_made_once(miniature, tiny_model, tmp_path, monkeypatch):
    """The growing table's space serves the scores, which are those of a space made anew."""
    made, source = [], results.Release(miniature)
    space = results.report.evaluation_space
    monkeypatch.setattr(results.report, "evaluation_space",
                        lambda *args: made.append(args) or space(*args))
    one_step = replace(SAMPLING, steps=1, candidates=1)
    features = results.reconstruct_release(
        tmp_path, source, str(tiny_model), 0, one_step, "cpu", str)
    results.score(tmp_path, 10, str, features)
    assert len(made) == 1
    shared = (tmp_path / "scores.json").read_text()
    results.score(tmp_path, 10, str)
    assert len(made) == 2 and (tmp_path / "scores.json").read_text() == shared


@pytest.mark.slow
def test_release_1_and_an_existing_betas_folder(run, miniature, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(miniature.parent)
    code, _, _ = run(*release_args(miniature.name, tiny_model, tmp_path, "--release", 1))
    assert code == 0 and (tmp_path / "reconstructions.npz").exists()
    with np.load(tmp_path / "reconstructions.npz") as file:  # so `score` finds it from elsewhere
        assert json.loads(str(file["settings"]))["data"] == str(miniature)


@pytest.mark.slow
def test_own_data_from_files(run, own, tiny_model):
    code, out, err = run(*own_args(own, model=tiny_model))
    assert code == 0 and "fold 2 of 2" in out and "own.npz" in out
    code, out, err = run("score", "--out", own / "out", "--permutations", 20)
    assert code == 0 and "ridge" in out
    scores = json.loads((own / "out" / "scores.json").read_text())
    assert scores["info"]["trials"] == 10 and scores["info"]["folds"] == 2
    assert {"diffusion", "ridge", "shuffled_brain", "chance"} <= set(scores["single_trial"])
    assert (own / "out" / "reconstructions.png").exists()


@pytest.mark.slow
def test_nan_voxels_are_dropped_and_counted(run, own, tiny_model):
    betas = np.load(own / "betas.npy")
    betas[3, [2, 5, 7]] = np.nan
    np.save(own / "betas.npy", betas)
    with pytest.warns(UserWarning, match="3 of 12 voxels dropped"):
        code, _, _ = run(*own_args(own, model=tiny_model))
    assert code == 0


@pytest.mark.slow
def test_nan_voxels_of_a_release_are_dropped_and_counted(run, copy, tiny_model, tmp_path):
    path = copy / NPY.format("LHLOC")
    values = np.load(path)
    values[5, :2] = np.nan
    np.save(path, values)
    with pytest.warns(UserWarning, match=r"2 of 74 voxels dropped.*LHLOC"):
        code, out, _ = run(*release_args(copy, tiny_model, tmp_path / "out"))
    assert code == 0 and "ideal observer is left out" in out


def test_simulate_refuses_a_folder_that_is_taken(refused, copy, tmp_path):
    before = sorted(p.stat().st_mtime_ns for p in copy.rglob("*"))
    refused("other than this experiment ... choose another folder", "simulate", "--out", copy)
    assert before == sorted(p.stat().st_mtime_ns for p in copy.rglob("*"))


def test_an_experiment_that_is_whole_need_not_be_written(refused, miniature, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    refused("other than this experiment", "simulate", "--out", miniature)
    refused("you may write to ... RECON_LIB_DATA", "simulate", "--out", tmp_path)
    refused("you may write to", "betas", "--data", miniature)  # before any work


def test_simulate_refuses_bad_pictures(refused, own):
    refused("absent ... no such", "simulate", "--out", own / "e", "--images", own / "absent")
    refused("10 pictures", "simulate", "--out", own / "e", "--images", own / "pictures")
    assert not (own / "e").exists()


@pytest.mark.parametrize("change, words", [
    (dict(images="absent"), "absent ... no such"),
    (dict(images="absent.npy"), "absent.npy: no such file"),
    (dict(betas="absent.npy"), "absent.npy: no such file"),
    (dict(images="notes.docx"), "unknown file type ... expected one of .npy"),
    (dict(betas="cut.h5"), "cut.h5: cannot be read ... truncated"),
    (dict(betas="short.npy"), "8 trials but 10 pictures"),
    (dict(betas="cube.npy"), "cube.npy ... (10, 4, 3)"),
    (dict(betas="nothing.npy"), "no voxel with finite, varying values"),
    (dict(trials="trials.txt"), "10 trials but 3 entries"),
    (dict(trials="high.txt"), "trial_image runs from 1 to 10 ... count from 0"),
    (dict(runs="trials.txt"), "10 trials but 3 "),
    (dict(folds=1), "'--folds'"),
    (dict(folds=11), "11 folds"),
    ({"size": 18, "train-steps": 3}, "side 18"),
    (dict(device="tpu"), "--device"),
    (dict(model="absent.safetensors"), "no model at"),
])
@pytest.mark.filterwarnings("ignore:.*dropped")
def test_bad_own_data(refused, own, change, words):
    with h5py.File(own / "cut.h5", "w") as file:
        file["betas"] = RNG.standard_normal((10, 500))
    (own / "cut.h5").write_bytes((own / "cut.h5").read_bytes()[:4000])
    np.save(own / "short.npy", np.zeros((8, 5)))
    np.save(own / "cube.npy", np.zeros((10, 4, 3)))
    np.save(own / "nothing.npy", np.full((10, 4), np.nan))
    (own / "notes.docx").write_text("dear diary")
    (own / "trials.txt").write_text("0\n1\n2\n")
    (own / "high.txt").write_text("\n".join(map(str, range(1, 11))))
    change = {k: own / v if isinstance(v, str) and k != "device" else v for k, v in change.items()}
    before = {p for p in own.rglob("*")}
    refused(words, *own_args(own, **change))
    assert before == {p for p in own.rglob("*")}


def test_a_picture_in_both_sets_is_refused(refused, own, tiny_model):
    shutil.copy(own / "pictures" / "1.png", own / "pictures" / "2.png")
    shutil.copy(own / "pictures" / "1.png", own / "pictures" / "3.png")
    refused("in the training set too ... split by picture",
            *own_args(own, model=tiny_model, folds=10))


def test_pictures_without_betas(refused, own):
    refused("Missing option '--betas'", "reconstruct-arrays", "--images", own / "pictures")
    refused("recon_lib reconstruct-arrays` now", "reconstruct", "--images", own / "pictures")


def test_bad_releases(refused, copy, tiny_model, tmp_path):
    out = tmp_path / "out"

    def attempt(words, *more, model=tiny_model):
        refused(words, *release_args(copy, model, out, *more))
        assert not out.exists()

    attempt("CSI3", "--subject", "CSI3")
    attempt("'--release'", "--release", 7)
    h5 = copy / "ROIs/CSI1/h5/CSI1_ROIs_TR34.h5"
    h5.write_bytes(h5.read_bytes()[:-2000])
    attempt("CSI1_ROIs_TR34.h5: cannot be read ... truncated", "--release", 1)
    npy = copy / NPY.format("RHPPA")
    whole = npy.read_bytes()
    npy.write_bytes(whole[:-100])
    attempt("allses_RHPPA.npy: cannot be read")
    np.save(npy, np.zeros((222, 9), np.float32))
    attempt("9 voxels in RHPPA, expected 8")
    np.save(npy, np.zeros((200, 8), np.float32))
    attempt("RHPPA has shape (200, 8)")
    npy.unlink()
    attempt("allses_RHPPA.npy: no such file")
    npy.write_bytes(whole)
    shutil.move(copy / NPY.split("/")[0], tmp_path / "betas")  # as before they were estimated
    attempt("estimate them ... python -m recon_lib betas")
    shutil.move(tmp_path / "betas", copy / NPY.split("/")[0])
    picture = next((copy / "Scene_Stimuli").rglob("*.png"))
    picture.rename(picture.with_suffix(".bak"))
    attempt(f"{picture.name}: no such picture")


def test_bad_models(refused, miniature, tmp_path):
    folder, out = tmp_path / "models", tmp_path / "out"
    folder.mkdir()

    def attempt(words, path):
        refused(words, *release_args(miniature, path, out))
        assert not out.exists()

    attempt("no model at", folder / "absent.safetensors")
    attempt("no checkpoint at", folder / "absent.pt")
    path = folder / "model.safetensors"
    save_model(random_unet(15), path, {"prediction": "x0"})
    attempt("does not say its image_size, schedule", path)
    save_model(random_unet(15), path, dict(prediction="x0", schedule="cosine", image_size=64))
    attempt("latent.safetensors", path)
    path.write_bytes(path.read_bytes()[:-1000])
    attempt("not a model of this project", path)
    net = random_unet(15)
    net.config["channels"] = [32, 64]  # the weights are of another network
    save_model(net, path)
    attempt("another architecture", path)
    (folder / "virus.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    attempt("not a readable checkpoint", folder / "virus.pt")


@pytest.mark.slow
def test_a_model_knows_its_latent(run, refused, miniature, tmp_path):
    """A training that is refused leaves the old pair; a pair that is none is refused."""
    train = ["train", "conditional", "--data", miniature, "--device", "cpu", "--steps", 1,
             "--batch", 4, "--out", tmp_path]
    assert run(*train, "--extra", 0)[0] == 0
    latent = tmp_path / "conditional" / "latent.safetensors"
    before = latent.read_bytes()
    other = tmp_path / "other.safetensors"
    save_model(random_unet(None), other, dict(prediction="x0", schedule="cosine", image_size=64))
    refused("is there already", *train, "--extra", 9, "--start", other)
    refused("another architecture", *train, "--extra", 9, "--start", other, "--overwrite")
    assert latent.read_bytes() == before
    load_conditional(latent.with_name("model.safetensors"))
    resume = latent.with_name("checkpoint.pt")  # goes on with the latent that it knows
    assert run(*train, "--extra", 0, "--start", resume, "--steps", 2)[0] == 0
    assert load_latent(latent).pixels.axes.tobytes() in before
    load_conditional(resume)
    refused("listens to features of category-network ... leave out the encoder", *train,
            "--extra", 0, "--start", resume, "--encoder", "efficientnet-lite0")
    changed = load_latent(latent)
    changed.pixels.mean[0] += 1
    latent.write_bytes(packed(changed))
    refused("is of another training", *release_args(
        miniature, latent.with_name("model.safetensors"), tmp_path / "out"))


@pytest.mark.slow
def test_the_command_trains_a_student_that_knows_its_latent(run, miniature, tiny_model, tmp_path):
    begin = ["train", "student", "--data", miniature, "--device", "cpu", "--batch", 2,
             "--extra", 25, "--teacher", tiny_model, "--out", tmp_path]
    code, said, err = run(*begin, "--steps", 1)
    assert code == 0, err
    net = load_conditional(tmp_path / "student" / "model.safetensors")
    assert net.info["ladder"] == ladder(cosine_schedule()) and net.info["steps"] == 1
    assert run(*begin, "--steps", 2, "--start", tmp_path / "student" / "checkpoint.pt")[0] == 0
    assert load_conditional(tmp_path / "student" / "model.safetensors").info["steps"] == 2


def test_train_refuses_a_model_of_another_architecture(refused, miniature, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(random_unet(None), path, dict(prediction="x0", schedule="cosine", image_size=64))
    refused("another architecture", "train", "unconditional", "--data", miniature, "--extra", 0,
            "--out", tmp_path / "out", "--start", path, "--steps", 1, "--device", "cpu")
    refused("no folder", "train", "unconditional", "--data", tmp_path / "nowhere")
    refused("No such option", "train", "conditional", "--data", miniature, "--mirror")


@pytest.mark.slow
def test_a_guidance_model_is_trained_and_guides(run, refused, miniature, tmp_path, monkeypatch):
    from recon_lib import recipes

    code, said, err = run("train", "guidance", "--data", miniature, "--extra", 0, "--steps", 1,
                          "--batch", 2, "--out", tmp_path, "--device", "cpu")
    assert code == 0, err
    assert "222 trials of 204 pictures, 74 voxels" in said and "repeated split" in said
    path = tmp_path / "guidance" / "model.safetensors"
    small, info = load_model(path)
    assert small.config["channels"] == list(recipes.GUIDANCE_NETWORK["channels"])
    assert info["steps"] == 1
    asked = []
    monkeypatch.setattr(recipes, "EXTRA", 50)
    monkeypatch.setattr(small.__class__, "forward",
                        lambda net, x, t, *_: asked.append(net.config["channels"]) or 0 * x)
    quality = ["quality", "--n", 8, "--steps", 2, "--device", "cpu", "--out", tmp_path / "scored"]
    assert run(*quality)[0] == 0
    assert small.config["channels"] not in asked
    assert run(*quality, "--guidance", path)[0] == 0
    assert small.config["channels"] in asked
    refused("recon_lib quality-prior --data` now", *quality, "--guidance", path, "--dream",
            miniature)


@pytest.mark.slow
def test_train_on_pictures_of_ones_own(run, refused, own, monkeypatch):
    """A folder, grey or in colour, becomes a model of such pictures; TensorBoard gets the log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train = ["train-pictures", "--steps", 2, "--batch", 2, "--device", "cpu", "--size", 16]
    (own / "grey").mkdir()
    for i in range(3):
        Image.open(own / "pictures" / f"{i}.png").convert("L").save(own / "grey" / f"{i}.png")
    for folder, channels in (("pictures", 3), ("grey", 1)):
        out = own / f"of {folder}"
        code, said, err = run(*train, "--images", own / folder, "--out", out, "--tensorboard")
        assert code == 0 and str(out / "unconditional") in said, err
        model, info = load_model(out / "unconditional" / "model.safetensors")
        assert info["pictures"] == len(list((own / folder).iterdir())) and info["steps"] == 2
        made = sample_pictures(model, info, 2, sampling=replace(PLAIN, steps=1))
        assert made.shape == (2, 16, 16, channels)
        log = np.genfromtxt(out / "unconditional" / "loss.csv", delimiter=",", names=True)
        board = EventAccumulator(str(out / "unconditional" / "tensorboard")).Reload()
        curve = [(event.step, event.value) for event in board.Scalars("loss")]
        assert np.allclose(curve, np.column_stack([log["step"], log["loss"]]), rtol=1e-6)
    assert "3 pictures from" in said and "16 x 16, 1 channels" in said
    pictures = [*train, "--images", own / "pictures", "--out", own / "new"]
    assert run(*pictures, "--mirror")[0] == 0
    plain, turned = (np.genfromtxt(own / name / "unconditional" / "loss.csv", delimiter=",")[1:, 3]
                     for name in ("of pictures", "new"))
    assert len(plain) == len(turned) == 2 and (plain != turned).any()
    refused("No such option", *pictures, "--extra", 5)
    assert run(*pictures, "--guidance")[0] == 0
    pair = [load_model(own / "new" / stage / "model.safetensors")
            for stage in ("unconditional", "guidance")]
    away = sample_pictures(*pair[0], 2, 0, replace(PLAIN, steps=1, scale=2), Guidance(pair[1]))
    assert away.shape == (2, 16, 16, 3)
    refused("recon_lib train-pictures` now", "train", "conditional", *pictures[1:])
    refused("absent ... no such", *train, "--images", own / "absent")
    refused("is there already", *pictures)
    pictures.append("--overwrite")
    refused("3 x 20 x 20 ... divisible by 16", *pictures, "--size", 20)
    refused("'--size'", *pictures, "--size", 0)
    monkeypatch.setattr(runs, "is_tensorboard_available", lambda: False)
    refused("pip install tensorboard", *pictures, "--tensorboard")


@pytest.mark.parametrize("name", ["--pseudo-trials", "--trust"])
def test_the_older_name_of_an_option_still_counts(run, monkeypatch, name):
    asked = []
    monkeypatch.setattr(results, "reconstruct_release",
                        lambda out, source, model, seed, sampling, *_: asked.append(sampling))
    assert run("reconstruct", "--model", "conditional", name, 7, "--steps", 3)[0] == 0
    assert asked == [replace(SAMPLING, pseudo_trials=7, steps=3)]


def test_numbers_without_a_meaning_are_refused(refused, miniature, tiny_model, tmp_path):
    base = release_args(miniature, tiny_model, tmp_path / "out")
    refused("recon_lib reconstruct-arrays` now", *base, "--folds", 3)
    refused("'--steps'", *base, "--steps", 1001)


@pytest.mark.slow
def test_the_newer_results_are_scored(run, miniature, own, tiny_model, tmp_path):
    out = tmp_path / "both"
    assert run(*release_args(miniature, tiny_model, out))[0] == 0
    assert run(*own_args(own, out=out))[0] == 0
    assert "own.npz, the newer" in run("score", "--out", out, "--permutations", 9)[1]
    assert json.loads((out / "scores.json").read_text())["info"]["folds"]
    os.utime(out / "reconstructions.npz", (2**32, 2**32))
    assert "reconstructions.npz, the newer" in run("score", "--out", out, "--permutations", 9)[1]
    assert json.loads((out / "scores.json").read_text())["info"]["split"] == "repeated"


def test_score_before_reconstruct(refused, tmp_path):
    refused("run `python -m recon_lib reconstruct` first", "score", "--out", tmp_path)
    (tmp_path / "reconstructions.npz").write_bytes(b"PK\x03\x04 half a file")
    refused("reconstructions.npz: cannot be read", "score", "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["reconstructions.npz"]


def test_betas_of_nothing(refused, tmp_path):
    refused("sub-CSI1", "betas", "--data", tmp_path)


@pytest.mark.slow
def test_as_a_program_of_its_own(tmp_path):
    """No traceback from three libraries down."""
    def program(*args):
        return subprocess.run([sys.executable, "-m", "recon_lib", *args], capture_output=True,
                              text=True, cwd=tmp_path,
                              env=os.environ | {"RECON_LIB_DATA": str(tmp_path)})

    done = program("score")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    done = program("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("simulate", "betas", "train", "reconstruct",
                                                "score", "haxby", "run"))


@pytest.mark.slow
def test_held_out_categories_and_several_subjects(run, refused, mini_release, tmp_path):
    out = ["--out", tmp_path]
    train = ["train", "conditional", "--steps", 1, "--batch", 4, "--device", "cpu",
             "--subject", "CSI1,CSI4", "--split", "category"]
    assert run(*train, "--data", mini_release, *out)[0] == 0
    model = tmp_path / "conditional" / "model.safetensors"
    again = ["reconstruct", "--data", mini_release, "--model", model, "--steps", 1, *out]
    refused("trained with the category split ... --split repeated", *again)
    assert run(*again, "--subject", "CSI4", "--split", "category")[0] == 0
    assert run("score", *out, "--permutations", 9)[0] == 0
    info = json.loads((tmp_path / "scores.json").read_text())["info"]
    assert info["split"] == "category" and info["held"] and info["subject"] == "CSI4"


def test_the_library_refuses_what_the_shell_refuses(loaded):
    """Whoever calls a function has no shell in front of it."""
    images = np.zeros((4, 16, 16, 3), np.uint8)
    for refuse, told in (
        (lambda: pick_device("tpu"), "device is 'tpu'"),
        (lambda: load_pictures(images, -1), "side of the pictures is -1"),
        (lambda: create_loader(16, 2, images=images, vectors=np.zeros((4, 3)), mirror=True),
         "mirror with brain vectors"),
        (lambda: folds(np.arange(4), 1), "1 folds"),
    ):
        with pytest.raises(DataError, match=told):
            refuse()
