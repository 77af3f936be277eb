"""Write the README's picture, docs/films.webp: python docs/make_pictures.py BENCH [SET], the folder of a bench on films
with the arms 3d, lifted and 2d, and its data set where it has moved. Needs the extras demo, video, film and body.

The clip is chosen by a rule and not by looks: of the test clips that fill a crop, the one whose error in `3d` (PA-MPJPE
of the clip made clean, mean over seeds) is the median. Shown is what the arms' first seed made of it.
"""

import io
import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch

from videomdm_ext.bench.plan import REFERENCE, read_plan
from videomdm_ext.cli.viewing import View, first_frames
from videomdm_ext.data.film.stage import Light, Solid, Stage
from videomdm_ext.data.folder import read_folder
from videomdm_ext.errors import ConfigError, VideoMDMError
from videomdm_ext.geometry.cameras import orbit, to_camera
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.motion.human_mesh import build_body
from videomdm_ext.motion.measures import depth_and_image_error, pa_mpjpe, root_aligned
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render import figures
from videomdm_ext.render.body import DRESS, regions
from videomdm_ext.render.footage import Footage, footage

PICTURE = Path(__file__).with_name("films.webp")
SHOWN = ("teacher", "truth", "lifted", "2d", "3d")
PANEL, LARGEST = 300, 1_000_000
"""Pixels of a panel's sides, and bytes of the picture."""
QUALITIES = (70, 50, 35, 20)
FLOOR, SKY = (0.72, 0.75, 0.78), (1.86, 1.88, 1.9)
DISTANCE, FOCAL = 5.2, 2.2
"""Metres from the person to who looks, and the focal length as a share of the panel."""


def chosen_clip(bench: Path, place: str) -> tuple[str, float]:
    """The test clip of the rule, and its error, m."""
    runs = [run for run in read_plan(bench).runs() if run.label == REFERENCE and run.held_out(bench).is_file()]
    made = [read_motions(run.held_out(bench))[0] for run in runs]
    if not made or "truth" not in made[0]:
        raise ConfigError(f"{bench}: expected what {REFERENCE} made of test clips with a truth, found none. Train it.")
    longest = max(map(len, made[0]["truth"]))
    errors = []
    for number, clip in enumerate(read_folder(place, "test")[1]):
        pairs = [(groups["prediction"][number], groups["truth"][number]) for groups in made]
        if len(pairs[0][1]) == longest:
            errors.append((sum(pa_mpjpe(*pair).item() for pair in pairs) / len(pairs), clip.id))
    error, clip_id = sorted(errors)[(len(errors) - 1) // 2]
    return clip_id, error


def square(corners: list[tuple[float, float, float]], colour: tuple[float, float, float], squares: float) -> Solid:
    """Two triangles between four corners, seen from where they go round against the clock."""
    points = np.array(corners, np.float32)
    triangles = points[[[0, 1, 2], [0, 2, 3]]]
    across = np.cross(points[1] - points[0], points[2] - points[0])
    normals = np.broadcast_to(across / np.linalg.norm(across), triangles.shape).astype(np.float32)
    return Solid(triangles, normals, np.broadcast_to(colour, triangles.shape).astype(np.float32), (1.0, squares, 0.05))


def stage(body) -> Stage:
    """A floor of half-metre squares, pale all around, and the person of the pages."""
    far = 40.0
    ends = [(-far, -far), (far, -far), (far, far), (-far, far)]
    solids = [square([(x, -0.002, z) for x, z in ends[::-1]], FLOOR, 0.5)]
    for (ax, az), (bx, bz) in zip(ends, [*ends[1:], ends[0]], strict=True):
        solids.append(square([(ax, -far, az), (bx, -far, bz), (bx, far, bz), (ax, far, az)], SKY, 1e6))
    light = Light((0.1, 1.0, 0.15), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75))
    colours = np.array(list(DRESS.values()))[regions(body).numpy()] ** (1 / 2.2)
    return Stage((PANEL, PANEL), solids, light, body.faces.numpy(), colours)


def filmed(theatre: Stage, body, positions, azimuth: float) -> list:
    """Pictures [PANEL, PANEL, 3] of a motion [T, 22, 3] from the side, the person in the middle."""
    moved = torch.from_numpy(np.asarray(positions)).float()
    aim = torch.from_numpy(figures.followed(moved.numpy().astype(np.float64))).float() + torch.tensor((0.0, 0.9, 0.0))
    angles = torch.full((len(moved),), azimuth)
    cameras = orbit(angles, torch.full_like(angles, 0.12), torch.full_like(angles, DISTANCE), aim)
    worn = zip(*body.wear(moved), cameras.numpy(), strict=True)
    return [theatre.picture(v, n, camera, FOCAL * PANEL) for v, n, camera in worn]


