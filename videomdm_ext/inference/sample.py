"""What a trained checkpoint makes: motions from captions, and clean predictions of held-out noisy clips.

Draws are paired: the same captions, lengths and noise for every checkpoint with the same shapes. Files are npz.
"""

import argparse
import dataclasses
import hashlib
import importlib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.config import Fairness, Source, Speed, Supervision, from_args
from videomdm_ext.data import files
from videomdm_ext.data.clip import Crop, collate, crop, tensor_of
from videomdm_ext.data.folder import read_folder
from videomdm_ext.errors import ConfigError, DatasetError, HostError
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.mdm import checkout, hook, loss, resume
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.mdm.data import HostDataset, open_dataset
from videomdm_ext.motion.features import FeatureSpace, decode
from videomdm_ext.supervision.unrolling import noised

TOGETHER = 256
"""Held-out clips that are denoised in one pass; each pass has noise of its own."""


@dataclass(frozen=True)
class Trained:
    """A checkpoint in a host: denoiser (averaged weights where there are any), diffusion, data space, arguments."""

    model: Any
    diffusion: Any
    space: FeatureSpace
    args: argparse.Namespace
    dataset: HostDataset
    device: str = "cpu"
    checkpoint: Path = Path()

    @property
    def fps(self) -> float:
        return self.dataset.clips[0].fps

    @property
    def without_text(self) -> bool:
        """Whether it was trained with --unconstrained."""
        return bool(getattr(self.model, "cond_mode", "text") == "no_cond")


def find_checkpoint(place: Path) -> Path:
    """A checkpoint's file, or the model*.pt of a run's folder with the highest step; other names count without one."""
    found = [place] if place.is_file() else resume.checkpoints(place) or sorted(place.glob("model*.pt"))
    if not found:
        raise HostError(f"{place}: expected a checkpoint model*.pt, found none. Train first: videomdm train.")
    return found[-1]


def open_run(place: Path | str, *, mdm: str = "", device: str = "cpu", clips: str = "") -> Trained:
    """Load a checkpoint, or the last one in a run's folder, in its host: the stand-in, or the MDM checkout `mdm`.

    `auto` searches for a checkout; `clips` is where the data set that it was trained on lies now, if it has moved.
    """
    words, sys.argv = sys.argv, sys.argv[:1]  # --clips of another program would count as the training's
    try:
        return load(checkout.choose(mdm), find_checkpoint(Path(place)), device=device, clips=clips)
    finally:
        sys.argv = words


def load(host: Checkout, checkpoint: Path, *, device: str = "cpu", clips: str = "") -> Trained:
    """Load a checkpoint with the arguments stored beside it, onto a device.

    `clips` is the present folder of the data set that it was trained on, where args.json names an earlier one.
    """
    stored = checkpoint.with_name("args.json")
    if not stored.is_file():
        raise HostError(f"{checkpoint}: expected its training's args.json beside it, found none. Put it there.")
    args = argparse.Namespace(**files.read_json(stored, "args"))
    loss.check_stored(args, checkpoint)
    args.paired = False  # a matter of the training
    vars(args).update({**_defaults_of_plugins(), **vars(args)})
    if clips:
        args.clips = clips
    if not getattr(args, "clips", ""):
        raise HostError(
            f"{stored}: expected --clips with a data set, whose Mean and Std make motion of what is sampled, found "
            "none. Name the set that it was trained on with --trained_on DIR; MDM's own data need MDM's own programs."
        )
    resume.settle_sampled(args, checkpoint)
    hook.use(host)
    model_util = importlib.import_module("utils.model_util")
    try:
        hook.activate(args, loading=True)
        dataset = open_dataset(from_args(Source, args), from_args(Supervision, args), "train", args.seed)
        model, diffusion = model_util.create_model_and_diffusion(args, argparse.Namespace(dataset=dataset))
    except AttributeError as error:
        if error.obj is not args:
            raise
        raise HostError(f"{stored}: expected all arguments of a run ({error}). Keep the run's own file.") from error
    try:
        if hasattr(model_util, "load_saved_model"):  # which MDM has since February 2025
            model_util.load_saved_model(model, str(checkpoint), use_avg=getattr(args, "use_ema", False))
        else:
            model_util.load_model_wo_clip(model, torch.load(checkpoint, map_location="cpu", weights_only=True))
    except (*resume.MALFORMED, HostError) as error:
        raise HostError(_misfit(checkpoint, stored, dataset, error)) from error
    model.to(device)  # MDM's own returns nothing
    model.eval()
    return Trained(model, diffusion, dataset.space, args, dataset, device, checkpoint)


def _defaults_of_plugins() -> dict[str, Any]:
    """Options of plugins that may have come after the training; an absent one of ours has a meaning of its own."""
    parser = argparse.ArgumentParser()
    hook.add_options(parser.add_argument_group("diffusion"))
    ours = {item.name for config in (Supervision, Source, Fairness, Speed) for item in dataclasses.fields(config)}
    return {name: value for name, value in vars(parser.parse_args([])).items() if name not in ours}


