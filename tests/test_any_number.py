"""Every public function that takes numbers, and numbers of every type: what it gives is what it
gives for the same numbers as float64, or it says in one line what is wrong.

`SEED` chooses the numbers; `benchmarks/attacks.py` tries others for as long as it is told.
"""

import importlib
import inspect
import os
import warnings
from dataclasses import asdict, is_dataclass

import numpy as np
import pytest
import torch
from conftest import random_unet

from recon_lib import bold, brain, data, decoding, scores
from recon_lib.bold import hrf, single_trial
from recon_lib.brain.features import FactorNet
from recon_lib.common.errors import DataError
from recon_lib.decoding.sampling import Sampling
from recon_lib.world import subject

ROOMS = ("bold", "brain", "data", "decoding", "scores", "world")
SEED = int(os.environ.get("SEED", 0))
TR, VOLUMES = 2.0, 40
PLAIN = Sampling(steps=1, scale=1.0, interval=None, candidates=1, pseudo_trials=0.0)
DRAWN = dict(prediction="x0", schedule="cosine", image_size=16)


def whole(*shape, low=-100, high=100):
    """Whole numbers that every type can hold."""
    return lambda rng: rng.integers(low, high, shape).astype(float)


def given(*values):
    return lambda rng: np.array(values, float)


def index(*values):
    """Numbers that count, and so have to be whole in type too."""
    return lambda rng: np.array(values)


BOLD, ONSETS, LABELS = whole(VOLUMES, 3, low=50), given(4, 14, 24, 44), index(*[0, 1, 2, 3] * 3)
DESIGN, BETAS, PATTERN = whole(VOLUMES, 3), whole(12, 4), whole(5, 9)
PICTURES = whole(4, 16, 16, 3, low=0, high=128)
TARGET = index(0, 2, 1, 1, 3)
KERNEL, PAIR = whole(200, low=0), given(3, 5)


def run(x, t):
    return [(x, t), (x, t)]


