"""The table that the benchmarks share, and the script that gathers their rows."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DESIGN, VOXELS
from matplotlib.figure import Figure
from PIL import Image

from recon_lib.brain.features import load_factor_net
from recon_lib.brain.ridge import fit_ridge
from recon_lib.world import scenes, subject

HERE = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def shared(monkeypatch):
    """The modules `_table` and `_gather`, imported as the benchmarks import them."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delitem(sys.modules, "_table", raising=False)
    import _gather
    import _table

    return _table, _gather


def test_a_ratio_above_one_means_better(shared):
    table, _ = shared
    assert table.row("a", 2.0, "s", 6.0, "peer")["ratio"] == 3
    assert table.row("a", 6.0, "images/s", 2.0, "peer", better="more")["ratio"] == 3
    assert table.row("a", 0.0, "s", 6.0, "peer")["ratio"] is None  # not infinite: JSON has none
    assert table.row("a", 2.0, "s")["ratio"] is None
    with pytest.raises(ValueError, match="expected 'less' or 'more'"):
        table.row("a", 2.0, "s", 6.0, "peer", better="most")
    assert table.package("numpy").startswith("numpy 2") and table.package("no-such") is None


def test_the_table_shows_every_row(shared):
    table, _ = shared
    lines = table.table([table.row("fast", 0.5, "s", 1.0, "slow 1.0"),
                         table.row("large", 12345.6, "MB")]).splitlines()
    assert lines[2] == "| fast | 0.5 | 1 | s | 2 | slow 1.0 |"
    assert lines[3] == "| large | 12,346 | – | MB | – | – |"


@pytest.mark.slow
def test_rows_of_all_scripts_are_gathered_and_a_failure_is_named(shared, tmp_path, capfd):
    _, gather = shared
    script = "import _table\ndef rows(): return [_table.row({!r}, {}, 's', 8, 'p')]\n"
    for name, ours in (("row_a", "2"), ("row_b", "1 / 0"), ("row_c", "4")):
        (tmp_path / f"{name}.py").write_text(script.format(name, ours))
    (tmp_path / "helper.py").write_text("")
    found = gather.scripts(tmp_path)
    assert list(found) == ["row_a", "row_b", "row_c"]
    assert gather.gather(found.values(), tmp_path / "out" / "bench.json") == ["row_b"]
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert found.keys() == {"rows", "machine"}
    assert [(r["name"], r["ratio"]) for r in found["rows"]] == [("row_a", 4), ("row_c", 2)]
    assert set(found["rows"][0]) == {
        "name", "ours", "peer", "peer_name", "unit", "ratio", "script", "machine"
    }
    assert "| row_a | 2 | 8 | s | 4 | p |" in capfd.readouterr().out


def test_every_benchmark_is_explained(shared):
    _, gather = shared
    page = (HERE / "README.md").read_text()
    assert {"glm", "betas", "streaming"} <= set(gather.scripts())
    for name, path in gather.scripts().items():
        assert f"`{path.name}`" in page, name
        assert "_table.main(rows)" in path.read_text(), name


def test_the_plain_unet_attends_at_every_level(shared):
    """Its weights counted by hand, and that it looks at the time."""
    import torch
    from _plain_unet import PlainUNet

    def block(i, o):  # two convolutions, three norms, time, attention (four square layers)
        return (9 * i * o + o) + (9 * o * o + o) + 6 * o + (256 * o + o) + 4 * (o * o + o)

    levels = [block(3, 64), block(64, 128), block(128, 256), block(256, 512)]
    levels += [block(2 * c, c) + (8 * c * c + c) for c in (256, 128, 64)]  # 2 x 2, from 2 c to c
    torch.manual_seed(0)
    net = PlainUNet().eval()
    expected = sum(levels) + 2 * (256 * 256 + 256) + 64 * 3 + 3
    assert sum(p.numel() for p in net.parameters()) == expected
    assert sum(isinstance(m, torch.nn.MultiheadAttention) for m in net.modules()) == 7
    x = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        early, late = net(x, torch.tensor([0])), net(x, torch.tensor([900]))
    assert early.shape == x.shape and (early - late).abs().max() > 1e-4


