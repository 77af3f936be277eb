"""One table of the paper from the official folders: import, refine, train, evaluate, and published figures beside.

It is made of the stages of `data import`, `bench`, `bench lift` and `bench --protocol mdm`, each of which goes on from
where it was. Published figures are those of the VideoMDM paper (arXiv 2606.13364) and of MDM's (2209.14916).

OUT/results/ID.npz         a lifter's results of whole takes, cut to clips (fit3d)
OUT/data/                  the data set; beside it left_out.json, and sources.json: size, time and SHA-256 of the files
OUT/plan.json, runs/ ...   the comparison, as `bench` keeps it; lifting.json, protocol_mdm.json
OUT/reproduction.md, .html, .json
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from videomdm_ext import plugins
from videomdm_ext.bench.evaluators.base import Progress
from videomdm_ext.bench.plan import Plan, arm_name, load_arm
from videomdm_ext.bench.report.html import whole_page
from videomdm_ext.bench.report.results import Results
from videomdm_ext.bench.report.tables import Block, Items, Section, Table, markdown, plain
from videomdm_ext.bench.report.verdict import headline, verdict
from videomdm_ext.bench.reproduction import lifting, needed, protocol_mdm
from videomdm_ext.bench.reproduction.lifting import LIFTING, Lifted
from videomdm_ext.bench.reproduction.needed import Need
from videomdm_ext.bench.reproduction.protocol_mdm import Evaluated, Settings
from videomdm_ext.bench.reproduction.published import NOT_STATED, Recipe, measured
from videomdm_ext.bench.run import Bench
from videomdm_ext.data.files import arrays_bytes, check_writable, read_json, write_bytes
from videomdm_ext.data.folder import CARD, SPLITS, Card, read_card
from videomdm_ext.data.importing import find_importer, run_import
from videomdm_ext.data.schemas import text_of
from videomdm_ext.data.sources.base import Importer, ImportOptions
from videomdm_ext.data.sources.fit3d import SOURCE_FPS
from videomdm_ext.data.tasks import Engine
from videomdm_ext.data.video.lifted import Person
from videomdm_ext.errors import ConfigError, DatasetError, counted, printable
from videomdm_ext.geometry.pnp import library
from videomdm_ext.lifters.results import Description, ResultsLifter
from videomdm_ext.mdm import evaluation
from videomdm_ext.mdm.evaluation import hash_of

SETTINGS = Settings()
"""Of MDM's own evaluation: its defaults."""
SHORT = 0.7
"""Share of a take under which a lifter's results are of another rate, as 30 fps of 50, rather than of a lost person."""


