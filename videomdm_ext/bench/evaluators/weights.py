"""The files of pretrained evaluators: where they lie in each published layout, whether they are whole, and their hash.

`--evaluators FOLDER` holds a folder for each, by its name: FOLDER/t2m, mardm-67, tmr, motionstreamer-272. In it the
files lie as its authors publish them, or as Motius publishes them on the HuggingFace hub: model.safetensors, stats/,
and artifact_manifest.json with the SHA-256 of every file, which is then checked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import Ground, NotAskedError, UnavailableError
from videomdm_ext.data.files import read_array, read_json
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.mdm.evaluation import hash_of
from videomdm_ext.mdm.remedies import numbers

MANIFEST = "artifact_manifest.json"
VECTOR = 263
"""Channels of HumanML3D's vectors, whose scales serve an evaluator of the first ones."""
BROKEN = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, OSError, EOFError, UnpicklingError)
"""What reading files of another content may raise."""


def folder_of(ground: Ground, name: str) -> Path:
    """The folder of this evaluator's files; NotAskedError where there is none."""
    place = Path(ground.weights) / name
    if not ground.weights or not place.is_dir():
        raise NotAskedError(
            f"{name}: expected a folder {name} with its files in the folder of --evaluators, found "
            f"{f'none in {ground.weights}' if ground.weights else 'no such option'}. docs/evaluators.md lists them."
        )
    return place


def located(root: Path, name: str, layouts: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """The first place below `root` that exists for each part; UnavailableError names the parts that are missing.

    Those that the folder's manifest lists are compared with it: DatasetError names one that is damaged.
    """
    found = {part: next((root / p for p in places if (root / p).exists()), None) for part, places in layouts.items()}
    absent = [f"{part} ({' or '.join(layouts[part])})" for part, place in found.items() if place is None]
    if absent:
        raise UnavailableError(f"{root}: expected the files of the evaluator {name}, found no {', '.join(absent)}.")
    whole = {part: place for part, place in found.items() if place is not None}
    if (root / MANIFEST).is_file():
        listed = {entry["path"]: entry["sha256"] for entry in read_json(root / MANIFEST, "manifest")["files"]}
        for place in whole.values():
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                wanted = listed.get(file.relative_to(root).as_posix())
                if wanted and wanted != hash_of(file):
                    raise DatasetError(
                        f"{file}: expected SHA-256 {wanted} as {MANIFEST} lists, found {hash_of(file)}. Download the "
                        "file again."
                    )
    return whole


def hash_of_tensors(*facts: object, **parts: Tensor) -> str:
    """SHA-256 of values, names, shapes and of settings: equal in every layout of the same weights."""
    content = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, values in sorted(parts.items()):
        plain = values.detach().to("cpu", torch.float32).contiguous()
        content.update(f"{name}\0{list(plain.shape)}\0".encode())
        content.update(plain.numpy().tobytes())
    return content.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint or model.safetensors holds by name. DatasetError for anything else, and for what would run."""
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        with torch.serialization.safe_globals(numbers()):  # older checkpoints keep numpy's numbers too
            saved = torch.load(path, map_location="cpu", weights_only=True)
        return dict(saved.get("state_dict", saved))
    except BROKEN as error:
        raise unfit(path, "the weights of an evaluator", error) from error


def read_weights(path: Path, modules: Sequence[str]) -> dict[str, Tensor]:
    """Tensors by MODULE.PARAMETER, of those modules alone: of model.safetensors, or of a checkpoint that holds a
    dictionary for each module or, from Lightning, all in `state_dict`. DatasetError for anything else."""
    saved = read_state(path)
    nested = {f"{key}.{name}": v for key, own in saved.items() if isinstance(own, dict) for name, v in own.items()}
    found = {**saved, **nested}
    kept = {key: v for key, v in found.items() if isinstance(v, Tensor) and key.partition(".")[0] in modules}
    lost = [module for module in modules if not any(key.startswith(f"{module}.") for key in kept)]
    if lost or not all(bool(values.isfinite().all()) for values in kept.values()):
        raise unfit(path, "finite weights", ValueError(f"nothing of {', '.join(lost)}" if lost else "others"))
    return kept


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnavailableError(
            f"{path}: reading it needs safetensors: pip install -e '.[bench]' -c constraints.txt."
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def unfit(path: Path, expected: str, error: Exception) -> VideoMDMError:
    """The error for a file of another content."""
    said = next(iter(str(error).splitlines()), "")
    return DatasetError(f"{path}: expected {expected}, found other content ({said[:200]}). Download it again.")


def read_scales(mean: Path, std: Path, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and Std [`channels`], the latter above 0; of HumanML3D's 263 the first ones. DatasetError otherwise."""
    scales = _read_scale(mean, channels), _read_scale(std, channels)
    if not bool((scales[1] > 0).all()):
        raise unfit(std, f"{channels} deviations above 0", ValueError(f"{scales[1].min():g}"))
    return scales


def _read_scale(path: Path, channels: int) -> Tensor:
    """The numbers of a .npy file, or of a .pt file that holds one tensor."""
    try:
        if path.suffix == ".pt":
            values = torch.load(path, map_location="cpu", weights_only=True).float()
        else:
            values = torch.from_numpy(read_array(str(path)))
        fits = values.ndim == 1 and (len(values) == channels or len(values) == VECTOR > channels)
        if not fits or not bool(values.isfinite().all()):
            raise ValueError(f"values of shape {list(values.shape)}")
    except (*BROKEN, DatasetError) as error:
        raise unfit(path, f"{channels} finite numbers", error) from error
    return values[:channels]
