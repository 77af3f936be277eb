"""The 2D loss: a weighted sum of terms over a clean prediction and what the camera saw. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import ConfigError, PluginError
from videomdm_ext.supervision.terms import Step, Term, motion

PRESETS = {
    "reprojection": {"position": 7 / 22, "velocity": 350 / 22, "near": 1.0, "alignment": 1.0},
    "paper": {"position": 7 / 44, "velocity": 350 / 44, "alignment": 1 / 263},
}
"""Weights of terms by the name under which `--loss` takes them together. `paper`: the effective weights of the paper's
released program, whose means also run over u and v and whose alignment is divided by the number of features."""
REMOVED = {
    "ray": " The term was removed: with the refined teacher it was MDM's own loss, which the arm `refined` pays.",
    "mdm": " MDM's own loss is paid under --supervision 3d; its form on the diffused motion is the term `motion`.",
}
"""What to add for a name that is no longer, or never was, a term."""


@dataclass(frozen=True)
class Objective:
    """`objective(step)` -> {"loss": [B], each term: [B], "behind": [B]}.

    `weights` and `terms` are by name. A clip whose motion is known (mixed supervision) pays `motion` and no other term.
    """

    weights: Mapping[str, float]
    terms: Mapping[str, Term]

    def __call__(self, step: Step) -> dict[str, Tensor]:
        values = {name: self._value(name, step) for name in self.weights}
        loss = torch.stack([self.weights[name] * value for name, value in values.items()]).sum(0)
        known = step.observation.known
        if known is not None:
            own = motion(step)
            values = {"motion": torch.zeros_like(own), **values}
            values = {name: torch.where(known, own if name == "motion" else 0.0, v) for name, v in values.items()}
            loss = torch.where(known, own, loss)
        return {"loss": loss, **values, "behind": step.behind}

    def _value(self, name: str, step: Step) -> Tensor:
        value = self.terms[name](step)
        if value.shape != step.timesteps.shape:
            raise PluginError(
                f"loss term {name!r}: expected one number for each of the {len(step.timesteps)} clips of the batch, "
                f"found shape {list(value.shape)}. Correct it: docs/hooks.md."
            )
        return value


def weights_of(loss: str, terms: Mapping[str, Term]) -> dict[str, float]:
    """Weights by term of a value of `--loss`: presets, terms, and NAME=WEIGHT, of which later ones win; 0 drops a term.

    Raises ConfigError for a name that is neither, and for a weight that is no number from 0.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in loss.split(","))):
        name, equals, weight = part.partition("=")
        if not equals and name in PRESETS:
            found |= PRESETS[name]
        elif name in terms:
            found[name] = _number(part, weight) if equals else terms[name].weight
        else:
            raise ConfigError(
                f"--loss {loss}: expected {', '.join(PRESETS)}, or terms among {', '.join(terms)}, as NAME or "
                f"NAME=WEIGHT with commas between; found {name!r}.{REMOVED.get(name, ' Is its plugin installed?')}"
            )
    found = {name: weight for name, weight in found.items() if weight > 0}
    if not found:
        raise ConfigError(f"--loss {loss!r}: expected a term with a weight above 0, found none. Leave the option out.")
    return found


def _number(part: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ConfigError(f"--loss {part}: expected NAME=WEIGHT with a weight not below 0, found {text!r}. Correct it.")
    return weight
