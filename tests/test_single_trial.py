"""HRF choice, noise components, the chain and streaming on data whose truth is known."""

import h5py
import numpy as np
import pytest

from recon_lib.bold import diagnosis, hrf, reml, single_trial, whole_brain
from recon_lib.bold.betas import correlate_columns
from recon_lib.bold.design import cosine_drift
from recon_lib.bold.glm import single_trial_betas, trial_design, without_data
from recon_lib.bold.single_trial import estimate
from recon_lib.common.errors import DataError
from recon_lib.world.scan import simulate

TR, VOLUMES, TRIALS, RUNS, VOXELS = 2.0, 124, 10, 12, 60


@pytest.fixture(scope="module")
def world():
    """Twelve short runs; four pictures recur in every run, the other six occur once."""
    rng = np.random.default_rng(0)
    shape = rng.integers(3, 17, VOXELS)
    kernels = hrf.library(TR)
    pictures = rng.normal(0, 1, (4 + 6 * RUNS, VOXELS))
    labels, truth, runs = [], [], []
    for run in range(RUNS):
        shown = rng.permutation(np.r_[:4, 4 + 6 * run + np.arange(6)])
        onsets = 6 + 6 * np.arange(TRIALS) + rng.uniform(0, 0.5, TRIALS)
        betas = 1.5 + pictures[shown]
        signal = np.column_stack(
            [trial_design(onsets, VOLUMES, TR, kernels[s]) @ b
             for s, b in zip(shape, betas.T, strict=True)]
        )
        noise = rng.normal(0, 1.0, (VOLUMES, VOXELS))
        for t in range(1, VOLUMES):
            noise[t] += 0.4 * noise[t - 1]
        common = np.cumsum(rng.normal(size=(VOLUMES, 2)), 0) @ rng.normal(0, 0.5, (2, VOXELS))
        drift = cosine_drift(VOLUMES, TR)[:, :3] @ rng.normal(0, 5, (3, VOXELS))
        bold = 1000 * (1 + (signal + noise + common + drift) / 100)
        runs.append((bold.astype(np.float32), onsets))
        labels.append(np.where(shown < 4, shown, -1))
        truth.append(betas)
    return runs, np.concatenate(labels), np.concatenate(truth), shape


def score(betas, truth):
    return correlate_columns(betas, truth).mean()