@pytest.mark.slow
def test_gathering_one_script_keeps_the_rows_of_the_others(shared, tmp_path):
    """Also after an interruption; a script that fails now has no row from before."""
    _, gather = shared
    out = tmp_path / "bench.json"

    def run(**ours):
        for name, value in ours.items():
            script = f"import _table\ndef rows(): return [_table.row('x', {value}, 's')]\n"
            (tmp_path / f"{name}.py").write_text(script)
            shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # may be of this second
        failed = gather.gather([tmp_path / f"{name}.py" for name in ours], out)
        return failed, {r["script"]: r["ours"] for r in json.loads(out.read_text())["rows"]}

    assert run(a=1, b=2) == ([], {"a": 1, "b": 2})
    assert run(b=3) == ([], {"a": 1, "b": 3})
    assert run(a="1 / 0") == (["a"], {"b": 3})
    assert run(a=4, b="None") == (["b: x"], {"a": 4, "b": None})
    out.write_text(json.dumps({"rows": [{"name": "of no script", "ours": 1}], "machine": ""}))
    assert run(a=5) == ([], {"a": 5})


def test_a_row_without_a_number_ends_a_script_with_an_error(shared, capsys):
    table, _ = shared
    with pytest.raises(SystemExit, match="failed: b"):
        table.main(lambda: [table.row("a", 1.0, "s"), table.row("b", None, "s", 2.0, "goal")])
    assert "| b | – | 2 | s | – | goal |" in capsys.readouterr().out
    table.main(lambda: [table.row("a", 1.0, "s")])


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""
    import time

    class Clock:
        now = 0.0

        def read(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(time, "process_time", clock.read)
    return clock


def test_a_failing_notebook_leaves_the_times_of_the_others(shared, tmp_path, monkeypatch):
    """A notebook that cannot run, between two that take no time at all."""
    import series
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    class Client:
        def __init__(self, notebook, **_):
            self.cell = notebook.cells[0].source

        def execute(self):
            if self.cell == "1 / 0":
                raise CellExecutionError("", "ZeroDivisionError", "division by zero")
            if self.cell == "kill":
                raise DeadKernelError("Kernel died")

    for i, cell in enumerate(("1", "1 / 0", "kill", "2")):
        notebook = series.nbformat.v4.new_notebook(cells=[series.nbformat.v4.new_code_cell(cell)])
        series.nbformat.write(notebook, tmp_path / f"{i}.ipynb")
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(series, "NotebookClient", Client)
    monkeypatch.setattr(series.experiment, "ready", lambda: None)
    made = series.rows()
    assert [r["name"] for r in made if r["ours"] is None] == ["1.ipynb", "2.ipynb"]
    assert [r["peer"] for r in made] == [120, None, None, 120, None]
    assert made[-1]["name"] == "the series of 2 notebooks"
    assert made[-1]["ours"] == made[0]["ours"] + made[3]["ours"] < 1
    for i in (1, 2):
        (tmp_path / f"{i}.ipynb").unlink()
    assert series.rows()[-1]["peer"] == 600  # when all of them ran


def test_growth_of_memory_has_no_ratio(shared, monkeypatch):
    """Costs made by hand: time as size squared, or as nothing at all; memory as the root."""
    import scale

    def measure(name, **size):
        (factor,) = size.values()
        return (0.1 * factor**2 if "trials" in size else 3.0), factor**0.5

    monkeypatch.setattr(scale, "measure", measure)
    squared, root, flat, _ = scale.rows()[:4]
    assert squared["ours"] == pytest.approx(2) and squared["ratio"] == pytest.approx(0.5)
    assert root["ours"] == pytest.approx(0.5) and root["peer"] is root["ratio"] is None
    assert flat["ours"] == pytest.approx(0, abs=1e-9) and flat["ratio"] is None


@pytest.mark.slow
def test_the_first_step_of_no_network_is_timed(shared, clock, monkeypatch):
    """Steps of given seconds: the best after the first counts, of slow networks too."""
    import diffusion

    takes = {diffusion.OURS: [3.0] + 3 * [2.0, 0.5, 1.0], "slow": [90.0, 9.0, 8.0, 1.0],
             "slow but once": [0.1, 4.0, 5.0, 1.0]}

    def trainer(net, *_):
        left = iter(takes[net])

        def step():
            clock.now += next(left)

        return step

    monkeypatch.setattr(diffusion, "trainer", trainer)
    monkeypatch.setattr(diffusion, "matmul_peak", lambda precision: 1e9)
    nets = {name: (name, None, "x0", 1e-3) for name in takes}
    (made, _, limit), seconds = diffusion.bench_speed(nets, None, 16, "no")
    assert seconds == {diffusion.OURS: 0.5, "slow": 8.0, "slow but once": 4.0}
    assert (made["ours"], made["peer"], made["ratio"]) == (32, 2, 16)
    assert limit["ours"] == 32


def test_equal_seconds_train_at_a_rate_that_each_network_can_use(shared, clock, monkeypatch):
    """Of ten seconds: two steps of 6 s for one, forty of a quarter for the other."""
    import diffusion
    import torch

    takes, rates = {1.0: 0.25, 2.0: 6.0}, {1.0: [], 2.0: []}  # by a weight that tells them apart

    def trainer(net, *_):
        def step(rate):
            clock.now += takes[net.weight.item()]
            rates[net.weight.item()].append(rate)

        return step

    def network(weight):
        net = torch.nn.Linear(1, 1, bias=False)
        net.weight.data.fill_(weight)
        return net, lambda net, x, t: 0 * x, "x0", 1.0

    monkeypatch.setattr(diffusion, "trainer", trainer)
    nets = {diffusion.OURS: network(1.0), "slow": network(2.0)}
    held = torch.ones(32, 3, 4, 4)
    args = diffusion.argparse.Namespace(batch=2, seconds=10.0, kid=0)
    seconds = {diffusion.OURS: 0.25, "slow": 6.0}
    (made,) = diffusion.bench_quality(nets, None, held, None, args, "no", seconds)
    assert made["name"] == "loss on new scenes after 10 s of training (40 steps)"
    assert made["peer_name"] == "slow (2 steps)" and made["ratio"] == 1
    assert rates[2.0][0] == 1  # not a 200th: one of its two steps is not for warming up
    assert rates[1.0][:2] == pytest.approx([0.5, 0.998], abs=1e-3)  # 5 % of forty are two
    # A guess of 0 for a picture of 1 costs the weight of its time alone.
    t = diffusion.diffusion.stratified_times(32, 1000, torch.Generator().manual_seed(1))
    weight = 1 / (1 - diffusion.ALPHA_BAR[t]).clamp(min=1 / 6)
    assert made["ours"] == pytest.approx(weight.mean().item(), rel=1e-5)


def test_sampling_speed_counts_twenty_passes_a_picture(shared, clock):
    """Passes of given seconds, of which the first does not count: 16 pictures in twenty."""
    import diffusion
    import torch

    takes = {diffusion.OURS: [9, 0.2, 0.1], diffusion.SHIPPED: [0, 0.4, 0.5], "peer": [1, 4, 8]}

    def network(seconds):
        left = iter(seconds)

        def ask(net, x, t):
            assert x.shape == (16, 3, 64, 64) and t.shape == (16,) and not torch.is_grad_enabled()
            clock.now += next(left)

        return torch.nn.Identity(), ask, "x0", 1e-3

    made = diffusion.bench_evaluations({n: network(s) for n, s in takes.items()}, "no")
    assert [r["peer_name"] for r in made] == ["peer", "peer"]
    assert [r["ours"] for r in made] == pytest.approx([8, 2]) and made[0]["ratio"] > 1
    assert [r["peer"] for r in made] == pytest.approx([0.2, 0.2])


@pytest.mark.slow
def test_the_glm_benchmark_runs(shared, monkeypatch):
    """All of it on a few voxels: answers are compared within, equal work stands side by side."""
    import glm

    monkeypatch.setattr(glm, "FEW", 30)
    monkeypatch.setattr(glm, "MANY", 40)
    monkeypatch.setattr(glm, "VOXELS", {"CSI1": {"LHPPA": 3, "RHPPA": 2}})
    design = glm.subject.make_design(0, (2, 2), 8, 32)
    monkeypatch.setattr(glm.subject, "make_design", lambda seed: design)
    made = {r["name"]: r for r in glm.rows()}
    assert "LSA, 4 runs x 194 volumes x 5 voxels" in made
    ols = "OLS, 194 x 45 design, 40 voxels, float32"
    assert made[f"{ols}: betas and variance"]["peer_name"].startswith("nilearn")
    assert made[f"{ols}: betas alone"]["peer_name"] == "limit: bare matrix product"
    assert made["SPM's HRF, 800 samples"]["peer_name"].startswith("nilearn")
    assert all(r["ours"] > 0 for r in made.values())


@pytest.mark.slow
def test_the_betas_benchmark_holds_later_steps_against_the_first(shared, monkeypatch):
    import betas

    from recon_lib.world import scan

    monkeypatch.setitem(scan.RUNS_PER_SESSION, "CSI1", (4,))
    areas = {"LHPPA": 20, "RHPPA": 20}
    monkeypatch.setattr(betas, "simulate", lambda sessions: scan.simulate(1, areas))
    monkeypatch.setattr(betas, "VOXELS", {"CSI1": areas})
    monkeypatch.setattr(betas, "KINDS", {"dense": dict(snr=0.2, dense=True, silent=0.5)})
    made = {r["name"]: r for r in betas.rows()}
    kind = {k.removeprefix("dense: "): made.pop(k) for k in list(made) if k.startswith("dense")}
    assert 0.9 < kind.pop("chosen HRF beside the true one")["ours"] <= 1
    surprise = kind.pop("error over its standard error")
    assert 0.8 < surprise["ours"] < 1.2 and surprise["ours"] < surprise["peer"]
    off = {k.partition(", pictures ")[2]: r["ours"] for k, r in made.items() if "no noise" in k}
    assert off["every 10 s: mean response over the true"] > 1.15  # the unit that cannot be told
    assert all(abs(value - 1) < 0.05 for k, value in off.items()
               if k != "every 10 s: mean response over the true") and len(off) == 4
    assert all(r["ratio"] > 1 and r["peer_name"] == "LSA, SPM's HRF" for k, r in kind.items()
               if "mean response" not in k)  # better than LSA in correlation and in error
    assert 0.9 < kind["share of the mean response kept"]["ours"] < 1.1
    made = {k: r for k, r in made.items() if "correlation" in k}
    peers = [r["peer_name"] for r in made.values()]
    assert peers == [None, None] + 7 * ["LSA, SPM's HRF"]
    plain = made["LSA, SPM's HRF: correlation with the truth"]
    assert plain["ratio"] is None
    assert {r["peer"] for r in made.values()} == {None, plain["ours"]}


@pytest.mark.slow
def test_the_experiment_benchmark_measures_all_three_steps(shared, monkeypatch):
    """On a miniature: what was built is what is estimated, loaded and weighed."""
    import experiment

    build, did = experiment.experiment.build, []
    monkeypatch.setattr(experiment.experiment, "build",
                        lambda root: did.append(build(root, 0, voxels=VOXELS, **DESIGN)))
    made = experiment.rows()
    assert len(did) == 1 and [r["unit"] for r in made] == ["s", "s", "s", "GB", "GB"]
    assert all(r["ours"] > 0 and r["ratio"] is None for r in made)
    assert made[4]["ours"] < 1 and made[3]["ours"] > 0.1  # torch alone takes that much


@pytest.mark.slow
def test_the_identification_benchmark_holds_its_score_against_all_peers(
    shared, monkeypatch, miniature, loaded
):
    """A miniature, a second of training and two of sampling's steps."""
    import identification

    monkeypatch.setattr(identification, "SECONDS", (1,))
    monkeypatch.setattr(identification.experiment, "ready", lambda: miniature)
    monkeypatch.setattr(identification, "SAMPLING", replace(identification.SAMPLING, steps=2))
    made = identification.rows()
    n = len(loaded.test_index)
    assert {r["name"] for r in made} == {f"name 1 of {n} pictures after 1 s of training"}
    peers = {r["peer_name"]: r["peer"] for r in made}
    assert list(peers) == ["ridge to pixels", "nearest training picture", "ideal observer"]
    assert peers["ideal observer"] == max(peers.values()) > 1 / n
    assert all(0 <= r["ours"] <= 1 for r in made)


def test_the_streaming_benchmark_joins_every_block(shared, monkeypatch):
    """Three blocks of sixteen voxels, of which the first is estimated."""
    import streaming

    design = streaming.subject.make_design(0, (2, 2), 8, 32)
    monkeypatch.setattr(streaming.subject, "make_design", lambda seed: design)
    monkeypatch.setattr(streaming.whole_brain, "CHUNK", 16)
    for name, value in (("BLOCK", 16), ("BLOCKS", 3), ("VOXELS", 48)):
        monkeypatch.setattr(streaming, name, value)
    before = streaming.whole_brain.estimate
    spooled, peak, block, rest = streaming.rows()
    assert spooled["name"] == "4 runs x 194 volumes x 48 voxels: peak memory, spooling"
    assert spooled["peer"] == pytest.approx(4 * 194 * 48 * 4 / 2**30)
    assert peak["ours"] >= spooled["ours"] > 0.1 and block["ours"] > 0 and rest["ours"] > 0
    assert streaming.whole_brain.estimate is before


def test_the_widgets_benchmark_times_every_redraw(shared, monkeypatch):
    """Two explorers made by hand: one answers at once, one takes ten milliseconds."""
    import time

    import widgets

    from recon_lib.course.explorer import Explorer, slider

    def make(pause):
        def numbers(**chosen):
            end = time.process_time() + pause
            while time.process_time() < end:
                pass
            return chosen

        return lambda: Explorer({"a": slider("a", 0, 0, 4, 1), "b": slider("b", 1, 0, 2, 1)},
                                numbers, lambda n, fig=None: fig or Figure(), str)

    monkeypatch.setattr(widgets, "EXAMPLES", {"quick": make(0), "slow": make(0.01)})
    quick, slow, slowest = widgets.rows()
    assert quick["name"] == "quick, median of 7 redraws" and quick["peer"] == 100  # 4 + 3
    assert slowest["ours"] >= slow["ours"] > 10


@pytest.mark.slow
def test_the_posterior_benchmark_forgets_what_it_asks_for(shared, monkeypatch, miniature, loaded,
                                                         tiny_model, capsys):
    """On a miniature: no picture that is to be named is in the prior or behind a fit."""
    import posterior

    monkeypatch.setattr(posterior.experiment, "ready", lambda: miniature)
    held = posterior.HeldOut(loaded, tiny_model, 20)
    asked = set(held.pictures)
    assert len(asked) == 20 and not loaded.test[np.isin(loaded.image, held.pictures)].any()
    assert not asked & set(held.training.image)
    near = np.abs(held.latent.prior[:, None] - held.latents[held.pictures]).max(2)
    assert near.min() > 0.05 and len(held.rows) == len(held.latent.prior)
    made = posterior.rows(tiny_model, 20, replace(posterior.SAMPLING, steps=1), ("held",))
    assert len(made) == 7 + len(posterior.LEVELS) + 1
    asked, = (r["ours"] for r in made if r["unit"] == "evaluations")
    assert asked >= posterior.SAMPLING.candidates
    ranked = {r["name"].split(",")[0]: r for r in made}
    assert ranked["brain vector"]["peer"] >= ranked["brain vector"]["ours"]  # the ideal observer
    assert "drawn, posterior mean - MAP by all voxels" in capsys.readouterr().out


@pytest.mark.slow
def test_every_budget_of_evaluations_is_spent_whole(shared, monkeypatch, miniature, tiny_model,
                                                    tiny_student, capsys):
    """On a miniature, beside a peer whose speed is known; a student is cut off below its four."""
    import evaluations

    monkeypatch.setattr(evaluations.experiment, "ready", lambda: miniature)
    monkeypatch.setattr(evaluations, "BUDGETS", (1, 2, 20))
    monkeypatch.setattr(evaluations, "inference", lambda: {"name": "a forward pass"})
    monkeypatch.setattr(evaluations.diffusion, "networks",
                        lambda: {"peer": (torch.nn.Identity(), None), "recon_lib": (None, None)})
    monkeypatch.setattr(evaluations.diffusion, "forward_seconds", lambda *_: {"peer": 0.5})
    made = evaluations.rows(4, tiny_model, tiny_student)  # which stops where a count is off
    told = capsys.readouterr().out
    assert "teacher, 20 evaluations" in told and "student - teacher" in told
    assert len(made) == 1 + 3 * 3
    assert [r["peer"] for r in made if r.get("peer_name") == "peer"] == pytest.approx([32, 16, 1.6])
    student = evaluations.load_conditional(tiny_student)
    cut, sampling = evaluations.ways(student, 2)
    assert cut.info["ladder"] == student.info["ladder"][:2] and sampling.candidates == 1
    assert evaluations.ways(student, 20)[1] == replace(evaluations.FEW_STEPS, candidates=5)


@pytest.mark.slow
def test_who_knows_the_subject_has_its_true_responses(shared, monkeypatch, miniature, loaded,
                                                      tiny_student, capsys):
    """Each part is swapped on a miniature; the tuning is held against what the simulation wrote."""
    import limits

    from recon_lib.data.release import read_truth

    monkeypatch.setattr(limits.experiment, "ready", lambda: miniature)
    held = limits.HeldOut(loaded, tiny_student, 20)
    known, noise = limits.known_responses(held, VOXELS, 0)
    names = sorted({str(loaded.names[i]) for i in np.unique(loaded.image[~loaded.test])})
    mine = held.rows < len(names)
    true = read_truth(loaded.truth, "responses", np.array(names)[held.rows[mine]])
    roi = np.repeat(list(VOXELS), list(VOXELS.values()))
    order = np.concatenate([np.flatnonzero(roi == area) for area in dict.fromkeys(loaded.roi)])
    for found, wanted in zip(known[mine].T, true[:, order].T, strict=True):
        assert abs(np.corrcoef(found, wanted)[0, 1]) > 0.9999
    assert np.linalg.eigvalsh(noise).min() > 0
    assert len(limits.rows(tiny_student, 20, VOXELS)) == len(limits.PAIRS)
    assert "known likelihood, drawn - known likelihood, MAP" in capsys.readouterr().out
    factors = loaded.factors[:8]
    exact = limits.errors_of(limits.load_classifiers()[""], loaded.images[:8], factors)
    turned = factors.copy()
    turned["hue"], turned["x"] = (turned["hue"] + 0.5) % 1, turned["x"] + 0.5
    away = limits.errors_of(limits.load_classifiers()[""], loaded.images[:8], turned)
    np.testing.assert_allclose(exact["hue"] + away["hue"], 180, atol=1e-3)  # half round the circle
    assert (exact["place"] < 0.25).all() and (away["place"] > 0.25).all()


@pytest.mark.usefixtures("shared")
def test_samplers_are_held_against_the_exact_posterior(monkeypatch):
    """The world's arithmetic against scipy's, and particles that near the posterior."""
    import _finite
    from scipy.stats import multivariate_normal

    from recon_lib.brain.decoder import fit_decoder

    for name, number in {"PICTURES": 12, "TRIALS": 4, "DRAWS": 300}.items():
        monkeypatch.setattr(_finite, name, number)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(60, 3)).astype(np.float32)
    betas = latents @ rng.normal(size=(3, 9)) + 1.5 * rng.normal(size=(60, 9))
    world = _finite.Finite(fit_decoder(betas, latents), latents, np.arange(60) % 3, 2)
    x, z = world.x.numpy(), world.z.numpy()
    assert np.allclose(x * world.size, world.latents, atol=1e-6)
    h, few = world.h.numpy(), torch.arange(4)
    for spread in (0.0, 0.3):
        covariance = np.eye(3) / 2 + spread**2 * h.T @ h
        exact = [multivariate_normal.logpdf(z[i], x[i] @ h, covariance) for i in range(4)]
        found = world.log_likelihood(world.x[few][..., None, None], world.z, spread).numpy()
        assert np.allclose(found - found[0], np.subtract(exact, exact[0]), atol=1e-3)
    density = np.array([[multivariate_normal.pdf(v, y @ h, np.eye(3) / 2) for y in x] for v in z])
    assert np.allclose(world.weights, density / density.sum(1, keepdims=True), atol=1e-4)
    with torch.no_grad():
        far = {name: _finite.judged(world, draw(world))[0].mean()
               for name, draw in _finite.METHODS.items()}
    floor = far["draws from the posterior itself"]
    assert floor < 0.08 and far["MAP retrieval"] > floor + 0.1
    for name in ("exact conditional denoiser", "16 particles", "16 twisted particles"):
        assert far[name] < floor + 0.1, name


