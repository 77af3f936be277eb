"""Files of every kind that is read, changed by type and by byte: each is read or refused with its name, never a fault.

`READERS` has one valid file of each kind and what reads it. A change by type replaces a value of a JSON file by one of
another type, or removes, renames or repeats an entry; one by byte replaces, cuts or adds bytes, also inside the arrays
of a .npz. `VIDEOMDM_MUTATIONS=400 pytest -m soak -n 0 tests/data/test_mutations.py` makes so many of each kind a file.
"""

import argparse
import contextlib
import copy
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from clips import make_clip
from filmed import film, write_detections
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bench import CARD, make_plan

from videomdm_ext.bench import fairness, provenance
from videomdm_ext.bench.plan import Run, load_arm, read_plan
from videomdm_ext.bench.reference import ReferenceRows
from videomdm_ext.bench.report import results
from videomdm_ext.cli.sampling import read_prompts
from videomdm_ext.data import files, schemas, seal
from videomdm_ext.data.building import Builder, write_folder
from videomdm_ext.data.checks import checking
from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.data.film.filming import Shown
from videomdm_ext.data.folder import read_card, read_folder, read_statistics
from videomdm_ext.data.motions import load_motions
from videomdm_ext.data.refined import folder_of, read_refined
from videomdm_ext.data.sources import amass, base, bvh, fit3d
from videomdm_ext.data.texts import caption_table, read_captions
from videomdm_ext.data.video.detections import read_detections
from videomdm_ext.data.video.frames import read_calibration
from videomdm_ext.data.video.people import choose, follow
from videomdm_ext.errors import CONTROL, VideoMDMError
from videomdm_ext.inference.sample import read_motions, write_motions
from videomdm_ext.lifters.adapters import Gvhmr, Joints, Phalp, Wham
from videomdm_ext.mdm import loss, resume
from videomdm_ext.motion import joint_names
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import SMPL22