@pytest.mark.slow
def test_the_hrf_is_found(world):
    runs, _, truth, shape = world
    fit = single_trial.hrf_fit(runs, TR)
    assert fit.shape == (20, VOXELS) and (fit >= 0).all() and (fit <= 1).all()
    choice = fit.argmax(0)
    assert np.abs(choice // 2 - shape // 2).mean() < 1.0  # peaks are 0.44 s apart
    assert abs((choice - shape).mean()) < 1.0  # and the choice does not lean to wide shapes

    def lsa(which):
        return np.concatenate([single_trial_betas(b, o, TR, hrf=which) for b, o in runs])

    assert score(lsa(choice), truth) > score(lsa("spm"), truth) + 0.01
    assert score(lsa(choice), truth) > score(lsa(shape), truth) - 0.01


@pytest.mark.slow
def test_the_chain_beats_plain_lsa(world):
    runs, _, truth, _ = world
    plain = np.concatenate([single_trial_betas(b, o, TR) for b, o in runs])
    chain = single_trial.estimate(runs, TR)
    fit = single_trial.hrf_fit(runs, TR).max(0)
    pool = fit < np.quantile(fit, 0.4)
    confounds = single_trial.noise_components(runs, TR, pool, 2)
    full = single_trial.estimate(runs, TR, confounds)
    assert score(chain.betas, truth) > score(plain, truth) + 0.01
    assert score(full.betas, truth) > score(chain.betas, truth) + 0.01


def test_noise_components_are_orthonormal_and_shared(world):
    runs = world[0]
    pool = np.arange(VOXELS) < 30
    first = single_trial.noise_components(runs, TR, pool, 3)[0]
    np.testing.assert_allclose(first.T @ first, np.eye(3), atol=1e-8)
    with pytest.raises(DataError, match="cannot give 31 components"):
        single_trial.noise_components(runs, TR, pool, 31)


@pytest.mark.slow
def test_in_blocks_and_after_a_kill_the_answer_is_the_same(world, tmp_path, monkeypatch):
    runs = world[0]
    whole = single_trial.estimate(runs, TR)
    loads = []

    def loader(i):
        def load():
            loads.append(i)
            return runs[i]

        return load

    loaders = [loader(i) for i in range(RUNS)]
    whole_brain.spool(loaders[:5], tmp_path / "runs")
    spooled = whole_brain.spool(loaders, tmp_path / "runs")
    assert loads == list(range(RUNS))  # none twice

    path, calls = tmp_path / "betas.h5", []

    def killed(*args, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return single_trial.estimate(*args, **settings)

    monkeypatch.setattr(whole_brain, "estimate", killed)
    with pytest.raises(KeyboardInterrupt):
        whole_brain.estimate_to_file(spooled, path, TR, block=17)
    assert not path.exists()
    with pytest.raises(DataError, match="other runs or settings"):
        whole_brain.estimate_to_file(spooled, path, TR, block=17, high_pass=0.02)
    whole_brain.estimate_to_file(spooled, path, TR, block=17)
    assert len(calls) == 3 + 2  # four blocks: two before the kill, two after
    result = whole_brain.read_estimate(path)
    np.testing.assert_allclose(result.betas, whole.betas, atol=2e-4)
    assert (result.hrf == whole.hrf).all()
    assert not list(tmp_path.glob("*.parts"))
    assert whole_brain.read_estimate(path, slice(3, 9)).betas.shape == (RUNS * TRIALS, 6)


def two_scans():
    """Two scans that differ in one sample; the first voxel of each is air."""
    bold = np.random.default_rng(0).normal(1000, 10, (50, 4)).astype(np.float32)
    bold[:, 0] = 0
    other = bold.copy()
    other[20, 3] += 50
    onsets = np.array([4.0, 24.0, 44.0])
    return [(bold, onsets)] * 2, [(other, onsets)] * 2


def test_a_result_of_other_data_is_not_kept(tmp_path):
    one, two = two_scans()
    expected = [single_trial.estimate(runs, TR).betas for runs in (one, two)]
    assert not np.array_equal(*expected)
    path = tmp_path / "betas.h5"
    for runs, betas in zip((one, two, one), (*expected, expected[0]), strict=True):
        whole_brain.estimate_to_file(runs, path, TR, block=3)
        np.testing.assert_allclose(whole_brain.read_estimate(path).betas, betas, rtol=1e-5)


@pytest.mark.parametrize("spoil", [False, True])
def test_blocks_of_other_data_and_damaged_ones_are_made_again(tmp_path, monkeypatch, spoil):
    one, two = two_scans()
    path = tmp_path / "betas.h5"

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(whole_brain, "_join", killed)
        whole_brain.estimate_to_file(one, path, TR, block=2)
    parts = sorted((tmp_path / "betas.h5.parts").glob("*.npz"))
    assert len(parts) == 2
    if spoil:
        whole = bytearray(parts[0].read_bytes())
        with np.load(parts[0]) as held:
            whole[whole.find(held["betas"].tobytes()) + 2] ^= 1
        parts[0].write_bytes(whole)
    calls = []
    monkeypatch.setattr(whole_brain, "estimate",
                        lambda *args, prior: calls.append(1) or estimate(*args, prior=prior))
    data = one if spoil else two
    whole_brain.estimate_to_file(data, path, TR, block=2)
    assert len(calls) == (1 if spoil else 2)  # the damaged one, or both: other data, another prior
    expected = single_trial.estimate(data, TR).betas
    np.testing.assert_allclose(whole_brain.read_estimate(path).betas, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [object, str, bytes, int])
def test_jobs_differ_in_one_label_of_many(kind):
    labels = np.arange(3000).astype(str).astype(kind)
    other = labels.copy()
    other[1500] = labels[7]
    mark, again, changed = (whole_brain.job_digest([], {"labels": x})
                            for x in (labels, labels.copy(), other))
    assert mark == again != changed
    assert whole_brain.job_digest([], {"labels": labels.reshape(2, -1)}) != mark


def test_a_damaged_run_is_told_in_one_line(tmp_path):
    [(bold, onsets), _], _ = two_scans()
    whole_brain.spool([lambda: (bold, onsets)], tmp_path)
    path = tmp_path / "run-000.h5"
    whole = bytearray(path.read_bytes())
    at = whole.find(bold[10].tobytes())
    whole[at + 5] ^= 1
    path.write_bytes(whole)
    [run] = whole_brain.spool([None], tmp_path)
    with pytest.raises(DataError, match="run-000.h5: voxels 0 to 4 cannot be read") as error:
        whole_brain.estimate_to_file([run], tmp_path / "betas.h5", TR)
    assert "\n" not in str(error.value)


def test_a_damaged_run_is_not_left_open(tmp_path):
    """The error is still held when the file is put right: what is read then is the new file."""
    [(bold, onsets), _], _ = two_scans()
    whole_brain.spool([lambda: (bold, onsets)], tmp_path)
    path = tmp_path / "run-000.h5"
    whole = path.read_bytes()
    at = whole.find(np.asarray(onsets, float).tobytes())
    path.write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 1]) + whole[at + 4 :])
    with pytest.raises(DataError, match="run-000.h5") as held:
        whole_brain.spool([None], tmp_path)
    frames = [entry.frame.f_locals for entry in held.traceback]
    files = [v for values in frames for v in values.values() if isinstance(v, h5py.File)]
    assert files and not any(files)  # closed, though it is not forgotten
    path.write_bytes(whole)
    [(again, told)] = whole_brain.spool([None], tmp_path)
    assert np.array_equal(again[:], np.float32(bold)) and np.array_equal(told, onsets)


