"""BOLD5000's pictures: who saw which one when, and the files they lie in."""

import os
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from recon_lib.common.errors import DataError, atomic_write, writing
from recon_lib.common.files import find, find_any, read_lines, visible
from recon_lib.data.pictures import read_picture, squared
from recon_lib.data.splits import composed, plain_name

TRIALS_PER_RUN = 37
RUNS_PER_SESSION = {
    "CSI1": (10, 10, 10, 9, 10, 9, 10, 9, 9, 10, 9, 9, 9, 9, 10),
    "CSI2": (10, 9, 10, 10, 10, 9, 9, 9, 9, 9, 10, 10, 9, 10, 9),
    "CSI3": (10, 9, 10, 9, 10, 10, 10, 9, 9, 9, 10, 9, 9, 9, 10),
    "CSI4": (10, 9, 9, 10, 9, 9, 9, 9, 10),
}
CATEGORIES = ("bottle", "cat", "chair", "face", "house", "scissors", "shoe", "scrambled", "tree",
              "car", "fish", "cup", "flower", "bird")  # of the objects in TinyScenes
LISTS = "Stimuli_Presentation_Lists"
PRESENTED = "Scene_Stimuli/Presented_Stimuli"
REPEATED = "Scene_Stimuli/repeated_stimuli_113_list.txt"


@dataclass
class Trials:
    """What a subject saw when."""

    stimuli: list  # picture of each trial, without `rep_`
    session: np.ndarray  # (trials,) int, counted from 1
    run: np.ndarray  # (trials,) int, counted from 1 anew in each session
    path: Path  # the list that was read


def trial_runs(subject, trials):
    """Session and run, (trials,) each, of the first `trials` trials in the published order."""
    runs = RUNS_PER_SESSION.get(subject, RUNS_PER_SESSION["CSI1"])
    session = np.repeat(np.arange(1, len(runs) + 1), np.array(runs) * TRIALS_PER_RUN)
    run = np.concatenate([np.repeat(np.arange(1, n + 1), TRIALS_PER_RUN) for n in runs])
    if trials > len(session):
        raise DataError(f"{trials} trials for {subject}; expected at most {len(session)}")
    return session[:trials], run[:trials]


def picture_name(line):
    """The name of a picture in a list: without folders before it and without `rep_`."""
    path = composed(line)
    return plain_name(path if ".." in path.split("/") else path.rpartition("/")[2])


def listed(wanted, names):
    """Which of `names` a list means, and which of `wanted` are none of them.

    Case, endings and spelling of accents are overlooked.
    """
    same = {}
    for name in names:
        same.setdefault(_key(name), []).append(name)
    exact, found, missing = set(names), [], []
    for one in wanted:
        some = [one] if one in exact else same.get(_key(one), [])
        found += some
        missing += [] if some else [one]
    if set(found) - set(wanted):
        warnings.warn(f"{len(set(found) - set(wanted))} pictures are spelt otherwise on the list "
                      f"({min(set(found) - set(wanted))}): matched all the same", stacklevel=3)
    return found, missing


def _key(name):
    return Path(composed(name)).stem.lower()


