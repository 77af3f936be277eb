"""What a report's page shows of motions: packed for its player, and drawn as a small strip of poses."""

import base64
import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.figures import Array, Example

MOST = 2_500_000
"""Bytes of packed motions in a page; what comes after them is left out."""
SIDES = {figures.LEFT: "left", figures.RIGHT: "right", figures.MIDDLE: "middle"}
POSES = 6


def packed(motion: Array) -> str:
    """Positions [T, J, 3], m, as base64 of whole millimetres, little-endian int16, from the root's first place on."""
    start = motion[0, 0] * np.array((1.0, 0.0, 1.0))
    millimetres = np.round((motion - start) * 1000).clip(-32767, 32767)
    return base64.b64encode(millimetres.astype("<i2").tobytes()).decode()


def player_content(
    examples: Sequence[tuple[str, Example]], skeleton: Skeleton, fps: float, *, most: int = MOST
) -> tuple[str, int]:
    """The JSON that the player reads, safe inside a <script> element, and how many of the titled examples it holds."""
    stored: list[dict[str, Any]] = []
    size = 0
    for title, example in examples:
        motions = [{"name": n, "positions": packed(m)} for n, m in example.finite.motions.items() if len(m)]
        size += sum(len(motion["positions"]) for motion in motions)
        if size > most and stored:
            break
        stored.append({"title": title, "caption": example.caption, "motions": motions})
    content = {
        "fps": fps,
        "parents": skeleton.parents,
        "sides": [SIDES[figures.side(joint)] for joint in skeleton.joints],
        "head": skeleton.index("head") if "head" in skeleton.joints else -1,
        "examples": stored,
    }
    text = json.dumps(content, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text, len(stored)


def strip_html(name: str, motion: Array, skeleton: Skeleton) -> str:
    """Poses of a motion [T, J, 3] from left to right in time, each at its own place."""
    motion = Example("", {name: motion}).finite.motions[name]
    chosen = motion[np.linspace(0, len(motion) - 1, POSES).round().astype(int)]
    seen = figures.seen(chosen - chosen[:, :1] * np.array((1, 0, 1)), azimuth=-0.65, elevation=0.06)
    seen[..., 0] += 1.1 * (np.arange(POSES)[:, None] + 0.5)
    seen[..., 1] = 2.0 - seen[..., 1]
    paths: dict[str, list[str]] = {}
    for points in seen.clip(-1, 1.1 * POSES + 1):
        for joint in figures.far_to_near(points[:, 2], skeleton):
            (x, y), (to_x, to_y) = points[skeleton.parents[joint], :2], points[joint, :2]
            side = SIDES[figures.side(skeleton.joints[joint])]
            paths.setdefault(side, []).append(f"M{x:.2f} {y:.2f}L{to_x:.2f} {to_y:.2f}")
    drawn = "".join(f'<path class="{side}" d="{"".join(parts)}"/>' for side, parts in paths.items())
    floor = f'<path class="floor" d="M0 2H{1.1 * POSES:.1f}"/>'
    label, width = html.escape(name, quote=True), 1.1 * POSES
    return (
        f'<figure class="strip"><figcaption>{label}</figcaption><svg viewBox="0 0 {width:.1f} 2.1" role="img" '
        f'aria-label="poses of {label} over time">{floor}{drawn}</svg></figure>'
    )