UNREAD = ("BVH", "GVHMR")
"""Readers whose valid file is one only up to what is asked of its content, not of its form."""
SECONDS, BYTES = 10.0, 1 << 30
"""A reader takes no longer and allocates no more."""
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A valid file and what reads it; `anew`: what else has to be removed before every reading."""

    place: Path
    read: Read
    anew: tuple[Path, ...] = ()


# -- a valid file of each kind ----------------------------------------------------------------------------------------

CALIBRATION = """[cam_02]
name = "cam02"
size = [320.0, 240.0]
matrix = [[300.0, 0.0, 160.0], [0.0, 310.0, 120.0], [0.0, 0.0, 1.0]]
distortions = [0.1, 0.2, 0.01, 0.02, 0.3]
rotation = [0.1, 0.2, 0.3]
translation = [0.5, 0.1, 4.0]
"""
QCA = """<calibration><cameras><camera serial="7"><fov_video left="0" right="319" top="0" bottom="239"/>
<transform x="1" y="2" z="3000" r11="1" r12="0" r13="0" r21="0" r22="1" r23="0" r31="0" r32="0" r33="1"/>
<intrinsic focalLengthU="19200" focalLengthV="19840" centerPointU="10240" centerPointV="7680" skew="0"
 radialDistortion1="0.1" radialDistortion2="0.2" radialDistortion3="0.3" tangentalDistortion1="0.01"
 tangentalDistortion2="0.02"/></camera></cameras></calibration>"""
ARM = "supervision: 2d\nteacher: refined\nloss: posterior\nunroll: 'on'\nunroll_below: 12\nof: 3d\ndeclare: [loss]\n"
TABLE = "walk\ta person walks\nwalk\ta man walks slowly\t0.5\t2.0\n"
PROGRESS = "step,loss,velocity,passes\n1,0.5,0.25,1\n2,0.4,0.125,1\n"
CLIP = make_clip(name="walk")
FRAMES = 6
SKELETON = {"pelvis": "Hips", "l_hip": "LHip"}


def _write_set(path: Path) -> None:
    splits = {"train": [make_clip(name=name) for name in ("dance_a", "walk", "jump")], "test": [make_clip(name="kick")]}
    write_folder(str(path), splits, CARD)


def _person(number: int) -> tuple[list[list[float]], list[float]]:
    return [[100.0 + joint + number, 50.0 + 9 * joint] for joint in range(17)], [0.9] * 17


def _triples(number: int) -> list[float]:
    return [value for point, score in zip(*_person(number), strict=True) for value in (*point, score)]


def _detected(path: Path, kind: str) -> None:
    found = read_detections(str(path), kind, count=FRAMES, fps=20.0)
    choose(follow(found), found.times, "largest", str(path))


def _of_set(path: Path) -> None:
    """As a training, refining or a bench opens a set; what they take has no error in a check."""
    root = next(parent for parent in path.parents if (parent / "dataset.json").is_file() or parent.name == "set")
    card = read_card(str(root))
    for split in card.counts:
        read_folder(str(root), split)
    read_statistics(str(root))
    read_statistics(str(root), card.lifter)
    seal.verify(str(root))
    errors = check_folder(str(root), use_cache=False).errors
    assert not errors, f"accepted, and a check says {errors[:2]}"


def _begun(path: Path) -> None:
    Builder(str(path.parents[1]), CARD)


def _trained(place: Path) -> None:
    loss.check_stored(argparse.Namespace(**files.read_json(place, "args")), place.with_name("model000000012.pt"))


def _bench(path: Path) -> None:
    out = next(parent for parent in path.parents if parent.name == "bench")
    plan = read_plan(out)
    fairness.check_numbers(plan)
    provenance.benches(out)
    provenance.problems(out)
    for run in plan.runs():
        provenance.read_cost(run.folder(out)), provenance.read_seconds(run.folder(out))
        results.read_losses(run.folder(out))
        run.steps_done(out)


def _joint_map(path: Path) -> None:
    assert bvh.BvhImporter(str(path.parent), base.ImportOptions(extra={"map": str(path)}))._reading


def _kept(kind: str, path: Path) -> None:
    content = files.read_json(path, kind)
    if kind == "calibration":
        rows = ReferenceRows(**{name: entry for name, entry in content.items() if name not in ("key", "parts")})
        rows.truth.get("pose_frechet", 0.0) or 0.0


def _lifted(lifter: Any, path: Path) -> None:
    lifter.lift(
        "walk", keypoints=torch.from_numpy(CLIP.keypoints), confidence=torch.from_numpy(CLIP.confidence),
        extrinsics=torch.from_numpy(CLIP.truth_extrinsics), fps=20.0,
    )  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _build(root: Path) -> Iterator[tuple[str, Reader]]:
    """Every reader by name, each with a valid file."""
    own = root / "set"
    _write_set(own)
    listed = {
        "card": "dataset.json", "split list": "train.txt", "Mean": "Mean.npy", "Std of the teacher":
        "teacher_vecs/bent/Std.npy", "teacher": "teacher_vecs/bent/walk_0.npy", "truth": "new_joint_vecs/walk_0.npy",
        "keypoints": "keypoints_2d/walk_0.npz", "camera": "cameras/walk_0.npz", "captions": "texts/walk_0.txt",
    }  # fmt: skip
    for name, place in listed.items():
        yield name, Reader(own / place, _of_set, (own / "index",))
    check_folder(str(own))
    yield "cache of a check", Reader(own / checking.CACHE, lambda path: check_folder(str(path.parent)))
    _write_set(root / "indexed" / "set")
    yield "index", Reader(root / "indexed" / "set" / "index" / "train.tsv", _of_set)
    # an import that was cut off, and refined teachers
    begun = root / "begun"
    builder = Builder(str(begun), CARD)
    for clip in (CLIP, make_clip(name="jump")):
        builder.add(clip, "train")
    yield "mark of an import", Reader(begun / "building" / "walk_0.json", _begun)
    made = root / "made"
    _write_set(made)
    card = read_card(str(made))
    where = Path(folder_of(str(made), card))
    shutil.copytree(made / "teacher_vecs" / "bent", where)
    for clip in read_folder(str(made), "train")[1]:
        np.savez(where / f"{clip.id}.npz", features=clip.teacher, extrinsics=clip.extrinsics)

    def refined(path: Path) -> None:
        for _ in read_refined(str(made), card, read_folder(str(made), "train")[1])[0]:
            pass

    yield "refined teacher", Reader(where / "walk_0.npz", refined)
    yield "Mean of refined teachers", Reader(where / "Mean.npy", refined)

    def write(name: str, content: bytes | str) -> Path:
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        return place

    # what others make
    rows = [{"frame_id": n, "instances": [dict(zip(("keypoints", "keypoint_scores"), _person(n), strict=True))]}
            for n in range(FRAMES)]  # fmt: skip
    alike = [{"image_id": f"{n}.jpg", "keypoints": _triples(n), "score": 2.5} for n in range(FRAMES)]
    coco = {"images": [{"id": n, "file_name": f"clip_{n:04d}.png"} for n in range(FRAMES)],
            "annotations": [{"image_id": n, "keypoints": _triples(n)} for n in range(FRAMES)]}  # fmt: skip
    for n in range(FRAMES):
        write(f"openpose/clip_{n:012d}_keypoints.json", _json({"people": [{"pose_keypoints_2d": _triples(n)}]}))
    yield (
        "OpenPose",
        Reader(root / "openpose" / "clip_000000000002_keypoints.json", lambda p: _detected(p.parent, "openpose")),
    )
    for name, kind, content in (
        ("MMPose", "mmpose", {"meta_info": {}, "instance_info": rows}), ("AlphaPose", "alphapose", alike),
        ("COCO", "coco", coco),
    ):  # fmt: skip
        yield name, Reader(write(f"{kind}.json", _json(content)), lambda p, kind=kind: _detected(p, kind))
    write_detections(root / "blaze.npz", film())
    yield (
        "BlazePose",
        Reader(root / "blaze.npz", lambda p: read_detections(str(p), "blazepose", count=FRAMES, fps=20.0)),
    )
    yield "calibration (toml)", Reader(write("c.toml", CALIBRATION), lambda p: read_calibration(str(p)))
    yield "calibration (qca)", Reader(write("c.qca.txt", QCA), lambda p: read_calibration(str(p)))
    lens = {"intrinsics_w_distortion": {"f": [1000.0, 1000.0], "c": [450.0, 450.0], "k": [0.1, 0.0, 0.0],
                                        "p": [0.0, 0.0]}}  # fmt: skip
    yield "Fit3D's camera", Reader(write("lens.json", _json(lens)), lambda p: fit3d.read_lens(str(p)))
    info = {"train_subj_names": ["s03"], "subj_to_act": {"s03": ["squat"]}}
    yield "Fit3D's list", Reader(write("fit3d/fit3d_info.json", _json(info)), lambda p: fit3d.read_info(str(p.parent)))
    positions = CLIP_POSITIONS
    write("results/walk.npy", files.array_bytes(positions[:, :22]))
    yield (
        "a lifter's joints",
        Reader(root / "results" / "walk.npy", lambda p: base.read_results(str(p.parent), ("walk",), 22)),
    )
    write("joints/walk.npy", files.array_bytes(positions[:, :22]))
    joints = Joints(results=str(root / "joints"), skeleton="smpl22", frame="world")
    yield "joints of another lifter", Reader(root / "joints" / "walk.npy", lambda p: _lifted(joints, p))
    torch.save({"smpl_params_incam": {
        "body_pose": torch.zeros(40, 63), "global_orient": torch.zeros(40, 3), "transl": torch.ones(40, 3),
        "betas": torch.zeros(40, 10)}}, write("gvhmr/walk.pt", b""))  # fmt: skip
    gvhmr = Gvhmr(results=str(root / "gvhmr"), smpl=str(root))
    yield "GVHMR", Reader(root / "gvhmr" / "walk.pt", gvhmr.people_in)
    turns, moved, betas = np.zeros((40, 72), np.float32), np.ones((40, 3), np.float32), np.zeros((40, 10), np.float32)
    person = {"pose": turns, "trans": moved, "betas": betas, "frame_ids": np.arange(40)}
    wham, phalp = (kind(results=str(root), smpl=str(root)) for kind in (Wham, Phalp))
    yield "WHAM", Reader(write("wham_output.pkl", pickle.dumps({0: person})), wham.people_in)
    smpl = {"global_orient": np.zeros((1, 3, 3)), "body_pose": np.zeros((23, 3, 3)), "betas": np.zeros(10)}
    seen = {
        f"{t}.jpg": {"time": t, "tid": [1], "bbox": [np.ones(4)], "tracked_time": [0], "smpl": [smpl]} for t in range(9)
    }
    yield "PHALP", Reader(write("demo_walk.pkl", pickle.dumps(seen)), phalp.people_in)
    capture = (
        "HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\nCHANNELS 3 Zrotation Xrotation Yrotation\nEnd Site\n{\nOFFSET 0 1 0\n}"
    )
    capture += "\n}\nMOTION\nFrames: 2\nFrame Time: 0.05\n0 0 0\n1 2 3\n"
    yield "BVH", Reader(write("x.bvh", capture), lambda p: bvh.read_take(p, bvh.Reading()))
    smpl = _npz(poses=np.zeros((8, 156)), trans=np.zeros((8, 3)), betas=np.zeros(16), gender="male",
                 mocap_framerate=60.0)  # fmt: skip
    yield "AMASS", Reader(write("x.npz", smpl), amass.declared)
    joint_map = "".join(f"{joint}: {joint}\n" for joint in joint_names.SMPL22.joints)
    yield "map of joints", Reader(write("map.yaml", joint_map), _joint_map)
    yield "a film's motion", Reader(
        write("f.npz", _npz(positions=np.zeros((4, 22, 3)), fps=20.0, film_fps=25.0, extrinsics=np.zeros((1, 3, 4)),
                            focal=300.0, moves=0.0, split=0.0)),
        lambda p: Shown.of(str(p)),
    )  # fmt: skip
    shutil.copy(Path(schemas.__file__).with_name("bundled") / "deepmimic.npz", root / "bundle.npz")
    yield "bundled motions", Reader(root / "bundle.npz", lambda p: load_motions(p))
    yield (
        "captions of HumanML3D",
        Reader(
            write("t.txt", "a man walks#a/DET man/NOUN walk/VERB#0.0#0.0\nhe jumps##1.0#2.5\n"),
            lambda p: read_captions(str(p)),
        ),
    )
    yield "table of captions", Reader(write("t.tsv", TABLE), lambda p: caption_table(str(p)))
    yield "prompts", Reader(write("p.txt", "a man walks\na man jumps\t3.5\n"), lambda p: read_prompts(p, 2.0))
    # runs and benches
    out = root / "bench"
    plan = make_plan(own, content=read_card(str(own)).content_hash, arms=("3d",), select="", curve=0)
    out.mkdir()
    fairness.write_plan(plan, out, read_card(str(own)))
    run = Run(plan, "3d", 0)
    run.folder(out).mkdir(parents=True)
    words = run.arguments(out)
    pairs = {word[2:]: after for word, after in itertools.pairwise(words) if word.startswith("--")}
    args = {name: value.startswith("--") or yaml.safe_load(value) for name, value in pairs.items()}
    args |= {"num_heads": 4, "lambda_vel": 0.0, "unconstrained": False, "noise_schedule": "cosine", "lr": 0.002}
    write("bench/runs/3d-0/model000000012.pt", b"weights")
    yield "args.json", Reader(write("bench/runs/3d-0/args.json", _json(args)), _trained)
    yield "args.json of a bench", Reader(run.folder(out) / "args.json", _bench)
    yield "plan", Reader(out / "plan.json", _bench)
    record = {"command": ["bench"], "runs": {"3d-0": {"checkpoint": {"step": 60, "sha256": "0" * 64},
                                                      "samples": {"000.npz": "0" * 64}}}}  # fmt: skip
    yield "run.json", Reader(write("bench/run.json", _json(record)), _bench)
    yield "metrics.json", Reader(write("bench/metrics.json", _json({"title": "x", "verdict": ["all"], "arms": [],
                                                                    "clips": 6})), _bench)  # fmt: skip
    yield "cost.json", Reader(write("bench/runs/3d-0/cost.json", _json({"memory": 12.5, "parameters": 99})), _bench)
    yield "seconds.txt", Reader(write("bench/runs/3d-0/seconds.txt", "12.5"), _bench)
    yield "progress.csv", Reader(write("bench/runs/3d-0/progress.csv", PROGRESS), _bench)
    yield "chosen.json", Reader(write("chosen.json", _json({"step": 60, "metric": "x", "errors": [1.0, None]})),
                                lambda p: files.read_json(p, "chosen"))  # fmt: skip
    kept = {"key": "k", "parts": ["a"]}
    levels = {"pose_frechet": 1.5, "jitter": None}
    for name, kind, content in (
        ("scores", "replication", {"scores": levels, "per_clip": {"jitter": [1.0, None]}}),
        ("held-out scores", "heldout", {"prediction": levels, "teacher": levels}),
        ("reference rows", "calibration", {**dict.fromkeys(("truth", "floor", "teacher", "static"), levels),
                                           "clips": 4, "shuffled": levels, "distrust": {}}),
    ):  # fmt: skip
        place = write(f"scores/{kind}.json", _json({**kept, **content}))
        yield name, Reader(place, lambda p, kind=kind: _kept(kind, p))
    yield "arm", Reader(write("arm.yaml", ARM), lambda p: load_arm(str(p)))
    write_motions(root / "motions.npz", {"samples": [torch.ones(5, 22, 3), torch.ones(4, 22, 3)]}, ["a", "b"])
    yield "motions", Reader(root / "motions.npz", read_motions)
    weights = {"a.weight": torch.ones(3, 2), "b.bias": torch.zeros(2)}
    torch.save({"model": weights, "step": 12}, write("model000000012.pt", b""))
    yield "checkpoint", Reader(root / "model000000012.pt", resume.refuse)
    torch.save({"rounds": weights}, write("rounds.pt", b""))
    yield "tensors", Reader(root / "rounds.pt", lambda p: files.read_tensors(str(p)))


CLIP_POSITIONS = decode(torch.from_numpy(CLIP.truth), SMPL22).numpy()


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    found = dict(_build(tmp_path_factory.mktemp("mutations")))
    assert set(found) == set(NAMES), set(found) ^ set(NAMES)
    return found


NAMES = (
    "card", "split list", "Mean", "Std of the teacher", "teacher", "truth", "keypoints", "camera", "captions", "index",
    "cache of a check", "mark of an import", "refined teacher", "Mean of refined teachers", "OpenPose", "MMPose",
    "AlphaPose", "COCO", "BlazePose", "calibration (toml)", "calibration (qca)", "Fit3D's camera", "Fit3D's list",
    "a lifter's joints", "joints of another lifter", "GVHMR", "WHAM", "PHALP", "BVH", "AMASS", "map of joints",
    "a film's motion", "bundled motions", "captions of HumanML3D", "table of captions", "prompts", "args.json",
    "args.json of a bench", "plan", "run.json", "metrics.json", "cost.json", "seconds.txt", "progress.csv",
    "chosen.json", "scores", "held-out scores", "reference rows", "arm", "motions", "checkpoint", "tensors",
)  # fmt: skip


# -- changes ----------------------------------------------------------------------------------------------------------

RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-1e400", "9" * 40, "9" * 5000)
"""Numbers that json.dumps does not write."""
DEEP: Any = None
for _ in range(60):
    DEEP = [DEEP]
WRONG = (
    None, True, False, 0, -1, -50, 1, 2.5, 1e-300, 1e300, 10**18, -(2**63), "", "x", "NaN", "12", "../../x", "\x1b[2J",
    "\u202e", "a" * 5000, "\ud800", [], {}, [None], [0], [[]], {"a": 1}, {"": None}, [1, 2, 3], DEEP, *map(str, RAW),
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value inside a JSON value; of long lists only the first and the last entries."""
    found = [at]
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, part in pairs[:6] + pairs[6:][-3:]:
        found += places(part, (*at, key))
    return found


