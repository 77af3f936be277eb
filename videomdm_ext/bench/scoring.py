"""Every score of samples against the true motions: the plain metrics, and those in the space of each evaluator."""

from collections.abc import Sequence

from videomdm_ext.bench import metrics
from videomdm_ext.bench.calibration import Calibration, calibrate, static_pose
from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.metrics import Clips
from videomdm_ext.bench.spaces import SPLITS, Embedded, Scores, Spaces, check_captions, mean
from videomdm_ext.motion import accuracy
from videomdm_ext.skeletons import Skeleton


class Scorer(Spaces):
    """Scores sets of samples against one set of true clips, each with a caption."""

    def __init__(
        self,
        reference: Clips,
        captions: Sequence[str],
        evaluators: Sequence[Evaluator],
        skeleton: Skeleton,
        fps: float,
        *,
        seed: int = 0,
    ) -> None:
        metrics.check_clips(reference, skeleton, "reference")
        check_captions(reference, captions, "reference")
        super().__init__(evaluators, skeleton, fps, seed=seed)
        self.reference, self.captions = list(reference), tuple(captions)

    def plain_scores(self, samples: Clips) -> Scores:
        return metrics.score(samples, self.reference, self.skeleton, self.fps)

    def embed_truth(self, evaluator: Evaluator) -> Embedded:
        return self.embed(evaluator, self.reference, self.captions)

    def calibrate(self, teacher: Clips, groups: Sequence[str] | None = None, seed: int = 0) -> Calibration:
        """The rows that are not arms: truth, floor, teacher, static pose, shuffled captions.

        `teacher` are the teacher's own motions of the reference's clips, in their order; `groups` as in
        `calibrate`. Precision and recall of the truth are those of one half against the other, as a set would
        hold itself whole.
        """
        check_captions(teacher, self.captions, "teacher")
        names = list(groups) if groups is not None else [""] * len(self.reference)
        plain = calibrate(self.reference, teacher, self.skeleton, self.fps, groups=names, seed=seed, splits=SPLITS)
        still = [clip.to(self.reference[0].dtype) for clip in static_pose(self.reference, self.skeleton)]
        rows = self.rows(teacher, self.captions, still, names, seed)
        for row in ("truth", "floor", "teacher", "static"):
            rows[row] = {**getattr(plain, row), **rows[row]}
        return Calibration(**rows, clips=plain.clips, distrust=self.distrust)


def held_out_scores(made: Clips, truth: Clips, fps: float) -> Scores:
    """Errors of clips against the true ones in camera coordinates, means over clips, by the names of METRICS.

    All but PA-MPJPE and acceleration after the roots are made one; along the ray of a true joint is the depth, across
    it the image.
    """
    rows = []
    for clip, true in zip(made, truth, strict=True):
        aligned = accuracy.root_aligned(clip, true)
        depth, image = accuracy.depth_and_image_error(aligned, true)
        row = {
            "heldout_mpjpe": accuracy.root_aligned_mpjpe(clip, true),
            "heldout_pa_mpjpe": accuracy.pa_mpjpe(clip, true),
            "heldout_depth_error": depth,
            "heldout_image_error": image,
            "heldout_pck_50": accuracy.pck(aligned, true, within=0.05),
            "heldout_pck_100": accuracy.pck(aligned, true, within=0.1),
            "heldout_acceleration_error": accuracy.acceleration_error(clip, true, fps),
        }
        rows.append({name: value.item() for name, value in row.items()})
    return {name: mean([row[name] for row in rows]) for name in rows[0]}
