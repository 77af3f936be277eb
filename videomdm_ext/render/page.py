"""Motions as one page that needs nothing else: played in 3D, and beside it what their camera saw of them.

Style and scripts are in page/, three.js among them (third_party/three says how its file was made). The page may load
nothing and run nothing but its own scripts, whose hashes it names.
"""

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import Array
from videomdm_ext.errors import ConfigError, printable
from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.human_mesh import Body
from videomdm_ext.motion.kinematics import contacts
from videomdm_ext.motion.skeletons import SMPL22, Skeleton
from videomdm_ext.render.body import DRESS, LIMBS, RIG, RIGGED, regions, shapes, wear
from videomdm_ext.render.footage import Footage
from videomdm_ext.render.glb import at_rest

SCRIPTS = ("three.min.js", "motion.js", "picture.js", "body.js", "figures.js", "viewer.js")
"""In the order in which they run."""
SHELL = ("viewer.css", "body.html", *SCRIPTS)
LARGEST = 32767
"""A coordinate in its units; one less than its negative stands for a number that is not finite."""
MESH_CELL = 0.018
"""Detail of the page's mesh, m."""
MOST, MOTIONS = 4_900_000, 3_200_000
"""Bytes of a page, beyond which pictures of videos are left out, and of the motions in it."""


@dataclass(frozen=True)
class Track:
    """One motion: positions [T, J, 3], m, y up, the floor at 0; contacts [T, feet] say which of the skeleton's contact
    joints stand, None where that is not known. Of motions with a seed, those of one seed are shown at a time."""

    name: str
    positions: Array
    contacts: NDArray[Any] | None = None
    seed: int | None = None

    @classmethod
    def of(cls, name: str, positions: Array, skeleton: Skeleton, seed: int | None = None) -> "Track":
        """A motion with the contacts that its own feet's speed tells."""
        if len(positions) < 2:
            return cls(name, positions, None, seed)
        touch = contacts(torch.from_numpy(np.asarray(positions, np.float64)), skeleton).numpy()
        return cls(name, positions, np.concatenate((touch, touch[-1:])), seed)


@dataclass(frozen=True)
class View:
    """What one camera saw: extrinsics [3, 4], or [T, 3, 4] of a moving one, in the frame that all tracks of the scene
    share; keypoints [T, J, 2] on the normalised image plane, of any value where confidence [T, J] is 0; the footage, or
    why there is none; the name of the track that errors in depth are measured from."""

    extrinsics: Array
    keypoints: Array
    confidence: Array
    footage: Footage | str = ""
    reference: str = ""


@dataclass(frozen=True)
class Scene:
    """A caption, and the motions that are shown for it at the same time; `note` says what they are, `group` is the
    heading under which scenes that follow each other are listed."""

    caption: str
    tracks: Sequence[Track]
    view: View | None = None
    note: str = ""
    group: str = ""


def fitting(scenes: Sequence[Scene], most: int = MOTIONS, *, worn: bool = False) -> list[Scene]:
    """The first scenes, at least one, whose motions, `worn` by a body or not, come to at most so many bytes."""
    kept, size = list[Scene](), 0.0
    for scene in scenes:
        size += sum(np.size(track.positions) for track in scene.tracks) * (5.8 if worn else 2) * 4 / 3
        if size > most and kept:
            break
        kept.append(scene)
    return kept


def page(scenes: Sequence[Scene], skeleton: Skeleton, fps: float, title: str, *, body: Body | None = None) -> str:
    """The text of the HTML file; with a `body`, motions of 22 joints wear it, and sticks are a key away."""
    return _document(content(scenes, skeleton, fps, body), title)


def study_page(
    motions: Sequence[Array], skeleton: Skeleton, fps: float, study: Mapping[str, Any], *, collects: bool = False
) -> str:
    """The text of the HTML file of a blind comparison of motions [T, J, 3] (bench/study.py says what `study` holds).

    `collects`: it sends votes to where it is served from.
    """
    stored = content([Scene("", [Track("", positions)]) for positions in motions], skeleton, fps)
    tracks = [scene["tracks"][0] for scene in stored["scenes"]]
    stored |= {**study, "scenes": [], "motions": tracks, "collects": collects}
    return _document(stored, study["title"], "study", "; connect-src 'self'" if collects else "")


def _document(stored: Mapping[str, Any], title: str, more: str = "", allowed: str = "") -> str:
    """A page of the viewer, with the style, the elements and the script of the name `more` around it."""
    style, body, *scripts = (shipped(__package__, "page", name) for name in SHELL)
    if more:
        style += shipped(__package__, "page", f"{more}.css")
        body = shipped(__package__, "page", f"{more}.html").replace("{{viewer}}", body)
        scripts.append(shipped(__package__, "page", f"{more}.js"))
    motions = safe_json(stored)
    running = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="{policy([digest(script) for script in scripts])}{allowed}"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{html.escape(printable(title))}</title>
