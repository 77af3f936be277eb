"""What a reproduction needs of files that people download or are given: what is there, what is missing, where it is
from.

Everything is listed before anything starts. A clip of which a file is missing is named, unless it is one that an
importer would leave out anyway, such as HumanML3D's clip with NaN or those that MDM does not read.
"""

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.bench.report.tables import Table, plain
from videomdm_ext.data.files import read_text
from videomdm_ext.data.folder import SPLITS
from videomdm_ext.data.sources.base import Importer, Member
from videomdm_ext.data.sources.fit3d import read_info
from videomdm_ext.errors import DatasetError, HostError, VideoMDMError
from videomdm_ext.lifters.results import ResultsLifter
from videomdm_ext.mdm import checkout, evaluation, text

NAMED = 3
"""Missing files that a line names."""
CLIP_HASH = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
"""SHA-256 of ViT-B-32.pt, which OpenAI's package has in the file's address."""


@dataclass(frozen=True)
class Need:
    """A file or the files of a folder: where they should be, where a person gets them, size, licence, expected hash.

    `found` are those that are there; `missing` are the paths of the others.
    """

    what: str
    place: Path
    source: str
    size: str
    licence: str
    found: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    expected: str = "none published"


def table(needs: Sequence[Need]) -> Table:
    """The check list."""
    rows = []
    for need in needs:
        named = ", ".join(map(plain, need.missing[:NAMED]))
        more = f" and {len(need.missing) - NAMED} more" if len(need.missing) > NAMED else ""
        state = f"**missing**: {named}{more}" if need.missing else f"found {len(need.found)}"
        facts = (plain(str(need.place)), state, need.source, need.size, need.licence, need.expected)
        rows.append([need.what, *facts])
    head = ["needed", "place", "state", "where a person gets it", "size", "licence", "expected hash"]
    return Table(head, rows, head)


def every_missing(needs: Sequence[Need]) -> list[str]:
    """Paths of everything that is missing."""
    return [path for need in needs for path in need.missing]