def _misfit(checkpoint: Path, stored: Path, dataset: HostDataset, error: Exception) -> str:
    """The message for a checkpoint that does not fit its arguments or its data set, or cannot be read."""
    sizes = re.search(r"poseEmbedding\.weight: .*?\[\d+, (\d+)\].*?\[\d+, (\d+)\]", str(error))
    if sizes is None or sizes[1] == sizes[2]:
        return f"{checkpoint}: does not fit the arguments in {stored} ({error}). Train it again."
    found, expected = (f"{width} channels ({(int(width) + 1) // 12} joints)" for width in sizes.groups())
    return (
        f"{checkpoint}: expected {expected} of {dataset.space.skeleton.name}, the skeleton of the clips in {stored}, "
        f"found {found}. Keep each checkpoint beside its own args.json."
    )


def prompts(dataset: HostDataset, count: int, seed: int) -> list[tuple[str, int]]:
    """Captions and lengths of `count` training clips, every clip once before any comes again; the same for all arms."""
    order = sorted(dataset.clips.entries, key=lambda clip: hashlib.sha256(f"{seed}/{clip.id}".encode()).digest())
    chosen = [order[i % len(order)] for i in range(count)]
    return [
        (clip.texts[(i // len(order)) % len(clip.texts)], min(clip.frames, dataset.crop_frames))
        for i, clip in enumerate(chosen)
    ]


@torch.no_grad()
def sample(
    trained: Trained,
    wanted: Sequence[tuple[str, int]],
    *,
    seed: int = 0,
    guidance: float = 1.0,
    batch: int = 64,
    ddim: int = 0,
    progress: bool = False,
) -> list[Tensor]:
    """Motions for captions and lengths: positions [T, J, 3] each, m. `ddim` steps without noise, or 0: the schedule.

    `progress` shows the host's own bar of the steps of a batch, on standard error.
    """
    model, (loop, _) = denoiser(trained, guidance), sampler(trained, ddim)
    draw = torch.Generator().manual_seed(stream(seed, "start"))
    longest = trained.dataset.batch_length
    motions: list[Tensor] = []
    for start in range(0, len(wanted), batch):
        part = wanted[start : start + batch]
        lengths = torch.tensor([length for _, length in part])
        y = condition(trained, [text for text, _ in part], lengths, guidance)
        shape = (len(part), trained.space.skeleton.num_features, 1, longest)
        noise = torch.randn(shape, generator=draw).to(trained.device)
        torch.manual_seed(stream(seed, f"steps/{start}"))
        x = loop(model, shape, noise=noise, clip_denoised=False, model_kwargs={"y": y}, progress=progress)
        positions = decode(trained.space.raw(finite(x, trained).cpu()), trained.space.skeleton)
        motions += [positions[i, :length] for i, length in enumerate(lengths)]
    return motions


def finite(x: Tensor, trained: Trained) -> Tensor:
    """What was sampled. Raises HostError where it is not finite, as of finite weights that are far too large."""
    if not resume.all_finite([x]):
        raise HostError(
            f"{trained.checkpoint}: expected finite motions from this checkpoint, found others, so its training "
            "diverged. Take an earlier one, or train again with a lower --lr."
        )
    return x


def denoiser(trained: Trained, guidance: float) -> Any:
    """The model, with classifier-free guidance where its scale is not 1."""
    if guidance == 1:
        return trained.model
    if trained.args.cond_mask_prob == 0:
        raise ConfigError(
            f"--guidance {guidance}: expected 1 for a denoiser trained without condition dropout "
            "(--cond_mask_prob 0). Use --guidance 1."
        )
    model = importlib.import_module("model.cfg_sampler").ClassifierFreeSampleModel(trained.model)
    model.eval()
    return model


def condition(trained: Trained, texts: Sequence[str], lengths: Tensor, guidance: float) -> dict[str, Any]:
    """The host's y for captions and lengths [B] in frames of a batch as long as any in training."""
    y: dict[str, Any] = {
        "lengths": lengths,
        "mask": (torch.arange(trained.dataset.batch_length) < lengths.unsqueeze(1))[:, None, None],
        "scale": torch.full((len(texts),), guidance),
    }
    if not trained.without_text:
        y |= {"text": list(texts), "text_embed": trained.model.encode_text(list(texts))}
    return {name: value.to(trained.device) if torch.is_tensor(value) else value for name, value in y.items()}


def sampler(trained: Trained, ddim: int) -> tuple[Callable[..., Tensor], int]:
    """The host's sampling loop and its steps: ancestral over the schedule, or DDIM in a few evenly spaced ones."""
    own = trained.diffusion
    if ddim == 0:
        return own.p_sample_loop, getattr(own, "num_timesteps", 0)
    total = own.num_timesteps
    if not 2 <= ddim <= total:
        raise ConfigError(f"--ddim: expected 2 to {total} steps, those of the schedule, found {ddim}. Correct it.")
    respace = importlib.import_module("diffusion.respace")
    kinds = ("model_mean_type", "model_var_type", "loss_type", "rescale_timesteps")
    spaced = respace.SpacedDiffusion(
        use_timesteps=respace.space_timesteps(total, [ddim]),
        betas=own.betas,
        **{name: getattr(own, name) for name in kinds},
    )
    return spaced.ddim_sample_loop, ddim


def stream(seed: int, purpose: str) -> int:
    """Seed of the draws for one purpose, so that no two purposes share a draw."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:7], "big")


@torch.no_grad()
def denoise(trained: Trained, crops: Sequence[Crop], texts: Sequence[str], *, timestep: int, seed: int) -> list[Tensor]:
    """Teachers of crops, noised to `timestep` and predicted clean in one pass, in camera coordinates [T, J, 3], m."""
    batch = collate(crops, length=trained.dataset.batch_length)
    y = condition(trained, texts, tensor_of(batch, "lengths"), 1.0)
    x_start = trained.space.features(tensor_of(batch, "teacher")) * y["mask"].cpu()
    noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(seed))
    t = torch.full((len(crops),), timestep)
    alpha_bar = torch.as_tensor(trained.diffusion.alphas_cumprod, dtype=torch.float32)[t]
    x_t = noised(x_start, noise, alpha_bar).to(trained.device)
    x = trained.diffusion._wrap_model(trained.model)(x_t, t.to(trained.device), y=y).cpu()
    return in_camera(trained, trained.space.raw(x), tensor_of(batch, "extrinsics"), tensor_of(batch, "lengths"))


def in_camera(trained: Trained, raw: Tensor, extrinsics: Tensor, lengths: Tensor) -> list[Tensor]:
    """Raw features [B, T, D] as motions [T, J, 3] of these lengths in camera coordinates, m."""
    positions = to_camera(decode(raw, trained.space.skeleton), extrinsics)
    return [motion[:length] for motion, length in zip(positions, lengths, strict=True)]


def denoise_held_out(trained: Trained, *, timestep: int, seed: int) -> dict[str, list[Tensor]]:
    """Predictions of held-out clips, their teachers and, if every clip has one, truths, as `denoise` returns them."""
    clips, length = read_folder(from_args(Source, trained.args).clips, "test")[1], trained.dataset.batch_length
    kinds = ("prediction", "teacher") if clips.missing_truth() else ("prediction", "teacher", "truth")
    found: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    for start in range(0, len(clips), TOGETHER):
        part = clips[start : start + TOGETHER]
        crops = [crop(clip, 0, min(clip.length, length)) for clip in part]
        batch, texts = collate(crops, length=length), [clip.texts[0] for clip in part]
        found["prediction"] += denoise(trained, crops, texts, timestep=timestep, seed=seed + start)
        for name, camera in (("teacher", "extrinsics"), ("truth", "truth_extrinsics")):
            if name in found:
                raw, seen, lengths = (tensor_of(batch, part) for part in (name, camera, "lengths"))
                found[name] += in_camera(trained, raw, seen, lengths)
    return found


def write_motions(path: Path, groups: Mapping[str, list[Tensor]], captions: list[str]) -> None:
    """Groups of motions [T, J, 3] of any lengths in one npz."""
    arrays: dict[str, Any] = {"captions": np.array(captions, np.str_)}
    for name, motions in groups.items():
        arrays[name] = torch.cat(motions).numpy()
        arrays[f"{name}_lengths"] = np.array([len(motion) for motion in motions])
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    if sum(array.nbytes for array in arrays.values()) > files.RATIO_LIMIT * len(content.getvalue()):
        content = io.BytesIO()  # of motions that hardly move: `read_motions` would take it for a bomb
        np.savez(content, **arrays)
    files.write_bytes(str(path), content.getvalue(), durable=True)


def read_motions(path: Path) -> tuple[dict[str, list[Tensor]], list[str]]:
    """What `write_motions` wrote: motions [T, J, 3] by group, and captions. ConfigError for anything else."""
    try:
        content = files.read_bytes(str(path))
    except DatasetError as error:
        raise ConfigError(
            f"{path}: expected a file of motions, found none that can be read ({error}). Name one that a command wrote."
        ) from error
    try:
        captions = [str(text) for text in files.texts_from(content, str(path), ("captions",))["captions"]]
        arrays = files.arrays_from(content, str(path), needed=(), words=("captions",))
        groups = {}
        for name in [name for name in arrays if not name.endswith("_lengths")]:
            positions, lengths = torch.from_numpy(arrays[name]), arrays[f"{name}_lengths"]
            if positions.ndim != 3 or positions.shape[-1] != 3 or (lengths != lengths.astype(np.int64)).any():
                raise ValueError(f"{name} has the shape {list(positions.shape)}")
            groups[name] = list(positions.split(lengths.astype(np.int64).tolist()))
    except (DatasetError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: expected motions in npz, found something else ({error}). Remove the file and sample again."
        ) from error
    return groups, captions