<link rel="icon" href="data:,"/>
<style>{style}</style>
</head>
<body>
{body.replace("{{title}}", html.escape(printable(title)))}
<script type="application/json" id="motions">{motions}</script>
{running}
</body>
</html>
"""


def content(scenes: Sequence[Scene], skeleton: Skeleton, fps: float, body: Body | None = None) -> dict[str, Any]:
    """What the scripts read. Arrays are base64 of little-endian numbers."""
    if not scenes or not 0 < fps < math.inf:
        raise ConfigError(
            f"page: expected at least one scene and fps above 0, found {len(scenes)} and {fps:g}. Correct what makes "
            "the page."
        )
    stored: dict[str, Any] = {
        "fps": fps,
        "parents": skeleton.parents,
        "sides": [{"l": "left", "r": "right"}.get(joint.partition("_")[0], "middle") for joint in skeleton.joints],
        "head": skeleton.index("head") if "head" in skeleton.joints else -1,
        "feet": skeleton.contact_joints,
        "scenes": [
            {
                "caption": printable(scene.caption),
                "note": printable(scene.note),
                "group": printable(scene.group),
                "tracks": [_track(track, skeleton, scene.caption) for track in scene.tracks],
                "view": _view(scene.view) if scene.view else None,
            }
            for scene in scenes
        ],
    }
    stored = _dressed(stored, scenes, fps, body) if body else stored
    pairs = [(s.view, kept["view"]) for s, kept in zip(scenes, stored["scenes"], strict=True) if s.view]
    left = [(view.footage, kept) for view, kept in pairs if isinstance(view.footage, Footage)]
    spare = MOST - sum(len(shipped(__package__, "page", name)) for name in SHELL) - len(safe_json(stored))
    for number, (footage, kept) in enumerate(left):
        kept["footage"] = footage.packed(spare / (len(left) - number))
        spare -= sum(map(len, kept["footage"]["images"]))
    return stored


def _dressed(stored: dict[str, Any], scenes: Sequence[Scene], fps: float, body: Body) -> dict[str, Any]:
    """The content with one mesh for all, and what bends it in every motion that has no gaps."""
    body, model = body.coarser(MESH_CELL), None
    for scene, kept in zip(scenes, stored["scenes"], strict=True):
        for track, one in zip(scene.tracks, kept["tracks"], strict=True):
            if not np.isfinite(track.positions).all():
                continue
            worn = wear(body, torch.from_numpy(np.asarray(track.positions, np.float64)), fps)
            model = model or worn
            turns = roma.rotmat_to_unitquat(worn.frames).numpy()
            one |= {"turns": packed(np.round(turns * LARGEST), "<i2"), "twists": packed(worn.twists.numpy(), "<f4")}
            one["shape"] = packed(shapes(worn, model).numpy(), "<f4")
    if model is None:
        return stored
    mesh, vertices = model.mesh, model.mesh.vertices.numpy()
    unit = float(np.abs(vertices).max()) / LARGEST
    weights = np.round(mesh.weights.numpy() * 255)
    weights[:, 0] += 255 - weights.sum(1)  # the sum is 255: the greatest one takes the rest
    stored["body"] = {
        "unit": unit,
        "vertices": packed(np.round(vertices / unit), "<i2"),
        "faces": packed(body.faces.numpy(), "<u2"),
        "joints": packed(mesh.joints.numpy(), "<u1"),
        "weights": packed(weights, "<u1"),
        "regions": packed(regions(body).numpy(), "<u1"),
        "colours": list(DRESS.values()),
        "rest": packed(at_rest(model.fitted.offsets, RIG).numpy(), "<f4"),
        "rig": RIGGED,
        "limbs": [(RIG.index(a), SMPL22.index(a), SMPL22.index(b)) for a, b in LIMBS],
    }
    return stored


def _track(track: Track, skeleton: Skeleton, caption: str) -> dict[str, Any]:
    """Positions in whole millimetres about the middle of the motion, in larger units where it goes too far for that."""
    positions = np.asarray(track.positions, np.float64)
    expected = (len(positions) or 1, skeleton.num_joints, 3)
    if positions.shape != expected:
        raise ConfigError(
            f"scene {caption[:60]!r}, positions of {track.name!r}: expected {list(expected)}, found "
            f"{list(positions.shape)}. Correct what makes the page."
        )
    finite = np.isfinite(positions)
    reached = positions[finite.all(-1)]
    low, high = (reached.min(0), reached.max(0)) if len(reached) else (np.zeros(3), np.zeros(3))
    origin = np.round((low + high) / 2, 3)
    unit = max(0.001, float((high - low).max()) / 2 * 1.001 / LARGEST)
    units = np.where(finite, np.round((np.where(finite, positions, 0.0) - origin) / unit), -LARGEST - 1)
    stored: dict[str, Any] = {"name": printable(track.name), "origin": origin.tolist(), "unit": unit}
    stored |= {} if track.seed is None else {"seed": track.seed}
    stored["positions"] = packed(units.clip(-LARGEST - 1, LARGEST), "<i2")
    if track.contacts is not None:
        stored["contacts"] = packed(np.asarray(track.contacts) > 0.5, "<u1")
    return stored


def _view(view: View) -> dict[str, Any]:
    """Extrinsics and keypoints in float32; confidence in 255ths. Pictures are added when the rest is known."""
    sure = np.isfinite(view.keypoints).all(-1) & (np.asarray(view.confidence) > 0)
    return {
        "extrinsics": packed(view.extrinsics, "<f4"),
        "keypoints": packed(np.where(sure[..., None], view.keypoints, 0.0), "<f4"),
        "confidence": packed(np.where(sure, np.ceil(np.asarray(view.confidence).clip(0, 1) * 255), 0), "<u1"),
        "footage": {"images": [], "note": printable(view.footage if isinstance(view.footage, str) else "")},
        "reference": printable(view.reference),
    }


def packed(values: NDArray[Any], kind: str) -> str:
    """Numbers of this kind, in the order of the array's last index first, as base64."""
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def safe_json(stored: Mapping[str, Any]) -> str:
    """JSON that no caption can end early inside a <script> element."""
    text = json.dumps(stored, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def shipped(package: str, *place: str) -> str:
    """The text of a file that a package brings along."""
    return files(package).joinpath(*place).read_text(encoding="utf-8")


def policy(digests: Sequence[str]) -> str:
    """The content security policy of a page that may run the scripts of these digests and load nothing."""
    allowed = " ".join(f"'sha256-{one}'" for one in digests) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; img-src data:"


def script_digests() -> list[str]:
    """Digests of the viewer's own scripts."""
    return [digest(shipped(__package__, "page", name)) for name in SCRIPTS]


def digest(script: str) -> str:
    """SHA-256 of a script, as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# -- scenes of clips ---------------------------------------------------------------------------------------------------


def clip_scene(
    clip: Clip, *, refined: Clip | None = None, more: Sequence[Track] = (), footage: Footage | str = ""
) -> Scene:
    """The motions of a clip in the frame of its truth, or of its teacher where the truth is not known.

    The truth comes first, then the teacher. `refined` is the clip with its refined teacher; `more` are further motions
    in the frame of the teacher. All move by what the camera sees: where it saw them is kept. Errors in depth are
    measured from the truth, or else from the refined teacher.
    """
    base = clip.extrinsics if clip.truth_extrinsics is None else clip.truth_extrinsics
    tracks = list[Track]()
    if clip.truth is not None:
        tracks.append(Track("truth", _decoded(clip, clip.truth)))
    if not clip.is_known:
        tracks.append(Track("teacher", _moved(_decoded(clip, clip.teacher), clip.extrinsics, base)))
    if refined is not None and not clip.is_known:
        tracks.append(Track("refined teacher", _moved(_decoded(refined, refined.teacher), refined.extrinsics, base)))
    tracks += [replace(track, positions=_moved(track.positions, clip.extrinsics, base)) for track in more]
    tracks = [Track.of(track.name, track.positions, clip.skeleton, track.seed) for track in tracks]
    known = [track.name for track in tracks if track.name in ("truth", "refined teacher")]
    view = View(base, clip.keypoints, clip.confidence, footage, next(iter(known), ""))
    return Scene(clip.texts[0], tracks, None if clip.is_known else view)


def _decoded(clip: Clip, features: Array) -> Array:
    return decode(torch.from_numpy(features.astype(np.float64)), clip.skeleton).numpy()


def _moved(positions: Array, old: Array, new: Array) -> Array:
    """Positions [T, J, 3] that the camera `old` sees, placed where `new`, the same camera in another frame, sees them
    alike."""
    before, after = (torch.from_numpy(np.asarray(camera, np.float64)).reshape(-1, 3, 4) for camera in (old, new))
    points = torch.from_numpy(np.asarray(positions, np.float64))
    return to_world(to_camera(points, before), after).numpy()
