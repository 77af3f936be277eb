"""The verb `view`, motions as one page for the browser, which it may serve."""

import dataclasses
import http.server
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from torch import Tensor

from videomdm_ext.bench.plan import Plan, Run, read_plan
from videomdm_ext.bench.reference import motion, motion_of
from videomdm_ext.bench.run import DENOISE_AT
from videomdm_ext.cli.console import chosen_ids, console, quoted
from videomdm_ext.cli.exporting import human_body, known_joints
from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip, cameras_of
from videomdm_ext.data.folder import CARD, SPLITS, Card, read_card, read_clip, read_folder
from videomdm_ext.data.refined import is_made, read_refined
from videomdm_ext.errors import ConfigError, DatasetError, VideoMDMError, counted
from videomdm_ext.geometry.cameras import to_world
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.motion.skeletons import SKELETONS, Skeleton, by_name
from videomdm_ext.render.footage import footage
from videomdm_ext.render.page import Scene, Track, clip_scene, fitting, page

Motions = tuple[dict[str, list[Tensor]], list[str]]
"""Motions by group, and captions."""
Found = tuple[Sequence[Scene], Skeleton, float, str]
"""Scenes, their skeleton and frames a second, and the title of their page."""


@dataclass(frozen=True)
class View:
    """Write motions as one page that plays them in 3D in a browser, without a network."""

    what: Annotated[Path, tyro.conf.Positional]
    """A data set, the folder of a demo or bench, a folder of samples, or a file of motions (npz)."""
    out: Path | None = None
    """The page; by default NAME.html in the current folder."""
    ids: tuple[str, ...] = ()
    """Clips of the data set, or unseen ones of a comparison; without any, the first ones of --split, or some of all."""
    split: str = "train"
    """Split of the data set that clips are taken from."""
    count: int = 12
    """Captions on the page, at most."""
    seeds: int = 3
    """Seeds of each arm of a comparison, at most."""
    clips: Path | None = None
    """Data set of a comparison, where it has moved."""
    films: Path | None = None
    """A data set made from videos or films, for one without: its pictures are shown for clips that have their names."""
    fps: float = 20.0
    """Frame rate of a file of motions, which does not tell its own."""
    serve: bool = False
    """Serve the page on this computer until Ctrl-C."""
    port: int = 8000
    """Port of --serve; 0: any that is free."""
    body: str = "auto"
    """What is shown: anny, a human mesh (extra `body`) beside sticks, sticks alone, or auto: anny where it is
    installed."""

    def __call__(self) -> int:
        good = self.count > 0 and self.seeds > 0 and self.fps > 0 and math.isfinite(self.fps) and 0 <= self.port < 65536
        if not good or self.split not in SPLITS:
            raise ConfigError(
                "view: expected --count, --seeds and --fps above 0, --port from 0 to 65535 and --split "
                f"{', '.join(SPLITS)}, found {self.count}, {self.seeds}, {self.fps:g}, {self.port} and {self.split}. "
                "Correct the options."
            )
        found, skeleton, fps, title = self.find()
        human = human_body(self.body, skeleton)
        scenes = fitting(found, worn=human is not None)
        with console.status("writing the page"):
            text = page(scenes, skeleton, fps, title, body=human)
        out = self.out or Path(f"{self.what.resolve().name.removesuffix('.npz')}.html")
        files.check_writable(str(out.absolute().parent))
        files.write_bytes(str(out.absolute()), text.encode())
        many = counted(len(scenes), "caption")
        console.print(f"{out}: {many}, {len(text) / 1e6:.1f} MB", soft_wrap=True, markup=False)
        if len(found) > len(scenes):
            console.print(f"    {len(found) - len(scenes)} more are left out, so that the page stays small")
        if self.serve:
            return serve(text, self.port)
        console.print(f"Open it: {out.absolute().as_uri()}", soft_wrap=True, markup=False)
        return 0

    def find(self) -> Found:
        """What the path is, read."""
        what = self.what
        if (what / CARD).is_file():
            return self.of_clips()
        if (what / "plan.json").is_file():
            return self.of_comparison()
        if place := motions_file(what):
            return self.of_motions(place)
        if next(what.glob("model*.pt"), None):
            raise ConfigError(
                f"{what}: expected motions, found a training run that was not sampled. "
                f"Sample first: videomdm sample --checkpoint {quoted(what)}"
            )
        raise ConfigError(
            f"{what}: expected a data set ({CARD}), a comparison (plan.json), samples (samples.npz) or a file of "
            "motions (npz), found none. Give the folder that a command named as its output."
        )

    def of_clips(self) -> Found:
        """Truth, teacher and refined teacher of clips, with what their camera saw."""
        place, card = str(self.what), read_card(str(self.what))
        ids = chosen_ids(place, card, self.ids, self.split)
        clips = [read_clip(place, card, clip_id) for clip_id in (ids if self.ids else ids[: self.count])]
        refined = {clip.id: clip for clip in read_refined(place, card, clips)[0]} if is_made(place, card) else {}
        scenes = [
            dataclasses.replace(
                clip_scene(clip, refined=refined.get(clip.id), footage=footage(str(self.films or place), clip)),
                caption=f"{clip.texts[0]} ({clip.id})",
            )
            for clip in clips
        ]
        return scenes, by_name(card.skeleton), card.fps, f"{self.what.resolve().name}: {counted(len(clips), 'clip')}"

    def of_comparison(self) -> Found:
        """What each arm made of captions, and then of unseen clips."""
        out, plan = self.what, read_plan(self.what)
        runs = [run for run in plan.runs() if run.seed < self.seeds]
        made = [(run, read_motions(place)) for run in runs if (place := run.replication(out, 0)).is_file()]
        if not made:
            advice = f"Look at its clips instead: videomdm view {plan.clips}"
            raise ConfigError(f"{out}: expected samples of its arms, found none. Run it again. {advice}")
        card, clips = compared_clips(plan, self.clips)
        scenes = self.of_unseen(runs, plan, str(self.clips or plan.clips))
        if not self.ids:
            scenes = sampled_scenes(made, plan, clips)[: self.count - len(scenes)] + scenes
        arms = len({run.label for run, _ in made})
        return scenes, by_name(card.skeleton), card.fps, f"{out.resolve().name}: {counted(arms, 'arm')} on {card.name}"

    def of_unseen(self, runs: Sequence[Run], plan: Plan, place: str) -> list[Scene]:
        """Test clips, at most half of --count of them, and what each arm that has made them clean predicts."""
        found = [(run, read_motions(where)[0]) for run in runs if (where := run.held_out(self.what)).is_file()]
        if not found:
            return []
        card, clips = read_folder(place, "test")
        if any(len(groups["prediction"]) != len(clips) for _, groups in found):
            raise ConfigError(
                f"{self.what}: expected predictions of the {len(clips)} test clips of {place}, found others. Name the "
                "data set of the comparison with --clips."
            )
        some = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), -(-self.count // 2))).round().astype(int))
        ids = chosen_ids(place, card, self.ids, "test") if self.ids else [clips[i].id for i in some]
        numbers = {clip.id: number for number, clip in enumerate(clips)}
        if not set(ids) <= numbers.keys():
            raise ConfigError(f"--ids: expected test clips of a comparison, found {', '.join(ids)}. Correct the list.")
        chosen = [clips[numbers[clip_id]] for clip_id in ids]
        refined = read_refined(place, card, chosen)[0] if is_made(place, card) else [None] * len(chosen)
        scenes = []
        for whole, repaired in zip(chosen, refined, strict=True):
            predicted = [(run, groups["prediction"][numbers[whole.id]]) for run, groups in found]
            clip = first_frames(whole, len(predicted[0][1]))
            tracks = [
                Track(run.label, to_world(motion, cameras_of(clip.extrinsics)).numpy(), seed=run.seed)
                for run, motion in predicted
            ]
            again = first_frames(repaired, clip.length) if repaired else None
            seen = footage(str(self.films or place), clip)
            scene = clip_scene(clip, refined=again, more=tracks, footage=seen)
            caption, note = f"{scene.caption} ({clip.id})", UNSEEN.format(share=100 * DENOISE_AT)
            scenes.append(dataclasses.replace(scene, caption=caption, group="Unseen clips, made clean", note=note))
        return scenes

    def of_motions(self, place: Path) -> Found:
        """Groups of motions that belong together by their order; the number of joints tells the skeleton."""
        groups, captions, skeleton = captioned_motions(place)
        scenes = [
            Scene(caption, [Track.of(name, motions[index].numpy(), skeleton) for name, motions in groups.items()])
            for index, caption in enumerate(captions[: self.count])
        ]
        return scenes, skeleton, self.fps, f"{place.resolve().parent.name}: {counted(len(captions), 'motion')}"


UNSEEN = (
    "No arm was trained on this clip. Its teacher was noised to {share:.0f} % of the schedule, and each arm made it "
    "clean in one pass."
)
SAMPLED = "Each arm sampled a motion for this caption from noise, so no camera saw it."
BESIDE = " Truth and teacher are of the clip that has this caption."


def first_frames(clip: Clip, frames: int) -> Clip:
    """The beginning of a clip."""
    cut = {name: getattr(clip, name) for name in ("teacher", "truth", "keypoints", "confidence")}
    cameras = {"extrinsics": clip.extrinsics, "truth_extrinsics": clip.truth_extrinsics}
    cut |= {name: camera for name, camera in cameras.items() if camera is not None and camera.ndim == 3}
    changes: dict[str, Any] = {name: values if values is None else values[:frames] for name, values in cut.items()}
    return dataclasses.replace(clip, **changes)


def sampled_scenes(made: Sequence[tuple[Run, Motions]], plan: Plan, clips: Sequence[Clip]) -> list[Scene]:
    """What each arm made of the same captions, beside truth and teacher of the clip that has the caption.

    Each caption comes once: first one of every recorded motion, then the second.
    """
    by_caption = {text: clip for clip in clips for text in clip.texts}
    captions, skeleton, scenes = made[0][1][1], clips[0].skeleton, []
    seen, ranked = Counter[str](), []
    for caption in dict.fromkeys(captions):
        recorded = motion_of(by_caption[caption]) if caption in by_caption else caption
        ranked.append((seen[recorded], captions.index(caption), caption))
        seen[recorded] += 1
    for _, index, caption in sorted(ranked):
        clip, tracks = by_caption.get(caption), list[Track]()
        if clip:
            known = ["teacher"] if clip.truth is None else ["truth", "teacher"]
            motions = {kind: motion(clip, kind, 0, plan.crop_frames).numpy() for kind in known}
            tracks = [Track.of(name, moved, skeleton) for name, moved in motions.items()]
        for run, (groups, _) in made:
            tracks.append(Track.of(run.label, groups["samples"][index].numpy(), skeleton, run.seed))
        note = SAMPLED + BESIDE if clip else SAMPLED
        scenes.append(Scene(caption, tracks, note=note, group="Samples for captions"))
    return scenes


def motions_file(what: Path) -> Path | None:
    """A file of motions: the path itself, or the one in the folder of a sampling, or of the run that was sampled."""
    places = (what, what / "samples.npz", what / "lifted.npz", what / "samples" / "samples.npz")
    return next((place for place in places if place.suffix == ".npz" and place.is_file()), None)


def captioned_motions(place: Path) -> tuple[dict[str, list[Tensor]], list[str], Skeleton]:
    """Groups of motions, one for each caption, the captions, and the skeleton, which the number of joints tells."""
    groups, captions = read_motions(place)
    joints = sorted({motion.shape[1] for motions in groups.values() for motion in motions})
    fitting = [skeleton for skeleton in SKELETONS.values() if joints == [skeleton.num_joints]]
    if not fitting or any(len(motions) != len(captions) for motions in groups.values()):
        found = ", ".join(f"{len(motions)} in {name}" for name, motions in groups.items()) or "no group"
        raise ConfigError(
            f"{place}: expected one motion of {known_joints(' or ')} joints for every caption in each group, found "
            f"{joints} joints, {len(captions)} captions and {found}. Sample again."
        )
    return groups, captions, fitting[0]


def compared_clips(plan: Plan, moved: Path | None) -> tuple[Card, Sequence[Clip]]:
    """The card and the clips of a comparison, from where they have `moved` to."""
    try:
        return read_folder(str(moved or plan.clips), plan.reference)
    except DatasetError as error:
        raise ConfigError(f"{error} If the data set has moved, name it with --clips.") from error


LOCAL = ("127.0.0.1", "localhost")
"""Names by which the page is asked for; through another, a site could read it that has that name lead here."""
IDLE = 30.0
"""Seconds after which a connection that asks for nothing is closed."""
LARGEST = 1_000_000
"""Bytes that a page may send."""


def serve(text: str, port: int, collect: Callable[[bytes], None] | None = None) -> int:
    """Serve the page, and nothing else, to this computer alone, until Ctrl-C; `collect` takes what the page sends."""
    try:
        server = Server(("127.0.0.1", port), handler(text.encode(), collect))
    except OSError as error:
        raise ConfigError(
            f"--port {port}: expected a free port, found none ({error}). Choose another, or 0."
        ) from error
    with server:
        console.print(f"Open http://127.0.0.1:{server.server_port} in a browser; Ctrl-C ends it.", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
    return 0


class Server(http.server.ThreadingHTTPServer):
    """One that a reader may leave at any time."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def handler(content: bytes, collect: Callable[[bytes], None] | None = None) -> type[http.server.BaseHTTPRequestHandler]:
    """Answers / with the page, and everything else with 404; a name that another site gave this computer with 403.

    What the page itself sends to /votes goes to `collect`; what that refuses is answered with 400.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = IDLE

        def is_asked(self, path: str) -> bool:
            own = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host")
            if own not in LOCAL or self.path != path:
                self.send_error(404 if own in LOCAL else 403)
                return False
            return True

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if collect is None:
                self.send_error(405)
            elif self.is_asked("/votes"):
                if self.headers.get("Origin") != f"http://{self.headers['Host']}":
                    return self.send_error(403)  # another site's page
                if not length.isdecimal() or int(length) > LARGEST:
                    return self.send_error(413)
                try:
                    collect(self.rfile.read(int(length)))
                except VideoMDMError:
                    return self.send_error(400)
                self.send_response(204)
                self.end_headers()

        def do_GET(self) -> None:
            if not self.is_asked("/"):
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not told."""

    return Handler
