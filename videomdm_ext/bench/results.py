"""The results of a comparison: score tables, paired comparisons, and a verdict; one place to import them from."""

from videomdm_ext.bench.contrasts import (
    Comparison,
    ablations,
    compare,
    compare_with,
    compared_arms,
    over_arms,
    over_clips,
    reaches,
    variations,
)
from videomdm_ext.bench.scores import (
    CONTROL,
    FROZEN_BELOW,
    FULL,
    PRIMARY,
    REFERENCE,
    Arm,
    Curve,
    Example,
    Results,
    Training,
)
from videomdm_ext.bench.verdicts import ablation_verdict, headline, variation_verdict, verdict

__all__ = [
    "CONTROL",
    "FROZEN_BELOW",
    "FULL",
    "PRIMARY",
    "REFERENCE",
    "Arm",
    "Comparison",
    "Curve",
    "Example",
    "Results",
    "Training",
    "ablation_verdict",
    "ablations",
    "compare",
    "compare_with",
    "compared_arms",
    "headline",
    "over_arms",
    "over_clips",
    "reaches",
    "variation_verdict",
    "variations",
    "verdict",
]