CASES = {  # function: call, then what it takes
    "bold.ar1": (bold.ar1, BOLD, DESIGN),
    "bold.autocorrelation": (bold.autocorrelation, BOLD, DESIGN),
    "bold.average_repeats": (bold.average_repeats, BETAS, LABELS),
    "bold.correlate_columns": (bold.correlate_columns, BETAS, BETAS),
    "bold.censor": (lambda x: bold.censor(x, np.arange(VOLUMES) != 5), BOLD),
    "bold.design_matrix": (lambda t, d, c, k: bold.design_matrix(
        VOLUMES, TR, t, ["a", "b", "a", "b"], d, k, confounds=c),
        ONSETS, given(1, 2, 0, 1), DESIGN, KERNEL),
    "bold.fir": (lambda t: bold.fir(t, VOLUMES, TR, 4), ONSETS),
    "bold.hrf_fit": (lambda x, t, c: bold.hrf_fit(run(x, t), TR, [c, c]), BOLD, ONSETS, DESIGN),
    "bold.noise_ceiling": (bold.noise_ceiling, BETAS, LABELS),
    "bold.noise_components": (lambda x: bold.noise_components(
        run(x, ()), TR, np.array([True, True, False]), 1), BOLD),
    "bold.nuisance": (lambda c: bold.nuisance(VOLUMES, TR, confounds=c), DESIGN),
    "bold.ols": (bold.ols, BOLD, DESIGN),
    "bold.peak_height": (lambda k: bold.peak_height(k, 1.0, TR), KERNEL),
    "bold.percent_change": (bold.percent_change, BOLD),
    "bold.regressors": (lambda t, d, k: bold.regressors(t, d, VOLUMES, TR, k),
                        ONSETS, given(1, 2, 0, 1), KERNEL),
    "bold.reml_betas": (lambda x, t, h: bold.reml_betas(run(x, t), TR, h, ratio=1.0),
                        BOLD, ONSETS, index(3, 0, 19)),
    "bold.single_trial_betas": (lambda x, t, c: bold.single_trial_betas(
        x, t, TR, confounds=c), BOLD, ONSETS, DESIGN),
    "bold.single_trial_betas of a choice": (lambda h: bold.single_trial_betas(
        BOLD(np.random.default_rng(0)), ONSETS(None), TR, h), index(3, 0, 19)),
    "bold.single_trial.estimate": (lambda x, t: single_trial.estimate(run(x, t), TR), BOLD, ONSETS),
    "bold.split_half_reliability": (bold.split_half_reliability, BETAS, LABELS),
    "bold.trial_design": (lambda t, k, d: bold.trial_design(t, VOLUMES, TR, k, d),
                          ONSETS, KERNEL, given(1, 2, 1, 1)),
    "bold.trial_estimator": (lambda t, k, c: bold.trial_estimator(
        t, VOLUMES, TR, k, confounds=c), ONSETS, KERNEL, DESIGN),
    "bold.variance_inflation": (bold.variance_inflation, DESIGN),
    "bold.whiten": (bold.whiten, BOLD, given(1)),
    "bold.zscore": (bold.zscore, BETAS, BETAS),
    "bold.zscore_sessions": (bold.zscore_sessions, BETAS, index(*[1] * 6, *[2] * 6)),
    "bold.hrf.check_choice": (lambda h: hrf.check_choice(h, 3), index(3, 0, 19)),
    "bold.hrf.double_gamma": (hrf.double_gamma, given(0, 3, 6, 12)),
    "bold.hrf.kernels": (lambda k: hrf.kernels(k, TR), KERNEL),
    "brain.coarse_pixels": (brain.coarse_pixels, PICTURES),
    "brain.compare_rdms": (brain.compare_rdms, whole(5, 5), whole(5, 5)),
    "brain.decode": (lambda b: brain.decode(b, [0, 1, 2, 3] * 3), BETAS),  # floats: a regression
    "brain.embed": (lambda x: brain.embed(reader(), x), PICTURES),
    "brain.fit_decoder": (lambda b, t, g: brain.fit_decoder(b, t, g).vector(b),
                          BETAS, whole(12, 2), LABELS),
    "brain.fit_encoding_model": (lambda f, b: brain.fit_encoding_model(f, b).rank(b, f),
                                 whole(12, 2), BETAS),
    "brain.fit_latent": (lambda x: vars(brain.fit_latent(x, reader(), 2, 2).pixels), PICTURES),
    "brain.fit_ridge": (lambda x, y, s: vars(brain.fit_ridge(x, y, strengths=s)),
                        BETAS, whole(12, 2), given(1, 10)),
    "brain.log_likelihood": (brain.log_likelihood, BETAS, whole(3, 4), given(1, 2, 3, 4)),
    "brain.rdm": (brain.rdm, PATTERN),
    "brain.read_factors": (lambda x: brain.read_factors(reader(), x), PICTURES),
    "brain.similarity": (brain.similarity, PATTERN, whole(3, 9)),
    "data.BatchLoader": (lambda x, v: list(data.BatchLoader(x, 2, v, shuffle=False)),
                         PICTURES, whole(4, 3)),
    "data.create_loader": (lambda x, v: list(data.create_loader(16, 2, images=x, vectors=v)),
                           PICTURES, whole(4, 3)),
    "data.folds": (lambda g: data.folds(g, 2), LABELS),
    "data.load_embedded": (lambda x, b, t: vars(data.load_embedded(x, b, t)),
                           whole(4, 5), whole(6, 3), index(0, 1, 2, 3, 0, 1)),
    "data.load_trials": (lambda x, b, t: vars(data.load_trials(x, b, t, size=16)),
                         PICTURES, whole(6, 3), index(0, 1, 2, 3, 0, 1)),
    "data.refuse_leak": (data.refuse_leak, PICTURES, whole(4, 16, 16, 3, low=0, high=128)),
    "data.to_batch": (data.to_batch, PICTURES),
    "decoding.decode_embeddings": (lambda b, f, i: [
        vars(fold) for fold in decoding.decode_embeddings(b, f, i, folds=2)["averaged"]],
        BETAS, whole(6, 3), index(*range(6), *range(6))),
    "decoding.like_embeddings": (decoding.like_embeddings, whole(3, 4), whole(5, 4), whole(6, 4)),
    "decoding.mean_image": (lambda x: decoding.mean_image(x, 3), PICTURES),
    "decoding.retrieval": (decoding.retrieval, whole(5, 3), whole(4, 3), PICTURES),
    "decoding.ridge_to_pixels": (lambda b, x, g, n: decoding.ridge_to_pixels(b, x, g)(n),
                                 whole(4, 3), PICTURES, index(0, 1, 2, 3), whole(2, 3)),
    "decoding.sample_pictures": (lambda v: decoding.sample_pictures(
        random_unet(3), DRAWN, v, 0, PLAIN), whole(2, 3)),
    "decoding.shuffled_brain": (decoding.shuffled_brain, LABELS),
    "scores.classifier_features": (lambda x: scores.classifier_features(x, reader()), PICTURES),
    "scores.decode_unseen": (lambda *a: scores.decode_unseen(*a, penalty=1.0),
                             BETAS, whole(12, 2), LABELS, whole(3, 4), index(0, 1, 7)),
    "scores.kid": (scores.kid, whole(200, 3), whole(200, 3)),
    "scores.memorised": (scores.memorised, PICTURES, PICTURES, PICTURES),
    "scores.n_way_hits": (lambda p, t: scores.n_way_hits(p, t, 3), whole(5, 4), TARGET),
    "scores.n_way_top_k": (lambda p, t: scores.n_way_top_k(p, t, 3), whole(5, 4), TARGET),
    "scores.nearest_training_distance": (lambda a, b: vars(scores.nearest_training_distance(a, b)),
                                         whole(5, 4), whole(3, 4)),
    "scores.permutation_null": (lambda s, t, w: scores.permutation_null(
        s, t, scores.two_way, 5, within=w), whole(5, 4), TARGET, index(0, 0, 1, 1)),
    "scores.permutation_p": (lambda s, t: scores.permutation_p(s, t, scores.two_way, 5),
                             whole(5, 4), TARGET),
    "scores.pixel_correlation": (scores.pixel_correlation, PICTURES, PICTURES),
    "scores.ssim": (scores.ssim, PICTURES, PICTURES),
    "scores.top_k": (scores.top_k, whole(5, 4), TARGET),
    "scores.two_way": (scores.two_way, whole(5, 4), TARGET),
    "scores.two_way_within": (scores.two_way_within, whole(5, 4), TARGET, index(0, 0, 1, 1)),
    "world.subject.event_columns": (subject.event_columns, ONSETS, KERNEL),
}
ELSEWHERE = {  # whose numbers are single, are of a whole (an Experiment), or come out of a file
    "bold": "choose_count find_noise standard_errors contrast_weights cosine_drift fixed_effects "
            "polynomial_drift glover_hrf spm_hrf in_areas hrf.check_sampling hrf.fir_delays "
            "hrf.makers hrf.kernel hrf.library hrf.dispersion_derivative hrf.time_derivative "
            "hrf.spm_hrf hrf.glover_hrf single_trial.hrf_fit single_trial.noise_components",
    "brain": "brain_log_likelihood choose_encoder feature_families load_encoder "
             "load_factor_net vector_source",
    "data": "list_runs load_experiment load_subjects load_volume mask_path read_confounds read_run "
            "read_masks read_truth run_stem haxby_blocks",
    "decoding": "brain_guidance cross_validate embed_pictures fit_pretrained guided_denoiser "
                "ideal_observer load_conditional load_pretrained sample_embeddings untrained "
                "load_guidance_model map_pictures prior_pictures reconstruct_experiment "
                "sample_prior training_pictures with_pseudo_trials",
    "scores": "bits ceilings evaluation_space format_report literature_scores load_classifiers "
              "load_independent_classifier quality_scores score score_blocks score_embeddings "
              "score_cross_validated score_table two_way_null_sd",
    "world": "draw find_or_build ready real_event_related sample_factors simulate",
}
TYPES = ("int8", "uint8", "bool", "int64", "uint16", "float16", "float32", ">f8", "object")
ALIKE = ("int64",)  # no reason to refuse them where float64 is taken
CHANGES = (*TYPES, "list", "tensor", "masked", "text", "complex128")