@pytest.mark.slow
def test_no_picture_of_the_combination_seen_is_found(shared, monkeypatch, miniature, loaded,
                                                     tiny_model, capsys):
    import unseen

    from recon_lib.decoding.retrieval_prior import training_pictures

    monkeypatch.setattr(unseen.experiment, "ready", lambda: miniature)
    world = unseen.World(loaded, False, tiny_model)
    assert len(world.kind) == len(world.net.latent.prior)
    some = np.array([0, 5, len(world.kind) - 1])
    factors = unseen.prior_factors(loaded)[some]  # of just these pictures
    assert np.array_equal(unseen.scenes.draw(factors), training_pictures(loaded, None, some))
    apart = factors.copy()
    apart["hue"] = (apart["hue"] + 0.5) % 1
    assert not np.isin(unseen.combination(apart), unseen.combination(factors)).any()
    seen = np.full(len(world.shown), world.kind[0])
    found = unseen.find_elsewhere(world.posterior, world.trials, world.kind, seen)
    for index in (found.index, found.nearest):
        assert (world.kind[index] != world.kind[0]).all()
    made = unseen.rows(False, 8, tiny_model, replace(unseen.SAMPLING, steps=1))
    said = capsys.readouterr().out
    assert len(made) == 6 and "drawn - MAP retrieval" in said
    assert "drawn - nearest to the posterior mean" in said


