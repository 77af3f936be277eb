"""Numbers, estimates and ratios as a report writes them."""

import math

from videomdm_ext.bench.statistics import Estimate, Ratio


def decimals(value: float, digits: int) -> int:
    """Places behind the point that show so many significant digits, 0 to 4."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 4)


def number(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits; "not finite" for NaN, a dash for none."""
    if value is None:
        return "–"  # noqa: RUF001
    if not math.isfinite(value):
        return "not finite"
    if 0 < abs(value * scale) < 5e-5:
        return "< 0.0001"
    return f"{value * scale:.{decimals(value * scale, 3)}f}"


def estimate_text(estimate: Estimate, scale: float = 1.0, sign: str = "") -> str:
    """Mean and half-width of the interval; the mean alone for one value."""
    mean, half = estimate.mean * scale, estimate.half_width
    if half is None or not math.isfinite(mean):
        return number(mean)
    places = min(decimals(half * scale, 2), decimals(mean, 3) + 2) if half else decimals(mean, 3)
    return f"{mean:{sign}.{places}f} ± {half * scale:.{places}f}"


def ratio_text(ratio: Ratio | None) -> str:
    """Value and interval; says where an interval has no finite ends."""
    if ratio is None or not math.isfinite(ratio.value):
        return "–"  # noqa: RUF001
    if ratio.interval is None:
        return f"{ratio.value:.2f}" + (" (unbounded)" if ratio.n > 1 else "")
    return f"{ratio.value:.2f} [{ratio.interval[0]:.2f}, {ratio.interval[1]:.2f}]"


def share_text(ratio: Ratio) -> str:
    """A share in per cent with its interval; says where an interval has no finite ends."""
    if ratio.interval is None:
        return f"{100 * ratio.value:.0f} %" + (" (unbounded)" if ratio.n > 1 else "")
    return f"{100 * ratio.value:.0f} % [{100 * ratio.interval[0]:.0f}, {100 * ratio.interval[1]:.0f}]"


def with_unit(text: str, unit: str) -> str:
    """A written number with its unit; a unit that starts with a power of ten takes a sign of multiplication."""
    if not unit[:1].isdigit():
        return f"{text} {unit}".strip()
    return f"({text}) × {unit}" if "±" in text else f"{text} × {unit}"  # noqa: RUF001


def p_text(p: float) -> str:
    """A p-value to two significant digits, "p < 0.0001" below that."""
    return "p < 0.0001" if p < 1e-4 else "p = 1" if p > 0.995 else f"p = {p:.{decimals(p, 2)}f}"