@pytest.mark.slow
def test_runs_may_be_h5_data_sets(world, tmp_path):
    runs = world[0]
    with h5py.File(tmp_path / "runs.h5", "w") as file:
        stored = [(file.create_dataset(f"run{i}", data=b), o) for i, (b, o) in enumerate(runs)]
        mine = single_trial.estimate(stored, TR)
    whole = single_trial.estimate(runs, TR)
    np.testing.assert_array_equal(mine.betas, whole.betas)


def test_nan_voxels_pass_through(world):
    runs = world[0]
    broken = [(bold.copy(), onsets) for bold, onsets in runs]
    broken[2][0][5, 7] = np.nan
    result = single_trial.estimate(broken, TR)
    assert np.isnan(result.betas[20:30, 7]).all()
    assert np.isfinite(np.delete(result.betas, 7, axis=1)).all()


def test_a_noise_pool_is_a_mask(world):
    runs = world[0][:2]
    for pool in (np.array([2, 3, 4]), np.arange(VOXELS), np.ones(VOXELS - 1, bool)):
        with pytest.raises(DataError, match="one True or False"):
            single_trial.noise_components(runs, TR, pool, 2)
    for count in (0, -1):
        with pytest.raises(DataError, match="expected 1 or more"):
            single_trial.noise_components(runs, TR, np.ones(VOXELS, bool), count)


def test_choices_that_are_none_are_refused(world):
    runs, _, _, shape = world
    runs = runs[:2]
    for hrf_ in (np.full(VOXELS, -1), np.full(VOXELS, 20), shape[:-1], shape / 1.0, -1):
        with pytest.raises(DataError, match="the HRF choice"):
            reml.reml_betas(runs, TR, hrf_)
    for call in (single_trial.hrf_fit, single_trial.estimate,
                 lambda runs, tr: reml.reml_betas(runs, tr, shape)):
        with pytest.raises(DataError, match="0 runs"):
            call([], TR)
    with pytest.raises(DataError, match="2 runs with 3 sets"):
        single_trial.estimate(runs, TR, confounds=[np.zeros((VOLUMES, 1))] * 3)