@pytest.mark.slow
def test_the_photographs_benchmark_holds_out_its_test_pictures(shared, monkeypatch, tmp_path,
                                                               capsys):
    """On scenes in the place of photographs, by the category network in the place of both."""
    import photographs

    from recon_lib.brain.features import coarse_pixels

    assert photographs.rows(tmp_path / "none") == []
    assert "no photographs in" in capsys.readouterr().out
    network = load_factor_net("feature_encoder")
    monkeypatch.setattr(photographs, "load_encoder", lambda *which: network)
    monkeypatch.setattr(photographs, "judged", coarse_pixels)
    monkeypatch.setattr(photographs, "recordings", lambda parts: [])
    monkeypatch.setattr(photographs, "VOXELS", {"CSI1": VOXELS})
    pictures = scenes.draw(scenes.sample_factors(60, 3), 64)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i:02d}.png")
    world = photographs.World(pictures, test=12, runs_per_session=(4, 4), test_trials=36)
    assert set(world.image[world.test]) == set(range(12)) and world.test.sum() == 36
    assert set(world.image[~world.test]) == set(range(12, 60))
    trials = world.betas - world.evoked[world.image]
    np.testing.assert_allclose(np.mean(trials[~world.test], 0), 0, atol=1e-6)
    made = photographs.rows(tmp_path, 12, steps=2, runs_per_session=(4, 4), test_trials=36)
    assert len(made) == 13 and {r["peer"] for r in made} >= {photographs.GOAL}
    told = capsys.readouterr().out
    for name in ("ideal observer: likeliest", "network from nothing, shuffled brain"):
        assert f"averaged, {name}" in told
    for name in ("shuffled brain", "voxels permuted", "mean of the"):
        assert f"averaged, {name}" in told
    assert "limit, true features of what was seen: named" in told
    equal = [line for line in told.splitlines() if ": ranked - category network, " in line]
    assert len(equal) == 4 and all("0.000 (0.000 to 0.000)" in line for line in equal)


