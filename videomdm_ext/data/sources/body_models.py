"""Body models for importers: those of `motion.body_models`, read as any other arrays of a source."""

from pathlib import Path

from videomdm_ext.data import files
from videomdm_ext.motion import body_models
from videomdm_ext.motion.body_models import BODY_JOINTS, GENDERS, SITES, BodyModel, find_model, posed

__all__ = ["BODY_JOINTS", "GENDERS", "SITES", "BodyModel", "find_model", "posed", "read_model"]


def read_model(path: Path) -> BodyModel:
    """The resting joints of a model file."""
    return body_models.read_model(path, lambda name, needed: files.read_arrays(name, needed=needed, optional=()))
