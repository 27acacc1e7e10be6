"""Get BOLD5000: what each part costs and is for, whether it fits, and the way round by hand."""

import re
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.common.files import visible
from recon_lib.common.folders import alone_in
from recon_lib.common.paths import data_folder
from recon_lib.data.download import Refused, Remote, bucket, fetch_file, figshare, single
from recon_lib.data.stimuli import RUNS_PER_SESSION

FIGSHARE = "https://api.figshare.com/v2"
OPENNEURO = "https://s3.amazonaws.com/openneuro.org"
IMAGES = "https://www.dropbox.com/s/5ie18t4rjjvsl47/BOLD5000_Stimuli.zip?dl=1"
RELEASE_1, RELEASE_2, RAW = 6459449, 14456124, "ds001499"
SPARE = 1e9  # bytes to leave free


@dataclass(frozen=True)
class Part:
    """Something worth fetching by itself; in patterns {s} stands for the subject."""

    purpose: str
    gigabytes: float  # to fetch for one subject; the host tells the true size beforehand
    estimated: bool  # reckoned (size of one session, run or picture, times their number)
    page: str  # where to find it with a browser
    files: tuple  # patterns of file names
    sign: str  # a file that is here once the part has been fetched (as in a shell, not a regex)
    inside: str = ""  # pattern of the wanted names inside an archive

    def size(self):
        """The size in words: "4.21 GB", or "about 23 GB, estimated"."""
        about, estimated = ("about ", ", estimated") if self.estimated else ("", "")
        return f"{about}{self.gigabytes:g} GB{estimated}"


PAGE_1 = f"https://figshare.com/articles/dataset/BOLD5000/{RELEASE_1}"
PAGE_2 = f"https://kilthub.cmu.edu/articles/dataset/BOLD5000_Release_2_0/{RELEASE_2}"
PAGE_RAW = f"https://openneuro.org/datasets/{RAW}"
PARTS = {
    "roi-betas": Part(
        "single-trial betas of the visual areas (release 2)", 0.25, True, PAGE_2,
        (r"BOLD5000_GLMsingle_ROI_betas\.zip", r"{s}_imgnames\.txt"), "py/{s}_*_LHPPA.npy",
        r"/py/{s}_.*\.npy$"),
    "images": Part(
        "the pictures that were shown; their owners' terms forbid passing them on", 1.5, True,
        "https://bold5000-dataset.github.io/website/download.html", (r"BOLD5000_Stimuli\.zip",),
        "Presented_Stimuli/*/*", r"(Presented_Stimuli/.*\.(?i:jpg|jpeg|png)|113_list\.txt)$"),
    "lists": Part(
        "which picture came when, run by run", 0.005, False, PAGE_1, (r"BOLD5000_Stimuli\.zip",),
        "Stimuli_Presentation_Lists/{s}/*/*.txt",
        r"(Stimuli_Presentation_Lists/{s}/.*\.txt|113_list\.txt)$"),
    "roi-times": Part(
        "signal of the areas volume by volume (release 1), all subjects in one archive", 4.21,
        False, PAGE_1, (r"BOLD5000_ROIs\.zip",), "{s}/h5/{s}_ROIs_TR34.h5",
        r"(ROIs/{s}/h5/.*\.h5|stim_lists/.*\.txt)$"),
    "brain-betas": Part(
        "single-trial betas of the whole brain (release 2)", 4.5, True, PAGE_2,
        (r"{s}_GLMbetas-TYPED-.*_ses-\d+\.nii\.gz", r"{s}_brainmask\.nii\.gz",
         r"{s}_imgnames\.txt"), "{s}_GLMbetas-*_ses-01.nii.gz"),
    "masks": Part(
        "where the areas lie: needed for brain-betas and runs", 0.001, True, PAGE_RAW,
        (r"derivatives/spm/sub-{s}/.*_mask-.*\.nii\.gz",), "sub-{s}/sub-{s}_mask-LHPPA.nii.gz"),
    "runs": Part(
        "preprocessed BOLD with events and confounds, to fit a GLM of your own", 23.0, True,
        PAGE_RAW,
        (r"derivatives/fmriprep/sub-{s}/.*_task-5000scenes_.*_bold_space-T1w_preproc\.nii\.gz",
         r"derivatives/fmriprep/sub-{s}/.*_task-5000scenes_.*_bold_confounds\.tsv",
         r"sub-{s}/.*_task-5000scenes_.*_events\.tsv"), "sub-{s}/*/func/*T1w_preproc.nii.gz"),
}
TRAINING = ("roi-betas", "images", "lists")  # all that training needs
ARCHIVES = "archives"  # kept, so that a second subject costs no second download


def is_here(part, subject, root):
    """Whether a part has been fetched into `root` (or put there by hand)."""
    return bool(visible(root, "**/" + PARTS[part].sign.format(s=subject)))


def remote_files(part, subject):
    """What the host has of a part, at least one `Remote`; names are relative to the data set."""
    patterns = [pattern.format(s=subject) for pattern in PARTS[part].files]
    if part == "images":
        return [single(IMAGES, "BOLD5000_Images.zip")]  # the lists' archive has the same name
    if PARTS[part].page == PAGE_RAW:
        folders = {pattern.split(f"sub-{subject}/")[0] for pattern in patterns}
        found = sum((bucket(OPENNEURO, f"{RAW}/{folder}sub-{subject}/") for folder in folders), [])
        found = [Remote(f.url, f.name.removeprefix(f"{RAW}/"), f.size, f.md5) for f in found]
    else:
        found = figshare(FIGSHARE, RELEASE_1 if PARTS[part].page == PAGE_1 else RELEASE_2)
    chosen = [f for f in found if any(re.fullmatch(pattern, f.name) for pattern in patterns)]
    if not chosen:
        raise DataError(f"the host has no file like {patterns[0]} any more")
    return chosen