@pytest.mark.usefixtures("shared")
def test_the_noise_of_the_ideal_observer_is_that_of_the_scans():
    """Against betas of scans without any response."""
    import photographs

    from recon_lib.bold.glm import single_trial_betas

    plan = subject.make_design(0, (10,) * 3, 20, 80)
    person = subject.make_subject({"LHEarlyVis": 8, "LHPPA": 8}, 0, 3)
    silent = np.zeros((len(plan.image), 16), np.float32)
    betas = np.concatenate([single_trial_betas(bold, plan.onset[trials], photographs.TR)
                            for *_, trials, bold in subject.bold_runs(person, silent, plan, 1)])
    noise, spread = photographs.true_noise(person, betas.std(0)), betas.std(0)
    np.testing.assert_allclose(np.diag(noise), spread**2, rtol=1e-5)
    shared = [(x / np.outer(spread, spread))[~np.eye(16, dtype=bool)]
              for x in (noise, np.cov(betas.T))]
    assert np.abs(shared[0] - shared[1]).max() < 0.15
    assert np.corrcoef(*shared)[0, 1] > 0.9


@pytest.mark.usefixtures("shared")
def test_what_voxels_share_is_found_and_a_linear_estimate_is_ridge():
    """Of noise that was mixed here, and against the ridge of the library."""
    import photographs

    rng = np.random.default_rng(0)
    load = rng.normal(size=(3, 40))
    betas = rng.normal(size=(4000, 3)) @ load + rng.normal(size=(4000, 40))
    found, true = photographs.common_noise(betas), load.T @ load + np.eye(40)
    assert np.abs(found - true).max() < 0.06 * np.diag(true).max()
    known, features, new = (rng.normal(size=shape) for shape in ((60, 40), (60, 5), (7, 40)))
    ridge = fit_ridge(known, features, strengths=[0.7])
    penalty = 0.7 * np.square(known - known.mean(0)).mean()
    np.testing.assert_allclose(photographs.linear_estimate(known, new, features, penalty),
                               ridge.predict(new) - features.mean(0), atol=1e-10)