@pytest.mark.parametrize("size", [pytest.param(32, marks=pytest.mark.slow), 1024])
def test_what_is_chosen_does_not_depend_on_the_block(size, tmp_path):
    """HRF, ratio and betas of a voxel are those of the whole scan, however few are in hand."""
    runs = simulate(1, {"LHPPA": 100}).runs[:4]
    whole, fit = single_trial.estimate(runs, TR), single_trial.hrf_fit(runs, TR)
    for start in range(0, 100, size):
        some = slice(start, start + size)
        few = [(bold[:, some], onsets) for bold, onsets in runs]
        part = single_trial.estimate(few, TR, prior=whole.prior)
        assert (part.hrf == whole.hrf[some]).all()
        np.testing.assert_allclose(part.betas, whole.betas[:, some], atol=1e-3)
        np.testing.assert_allclose(single_trial.hrf_fit(few, TR), fit[:, some], atol=1e-5)
    whole_brain.estimate_to_file(runs, tmp_path / "betas.h5", TR, block=size)
    blocks = whole_brain.read_estimate(tmp_path / "betas.h5")
    np.testing.assert_allclose(blocks.ratio, whole.ratio, rtol=1e-3)
    np.testing.assert_allclose(blocks.betas, whole.betas, atol=1e-3)


def test_the_fit_is_that_of_one_response_for_all_runs(world):
    """The choice is the shape whose least squares fit, whitened by hand, is best over all runs."""
    runs = world[0]
    fit, rho = single_trial.hrf_fit(runs, TR), reml.autocorrelations(runs, TR)
    for v in (0, 17, 42):
        rest = []
        for kernel in hrf.library(TR):
            ys, columns = [], []
            for i, (bold, onsets) in enumerate(runs):
                white = np.eye(VOLUMES) - rho[v] * np.eye(VOLUMES, k=-1)
                drift = np.zeros((VOLUMES, len(runs) * 5))
                mine = cosine_drift(VOLUMES, TR)
                drift[:, 5 * i : 5 * i + mine.shape[1]] = mine
                response = trial_design(onsets, VOLUMES, TR, kernel).sum(1)
                columns.append(white @ np.column_stack([response, drift]))
                ys.append(white @ (100 * bold[:, v] / bold[:, v].mean()))
            y, X = np.concatenate(ys), np.concatenate(columns)
            free, given = (((y - Z @ np.linalg.lstsq(Z, y)[0]) ** 2).sum() for Z in (X[:, 1:], X))
            rest.append(1 - given / free)
        np.testing.assert_allclose(fit[:, v], rest, atol=1e-4)


def test_trials_without_data_have_standard_errors_of_their_own():
    """Against the error bars of least squares: only a trial cut off by the end is told."""
    onsets = 6 + 10 * np.arange(12.0)
    for volumes, cut in ((70, False), (63, False), (60, True)):
        design = np.hstack([trial_design(onsets, volumes, TR, hrf.spm_hrf(TR)),
                            cosine_drift(volumes, TR)])
        errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))[:12]
        assert (errors[-1] > 3 * np.median(errors)) == cut
        assert without_data(onsets, volumes, TR).tolist() == [False] * 11 + [cut]
    assert without_data(np.r_[onsets[:-1], 119.5], 60, TR)[-1]  # nothing of it was measured