def by_hand(part, subject, out, reason):
    """The error that sends the reader to a browser: which page, which files, where to put them."""
    files = " and ".join(re.sub(r"\\d\+|\.\*", "*", pattern.format(s=subject)).replace("\\", "")
                         for pattern in PARTS[part].files)
    place = f"{out}/{RAW}" if PARTS[part].page == PAGE_RAW else out
    return DataError(
        f"{part}: {reason}; by hand: open {PARTS[part].page} in a browser, fetch {files} "
        f"({PARTS[part].size()}) and put them, archives unpacked, into {place}")


def check_space(out, need):
    """Refuse to begin what the disk cannot hold (need in bytes)."""
    place = Path(out).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need + SPARE > free:
        raise DataError(
            f"{need / 1e9:.1f} GB are needed and {SPARE / 1e9:.0f} GB should stay free, but "
            f"{place} has {free / 1e9:.1f} GB; choose fewer parts or another --out")


def is_inside(path):
    """Whether a path from elsewhere stays in the folder that it is put into."""
    return not ({"", ".."} & {*PurePosixPath(path).parts, path} or path.startswith("/")
                or {"\\", ":"} & {*path})


def unpack(archive, inside, out):
    """Take the wanted files out of an archive, each whole or not at all; returns their number."""
    try:
        with zipfile.ZipFile(archive) as file:
            wanted = [i for i in file.infolist()
                      if re.search(inside, i.filename) and "__MACOSX" not in i.filename]
            missing = {}
            for info in wanted:
                if not is_inside(info.filename):
                    raise DataError(f"{archive}: holds the path {info.filename}; do not trust it")
                target = Path(out, info.filename)
                if not target.exists() or target.stat().st_size != info.file_size:
                    missing[target] = info
            check_space(out, sum(info.file_size for info in missing.values()))
            for target, info in missing.items():
                with atomic_write(target) as partial, file.open(info) as source:
                    with open(partial, "wb") as sink:
                        shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise DataError(  # RuntimeError: encrypted, or packed in a way that Python does not know
            f"{archive}: not a readable archive ({error}); remove it and run the command again"
        ) from error
    if not wanted:
        raise DataError(f"{archive}: nothing inside matches {inside}; has the archive changed?")
    return len(wanted)


@dataclass(frozen=True)
class Wanted:
    """One file to fetch: for which part and subject, from where, to where."""

    part: str
    subject: str
    file: Remote
    target: Path

    @property
    def archive(self):
        """Whether it has to be unpacked."""
        return self.file.name.endswith(".zip")

    @property
    def size(self):
        """Bytes to fetch."""
        return self.file.size or PARTS[self.part].gigabytes * 1e9


def plan(subjects, parts, out):
    """The files to fetch, as the hosts have them now: a list of `Wanted`.

    If a host refuses, a `DataError` tells the way by hand; a name that leads elsewhere is refused
    too.
    """
    wanted = []
    for part in dict.fromkeys(parts):
        for subject in dict.fromkeys(subjects):
            try:
                files = remote_files(part, subject)
            except DataError as reason:
                raise by_hand(part, subject, out, reason) from reason
            for file in files:
                if not is_inside(file.name):
                    raise DataError(f"{part}: the host lists the path {file.name}; do not trust it")
                raw = RAW if PARTS[part].page == PAGE_RAW else ""
                folder = ARCHIVES if file.name.endswith(".zip") else raw
                wanted.append(Wanted(part, subject, file, out / folder / file.name))
    return wanted


def fetch(subjects=("CSI1",), parts=TRAINING, out=None, say=print):
    """Fetch parts of BOLD5000 for some subjects. What is here already is kept.

    Parameters
    ----------
    subjects : sequence of str
    parts : sequence of str
        Of `PARTS`.
    out : path, optional
        Becomes the root that `release.load_experiment` and the readers take; default: `BOLD5000`
        in `paths.data_folder()`.
    say : function
        Told what will be fetched, and what is being done.

    Raises
    ------
    DataError
        Unknown names, too little space, a damaged file; if a host refuses, it tells the way by
        hand.
    """
    for given, known in ((parts, PARTS), (subjects, RUNS_PER_SESSION)):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise DataError(f"found {', '.join(unknown) or 'nothing'}; expected some of "
                            f"{', '.join(known)}")
    out = data_folder() / "BOLD5000" if out is None else Path(out)
    wanted = plan(subjects, parts, out)
    for part in dict.fromkeys(parts):
        files = {one.target: one for one in wanted if one.part == part}.values()
        told = "" if all(one.file.size for one in files) else ", estimated"
        say(f"{part:>12}  {sum(one.size for one in files) / 1e9:7.3f} GB{told}  "
            f"{PARTS[part].purpose}")
    missing = {one.target: one for one in wanted if not one.target.exists()}.values()
    check_space(out, sum(one.size * (2 if one.archive else 1) for one in missing))  # kept as well
    with alone_in(out, f"another command is fetching into {out}; wait for its end"):
        for one in wanted:
            try:
                fetch_file(one.file, one.target)
            except Refused as reason:
                raise by_hand(one.part, one.subject, out, reason) from reason
            if one.archive:
                count = unpack(one.target, PARTS[one.part].inside.format(s=one.subject), out)
                say(f"{count} files of {one.subject} from {one.target.name}")
    say(f"{', '.join(parts)} of {', '.join(subjects)}: in {out}. Archives in {out / ARCHIVES} may "
        "be removed.")