def test_the_first_picture_is_seen_while_the_command_runs(shared):
    import first_picture

    script = ("import os, time; from pathlib import Path; time.sleep(.5);"
              "p = Path(os.environ['RECON_LIB_DATA'], 'results', 'main'); p.mkdir(parents=True);"
              "(p / 'first.png').touch(); time.sleep(1)")
    first, end, memory = first_picture.rows((sys.executable, "-c", script))
    assert 0.4 < first["ours"] < end["ours"] - 0.5 and 0 < memory["ours"] < 1
    assert (first["peer"], end["peer"]) == (90, 300)
    with pytest.raises(subprocess.CalledProcessError):
        first_picture.rows((sys.executable, "-c", "raise SystemExit(3)"))


@pytest.mark.slow
def test_a_dry_run_for_the_gpu_leaves_scores_and_weights(
        shared, miniature, tiny_model, tmp_path, monkeypatch):
    """Both networks can take the starting model's place: the same latent, the same vectors."""
    import gpu

    from recon_lib.brain.latents import fingerprint
    from recon_lib.decoding.sampling import load_drawing, load_latent_of

    monkeypatch.setattr(sys, "argv", [
        "gpu.py", "--dry", "--minutes", "0", "--start", str(tiny_model), "--data", str(miniature),
        "--out", str(tmp_path)])
    gpu.main()
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert list(rows) == ["start", "continued", "wider"]
    assert all(np.isfinite(row["loss"]) and 0 <= row["named"] <= 1 for row in rows.values())
    for name, channels in (("continued", [16, 32]), ("wider", [32, 48])):
        model, info = load_drawing(tmp_path / f"{name}.safetensors")
        assert model.config["channels"] == channels and model.config["condition_size"] == 15
        assert info["steps"] == rows[name]["steps"] > 0
        assert info["latent"] == fingerprint(load_latent_of(tiny_model))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "continued.safetensors", "scores.json", "wider.safetensors"]