def counted(paths: Sequence[Path], folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Those of these files that are there and not empty, and the others; with none, their folder is what is missing."""
    wanted = dict.fromkeys(paths)
    found = dict.fromkeys(path for path in wanted if path.is_file() and path.stat().st_size)
    return tuple(found), tuple(str(path) for path in wanted or [folder] if path not in found)


def seen(places: Iterable[Path]) -> list[Path]:
    """In order, less what systems hide in folders, such as .DS_Store and ._NAME."""
    return sorted(place for place in places if not place.name.startswith("."))


def unusable(importer: Importer, member: Member) -> bool:
    """Whether the importer leaves a member out whatever its lifter makes of it."""
    try:
        importer.read(member)
    except DatasetError:
        return True
    return False


# -- HumanML3D --------------------------------------------------------------------------------------------------------

HUMANML3D = "github.com/EricGuo5513/HumanML3D: made from AMASS and HumanAct12 by its scripts"
AMASS = "AMASS's and HumanAct12's terms, for research"


def humanml3d(
    source: Path, results: Path, lifter: type[ResultsLifter], make: Callable[[], Importer], keypoints: str
) -> list[Need]:
    """Lists, vectors and texts of the official folder, and the lifter's results; `keypoints` is the command that makes
    what it lifts."""
    lists = [source / f"{split}.txt" for split in SPLITS]
    names = [name for place in lists for name in listed(place)]
    vectors, texts = source / "new_joint_vecs", source / "texts"
    motions, captions = [vectors / f"{name}.npy" for name in names], [texts / f"{name}.txt" for name in names]
    needs = [
        Need("HumanML3D: lists of the splits", source, HUMANML3D, "0.3 MB", "MIT", *counted(lists, source)),
        Need("HumanML3D: motion", vectors, HUMANML3D, "6 GB", AMASS, *counted(motions, vectors)),
        Need("HumanML3D: captions", texts, HUMANML3D, "20 MB", "MIT", *counted(captions, texts)),
    ]
    places: list[Path] = []
    if not every_missing(needs):
        importer = make()
        for member in importer.members():
            place = result_of(results, member.id, lifter)
            if place.exists() or not unusable(importer, member):
                places.append(place)
    origin = f"run {lifter.name} on the keypoints that this command makes: `{keypoints}`"
    state = counted(places or seen(results.glob("*")), results)  # of which clips is not known without their motion
    return [*needs, Need(f"results of {lifter.name}", results, origin, "4 GB", "the lifter's", *state)]


def listed(place: Path) -> list[str]:
    """Names of a list of a split, none where there is no list."""
    lines = read_text(str(place)).splitlines() if place.is_file() else []
    return [line.strip() for line in lines if line.strip()]


def result_of(folder: Path, clip_id: str, lifter: type[ResultsLifter]) -> Path:
    """Where the results about a clip are, or should be."""
    places = [folder / f"{clip_id}{ending}" for ending in lifter.endings]
    places += [folder / pattern.format(clip_id) for pattern in lifter.written]
    return next((place for place in places if place.is_file()), places[0])


# -- Fit3D ------------------------------------------------------------------------------------------------------------

FIT3D = "fit3d.imar.ro, after an agreement"


def fit3d(source: Path, results: Path, lifter: type[ResultsLifter], models: str) -> list[Need]:
    """Joints and cameras of every take, and what the lifter made of every video."""
    root = next((place for place in (source / "train", source / "fit3d" / "train") if place.is_dir()), source / "train")
    views = list(views_of(root, results, lifter))
    joints = [root / s / "joints3d_25" / f"{action}.json" for s, action, _ in views]
    cameras = [root / s / "camera_parameters" / camera / f"{action}.json" for s, action, camera in views]
    lifted = [result_of(results / s / camera, action, lifter) for s, action, camera in views]
    licence, origin = "for research, as its licence says", f"run {lifter.name} on the videos, one by one"
    needs = [
        Need("Fit3D: joints", root / "SUBJECT/joints3d_25", FIT3D, "2 GB", licence, *counted(joints, root)),
        Need("Fit3D: cameras", root / "SUBJECT/camera_parameters", FIT3D, "5 MB", licence, *counted(cameras, root)),
        Need(f"results of {lifter.name}", results, origin, "2 GB", "the lifter's", *counted(lifted, results)),
    ]
    bare = [place for place in lifted if place.suffix != ".npy" and place.is_file() and not holds_joints(place)]
    if bare and hasattr(lifter, "kind"):
        wanted = Path(models or "the folder of --smpl")
        found = (wanted,) if models and wanted.is_dir() else ()
        absent = () if found else (f"{wanted} ({bare[0]} holds parameters of a body, not joints)",)
        needs.append(
            Need("SMPL body model", wanted, "smpl.is.tue.mpg.de", "50 MB", "SMPL's, non-commercial", found, absent)
        )
    return needs


def views_of(root: Path, results: Path, lifter: type[ResultsLifter]) -> Iterator[tuple[str, str, str]]:
    """Subject, action and camera of every take of which anything is there, or that the source lists."""
    listed, _ = read_info(str(root)) if root.is_dir() else ({}, None)
    inside = (
        place.name
        for place in seen(root.glob("*"))
        if (place / "joints3d_25").is_dir() or (place / "camera_parameters").is_dir()
    )
    for subject in sorted({*inside, *listed}):
        folder, own = root / subject, results / subject
        parts = [place for base in (folder / "camera_parameters", own) for place in seen(base.glob("*"))]
        cameras = sorted({place.name for place in parts if place.is_dir()})
        actions = {place.stem for place in seen((folder / "joints3d_25").glob("*.json"))} | set(listed.get(subject, ()))
        for camera in cameras:
            actions |= {place.stem for place in seen((folder / "camera_parameters" / camera).glob("*.json"))}
            made = seen((own / camera).glob("*"))
            actions |= {place.stem for place in made if place.is_dir() or place.suffix in lifter.endings}
        yield from itertools.product([subject], sorted(actions), cameras or ["CAMERA"])


def holds_joints(place: Path) -> bool:
    """Whether a file of a lifter's has an array `joints`, as no pickle has."""
    if place.suffix != ".npz":
        return False
    try:
        with zipfile.ZipFile(place) as file:
            return "joints.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # its reader says what is wrong with it


# -- NBA --------------------------------------------------------------------------------------------------------------

MAS = "github.com/roykapon/MAS: its NBA data and ElePose's results, which are given out together"


def nba(source: Path, results: Path) -> list[Need]:
    """A sequence of keypoints and the lifter's results for every name."""
    inner = source / "motions" if (source / "motions").is_dir() else source
    names = sorted({place.stem for folder in (inner, results) for place in seen(folder.glob("*.np[yz]"))})
    motions = [inner / f"{name}.npy" for name in names]
    lifted = [next(iter(results.glob(f"{name}.np[yz]")), results / f"{name}.npy") for name in names]
    return [
        Need("NBA: keypoints", inner, MAS, "0.1 GB", "as MAS gives it out", *counted(motions, inner)),
        Need("NBA: results of ElePose", results, MAS, "0.1 GB", "as MAS gives it out", *counted(lifted, results)),
    ]


# -- MDM --------------------------------------------------------------------------------------------------------------


def host(mdm: str, *, official: bool, features: str) -> list[Need]:
    """The checkout that trains and, where its own evaluation is asked for, that evaluation's files."""
    repository = ("github.com/GuyTevet/motion-diffusion-model", "30 MB", "MIT")
    commit = f"commit {checkout.TESTED[0][:7]}"
    try:
        root = checkout.choose(mdm).root
    except HostError as error:
        return [Need("MDM", Path(mdm), *repository, (), (str(error),), commit)]
    found = [Need("MDM", root, *repository, (root,), (), commit)]
    if official:
        for path in evaluation.FILES:
            present, advice = counted([root / path], root), f"`{evaluation.ADVICE[path]}` there"
            found.append(Need(f"MDM: {path.name}", root / path, advice, "under 0.3 GB", "MDM's", *present))
    if features in ("auto", "clip"):
        place = text.clip_path()
        origin = "the package `clip` downloads it: `python -c \"import clip; clip.load('ViT-B/32')\"`"
        state, expected = counted([place], place), f"SHA-256 {CLIP_HASH}"
        if place.is_file() and (is_one := evaluation.hash_of(place)) != CLIP_HASH:
            state = ((), (f"{place} (found SHA-256 {is_one[:12]}...)",))
        found.append(Need("CLIP ViT-B/32", place, origin, "338 MB", "MIT", *state, expected))
    return found


def refuse(needs: Sequence[Need]) -> None:
    """VideoMDMError that names what is missing."""
    if missing := every_missing(needs):
        named = "; ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise VideoMDMError(
            f"reproduce: expected every file of the check list, found none of: {named}. Nothing was begun."
        )
