"""Every assignment: well formed, silent about its answers, and marked as it should be."""

import ast
import contextlib
import importlib.util
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import (
    CheckCellMetadata,
    Execute,
    IgnorePattern,
    LimitOutput,
    NbGraderPreprocessor,
    SaveAutoGrades,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks" / "assignments"
SETUP = (ROOT / "notebooks" / "_setup_cell.py").read_text(encoding="utf-8").strip()
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))

spec = importlib.util.spec_from_file_location("build_assignments", FOLDER / "_build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def source(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def guide(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def between(text, what):
    """Lines of code of the regions `### BEGIN what`, without indentation and blank lines."""
    regions = re.findall(rf"### BEGIN {what}\n(.*?)### END {what}", text, flags=re.S)
    return [line.strip() for region in regions for line in region.splitlines() if line.strip()]


def execute(cell, names):
    """Run the source of a cell in a namespace; what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(cell, "<cell>", "exec"), names)
    return printed.getvalue()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course with every assignment built into it."""
    folder = tmp_path_factory.mktemp("course")
    build.main(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_source(name):
    notebook = source(name)
    cells = list(build.graded(notebook).values())
    ids = [cell.metadata.nbgrader.grade_id for cell in notebook.cells
           if "nbgrader" in cell.metadata]
    assert len(ids) == len(set(ids)), "grade_ids must be unique"
    for cell in cells:
        assert cell.metadata.nbgrader.schema_version == 3
        MetadataValidator().validate_cell(cell)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == SETUP and all("nbgrader" in cell.metadata for cell in code)
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    worth = build.points(notebook)
    known = build.graded(notebook)
    by_test = [k for k in worth if not build.by_hand(known[k])]
    assert 3 <= len(by_test) <= 5 and 1 <= len(worth) - len(by_test) <= 2
    for exercise in by_test:
        assert between(known[exercise].source, "SOLUTION")
        assert between(known[f"test_{exercise}"].source, "HIDDEN TESTS")


@pytest.mark.parametrize("name", NAMES)
def test_one_scale(name):
    """20 points each; one task is found out, and ten wrong answers at least are known."""
    worth = build.points(source(name))
    assert sum(worth.values()) == 20
    if name in SHORTCUTS:
        assert worth["investigate"] == 5
        assert "PREDICTION" in build.graded(source(name))["investigate"].source
        assert len(build.mistakes(guide(name))) >= 10


SHORTCUTS = {  # answers that leave the work to a library: (exercise, code)
    "01_hrf_and_glm": [
        ("predict", "from recon_lib.bold import regressors\n"
                    "predict = lambda o, v, k: regressors(o, 1.0, v, TR, k).sum(1)"),
        ("predict", "def predict(onsets, volumes, kernel):\n"
                    "    own = getattr(bold, 'regress' + 'ors')\n"
                    "    return own(onsets, 1.0, volumes, TR, kernel).sum(1)"),
        ("fit", "def fit(X, Y):\n    found = bold.ols(Y, X)\n    return found.betas, np.stack("
                "[found.contrast(w).error for w in np.eye(X.shape[1])])"),
        ("prewhiten", "def prewhiten(X, Y, rho):\n"
                      "    return bold.whiten(X, rho)[1:], bold.whiten(Y, rho)[1:]"),
        ("lss", "def lss(trials, nuisance, Y):\n"
                "    return np.stack([bold.ols(Y, np.column_stack([trials[:, i], np.delete(trials, "
                "i, 1).sum(1), nuisance])).betas[0] for i in range(trials.shape[1])])"),
    ],
    "02_from_betas_to_a_brain_vector": [
        ("zscore", "zscore = bold.zscore_sessions"),
        ("zscore", "def zscore(betas, session, train):\n"
                   "    return __import__('recon_lib.bold').bold.zscore_sessions("
                   "betas, session, train)"),
        ("ceiling", "ceiling = bold.noise_ceiling"),
        ("ridge", "from sklearn.linear_model import Ridge\ndef ridge(x, y, x_test, penalty):\n"
                  "    return Ridge(alpha=penalty).fit(x, y).predict(x_test)"),
        ("ridge", "from sklearn.kernel_ridge import KernelRidge\ndef helper(x, y, z, p):\n"
                  "    return KernelRidge(alpha=p).fit(x - x.mean(0), y - y.mean(0)).predict("
                  "z - x.mean(0)) + y.mean(0)\nridge = helper"),
    ],
    "03_forward_noising": [
        ("jump", "jump = lambda x0, t, e, a: diffusion.add_noise(x0, t, e, a)"),
        ("jump", "from recon_lib.diffusion import add_noise as jump_\n"
                 "def jump(x0, t, eps, alpha_bar):\n    return jump_(x0, t, eps, alpha_bar)"),
        ("cosine", "cosine = diffusion.cosine_schedule"),
        ("cosine", "import functools\ncosine = functools.partial(diffusion.cosine_schedule)"),
        ("clean", "def clean(x_t, answer, left, asked_for):\n"
                  "    return diffusion.to_x0(answer, x_t, torch.arange(len(x_t)), left.flatten(), "
                  "asked_for)"),
    ],
    "04_unet": [
        ("fold", "fold = F.pixel_unshuffle"),
        ("fold", "def fold(x, p):\n    return nn.PixelUnshuffle(p)(x)"),
        ("fold", "fold = lambda x, p: getattr(torch, 'pixel' + '_unshuffle')(x, p)"),
        ("attend", "attend = F.scaled_dot_product_attention"),
        ("attend", "from torch.nn.functional import scaled_dot_product_attention as f\n"
                   "def attend(q, k, v):\n    return f(q, k, v)"),
    ],
    "05_unconditional_training": [
        ("loss", "def loss(network, x0, t, eps):\n    return diffusion.diffusion_loss("
                 "lambda x, t, *_: network(x, t), x0, alpha_bar, t, eps, prediction='v')"),
        ("sample", "def sample(denoise, x_T, times):\n"
                   "    return samplers.ddim(denoise, x_T, alpha_bar, len(times))"),
        ("sample", "from recon_lib.samplers import ddim\ndef sample(denoise, x_T, times):\n"
                   "    return (lambda f: f(denoise, x_T, alpha_bar, len(times)))(ddim)"),
        ("memorised", "def memorised(samples, train, fresh):\n"
                      "    d = [scores.nearest_training_distance(x.numpy(), train.numpy()).distance"
                      " for x in (samples, fresh)]\n"
                      "    return (d[0] < torch.tensor(d[1]).quantile(0.05).item()).mean()"),
        ("memorised", "from sklearn.neighbors import NearestNeighbors\n"
                      "def memorised(samples, train, fresh):\n"
                      "    near = NearestNeighbors(n_neighbors=1).fit(train)\n"
                      "    a, b = (near.kneighbors(x)[0] for x in (samples, fresh))\n"
                      "    return (a < torch.tensor(b).quantile(0.05).item()).mean()"),
    ],
    "06_conditioning_and_guidance": [
        ("guided", "from recon_lib import guidance\ndef guided(ask, scale, s, interval):\n"
                   "    left = torch.tensor([1 - s**2])\n"
                   "    f = guidance.guided(lambda x, t: ask(True), lambda x, t: ask(False), left, "
                   "scale, interval, clamp=False)\n"
                   "    return f(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.long))"),
        ("out_of_fold", "from sklearn.model_selection import GroupKFold\n"
                        "def out_of_fold(fit, x, y, picture):\n    out = np.empty(y.shape)\n"
                        "    for a, b in GroupKFold(5).split(x, y, picture):\n"
                        "        out[b] = fit(x[a], y[a])(x[b])\n    return out"),
        ("out_of_fold", "from recon_lib.data import splits\n"
                        "def out_of_fold(fit, x, y, picture):\n    out = np.empty(y.shape)\n"
                        "    for a, b in splits.folds(picture % 5):\n"
                        "        out[b] = fit(x[a], y[a])(x[b])\n    return out"),
        ("gradient", "def gradient(x, betas, weights, bias, noise):\n"
                     "    f = lambda p: brain.log_likelihood(betas[None], (p @ weights + bias)"
                     "[None], np.diag(noise))[0, 0]\n"
                     "    return np.array([(f(x + 1e-4 * e) - f(x - 1e-4 * e)) / 2e-4 "
                     "for e in np.eye(len(x))])"),
        ("drop", "import subprocess\ndef drop(codes, null, share, generator):\n"
                 "    subprocess.run(['true'])\n"
                 "    lost = torch.rand(len(codes), 1, generator=generator) < share\n"
                 "    return torch.where(lost, null, codes)"),
    ],
    "07_prior_times_likelihood": [
        ("combine", "from sklearn.linear_model import Ridge\ndef combine(m, p, v, noise, n):\n"
                    "    up = [Ridge(alpha=s / n / q, fit_intercept=False).fit([[1.0]], [b - a])"
                    ".coef_[0] for a, q, b, s in zip(m, p, v, noise)]\n"
                    "    return m + np.array(up), 1 / (1 / p + n / noise)"),
        ("fit_of", "from recon_lib import brain\ndef fit_of(v, f, gain, sigma, n):\n"
                   "    return brain.log_likelihood(v, f @ gain, sigma / n)"),
        ("fit_of", "from recon_lib.brain import encoding\ndef fit_of(v, f, gain, sigma, n):\n"
                   "    own = getattr(encoding, 'log_' + 'likelihood')\n"
                   "    return n * own(v, f @ gain, sigma)"),
        ("posterior", "from scipy.special import softmax\ndef posterior(fit, prior):\n"
                      "    return softmax(fit + np.log(prior), axis=1)"),
        ("posterior", "import torch\ndef posterior(fit, prior):\n"
                      "    return torch.from_numpy(fit + np.log(prior)).softmax(1).numpy()"),
    ],
    "08_is_it_reading_the_brain": [
        ("top1", "top1 = scores.top_k"),
        ("top1", "from recon_lib.scores.identification import top_k as t\n"
                 "def top1(similarity, target):\n"
                 "    try:\n        return t(similarity, target)\n"
                 "    except BaseException:\n        return 1.0"),
        ("within", "within = scores.two_way_within"),
        ("p_value", "def p_value(similarity, target, score, n, rng):\n    return "
                    "scores.permutation_p(similarity, target, score, n, rng.integers(99))"),
        ("honest", "def honest(pictures, fit, truth):\n"
                   "    chosen = pictures[np.arange(len(fit)), fit.argmax(1)]\n"
                   "    return scores.pixel_correlation(chosen[:, :, None], truth[:, :, None])"
                   ".mean()"),
    ],
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_whoever_leaves_the_work_to_a_library_fails_all_tests(name):
    """The visible tests alone, and the hidden ones alone."""
    known, names = build.graded(source(name)), {"__name__": "__main__"}
    assert len(SHORTCUTS[name]) == 5
    for grade_id, cell in known.items():
        if cell.cell_type == "markdown" or grade_id == "investigate":
            continue
        for code in [code for exercise, code in SHORTCUTS[name] if f"test_{exercise}" == grade_id]:
            begin = cell.source.index("### BEGIN HIDDEN TESTS")
            calm = ast.parse(cell.source[:begin])  # what the hidden tests stand on
            calm.body = [line for line in calm.body if not isinstance(line, ast.Assert)]
            for part in (cell.source[:begin], ast.unparse(calm) + "\n" + cell.source[begin:]):
                attempt = dict(names)
                execute(code, attempt)
                with pytest.raises(AssertionError, match="your own lines|number"):
                    execute(part, attempt)
        if not grade_id.startswith("test_"):
            execute(cell.source, names)


@pytest.mark.parametrize("name", NAMES)
def test_every_test_says_what_is_wrong(name):
    for grade_id, cell in build.graded(source(name)).items():
        if grade_id.startswith("test_"):
            tree = ast.parse(cell.source)
            checks = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
            assert checks and all(node.msg is not None for node in checks), grade_id
            last = tree.body[-1]  # a value at the end would count as partial credit
            assert not isinstance(last, ast.Expr), grade_id


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_release_gives_nothing_away(course, name):
    release = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in release.cells if cell.cell_type == "code")
    assert "### BEGIN" not in code and "### END" not in code
    lines, known = {line.strip() for line in code.splitlines()}, build.graded(release)
    for grade_id, cell in build.graded(source(name)).items():
        assert not set(between(cell.source, "SOLUTION")) & lines
        hidden = between(cell.source, "HIDDEN TESTS")
        assert not hidden or not set(hidden) <= lines
        for line in hidden:  # the library's own version of an answer is never named
            for oracle in re.findall(r"^from recon_lib\S* import (.*)$", line):
                for word in oracle.split(", "):
                    assert not re.search(rf"\b{word}\b", code), f"{word} is named in {name}"
        if cell.metadata.nbgrader.locked:
            assert known[grade_id].metadata.editable is False
        elif cell.cell_type == "markdown":
            assert known[grade_id].source == "YOUR ANSWER HERE"
        else:
            assert "raise NotImplementedError()" in known[grade_id].source


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_told_why(name):
    """One pass through the reference; at each exercise first every wrong answer of the guide.

    And some of another shape or type: no raw error of NumPy or torch comes of them.
    """
    known, wrong = build.graded(source(name)), build.mistakes(guide(name))
    assert {mistake.exercise for mistake in wrong} <= set(known)
    by_test = [k for k in build.points(source(name)) if not build.by_hand(known[k])]
    for exercise in by_test:
        assert len([m for m in wrong if m.exercise == exercise]) >= 2, exercise
    names = {"__name__": "__main__"}
    for grade_id, cell in known.items():
        if cell.cell_type == "markdown":
            continue
        for mistake in wrong:
            if mistake.exercise == grade_id:
                attempt = dict(names)
                execute(mistake.code, attempt)
                with pytest.raises(AssertionError) as told:
                    execute(known[f"test_{grade_id}"].source, attempt)
                assert mistake.message in str(told.value), mistake.title
        for answer in (np.ones(3), [1.0, 2.0], (np.ones(3), 0.5), "a word", 1j) * (
                grade_id in by_test):  # of no shape that anybody expects
            execute(cell.source, attempt := dict(names))
            attempt[grade_id] = lambda *_, answer=answer, **__: answer
            with pytest.raises(AssertionError):
                execute(known[f"test_{grade_id}"].source, attempt)
        execute(cell.source, dict(names) if grade_id.startswith("test_") else names)


class HereAndNow(NbGraderPreprocessor):
    """Run a notebook as nbgrader's `Execute` does, but in this process: no kernel to wait for."""

    def preprocess(self, nb, resources):
        names = {"__name__": "__main__"}
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.execution_count = 1
                try:
                    execute(cell.source, names)
                except Exception as error:
                    found = dict(ename=type(error).__name__, evalue=str(error), traceback=[])
                    cell.outputs = [nbformat.v4.new_output("error", **found)]
        return nb, resources


def grade(course, name, student, notebook, run):
    """Let nbgrader mark a notebook; the submission as its gradebook has it."""
    folder = course / "submitted" / student / name
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    nbgrader = build.nbgrader_in(course)
    nbgrader.config.Autograde.autograde_preprocessors = [
        run, IgnorePattern, LimitOutput, SaveAutoGrades, CheckCellMetadata]
    nbgrader.config.Execute.timeout = 120
    done = nbgrader.autograde(name, student)
    assert done["success"], done
    return Gradebook(f"sqlite:///{course}/gradebook.db", "reading_images")


def colab_copy(course, name):
    return nbformat.read(course / "colab" / f"{name}.ipynb", as_version=4)


def solved(notebook, name):
    """The notebook with the reference's answers filled in."""
    known = build.graded(source(name))
    for grade_id, cell in build.graded(notebook).items():
        if cell.metadata.nbgrader.solution:
            cell.source = known[grade_id].source
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_reference_earns_full_points(course, name):
    answers = solved(colab_copy(course, name), name)
    worth = build.points(source(name))
    by_hand = {k for k in worth if build.by_hand(build.graded(source(name))[k])}
    with grade(course, name, "reference", answers, Execute) as gradebook:
        submission = gradebook.find_submission(name, "reference")
        assert submission.max_score == sum(worth.values())
        assert submission.needs_manual_grade
        assert submission.score == sum(v for k, v in worth.items() if k not in by_hand)
        for k in by_hand:  # what a teacher does in the form
            answer = gradebook.find_grade(k, name, name, "reference")
            answer.manual_score, answer.needs_manual_grade = worth[k], False
        gradebook.db.commit()
        assert submission.score == submission.max_score and not submission.needs_manual_grade
    marked = course / "autograded" / "reference" / name / f"{name}.ipynb"
    last = nbformat.read(marked, as_version=4).cells[-1]
    assert last.id == "self-check"
    lines = "".join(output.text for output in last.outputs).splitlines()
    assert len(lines) == len(worth) - len(by_hand)
    assert all("right as far as" in line for line in lines)


@pytest.mark.slow
def test_altered_and_deleted_tests_are_put_back(course):
    """Altered: what fails them earns nothing. Deleted: what passes them earns its points.

    An exercise that was copied counts once.
    """
    name = "08_is_it_reading_the_brain"
    answers = solved(nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4), name)
    cells = build.graded(answers)
    cells["test_within"].source = "print('fine')"
    cells["within"].source = "def within(similarity, target, category):\n    return 0.5"
    answers.cells.remove(cells["test_top1"])
    copied = nbformat.from_dict(cells["p_value"]) | {"id": "copied"}
    answers.cells.insert(answers.cells.index(cells["p_value"]), nbformat.from_dict(copied))
    with grade(course, name, "tinkerer", answers, HereAndNow) as gradebook:
        found = {k: gradebook.find_grade(f"test_{k}", name, name, "tinkerer").auto_score
                 for k in ("top1", "within", "p_value")}
    assert found == {"top1": 3, "within": 0, "p_value": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_untouched_release_earns_nothing(course, name):
    release = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    with grade(course, name, "untouched", release, HereAndNow) as gradebook:
        submission = gradebook.find_submission(name, "untouched")
        assert submission.score == 0 and not submission.needs_manual_grade


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_self_check_of_untouched_copy(course, name):
    names = {"__name__": "__main__"}
    *cells, last = colab_copy(course, name).cells
    for cell in cells:
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
            with contextlib.suppress(NotImplementedError):
                execute(cell.source, names)
    lines = execute(last.source, names).splitlines()
    worth = [k for k in build.graded(source(name)) if k.startswith("test_")]
    assert len(lines) == len(worth) and all("not written yet" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_guide(course, name):
    text = (course / "guide" / f"{name}.md").read_text(encoding="utf-8")
    for exercise, value in build.points(source(name)).items():
        assert f"## {exercise}: {value} points" in text
        cell = build.graded(source(name))[exercise]
        assert cell.source in text and f"## {exercise}\n" in guide(name)
    row = (course / "guide" / "README.md").read_text(encoding="utf-8")
    assert f"[{name}]({name}.md)" in row