def test_without_a_gpu_its_benchmark_says_so(shared, monkeypatch, tmp_path):
    import gpu
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="no CUDA GPU found; .* --dry"):
        gpu.main()
    assert not (tmp_path / "out").exists()


def test_weights_of_fixed_length_keep_it(shared):
    import optimizers
    import torch

    from recon_lib.training.device import make_accelerator
    from recon_lib.unet import UNet

    torch.manual_seed(0)
    start = UNet(channels=(16, 32), attention=(), width=32)
    arm = optimizers.Arm(start, batch=4, fixed=True)
    images = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8)
    for _ in range(3):  # at the first and second, layers that began at zero hold up the gradient
        arm.step(images, 0.5, make_accelerator("cpu"))
    hidden, zero = (lambda net: net.down[1][0].block.conv1.weight,
                    lambda net: net.down[1][0].block.conv2.weight)
    assert (hidden(arm.net) - hidden(start)).norm() > 1e-4
    torch.testing.assert_close(hidden(arm.net).flatten(1).norm(dim=1),
                               hidden(start).flatten(1).norm(dim=1))
    assert not zero(start).any() and zero(arm.net).any()


def test_an_optimizer_goes_on_where_it_was_cut_off(shared, tmp_path):
    import optimizers
    import torch

    from recon_lib.training.device import make_accelerator
    from recon_lib.unet import UNet

    torch.manual_seed(0)
    start, accelerator = UNet(channels=(16, 32), attention=(), width=32), make_accelerator("cpu")
    images = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8)
    whole, cut, resumed = (torch.nn.ModuleDict({"a": optimizers.Arm(start, batch=4, muon=2)})
                           for _ in range(3))
    for arms, steps in ((whole, 4), (cut, 2)):
        for _ in range(steps):
            arms["a"].step(images, 0.5, accelerator)
    torch.save(cut.state_dict(), tmp_path / "arms.pt")
    resumed.load_state_dict(torch.load(tmp_path / "arms.pt", weights_only=True))
    for _ in range(2):
        resumed["a"].step(images, 0.5, accelerator)
    assert resumed["a"].n == 4
    for name, weight in whole["a"].net.named_parameters():
        assert torch.equal(weight, resumed["a"].net.get_parameter(name))
        assert not torch.equal(weight, start.get_parameter(name)), name
