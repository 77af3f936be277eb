"""2D supervision for MDM, the human motion diffusion model. The names of `__all__` are imported when they are used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videomdm_ext.data.clip import collate, crop, observed
    from videomdm_ext.data.folder import read_card, read_clip, read_folder
    from videomdm_ext.data.refined import refine_clips as refine
    from videomdm_ext.inference.lift import Lifting, lift
    from videomdm_ext.inference.sample import open_run as load
    from videomdm_ext.inference.sample import sample
    from videomdm_ext.motion.features import FeatureSpace, decode, encode, mean_and_std
    from videomdm_ext.supervision.objective import Objective, weights_of
    from videomdm_ext.supervision.terms import TERMS, Step

__version__ = "0.1.0"
__all__ = [
    "TERMS", "FeatureSpace", "Lifting", "Objective", "Step", "collate", "crop", "decode", "encode", "lift", "load",
    "mean_and_std", "observed", "read_card", "read_clip", "read_folder", "refine", "sample", "weights_of",
]  # fmt: skip
_MODULES = {
    "data.clip": ("collate", "crop", "observed"),
    "data.folder": ("read_card", "read_clip", "read_folder"),
    "data.refined": ("refine_clips",),
    "inference.lift": ("Lifting", "lift"),
    "inference.sample": ("open_run", "sample"),
    "motion.features": ("FeatureSpace", "decode", "encode", "mean_and_std"),
    "supervision.objective": ("Objective", "weights_of"),
    "supervision.terms": ("TERMS", "Step"),
}
_SHORT = {"refine_clips": "refine", "open_run": "load"}
_PLACES = {_SHORT.get(name, name): (module, name) for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` from its module (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}")
    module, own = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), own)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