@pytest.mark.parametrize("sources", [0, 3])
def test_the_number_of_noise_components_is_chosen(sources):
    """As many as there are sources of shared noise; none where noise is each voxel's own."""
    rng = np.random.default_rng(1)
    voxels, runs, labels = 120, [], []
    tuned = np.arange(voxels) >= 60  # the others are the noise pool
    pictures = rng.normal(size=(8, voxels)) * tuned
    for _ in range(6):
        shown = rng.permutation(8)
        onsets = 6 + 10 * np.arange(8)
        signal = trial_design(onsets, 50, TR, hrf.library(TR)[10]) @ (pictures[shown] + 1.0 * tuned)
        shared = rng.normal(size=(50, sources)) @ rng.normal(0, 2, (sources, voxels))
        bold = 1000 + 10 * (signal + shared + rng.normal(0, 1, (50, voxels)))
        runs.append((bold.astype(np.float32), onsets))
        labels.append(shown)
    components = single_trial.noise_components(runs, TR, ~tuned, 8)
    args = (runs, TR, np.concatenate(labels), components, np.full(voxels, 10), tuned)
    count, gains = single_trial.choose_count(*args)
    assert count == sources and gains[0] == 0 and len(gains) == 9
    with pytest.raises(DataError, match="no picture was shown in two runs"):
        single_trial.choose_count(*args[:2], np.arange(48), *args[3:])
    with pytest.raises(DataError, match="7 labels for 48 trials"):
        single_trial.choose_count(*args[:2], np.arange(7), *args[3:])


def test_noise_is_what_confounds_leave(world):
    """Motion in all voxels changes nothing once it is among the confounds."""
    runs, labels = world[0][:3], world[1][: 3 * TRIALS]
    rng, pool = np.random.default_rng(0), np.arange(VOXELS) < 30
    motion = [rng.normal(size=(len(bold), 1)) for bold, _ in runs]
    moved = [(bold + np.float32(30) * one.astype(np.float32), onsets)
             for (bold, onsets), one in zip(runs, motion, strict=True)]
    still, shaken = (single_trial.noise_components(some, TR, pool, 3, confounds=motion)
                     for some in (runs, moved))
    for one, other, confound in zip(still, shaken, motion, strict=True):
        np.testing.assert_allclose(np.abs(one.T @ other), np.eye(3), atol=1e-3)
        np.testing.assert_allclose(one.T @ confound, 0, atol=1e-4)
    names = np.where(labels >= 0, labels, 100 + np.arange(len(labels)))
    one, other = (single_trial.find_noise(some, TR, names, confounds=motion)
                  for some in (runs, moved))
    assert one.count == other.count > 0 and one.confounds[0].shape[1] == 1 + one.count
    np.testing.assert_allclose(one.gains, other.gains, atol=5e-3)


@pytest.mark.slow
def test_the_diagnosis_finds_what_is_odd(world):
    """A run of louder noise, and jumps in another."""
    runs, labels, _, shape = world
    rng = np.random.default_rng(0)
    odd = [(bold.copy(), onsets) for bold, onsets in runs]
    odd[3] = (odd[3][0] + rng.normal(0, 60, odd[3][0].shape).astype(np.float32), odd[3][1])
    odd[5][0][[40, 80]] *= 1.1
    names = np.where(labels >= 0, labels, 100 + np.arange(len(labels)))
    found = diagnosis.diagnose(odd, TR, names)
    assert found.runs["spread"].argmax() == 3
    assert found.runs["outlier volumes"][5] >= 4  # up and down again, twice
    assert diagnosis.outlier_volumes(odd[5][0])[[40, 80]].all()
    assert np.abs(found.voxels["peak"] - np.linspace(3, 7, 10)[shape // 2]).mean() < 0.6
    gains, error = found.noise.gains, found.voxels["error"]
    assert len(gains) == 11 and gains[found.noise.count] * 1.05 >= gains.max()
    assert (error > 0).all() and "chosen by leave-one-run-out" in str(found.noise)
    alone = diagnosis.diagnose(odd[:2], TR, np.arange(20))
    assert alone.noise.gains is None and "reliability" not in alone.voxels
    assert "not chosen: no picture was shown in two runs" in str(alone.noise)