def reader():
    torch.manual_seed(0)
    return FactorNet().eval()


def changed(x, change, rng):
    """The same numbers in another form, and as they have to be read (None: not at all)."""
    if change == "text":
        return x.astype(str), x.astype(str) if x.dtype.kind == "i" else None  # names, if anything
    if change == "complex128":
        return x + 1j, None
    if change == "list":
        return x.tolist(), x
    if change == "tensor":
        return torch.from_numpy(x), x
    if change == "masked":
        hole = rng.random(x.shape) < 0.1
        hole.flat[rng.integers(x.size)] = True
        return np.ma.MaskedArray(x, hole), np.where(hole, np.nan, x)
    if change == "bool":
        x = (x > np.median(x)).astype(x.dtype)
    if change.startswith("uint"):
        x = np.abs(x)
    return x.astype(change), x


def numbers(x):
    """Everything in a result, as arrays of float64 or of text."""
    if is_dataclass(x) and not isinstance(x, type):
        x = asdict(x)
    if isinstance(x, dict):
        return [y for key in sorted(x) for y in numbers(x[key])]
    if isinstance(x, (list, tuple)) and not np.isscalar(x):
        return [y for one in x for y in numbers(one)]
    x = np.asarray(x)
    return [x.astype(float) if x.dtype.kind in "biuf" else x.astype(str)]