@dataclass(frozen=True)
class Reproduction:
    """A recipe with its folders and settings; called again after an interruption, `run` goes on."""

    recipe: Recipe
    plan: Plan
    data: Path
    out: Path
    lifter: str = ""
    results: Path | None = None
    smpl: str = ""
    cameras: str = "given"
    extra: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    engine: Engine = field(default=Engine(processes=2))
    command: Sequence[str] = ()
    progress: Progress = lambda what, done, total: None

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def source(self) -> Path:
        """The official folder."""
        return self.data / self.recipe.folder

    @property
    def lifted(self) -> Path:
        """The folder of the lifter's results."""
        return self.results or self.data / self.lifter_name

    @property
    def lifter_name(self) -> str:
        return self.lifter or self.recipe.lifter

    def lifter_class(self) -> type[ResultsLifter]:
        """ConfigError for a lifter that reads no results."""
        found = plugins.collect(plugins.create_manager(), "lifters").get(self.lifter_name)
        if not (isinstance(found, type) and issubclass(found, ResultsLifter)):
            raise ConfigError(
                f"--lifter {self.lifter_name}: expected one that ran elsewhere, such as {self.recipe.lifter}, found "
                "another. videomdm data import list . names them."
            )
        return found

    @property
    def own_arms(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """The arms that this data set can teach, and why others are not run."""
        without = {
            arm_name(arm): "it learns from true motion, of which this data set has none"
            for arm in self.plan.arms
            if not self.recipe.has_truth
            and ((config := load_arm(arm).supervision).teacher == "gt" or config.known_share)
        }
        return tuple(arm for arm in self.plan.arms if arm_name(arm) not in without), without

    def importer(self) -> Importer:
        """The importer of the official folder with the lifter's results."""
        extra = dict(self.extra)
        lifter = self.lifter_name
        if self.recipe.name == "nba":
            extra |= {"lifted": str(self.lifted), "lifted_name": lifter}
        else:
            own = self.recipe.name == "fit3d"
            extra |= {"lifter.results": str(self.out / "results" if own else self.lifted)}
            extra |= {"lifter.fps": "50"} if own else {"cameras": self.cameras}
            extra |= {"lifter.smpl": self.smpl} if self.smpl else {}
        options = ImportOptions(seed=self.seed, lifter=lifter, extra=extra)
        return find_importer(self.recipe.name)(str(self.source), options)

    def needs(self) -> list[Need]:
        """The check list."""
        found = self.needs_of_data()
        if self.plan.mdm:
            features = self.plan.text_features
            found += needed.host(self.plan.mdm, official=self.recipe.official, features=features)
        return found

    def needs_of_data(self) -> list[Need]:
        """Its part about the official folder and the lifter's results."""
        if self.recipe.name == "humanml3d":
            command = f"videomdm data import humanml3d {self.source} --out {self.out / 'keypoints'} --seed {self.seed}"
            folder = self.out / "keypoints" / "keypoints_2d"
            return needed.humanml3d(
                self.source, self.lifted, self.lifter_class(), self.importer, f"{command} (in {folder})"
            )
        if self.recipe.name == "fit3d":
            return needed.fit3d(self.source, self.lifted, self.lifter_class(), self.smpl)
        return needed.nba(self.source, self.lifted)

    # -- how long it takes --------------------------------------------------------------------------------------------

    def estimate(self) -> dict[str, float]:
        """Hours of training and sampling at the denoiser's rate here, one training after another, and gigabytes."""
        plan, rate = self.planned(), step_seconds(self.plan)
        runs = plan.runs()
        passes = sum(run.passes() for run in runs)
        forward, sampled = rate / 3, len(runs) * plan.replications * plan.samples / plan.batch_size
        guided = 2 if plan.guidance != 1 else 1
        weights = 4 * plan.layers * (4 * plan.latent_dim**2 + 2 * plan.latent_dim * plan.ff_size)  # bytes
        checkpoints = 5 * weights * len(runs)  # weights, their average, and what the optimizer keeps of each
        motion = plan.samples * plan.crop_frames * 22 * 3 * 4 * plan.replications * len(runs)
        try:
            clips = len(self.importer().members())
        except (DatasetError, ConfigError, OSError):
            clips = 0
        return {
            "seconds a step": rate,
            "hours of training": passes * rate / 3600,
            "hours of sampling": sampled * plan.diffusion_steps * guided * forward / 3600,
            "GB of checkpoints": checkpoints / 1e9,
            "GB of samples": motion / 1e9,
            "GB of the data set": clips * 196 * 4 * (2 * 263 + 3 * 22) / 1e9,
            "clips": float(clips),
        }

    def planned(self) -> Plan:
        """The plan with the arms that can be run."""
        return dataclasses.replace(self.plan, arms=self.own_arms[0], clips=str(self.out / "data"))

    # -- all stages ---------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Everything, from the official folder to the page. -> its path"""
        needs = self.needs()
        needed.refuse(needs)
        if self.cameras == "pnp":
            library("cv2")
        check_writable(str(self.out))
        if self.recipe.name == "fit3d":
            self.cut_takes()
        card, left_out = self.make_data()
        plan = dataclasses.replace(self.planned(), content=card.content_hash)
        bench = Bench(plan, self.out, self.engine, self.command, self.progress)
        bench.prepare()
        if official := bool(plan.mdm) and self.recipe.official:
            protocol_mdm.check(plan.host(), [])
            evaluation.check_truth(plan.clips)  # enough of it, before anything is trained
        bench.train()
        results, _ = bench.report(bench.score())
        lifted = lifting.lift_all(plan, self.out, LIFTING, progress=self.progress) if self.recipe.has_truth else None
        evaluated: list[Evaluated] = []
        if official:
            asked = [protocol_mdm.of_run(run.folder(self.out)) for run in plan.runs()]
            protocol_mdm.check(plan.host(), asked)
            evaluated = protocol_mdm.evaluate_all(plan.host(), asked, SETTINGS, self.out, self.progress)
        return self.write(needs, plan, card, left_out, results, lifted, evaluated)

    def make_data(self) -> tuple[Card, Mapping[str, str]]:
        """The data set, imported unless it is there of the same recipe and files, and what was left out of it."""
        folder, importer = self.out / "data", self.importer()
        told, sources = self.out / "left_out.json", self.out / "sources.json"
        wanted = json.loads(text_of({"importer": importer.name, **dataclasses.asdict(importer.options)}))
        if (folder / CARD).is_file():
            card = read_card(str(folder))
            if json.loads(text_of(card.recipe)) != wanted:
                raise ConfigError(
                    f"{folder}: holds a data set that was imported with other options. Choose another --out."
                )
            if told.is_file():  # else cut off before it was known what was left out
                if other := changed(read_json(sources, "object")):
                    raise ConfigError(
                        f"{other}: expected the file that {folder} was imported of, found another or none. Put it "
                        "back, or choose another --out."
                    )
                return card, read_json(told, "object")

        def step(done: int, total: int) -> None:
            self.progress("importing", done, total)

        files = [path for need in self.needs_of_data() for path in need.found if path.is_file()]
        made = run_import(importer, str(folder), name=self.recipe.name, progress=step)
        write_bytes(
            str(sources), text_of({str(path.absolute()): [*state(path), hash_of(path)] for path in files}).encode()
        )
        write_bytes(str(told), f"{text_of(made.left_out, indent=1)}\n".encode())
        return made.card, made.left_out

    def cut_takes(self) -> None:
        """Results of whole takes at the videos' rate as one file a clip, OUT/results/ID.npz; newer ones stay."""
        members, lifter = self.importer().members(), self.lifter_class()
        if lifter.description != Description("smpl22"):
            raise ConfigError(
                f"--lifter {lifter.name}: expected one that gives SMPL's joints in the camera, in metres, such as "
                "wham, found another. Cut its results to clips, and import them: videomdm data import fit3d."
            )
        given: dict[str, Any] = {"fps": f"{SOURCE_FPS:g}"} | (
            {"smpl": self.smpl} if self.smpl and "smpl" in lifter.options else {}
        )
        last: tuple[Path, Person | None] = (Path(), None)
        for done, member in enumerate(members, 1):
            subject, action, camera, start, stop = member.place
            folder = self.lifted / subject / camera
            place, target = needed.result_of(folder, action, lifter), self.out / "results" / f"{member.id}.npz"
            self.progress("cutting results", done, len(members))
            if target.is_file() and target.stat().st_mtime_ns >= place.stat().st_mtime_ns:
                continue
            person = last[1] if last[0] == place else None
            if person is None:
                people = lifter(results=str(folder), **given).people(action, (900, 900))
                person = max(people, key=lambda one: len(one.frames))
                ends = max(one.place[4] for one in members if one.place[:3] == (subject, action, camera))
                if person.frames[-1] < SHORT * ends:  # its first clips would be there, of other moments
                    raise DatasetError(
                        f"{place}: expected a person up to frame {ends} at {SOURCE_FPS:g} fps, found one up to "
                        f"{person.frames[-1] + 1}. Run {lifter.name} on the whole video at its own rate, or take the "
                        f"files of {action} of {subject} out of both folders."
                    )
            last = (place, person)
            rows = (person.frames >= start) & (person.frames < stop)
            found = {"joints": person.joints[rows].float().numpy(), "frame_ids": person.frames[rows]}
            write_bytes(str(target), arrays_bytes(found))

    # -- the page -----------------------------------------------------------------------------------------------------

    def write(
        self, needs: Sequence[Need], plan: Plan, card: Card, left_out: Mapping[str, str], results: Results,
        lifted: Lifted | None, evaluated: Sequence[Evaluated],
    ) -> Path:  # fmt: skip
        """OUT/reproduction.md, .html and .json. -> the first"""
        figures = measured(self.recipe, plan, results, lifted, evaluated)
        unequal = self.differences(plan, card, left_out, evaluated)
        rows = [[one.what, one.figure, one.source, found] for one, found in figures]
        official: list[Block] = ["Not run: it needs --mdm and HumanML3D. The bundled evaluators stand beside."]
        if evaluated:
            official = [protocol_mdm.table(evaluated), "What to know of these figures: protocol_mdm.md."]
        ours: list[Block] = [Items([*headline(results), *verdict(results)]), "In full: report.md and report.html."]
        lifts: list[Block] = ["Not measured: this data set has no true motion."]
        if lifted:
            clips = counted(lifted.clips, "clip")
            lifts = [f"{clips} of the split {lifted.split}; by action: lifting.md.", lifting.table(lifted)]
        sides = ("here", "published", "equal")
        reasons = [f"{plain(clip_id)}: {plain(reason)}" for clip_id, reason in left_out.items()]
        skipped = [f"{arm}: {why}." for arm, why in self.own_arms[1].items()]
        sections = [
            Section("Published and measured", [Table(["", "published", "source", "measured here"], rows, ("source",))]),
            Section("What is not equal", [Table(["", *sides], unequal, sides)]),
            Section("Lifting", lifts),
            Section("MDM's own evaluation", official),
            Section("Our protocol", ours),
            *([Section("Not run", [Items(skipped)])] if skipped else []),
            Section("Files", [needed.table(needs)]),
            *([Section("Left out", [Items(reasons)])] if left_out else []),
        ]  # fmt: skip
        title = f"Reproduction: {self.recipe.name}"
        lead = [f"{one.what}: {one.figure}, here {found}" for one, found in figures]
        text = "\n\n".join([f"# {title}", *map(markdown, sections)])
        content = {"recipe": self.recipe.name, "figures": rows, "not equal": unequal, "content": card.content_hash}
        write_bytes(str(self.out / "reproduction.json"), f"{text_of(content, indent=1)}\n".encode())
        write_bytes(str(self.out / "reproduction.html"), whole_page(title, lead, [], sections).encode())
        write_bytes(str(self.out / "reproduction.md"), f"{printable(text)}\n".encode())
        return self.out / "reproduction.md"

    def differences(
        self, plan: Plan, card: Card, left_out: Mapping[str, str], evaluated: Sequence[Evaluated]
    ) -> list[list[str]]:
        """What was so here and what was so where the figures were published, line by line, and whether it is equal."""
        counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
        own, official = " ".join(card.sources), self.recipe.official
        seen = "given" if self.cameras == "given" else "by PnP"
        projected = official or "projected" not in own
        rows = [
            ("clips", f"{counts}; {len(left_out)} left out", NOT_STATED),
            ("2D", own, self.recipe.second, "not known" if projected else _equal(own, self.recipe.second)),
            ("lifter", card.lifter, self.recipe.lifter),
            ("host", "MDM" if plan.mdm else "the stand-in", "MDM"),
            ("denoiser", f"{plan.layers} layers of {plan.latent_dim}", "8 layers of 512"),
            ("text features", str(plan.text_features), "clip"),
            ("diffusion steps", str(plan.diffusion_steps), "50"),
            ("training steps", f"{plan.steps:,}", "600,000"),
            ("batch, longest crop", f"{plan.batch_size}, {plan.crop_frames}", "64, 196"),
            ("learning rate", f"{plan.learning_rate:g}", "0.0001"),
            ("learning rate over the steps", "falls to 0", NOT_STATED),
            ("average of weights", f"{plan.average:g}", "0.9999"),
            ("checkpoint", f"chosen by {plan.select} on validation" if plan.select else "the last", NOT_STATED),
            ("trainings of each arm", str(plan.seeds), NOT_STATED),
        ]  # fmt: skip
        if official:
            names = ", ".join(f"{len(needed.listed(self.source / f'{split}.txt')):,} {split}" for split in SPLITS)
            replications = evaluation.REPLICATIONS[SETTINGS.eval_mode]
            scored = f"MDM's program, {replications} replications" if evaluated else "ours"
            guidance = SETTINGS.guidance if evaluated else plan.guidance
            rows += [
                ("names of the splits", names, self.recipe.names),
                ("cameras", seen, "given, and by PnP", "yes, one of both"),
                ("evaluated by", scored, "MDM's program, 20 replications"),
                ("guidance of the samples", f"{guidance:g}", "2.5"),
            ]
        elif self.recipe.has_truth:
            how = f"with nothing aligned, of the split test, at {card.fps:g} fps, lifted as lifting.md has it"
            rows.append(("errors of motion", how, NOT_STATED))
        return [
            [plain(what), plain(here), there, *(same or [_equal(here, there)])] for what, here, there, *same in rows
        ]


def _equal(here: str, there: str) -> str:
    return "not known" if there == NOT_STATED else "yes" if here == there else "**no**"


def state(path: Path) -> list[int]:
    """Size and time of a file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def changed(before: Mapping[str, Sequence[Any]]) -> str:
    """The first of these files that is gone or holds something else; a time alone, as of a copy, is no change."""
    for name, (*was, digest) in before.items():
        path = Path(name)
        if not path.is_file() or (state(path) != was and hash_of(path) != digest):
            return name
    return ""


def step_seconds(plan: Plan, batch: int = 4, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a step's one pass, forward and backward, of a transformer of the plan's size, timed here on a part of
    its batch. Text encoding and loss come on top."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, heads = min(batch, plan.batch_size), 4 if plan.latent_dim % 4 == 0 else 1
    layer = torch.nn.TransformerEncoderLayer(plan.latent_dim, heads, plan.ff_size, plan.dropout, "gelu")
    network = torch.nn.TransformerEncoder(layer, plan.layers, enable_nested_tensor=False).to(device)
    x = torch.zeros(plan.crop_frames + 1, size, plan.latent_dim, device=device)
    taken = []
    for _ in range(2):
        begun = clock()
        network(x).square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - begun)
    return min(taken) * plan.batch_size / size
