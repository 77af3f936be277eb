"""Small parts of the samplers and of the noising."""

import numpy as np
import torch


def first_from_second(table, start):
    """`table` [T] with its first entry replaced by the second of `start` (by its only one where T is 1)."""
    return np.append(start[min(1, len(start) - 1)], table[1:])


def inpaint(prediction, y):
    """Put y['inpainted_motion'] where y['inpainting_mask'] [N, J, F, T] bool is set, if both are given.

    The sum keeps the prediction's memory layout, which randn_like follows: other code would draw other noise.
    """
    if "inpainting_mask" not in y or "inpainted_motion" not in y:
        return prediction
    return prediction * ~y["inpainting_mask"] + y["inpainted_motion"] * y["inpainting_mask"]


def unless_last(t, x):
    """1 where t > 0, else 0, shaped for x: the last step adds no noise."""
    return (t != 0).float().view(-1, *[1] * (x.dim() - 1))


def encode_text_once(model, model_kwargs):
    """Keyword arguments whose y carries the text embedding, so that no step encodes the text again."""
    kwargs = model_kwargs or {}
    y = kwargs.get("y", {})
    if "text" not in y or "text_embed" in y or model.cond_mode != "text":
        return kwargs
    with torch.no_grad():
        return {**kwargs, "y": {**y, "text_embed": model.encode_text(y["text"])}}


def last_or_dumped(samples, dump_steps):
    """The last sample, or those at the places `dump_steps`."""
    dumped, sample = [], None
    for i, out in enumerate(samples):
        sample = out["sample"]
        if dump_steps is not None and i in dump_steps:
            dumped.append(sample.clone())
    return sample if dump_steps is None else dumped


def refuse(**options):
    """Options of MDM's samplers that the stand-in does not have must be left alone."""
    used = [name for name, value in options.items() if value not in (None, False)]
    if used:
        raise NotImplementedError(f"This sampler of the stand-in host has no {', '.join(used)}. Use MDM (--mdm).")


def _extract_into_tensor(arr, timesteps, broadcast_shape):
    """Entries of a float64 table at `timesteps` [N], as float32 expanded to `broadcast_shape`."""
    values = torch.from_numpy(arr).to(timesteps.device)[timesteps].float()
    return values.view(-1, *[1] * (len(broadcast_shape) - 1)).expand(broadcast_shape)
