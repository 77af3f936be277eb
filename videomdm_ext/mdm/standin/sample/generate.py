"""Sample motions: python -m sample.generate --model_path FILE ... writes results.npz."""

import io
import re
from pathlib import Path

import numpy as np
import torch
from data_loaders.get_data import get_dataset_loader
from data_loaders.humanml.scripts.motion_process import recover_from_ric
from model.cfg_sampler import ClassifierFreeSampleModel
from utils import dist_util
from utils.fixseed import fixseed
from utils.model_util import create_model_and_diffusion, load_saved_model
from utils.parser_util import generate_args, get_cond_mode

from videomdm_ext.data.files import write_bytes
from videomdm_ext.errors import HostError
from videomdm_ext.mdm.speed import exact

MAX_FRAMES = 196
FPS = 20.0


def main(args=None):
    """Write the samples of one checkpoint. -> the folder that holds results.npz"""
    args = generate_args() if args is None else args
    fixseed(args.seed)
    dist_util.setup_dist(args.device if args.cuda else -1)
    prompts = read_prompts(args)
    data = load_dataset(args)
    frames = min(MAX_FRAMES, int(args.motion_length * getattr(data.dataset, "fps", FPS)))
    model, diffusion = create_model_and_diffusion(args, data)
    load_saved_model(model, args.model_path, use_avg=args.use_ema)
    if args.guidance_param != 1 and get_cond_mode(args) == "text":
        model = ClassifierFreeSampleModel(model)
    model.to(dist_util.dev())
    model.eval()
    y = conditions(args, data, prompts, frames)
    if "text" in y:
        with torch.no_grad():
            y["text_embed"] = model.encode_text(y["text"])
    shape = (args.num_samples, model.njoints, model.nfeats, frames)
    samples = [
        diffusion.p_sample_loop(model, shape, clip_denoised=False, model_kwargs={"y": y}, progress=True).cpu()
        for _ in range(args.num_repetitions)
    ]
    return write(args, data, torch.cat(samples), y)


def read_prompts(args):
    """Prompts of --text_prompt or --input_text, or None; sets args.num_samples and args.batch_size."""
    prompts = [args.text_prompt] * args.num_samples if args.text_prompt else None
    if prompts is None and args.input_text:
        path = Path(args.input_text)
        if not path.is_file():
            raise HostError(f"{path}: not found. --input_text must name a text file with one prompt a line.")
        prompts = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if not prompts:
            raise HostError(f"{path}: no prompt in it. Write one prompt a line.")
        args.num_samples = len(prompts)
    args.batch_size = args.num_samples
    return prompts


def load_dataset(args):
    data = get_dataset_loader(
        name=args.dataset,
        batch_size=args.batch_size,
        num_frames=MAX_FRAMES,
        split="test",
        hml_mode="text_only",
        device=dist_util.dev(),
    )
    data.generator.manual_seed(args.seed)
    return data


def conditions(args, data, prompts, frames):
    """The sampler's y: mask, lengths, text and the guidance scale [B]; captions of the dataset where none are given."""
    lengths = [frames] * args.num_samples
    if prompts is None and get_cond_mode(args) == "text":
        if len(data) == 0:
            raise HostError(
                f"The test split has {len(data.dataset)} clips, --num_samples is {args.num_samples}. "
                "Lower it, or give --text_prompt."
            )
        _, cond = next(iter(data))
        prompts = cond["y"]["text"]
        lengths = [min(int(length), frames) for length in cond["y"]["lengths"]]
    lengths = torch.tensor(lengths)
    y = {"lengths": lengths, "mask": (torch.arange(frames) < lengths[:, None])[:, None, None]}
    if prompts is not None:
        y["text"] = prompts
    y["scale"] = torch.full((args.num_samples,), float(args.guidance_param))
    return exact.on_device(y, dist_util.dev())


def output_folder(args):
    if args.output_dir:
        return Path(args.output_dir)
    model = Path(args.model_path)
    prompt = re.sub(r"\W+", "_", args.text_prompt or Path(args.input_text).stem)[:60]
    name = f"samples_{model.parent.name}_{model.stem.removeprefix('model')}_seed{args.seed}"
    return model.parent / "_".join(part for part in (name, prompt) if part)


def write(args, data, samples, y):
    """results.npz: motion [N, J, 3, T] in metres, raw features [N, T, D], text [N], lengths [N]; repetitions follow
    one another, N = num_samples * num_repetitions."""
    raw = data.dataset.t2m_dataset.inv_transform(samples.permute(0, 2, 3, 1))
    raw = torch.as_tensor(raw).float()[:, 0]
    positions = recover_from_ric(raw, (raw.shape[-1] + 1) // 12)
    folder = output_folder(args)
    content = io.BytesIO()
    np.savez(
        content,
        motion=positions.permute(0, 2, 3, 1).numpy(),
        features=raw.numpy(),
        text=np.array(y.get("text", ["unconstrained"] * args.num_samples) * args.num_repetitions, dtype=str),
        lengths=np.tile(y["lengths"].cpu().numpy(), args.num_repetitions),
        num_samples=args.num_samples,
        num_repetitions=args.num_repetitions,
    )
    write_bytes(str(folder / "results.npz"), content.getvalue())
    print(f"{folder / 'results.npz'}: {len(raw)} samples")
    return str(folder)


if __name__ == "__main__":
    main()
