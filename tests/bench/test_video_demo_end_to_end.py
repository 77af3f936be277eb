"""The demo on real videos from first to last: on stick figures everywhere, on the wheels' videos where they are."""

import dataclasses
import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from filmed import FOCAL, SIZE, film, write_detections, write_gif
from PIL import Image
from scipy.spatial.transform import Rotation

from videomdm_ext.bench import video_demo
from videomdm_ext.bench.plan import DEMO
from videomdm_ext.bench.report.video_demo import means
from videomdm_ext.bench.video_demo import VIEWS, Film, Sources, find_wheels, run_video_demo
from videomdm_ext.data.video import importer as video
from videomdm_ext.data.video import watch as video_watch
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision import refinement

SOURCES = ("lifted", "refined", "arm lifted", "arm 2d")
DIRECT = [SMPL22.index(f"{s}_{p}") for s in "lr" for p in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")]
BRIEF = refinement.Refinement(first=20, rounds=1, iterations=10)
SMALL = dataclasses.replace(DEMO, latent_dim=32, layers=1, ff_size=32)
STEPS = 20
FILMS = {
    name: film("walk", noise=0.05, seed=seed, azimuth=azimuth, roll=roll, at=(0.0, 0.9, 1.2))
    for seed, (name, azimuth, roll) in enumerate(zip(VIEWS, (20, 110, 200, 290), (0, 10, -5, 0), strict=True))
}


def written(root: Path) -> Sources:
    """The four views as videos with detections and one calibration, and one more video with a lens of its own."""
    films = {**FILMS, "alone": film("walk", azimuth=65)}
    (root / "found").mkdir(parents=True)
    for name, one in films.items():
        write_gif(root / f"{name}.gif", one)
        write_detections(root / "found" / f"{name}.npz", one)
    (root / "views.toml").write_text("".join(camera_table(name, one) for name, one in FILMS.items()))
    lens = camera_table("other", films["alone"]).split("rotation")[0]
    (root / "alone.toml").write_text(lens)
    views = tuple(Film(name, root / f"{name}.gif", root / "views.toml", "a person walks.") for name in VIEWS)
    other = Film("alone", root / "alone.gif", root / "alone.toml", "a person walks by.")
    return Sources(views, (other,), str(root / "found"), "blazepose")


def camera_table(name, one):
    """A camera in Pose2Sim's toml."""
    turn = Rotation.from_matrix(one.rotation).as_rotvec().tolist()
    return (
        f'[{name}]\nname = "{name}"\nsize = {list(SIZE)}\ndistortions = [0.0, 0.0, 0.0, 0.0]\n'
        f"matrix = [[{FOCAL}, 0.0, {SIZE[0] / 2}], [0.0, {FOCAL}, {SIZE[1] / 2}], [0.0, 0.0, 1.0]]\n"
        f"rotation = {turn}\ntranslation = {one.translation.tolist()}\n"
    )


class Interrupted:
    """A demo that is interrupted while the third video is watched, then after an arm is trained, and then left alone.

    Within a training test_bench_kill.py interrupts.
    """

    def __init__(self, root: Path) -> None:
        self.sources, self.out = written(root / "source"), root / "out"
        self.watched: list[list[str]] = []
        self.kept_before: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(video, "watch", self.watch)
            patch.setattr(refinement, "Refinement", lambda: BRIEF)
            self.run()

    def run(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.go(stop_at="cam03.gif")
        self.before_clips = not (self.out / "data" / "dataset.json").exists()
        with pytest.raises(KeyboardInterrupt):
            self.go(stop_training=True)
        self.before_report = not (self.out / "report.md").exists()
        self.made = self.go()

    def watch(self, film, choice, cache, progress=None):
        """What the importer calls: whether the film was watched and kept before is noted."""
        self.kept_before.append((Path(cache) / f"{video_watch.fingerprint(film.path, choice)}.npz").exists())
        return video_watch.watch(film, choice, cache, progress)

    def go(self, *, stop_at="", stop_training=False):
        heard: dict[str, None] = {}
        self.watched.append([])

        def progress(name, done, total):
            if name.endswith(".gif"):
                heard[name] = None
            self.watched[-1] = list(heard)
            trained = stop_training and name.startswith("training") and any(self.out.glob("runs/*/model*.pt"))
            if name == stop_at or trained:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(video_demo, "DEMO", SMALL)
            return run_video_demo(self.out, self.sources, steps=STEPS, workers=0, progress=progress)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Interrupted:
    return Interrupted(tmp_path_factory.mktemp("video_demo"))


def test_four_calibrated_views_give_the_whole_true_motion_back(demo):
    truth, true = demo.made.truth, FILMS["cam01"].true
    assert truth.positions.shape == (len(true), 22, 3)
    assert np.abs(truth.positions.numpy() - true)[:, DIRECT].max() < 2e-3  # detections are kept as float32
    assert bool(truth.known.all())
    assert set(truth.extrinsics) == set(VIEWS)
    assert min(truth.agreement.values()) == 1.0


def test_every_view_is_judged_with_every_source_of_depth_and_no_other_video_is(demo):
    rows = demo.made.rows
    assert [(row.view, row.source) for row in rows] == [(view, source) for view in VIEWS for source in SOURCES]
    seconds = FILMS["cam01"].times[-1]
    for row in rows:
        assert row.clip == f"{row.view}_0"
        assert 20 * seconds - 3 <= row.frames <= 20 * seconds + 1
        assert 0 < row.pa_mpjpe <= row.root_aligned_mpjpe < 1500
        assert 0 < row.depth < row.root_aligned_mpjpe
    assert demo.made.card.counts["train"] == 5
    assert sum(demo.made.card.counts.values()) == 5


def test_the_lifted_motion_is_off_by_its_noise_and_the_refined_one_by_less(demo):
    found = means(demo.made.rows)
    noise = 1000 * 0.05 * math.sqrt(8 / math.pi)  # the mean length of a difference of two such joints, nearly
    assert 0.5 * noise < found["lifted"]["root_aligned_mpjpe"] < 1.5 * noise
    assert 0.5 * noise * math.sqrt(2 / math.pi) / 2 < found["lifted"]["depth"] < noise
    for figure in ("pa_mpjpe", "root_aligned_mpjpe", "depth"):
        assert found["refined"][figure] < found["lifted"][figure]


def test_the_report_has_its_rows_its_picture_and_its_videos(demo):
    text = demo.made.report.read_text(encoding="utf-8")
    for row in demo.made.rows:
        assert f"| {row.clip} | " in text
        assert f" | {row.frames} | {row.pa_mpjpe:.0f} | {row.root_aligned_mpjpe:.0f} | {row.depth:.0f} |" in text
    assert "![depth](depth.png)" in text
    with Image.open(demo.out / "depth.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    stored = json.loads((demo.out / "report.json").read_text(encoding="utf-8"))
    assert stored["rows"] == [dataclasses.asdict(row) for row in demo.made.rows]
    assert stored["content"] == demo.made.card.content_hash
    assert set(stored["videos"]) == {*VIEWS, "alone"}
    assert stored["videos"]["cam02"]["keypoints_that_agree_percent"] == 100
    assert "keypoints_that_agree_percent" not in stored["videos"]["alone"]
    assert all(facts["focal"] == FOCAL for facts in stored["videos"].values())


def test_an_interrupted_demo_watches_no_video_and_trains_no_arm_twice(demo):
    assert demo.watched == [["cam01.gif", "cam02.gif", "cam03.gif"], ["cam03.gif", "cam04.gif", "alone.gif"], []]
    assert demo.before_clips
    assert demo.kept_before == [True] * 2 * len(demo.sources.films)  # so that clips never differ by rounding
    assert demo.before_report
    logs = [place.read_text(encoding="utf-8") for place in demo.out.glob("runs/*/run.log")]
    assert len(logs) == 2
    assert [log.count("parameters on") for log in logs] == [1, 1]


def test_started_again_a_finished_demo_watches_and_trains_nothing_and_says_the_same(demo):
    kept = when_made(demo.out)
    text = demo.made.report.read_text(encoding="utf-8")
    again = demo.go()
    assert demo.watched.pop() == []
    assert when_made(demo.out) == kept
    assert again.rows == demo.made.rows
    assert again.card == demo.made.card
    assert again.report.read_text(encoding="utf-8") == text


def when_made(out):
    """When everything that takes long was written."""
    folders = [out / "runs", out / "samples", out / "detections", out / "videos", out / "data" / "refined"]
    return {place: place.stat().st_mtime_ns for folder in folders for place in folder.rglob("*") if place.is_file()}


def wheels() -> Sources:
    """The wheels' videos; skips, and says what to install, where they or MediaPipe are missing."""
    missing = [module for module in ("mediapipe", "imageio_ffmpeg") if find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: pip install -e '.[demo,video]' -c constraints.txt")
    try:
        return find_wheels()
    except VideoMDMError as error:
        pytest.skip(str(error))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_demo_runs_on_the_real_videos(tmp_path):
    """Briefly, and without the video of another person, which takes as long as all four views."""
    sources = dataclasses.replace(wheels(), others=())
    made = run_video_demo(tmp_path, sources, steps=20)
    assert len(made.truth.positions) == 100
    assert float(made.truth.known.double().mean()) > 0.9
    assert 3 < made.truth.error < 30
    assert [(row.view, row.source) for row in made.rows] == [(view, source) for view in VIEWS for source in SOURCES]
    for row in made.rows:
        assert row.frames >= 15
        assert 0 < row.pa_mpjpe <= row.root_aligned_mpjpe < 1500
        assert 0 < row.depth < row.root_aligned_mpjpe
    found = means(made.rows)
    assert 50 < found["lifted"]["pa_mpjpe"] < 100
    assert found["refined"]["depth"] < found["lifted"]["depth"] < 110
    assert "2D-supervised" in made.report.read_text(encoding="utf-8")
    assert (tmp_path / "depth.png").stat().st_size > 50_000