def write_lines(path, lines):
    """Write one entry a line, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def with_repeats(stimuli):
    """Mark every later showing of a picture with `rep_`, as the presentation lists do."""
    seen, marked = set(), []
    for name in stimuli:
        marked.append(f"rep_{name}" if name in seen else name)
        seen.add(name)
    return marked


def write_presentation_lists(root, subject, stimuli, session, run):
    """Write one list a run: `Stimuli_Presentation_Lists/CSI1/CSI1_sess01/CSI_sess01_run01.txt`."""
    marked = np.array(with_repeats(stimuli))
    for s, r in np.unique(np.stack([session, run], 1), axis=0).tolist():
        name = f"{LISTS}/{subject}/{subject}_sess{s:02d}/CSI_sess{s:02d}_run{r:02d}.txt"
        write_lines(Path(root, name), marked[(session == s) & (run == r)])


def read_presentation_lists(root, subject):
    """Read the lists of all runs as `Trials`; None where the release has no such lists."""
    folder = find_any(root, f"{LISTS}/{subject}")
    names, session, run, found = [], [], [], {}
    for path in visible(folder, "*/*_run*.txt") if folder else []:
        if match := re.search(r"sess(\d+)_run(\d+)\.txt$", path.name):
            key = int(match[1]), int(match[2])
            if found.setdefault(key, path) != path:
                raise DataError(f"{found[key]} and {path} are lists of one run; expected one: "
                                "move the other away")
    for (s, r), path in sorted(found.items()):  # by number: run 2 comes before run 10
        lines = [picture_name(line) for line in read_lines(path)]
        names += lines
        session += [s] * len(lines)
        run += [r] * len(lines)
    return Trials(names, np.array(session), np.array(run), folder) if names else None


def read_stimuli(root, subject, *lists):
    """Read what was shown in every trial, from the first of `lists` that exists, as `Trials`."""
    runs, path = read_presentation_lists(root, subject), find_any(root, *lists)
    if path is None:
        return runs or find(root, *lists)  # which is not there
    stimuli = [picture_name(line) for line in read_lines(path)]
    if runs is None:
        return Trials(stimuli, *trial_runs(subject, len(stimuli)), path)
    if len(runs.stimuli) != len(stimuli):
        raise DataError(
            f"{path}: {len(stimuli)} lines, but {len(runs.stimuli)} in the lists of the single "
            f"runs ({LISTS}/{subject}); expected one a trial, fetch it again")
    for trial, (here, there) in enumerate(zip(stimuli, runs.stimuli, strict=True), 1):
        if here != there:
            raise DataError(f"{path}: trial {trial} is {here}, but {there} in {LISTS}/{subject}; "
                            "is this another subject's list?")
    return Trials(stimuli, runs.session, runs.run, path)


def write_repeated(root, names):
    """Write the list of repeated pictures, the standard test set."""
    write_lines(Path(root, REPEATED), names)


def read_repeated(root):
    """Read the list of repeated pictures (113 in the published release)."""
    path = find(root, REPEATED, f"{PRESENTED}/repeated_stimuli_113_list.txt")
    return [picture_name(line) for line in read_lines(path)]


def category(name):
    """ImageNet synset or scene category of a picture, "" for COCO, which has no single one."""
    match = re.match(r"(n\d{8})_", name)
    if match:
        return match[1]
    return "" if name.startswith("COCO_") else re.match(r"\D*", Path(name).stem)[0].rstrip("_")


def stim_list(subject):
    """Release 1's picture list: `ROIs/stim_lists/CSI01_stim_lists.txt`."""
    name = re.sub(r"(\d+)$", lambda digits: digits[1].zfill(2), subject)
    return f"ROIs/stim_lists/{name}_stim_lists.txt"


def image_lists(subject):
    """Where a release may keep the picture of each trial, release 2's own list first."""
    name = f"{subject}_imgnames.txt"
    return name, f"{LISTS}/{subject}/{name}", stim_list(subject)


def picture_folder(name):
    """COCO, ImageNet or Scene: which of the three folders holds a picture, told by its name."""
    if name.startswith("COCO_"):
        return "COCO"
    return "ImageNet" if re.match(r"n\d{8}_", name) else "Scene"


def write_images(root, names, images):
    """Write pictures by name into `Scene_Stimuli/Presented_Stimuli/{COCO,ImageNet,Scene}`.

    Endings of names choose the format; JPEG is stored at quality 95, full colour.
    """
    folders = {place: Path(root, PRESENTED, place) for place in set(map(picture_folder, names))}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, np.asarray(images), strict=True):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        kind = Image.registered_extensions().get(Path(name).suffix.lower())
        if kind is None:
            raise DataError(f"{name}: no picture format has this ending; expected .jpg, .png, ...")
        encoded = BytesIO()
        picture.save(encoded, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
        folder = folders[picture_folder(name)]
        partial = folder / f".partial-{os.getpid()}"  # thousands: lighter than `atomic_write`
        with writing(folder / name):
            try:
                partial.write_bytes(encoded.getbuffer())
                os.replace(partial, folder / name)
            except OSError:
                partial.unlink(missing_ok=True)
                raise


def read_images(root, names, size):
    """Read pictures by name, with or without `rep_`: (n, size, size, 3) uint8.

    If one is missing or broken, that is a `DataError`: a trial without its picture cannot be used.
    """
    names = [plain_name(name) for name in names]
    unique = sorted(set(names))
    for name in unique:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise DataError(f"{name!r} in a picture list leads out of {PRESENTED}; expected a bare "
                            "file name")
    folder = find(root, PRESENTED)
    paths = [folder / picture_folder(name) / name for name in unique]
    held = {}  # as the disk spells them, where a name is not there as it stands
    for i, path in enumerate(paths):
        if not path.exists():
            if path.parent not in held:
                held[path.parent] = {composed(p.name).lower(): p for p in path.parent.glob("*")}
            paths[i] = held[path.parent].get(composed(path.name).lower(), path)
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]}: no such picture ({len(missing)} of {len(paths)} missing)")
    images = np.empty((len(unique), size, size, 3), np.uint8)
    for i, path in enumerate(paths):
        images[i] = squared(read_picture(path, size)[0].reshape(1, size, size, -1), size, 3)[0]
    place = {name: i for i, name in enumerate(unique)}
    return images[[place[name] for name in names]]