def outcome(function, arguments):
    """What comes out, or None if it is refused in one line."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return numbers(function(*arguments))
        except DataError as error:
            assert "\n" not in str(error)
            return None


SLOW = ("bold.hrf_fit", "bold.single_trial.estimate", "decoding.decode_embeddings")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_numbers_of_any_type_are_numbers(name):
    attack(name, SEED)


def attack(name, seed):
    """Give a function each of its arguments in every form; how many were tried."""
    function, *makers = CASES[name]
    rng = np.random.default_rng(seed)
    good = [make(rng) for make in makers]
    assert outcome(function, good) is not None, f"{name}, seed {seed}: good numbers are refused"
    for which, change in [(i, c) for i in range(len(makers)) for c in CHANGES]:
        told = f"{name}, argument {which} as {change}, seed {seed}"
        odd, plain = changed(good[which], change, rng)
        found, expected = (outcome(function, [*good[:which], x, *good[which + 1 :]])
                           for x in (odd, odd if plain is None else plain))
        if found is None:
            assert expected is None or change not in ALIKE, told
            continue
        assert plain is not None and expected is not None and len(found) == len(expected), told
        for a, b in zip(found, expected, strict=True):
            if a.dtype.kind == "U":
                assert (a == b).all(), told
                continue
            scale = np.abs(b[np.isfinite(b)]).max(initial=1)
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * scale, err_msg=told)
    return len(makers) * len(CHANGES)


def test_no_public_function_is_left_out():
    for room in ROOMS:
        module = importlib.import_module(f"recon_lib.{room}")
        there = {name for name, it in vars(module).items() if inspect.isfunction(it)}
        known = {name.split(".")[1] for name in CASES if name.startswith(room)}
        known = {name.split(" ")[0] for name in known}
        assert there <= known | set(ELSEWHERE[room].split()), room
