"""The table of the published protocol, with published figures beside, and what sets it apart from our own report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from videomdm_ext.bench.protocol_mdm import Evaluated, Settings
from videomdm_ext.bench.report.document import Items, Section, Table, markdown, number, plain
from videomdm_ext.mdm.evaluation import MADE, REPLICATIONS, TRUTH, Scores

COLUMNS = {
    "fid": "FID ↓",
    "r_precision_1": "R-precision top 1 ↑",
    "r_precision_2": "top 2 ↑",
    "r_precision_3": "top 3 ↑",
    "mm_dist": "MM-dist ↓",
    "diversity": "diversity → truth",
    "multimodality": "multimodality",
}
DASH = "\N{EN DASH}"
MDM_PAPER = "arXiv 2209.14916, table 1, as printed there"
VIDEOMDM_PAPER = "arXiv 2606.13364"


@dataclass(frozen=True)
class Published:
    """Figures on HumanML3D from a paper, each with its ± where one is printed."""

    name: str
    source: str
    figures: Mapping[str, tuple[float, float | None]]


PUBLISHED = (
    Published(
        "the true motions",
        MDM_PAPER,
        {
            "fid": (0.002, 0.000),
            "r_precision_3": (0.797, 0.002),
            "mm_dist": (2.974, 0.008),
            "diversity": (9.503, 0.065),
        },
    ),
    Published(
        "MDM",
        MDM_PAPER,
        {
            "fid": (0.544, 0.044),
            "r_precision_3": (0.611, 0.007),
            "mm_dist": (5.566, 0.027),
            "diversity": (9.559, 0.086),
            "multimodality": (2.799, 0.072),
        },
    ),
    Published("VideoMDM's MDM in 3D", VIDEOMDM_PAPER, {"fid": (0.54, None)}),
    Published("VideoMDM in 2D", VIDEOMDM_PAPER, {"fid": (0.88, None)}),
)

APART = (
    "± is MDM's own: 1.96 standard deviations (ddof 0) over the root of the number of replications, of one training "
    "with one seed. It covers what sampling and grouping draw, and nothing of what another training would give. Our "
    "report's intervals are over trainings. Rows are therefore not averaged over seeds here.",
    "Here the last checkpoint of a run is evaluated, or the one named. MDM's paper took the one with the least FID in "
    "evaluations during training, and FID moved from 0.5 to 0.8 within one run (MDM's issue 148).",
    "Everything is on the test split, which published work also used to choose. Our report names its own split.",
    "1,024 motions at most are generated for each replication (32 batches of 32, fewer where the split is smaller), "
    "with captions drawn anew, and compared with all true ones in whole batches of 32; the rest is dropped. FID is "
    "biased upwards for so few.",
    "R-precision is over groups of 32 that each replication draws anew; ours are fixed and the same for all arms, and "
    "we also rank within the full gallery.",
    "True motions are cropped at random and shortened to a multiple of 4 frames in every replication, so that even "
    "they have an FID and a ±. Generated ones are not cut where they end: the evaluator sees frames behind.",
    "The evaluator reads the generated features as they are. Our report encodes joint positions, so that positions "
    "and redundant channels cannot contradict each other.",
    "Paper figures are older than a correction of caption lengths in MDM's code (its issue 182), which improves "
    "R-precision and MM-dist.",
)
"""What makes these figures incomparable with our report's, or with a paper's."""


def document(evaluated: Sequence[Evaluated], settings: Settings) -> str:
    """The text of protocol_mdm.md."""
    opening = (
        f"`eval/eval_humanml.py` of the checkout, `--eval_mode {settings.eval_mode}`: "
        f"{REPLICATIONS[settings.eval_mode]} replications, guidance {settings.guidance:g}, seed {settings.seed}. Mean "
        "± MDM's half-width."
    )
    beside = "What to know before these figures are set beside others:"
    notes = Items([*particular(evaluated, settings), *APART])
    return markdown(Section("MDM's own evaluation", [opening, table(evaluated), beside, notes]))[1:] + "\n"


def table(evaluated: Sequence[Evaluated]) -> Table:
    """Runs, the truth that each was scored against, and published figures."""
    truths = {one.data: one.scores[TRUTH] for one in evaluated}
    rows = [[plain(one.name), *_cells(one.scores[MADE])] for one in evaluated]
    rows += [[f"*{plain(data)}*", *_cells(scores)] for data, scores in truths.items()]
    for one in PUBLISHED:
        cells = [_figure(*one.figures[key]) if key in one.figures else DASH for key in COLUMNS]
        rows.append([f"published: {one.name} ({one.source})", *cells])
    return Table(["", *COLUMNS.values()], rows)


def _cells(scores: Scores) -> list[str]:
    return [
        f"{number(scores.mean[key])} ± {scores.half_width[key]:.3f}" if key in scores.mean else DASH for key in COLUMNS
    ]


def _figure(value: float, half_width: float | None) -> str:
    return f"{value:g}" if half_width is None else f"{value:.3f} ± {half_width:.3f}"


def particular(evaluated: Sequence[Evaluated], settings: Settings) -> list[str]:
    """What sets these runs apart from published ones."""
    found = []
    own = [one for one in evaluated if "HumanML3D" not in one.data]
    if own:
        found.append(
            f"**Not on HumanML3D's test split**: {_names(own)}, scored against {_joined(one.data for one in own)}. "
            "These figures have nothing to do with published ones."
        )
    short = [one for one in evaluated if 0 < int(one.args.get("crop_frames", 0) or 0) < 196 and one.args.get("clips")]
    if short:
        longest = _joined(str(one.args["crop_frames"]) for one in short)
        found.append(f"Trained on crops of {longest} frames and asked for up to 196 here: {_names(short)}.")
    features = {str(one.args.get("text_features", "clip")) for one in evaluated} - {"clip", "host"}
    if features:
        found.append(f"Text features other than the CLIP of published runs: {_joined(features)}.")
    if settings.eval_mode != "wo_mm" or settings.guidance != 2.5:
        found.append("Papers report 20 replications (`--eval_mode wo_mm`) at guidance 2.5.")
    files = {one.identity["host"]["files"]["t2m/text_mot_match/model/finest.tar"] for one in evaluated}
    found.append(
        f"Evaluator weights: SHA-256 {_joined(value[:12] for value in files)}. Only those that MDM's script downloads "
        "give comparable figures; a hash of them is not known to this package, so compare it with a colleague's."
    )
    return found


def _names(evaluated: Sequence[Evaluated]) -> str:
    return ", ".join(one.name for one in evaluated)


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
