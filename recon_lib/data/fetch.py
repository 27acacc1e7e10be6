"""Get BOLD5000: what each part costs and is for, whether it fits, and the way round by hand."""

import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recon_lib.common.errors import DataError, atomic_write
from recon_lib.data.download import Remote, bucket, fetch_file, figshare, single
from recon_lib.data.stimuli import RUNS_PER_SESSION

FIGSHARE = "https://api.figshare.com/v2"
OPENNEURO = "https://s3.amazonaws.com/openneuro.org"
IMAGES = "https://www.dropbox.com/s/5ie18t4rjjvsl47/BOLD5000_Stimuli.zip?dl=1"
RELEASE_1, RELEASE_2, RAW = 6459449, 14456124, "ds001499"
SPARE = 1e9  # bytes to leave free


@dataclass(frozen=True)
class Part:
    """Something worth fetching by itself.

    Attributes
    ----------
    purpose : str
    gigabytes : float
        What has to be fetched for one subject; the host tells the true size beforehand.
    estimated : bool
        True where that was reckoned (from the size of one session, run or picture, times their
        number) rather than published.
    page : str
        Where to find it with a browser.
    files : tuple of str
        Patterns of file names; {s} stands for the subject.
    sign : str
        A file that is here once the part has been fetched (as in a shell, not a regex).
    inside : str
        Pattern of the wanted names inside an archive.
    """

    purpose: str
    gigabytes: float
    estimated: bool
    page: str
    files: tuple
    sign: str
    inside: str = ""

    def size(self):
        """The size in words: "4.21 GB", or "about 23 GB, estimated"."""
        return f"about {self.gigabytes:g} GB, estimated" if self.estimated else (
            f"{self.gigabytes:g} GB")  # fmt: skip


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
}  # fmt: skip
TRAINING = ("roi-betas", "images", "lists")  # all that training needs
ARCHIVES = "archives"  # kept, so that a second subject costs no second download


def is_here(part, subject, root):
    """Whether a part has been fetched into `root` (or put there by hand)."""
    return any(Path(root).glob("**/" + PARTS[part].sign.format(s=subject)))


def remote_files(part, subject):
    """What the host has of a part: a list of Remote, names relative to the data set.

    Raises
    ------
    DataError
        If the host refuses, or does not have it.
    """
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
                         for pattern in PARTS[part].files)  # fmt: skip
    place = f"{out}/{RAW}" if PARTS[part].page == PAGE_RAW else out
    return DataError(
        f"{part}: {reason}; by hand: open {PARTS[part].page} in a browser, fetch {files} "
        f"({PARTS[part].size()}) and put them, archives unpacked, into {place}"
    )


def check_space(out, need):
    """Refuse to begin what the disk cannot hold (need in bytes)."""
    place = Path(out).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need + SPARE > free:
        raise DataError(
            f"{need / 1e9:.1f} GB are needed and {SPARE / 1e9:.0f} GB should stay free, but "
            f"{place} has {free / 1e9:.1f} GB; choose fewer parts or another --out"
        )


def unpack(archive, inside, out):
    """Take the wanted files out of an archive, each whole or not at all; returns their number."""
    try:
        with zipfile.ZipFile(archive) as file:
            wanted = [i for i in file.infolist()
                      if re.search(inside, i.filename) and "__MACOSX" not in i.filename]
            for info in wanted:
                parts = PurePosixPath(info.filename).parts
                if ".." in parts or info.filename.startswith("/") or ":" in info.filename:
                    raise DataError(f"{archive}: holds the path {info.filename}; do not trust it")
                target = Path(out, *parts)
                if target.exists() and target.stat().st_size == info.file_size:
                    continue
                with atomic_write(target) as partial, file.open(info) as source:
                    with open(partial, "wb") as sink:
                        shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(
            f"{archive}: not a readable archive ({error}); remove it and run the command again"
        ) from error
    if not wanted:
        raise DataError(f"{archive}: nothing inside matches {inside}; has the archive changed?")
    return len(wanted)


def fetch(subjects=("CSI1",), parts=TRAINING, out="data/BOLD5000",
          say=print):
    """Fetch parts of BOLD5000 for some subjects. What is here already is kept.

    Parameters
    ----------
    subjects : sequence of str
    parts : sequence of str
        Of `PARTS`.
    out : path
        Becomes the root that `release.load_experiment` and the readers take.
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
                            f"{', '.join(known)}")  # fmt: skip
    out, plan = Path(out), []  # (part, subject, Remote, target)
    for part in dict.fromkeys(parts):
        for subject in dict.fromkeys(subjects):
            try:
                files = remote_files(part, subject)
            except DataError as reason:
                raise by_hand(part, subject, out, reason) from reason
            folder = RAW if PARTS[part].page == PAGE_RAW else ""
            plan += [(part, subject, file, out / (ARCHIVES if is_archive(file) else folder)
                      / file.name) for file in files]  # fmt: skip
    missing = {target: cost(part, file) for part, _, file, target in plan if not target.exists()}
    for part in dict.fromkeys(parts):
        targets = {target: file for one, _, file, target in plan if one == part}
        size = sum(file.size or PARTS[part].gigabytes * 1e9 for file in targets.values())
        told = "" if all(file.size for file in targets.values()) else ", estimated"
        say(f"{part:>12}  {size / 1e9:7.3f} GB{told}  {PARTS[part].purpose}")
    check_space(out, sum(missing.values()))
    for part, subject, file, target in plan:
        try:
            fetch_file(file, target)
        except DataError as reason:
            if "refuses" in str(reason) or "cannot be reached" in str(reason):
                raise by_hand(part, subject, out, reason) from reason
            raise
        if is_archive(file):
            count = unpack(target, PARTS[part].inside.format(s=subject), out)
            say(f"{count} files of {subject} from {target.name}")
    say(f"{', '.join(parts)} of {', '.join(subjects)}: in {out}. Archives in {out / ARCHIVES} may "
        "be removed.")  # fmt: skip


def is_archive(file):
    """Whether a remote file has to be unpacked."""
    return file.name.endswith(".zip")


def cost(part, file):
    """Bytes on disk: an archive is kept, and unpacked beside itself."""
    size = file.size or PARTS[part].gigabytes * 1e9
    return 2 * size if is_archive(file) else size