def make(bench: Path, moved: str) -> str:
    """Write the picture. -> what it shows, for its caption."""
    plan = read_plan(bench)
    place = moved or plan.clips
    clip_id, error = chosen_clip(bench, place)
    view = View(bench, ids=(clip_id,), seeds=1, clips=Path(place))
    (scene,) = view.of_unseen([run for run in plan.runs() if run.seed == 0], plan, place)
    tracks = {track.name: track.positions for track in scene.tracks}
    if missing := set(SHOWN) - tracks.keys():
        raise ConfigError(f"{bench}: expected the arms 3d, lifted and 2d, found no {', '.join(missing)}. Train them.")
    length = len(tracks["truth"])
    whole = next(clip for clip in read_folder(place, "test")[1] if clip.id == clip_id)
    clip = first_frames(whole, length)
    film = footage(place, clip, every=1, high=480)
    if not isinstance(film, Footage):
        raise ConfigError(film or f"{place}: expected a set of films, found another. Make one: videomdm data film.")
    camera = torch.from_numpy(np.asarray(scene.view.extrinsics)).double().reshape(-1, 3, 4)
    seen = {name: to_camera(torch.from_numpy(np.asarray(p)).double(), camera) for name, p in tracks.items()}
    off = {name: depth_and_image_error(root_aligned(m, seen["truth"]), seen["truth"])[0] for name, m in seen.items()}
    ahead = camera[0, 2, :3]
    body = build_body({})
    theatre = stage(body)
    azimuth = math.atan2(-float(ahead[2]), float(ahead[0]))
    panels = {name: filmed(theatre, body, tracks[name], azimuth) for name in SHOWN}
    theatre.context.release()
    titles = {name: f"{name}: off by {1000 * off[name]:.0f} mm in depth" for name in SHOWN} | {"truth": "truth"}
    frames = [drawn(clip, film, panels, titles, t) for t in range(min(length, len(film.pictures)))]
    for quality in QUALITIES:
        content = io.BytesIO()
        look = {"quality": quality, "method": 6, "duration": round(1000 / clip.fps), "loop": 0}
        frames[0].save(content, "webp", save_all=True, append_images=frames[1:], **look)
        if len(content.getvalue()) < LARGEST:
            break
    PICTURE.write_bytes(content.getvalue())
    facts = f"{1000 * error:.0f} mm PA-MPJPE in {REFERENCE}, {length / clip.fps:.1f} s"
    return f"{PICTURE}: {len(content.getvalue()) / 1000:.0f} kB, {clip_id} “{clip.texts[0]}”, {facts}"


def drawn(clip, film, panels, titles, frame):
    """One frame of the animation: the film with its keypoints, and the motions, two rows of three."""
    head = 30
    with figures.styled():
        size = (3 * PANEL / 100, 2 * (PANEL + head) / 100)
        figure = figures.require("matplotlib.figure").Figure(figsize=size, dpi=100)
        canvas = figures.require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
        for number, name in enumerate(["film", *panels]):
            column, row = number % 3, number // 3
            bottom = (1 - row) * (PANEL + head) / (2 * (PANEL + head))
            axes = figure.add_axes((column / 3, bottom, 0.994 / 3, PANEL / (2 * (PANEL + head))))
            title = "film, and what the detector saw" if name == "film" else titles[name]
            above = bottom + (PANEL + 10) / (2 * (PANEL + head))
            figure.text(column / 3 + 0.005, above, title, size=9.5, weight="bold")
            if name == "film":
                left, top, right, low = film.box
                axes.imshow(film.pictures[frame], extent=(left, right, low, top), aspect="equal")
                points = np.where(clip.confidence[frame][:, None] > 0, clip.keypoints[frame], np.nan)
                figures.draw_poses(axes, points[None], SMPL22, width=2.2, halo=0.8)
                middle, half = ((left + right) / 2, (top + low) / 2), min(right - left, low - top) / 2
                axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] + half, middle[1] - half))
            else:
                axes.imshow(panels[name][frame])
            figures.bare(axes)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return figures.require("PIL.Image").fromarray(pixels)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(
            f"{sys.argv[0]}: expected the folder of a bench, perhaps a data set's, found {len(sys.argv) - 1} words."
        )
    try:
        print(make(Path(sys.argv[1]), "".join(sys.argv[2:])))
    except VideoMDMError as error:
        sys.exit(textwrap.fill(f"error: {error}", 120))