def by_type(content: bytes, draw: random.Random) -> bytes:
    """The JSON text with one to three entries of other types, removed, renamed or doubled."""
    value, raw = json.loads(content), {}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.choice(places(value))
        if not at:
            value = copy.deepcopy(draw.choice(WRONG)) if draw.random() < 0.1 else value
            continue
        parent = value
        for key in at[:-1]:
            parent = parent[key]
        change = draw.choice(("value", "value", "value", "raw", "remove", "rename", "double"))
        if change == "value":
            parent[at[-1]] = copy.deepcopy(draw.choice(WRONG))
        elif change == "raw":
            parent[at[-1]] = f"@{len(raw)}@"
            raw[f'"@{len(raw)}@"'] = draw.choice(RAW)
        elif change == "remove":
            del parent[at[-1]]
        elif isinstance(parent, dict):
            parent[draw.choice(("x", "", "\x1b[31m", "__class__", str(at[-1]).upper()))] = (
                parent.pop(at[-1]) if change == "rename" else parent[at[-1]]
            )
        else:
            parent.insert(0, copy.deepcopy(parent[at[-1]]))
    text = json.dumps(value)
    for mark, number in raw.items():
        text = text.replace(mark, number)
    return text.encode()


def by_byte(content: bytes, draw: random.Random) -> bytes:
    """The bytes with some replaced, removed, added or repeated; of an archive, sometimes those of its arrays."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        if not made:
            break
        start = draw.randrange(len(made))
        change = draw.choice(("one", "one", "one", "bit", "cut", "drop", "repeat", "text"))
        if change == "one":
            made[start] = draw.randrange(256)
        elif change == "bit":
            made[start] ^= 1 << draw.randrange(8)
        elif change == "cut":
            del made[start:]
        elif change == "drop":
            del made[start : start + draw.randrange(1, 9)]
        elif change == "repeat":
            made[start:start] = made[start : start + draw.randrange(1, 200)]
        else:
            made[start:start] = draw.choice(
                (b"\0", b"\n", b"\t", b"#", b"\xff\xfe", b"nan", b"-1", b"1e999", b"\x1b[2J", "\u202e²٣".encode(), b"'")
            )
    return bytes(made)


def by_number(content: bytes, draw: random.Random) -> bytes:
    """A .npy or .npz file with other numbers, shapes, types or names of arrays, well formed."""
    single = content[:6] == np.lib.format.MAGIC_PREFIX
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    arrays = {"": loaded} if single else {name: loaded[name] for name in loaded.files}
    name = draw.choice(list(arrays))
    values = arrays[name]
    change = draw.choice(("number", "number", "shape", "dtype", "name", "length", "empty"))
    if change == "number" and values.size and values.dtype.kind == "f":
        values = values.copy()
        values.reshape(-1)[draw.randrange(values.size)] = draw.choice((np.nan, np.inf, -np.inf, 1e30, -1e9, 1e6, 0.0))
    elif change == "shape":
        values = draw.choice((values.reshape(-1), values[None], values.T, np.asarray(values.size)))
    elif change == "dtype":
        wanted = draw.choice(("f8", "i4", "u1", "?", "f2", "c8", "U3", "S2", "O", "V4"))
        with np.errstate(all="ignore"), contextlib.suppress(ValueError, TypeError):
            values = np.array(["x", None], object) if wanted == "O" else values.astype(wanted)
    elif change == "length":
        values = values[:-1] if values.ndim else values
    elif change == "empty":
        values = values[:0] if values.ndim else values
    arrays[name] = values
    if change == "name" and not single:
        arrays[draw.choice(("x", "../x", "points2", ""))] = arrays.pop(name)
    made = io.BytesIO()
    np.save(made, values) if single else np.savez(made, **arrays)
    return made.getvalue()


def change(reader: Reader, kind: str, content: bytes, draw: random.Random) -> bytes:
    if kind == "typed":
        return by_type(content, draw)
    if reader.place.suffix in (".npy", ".npz") and draw.random() < 0.6:
        return by_number(content, draw)
    return by_byte(content, draw)


def outcome(reader: Reader, content: bytes) -> str:
    """Read the file with this content. -> the message with which it is refused, or an empty text."""
    before = reader.place.read_bytes()
    try:
        reader.place.write_bytes(content)
        for other in reader.anew:
            shutil.rmtree(other, ignore_errors=True)
        began = time.process_time()
        try:
            reader.read(reader.place)
        except VideoMDMError as error:
            message = str(error)
            named = (reader.place.stem, *(f"/{folder.name}" for folder in list(reader.place.parents)[:3]))
            assert any(name in message for name in named), message
            assert not CONTROL.search(message.replace("\n", "")), repr(message)
            assert len(message) < 3000, len(message)
            return message
        finally:
            assert time.process_time() - began < SECONDS
        return ""
    finally:
        reader.place.write_bytes(before)


# -- the laws ---------------------------------------------------------------------------------------------------------


def holds(reader: Reader, kind: str, count: int) -> dict[str, int]:
    """Change the file `count` times. -> how many were accepted and refused."""
    counts = {"accepted": 0, "refused": 0}
    content = reader.place.read_bytes()

    @settings(max_examples=count, deadline=None, database=None)
    @given(draw=st.randoms(use_true_random=False))
    def each(draw: random.Random) -> None:
        made = change(reader, kind, content, draw)
        counts["refused" if outcome(reader, made) else "accepted"] += 1

    each()
    return counts


def test_every_reader_reads_its_own_valid_file(readers: dict[str, Reader]):
    for name in readers.keys() - set(UNREAD):
        assert outcome(readers[name], readers[name].place.read_bytes()) == "", name


NONSENSE = {
    "card": ({"lifter": None}, {"skeleton": [None]}, {"fps": "@1e999"}, {"heading": "x"}, {"heading": {"sigma": "x"}}),
    "MMPose": ({"instance_info": [{"frame_id": "@Infinity", "instances": []}]},
               {"instance_info": [{"frame_id": 0, "instances": [{"keypoints": [["@" + "9" * 40, 1]] * 17,
                                                                 "keypoint_scores": [1.0] * 17}]}]}),
    "args.json": ({"num_heads": 0}, {"layers": {}}, {"dropout": "NaN"}, {"diffusion_steps": -50}, {"latent_dim": 10**9},
                  {"latent_dim": 60_000, "layers": 900}),
    "plan": ({"arms": [0]}, {"arms": []}, {"learning_rate": "@NaN"}, {"seeds": True}),
    "scores": ({"scores": "@NaN"}, {"scores": {"jitter": "@-Infinity"}}, {"per_clip": {"jitter": 3}}),
    "chosen.json": ({"step": "@1e999"},),
}  # fmt: skip
"""Changes of which each was a fault, or was taken, by reader; a number behind @ is written as it stands."""


def test_typed_nonsense_is_refused_with_the_entry_where_it_stands(readers: dict[str, Reader]):
    for name, changes in NONSENSE.items():
        for entries in changes:
            text = json.dumps({**json.loads(readers[name].place.read_bytes()), **entries})
            message = outcome(readers[name], re.sub(r'"@([^"]+)"', r"\1", text).encode())
            assert "expected" in message, (name, entries)
            assert "found" in message
            assert "@" in text or next(iter(entries)) in message


def test_a_file_of_any_kind_with_changed_bytes_is_read_or_refused_by_name(readers: dict[str, Reader]):
    for reader in readers.values():
        holds(reader, "bytes", 2)


def test_a_json_file_with_entries_of_other_types_is_read_or_refused_by_name(readers: dict[str, Reader]):
    counts = [holds(reader, "typed", 6) for reader in readers.values() if reader.place.suffix == ".json"]
    assert len(counts) > 15
    assert sum(count["refused"] for count in counts) > sum(count["accepted"] for count in counts) / 2


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_many_changes_of_every_file_end_in_no_fault(name: str, readers: dict[str, Reader]):
    for kind in ("bytes", "typed") if readers[name].place.suffix == ".json" else ("bytes",):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = holds(readers[name], kind, int(os.environ.get("VIDEOMDM_MUTATIONS", "150")))
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < BYTES
        print(f"{name}, {kind}: {counts}")
