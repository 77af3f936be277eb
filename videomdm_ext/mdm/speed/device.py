"""What a machine with a GPU has to show (docs/gpu.md): parity with the CPU, seconds and memory of a step, the objective
beside a plain translation of the paper's formulas, sampling and refinement; on a CPU the same, at a small size.

The steps are those of `measure`; the checks run in one more of its processes, one after the other.
"""

import copy
import importlib
import resource
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.mdm.speed import exact, measure
from videomdm_ext.motion.features import FeatureSpace, decode
from videomdm_ext.supervision.objective import Objective
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.refinement import refine
from videomdm_ext.supervision.terms import TERMS, Step
from videomdm_ext.supervision.unrolling import TimestepBuckets

VARIANTS = ("stock", "3d", "2d", measure.UNROLLED)
STEPS, REPEATS = 10, 5
"""Updates after which CPU and device are compared; calls of the objective, of which the quickest counts."""
GROUP = 256
"""Motions that are sampled, or clips that are refined, together."""
Found = dict[str, float]


def report(
    checkout: Checkout, sizes: measure.Sizes, watch: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Measure everything. -> a Markdown table"""
    variants = [name for name in VARIANTS if name != "stock" or checkout.kind == "mdm"]
    speeds = measure.measure(checkout, sizes, watch, variants)
    found: Found = {}
    with measure.working(checkout, sizes) as folder, measure.worker(folder, measure.CHECKS, checkout, sizes) as ask:
        for name in CHECKS:
            found |= ask(name)
    return table(speeds, found)


def table(speeds: measure.Speeds, found: Mapping[str, float]) -> str:
    """The figures, each with what is asked of it where there is such a thing."""
    sizes = speeds.sizes
    seconds = {name: timing.seconds["later epochs"]["total"] for name, timing in speeds.timings.items()}
    passes = TimestepBuckets.of(12, 4, 50)
    share = passes.top / passes.total
    rows = [("parity with the CPU: loss after 10 steps, relative", f"{found['loss apart']:.1e}", "at most 1e-4")]
    rows += [("the same: largest difference of a weight", f"{found['weights apart']:.1e}", "")]
    for name, timing in speeds.timings.items():
        rows.append((f"{name}: a step", f"{seconds[name]:.3f} s, {timing.memory / 1e9:.2f} GB", ""))
    if "stock" in seconds:
        rows.append(("stock / 3d", f"{seconds['stock'] / seconds['3d']:.2f}", "at least 1.5"))
    rows.append(("2d without unrolling / 3d", f"{seconds['2d'] / seconds['3d']:.3f}", "at most 1.05"))
    mean = (1 - share) * seconds["2d"] + share * seconds[measure.UNROLLED]
    rows.append((f"2d with unrolling in {share:.0%} of the steps / 3d", f"{mean / seconds['3d']:.2f}", ""))
    for name in ("reprojection", "its plain translation", "posterior"):
        rows.append((f"objective: {name}, forward and backward", f"{1e3 * found[name]:.1f} ms", ""))
    rows.append(("objective: apart from its plain translation, relative", f"{found['objective apart']:.1e}", "1e-4"))
    rows.append((f"{sizes.many} motions sampled", f"{found['sampled']:.1f} s", ""))
    rows.append((f"{sizes.many} clips refined", f"{found['refined']:.1f} s", ""))
    shape = f"batch {sizes.batch}, {sizes.frames} frames, {sizes.layers} layers of {sizes.width}"
    title = f"{speeds.device}, torch {torch.__version__}; {shape}; text: {speeds.text}"
    lines = [" | ".join(row) for row in rows]
    return "\n".join([title, "", "| | measured | asked |", "|---|---|---|", *(f"| {line} |" for line in lines), ""])


# -- in their own process ----------------------------------------------------------------------------------------------


def peak_memory() -> int:
    """Bytes that this process held at most since it was asked, on its GPU where it has one."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parity(loop: Any, motion: Tensor, y: Mapping[str, Any], _: measure.Sizes) -> Found:
    """The same updates on the CPU and on the device: without dropout, with the same draws."""
    ends = [trained(loop, motion, y, device) for device in (torch.device("cpu"), motion.device)]
    (loss, weights), (other_loss, other_weights) = ends
    apart = max(float((a - b).abs().max()) for a, b in zip(weights, other_weights, strict=True))
    return {"loss apart": abs(loss - other_loss) / loss, "weights apart": apart}


def trained(loop: Any, motion: Tensor, y: Mapping[str, Any], device: torch.device) -> tuple[float, list[Tensor]]:
    """The last loss and the weights, on the CPU, after STEPS updates of a copy of the loop's model on a device."""
    with torch.no_grad():
        text = loop.model.encode_text(y["text"])
    model = copy.deepcopy(loop.model)
    model.to(device)
    model.eval()  # no dropout, and no hidden condition
    weights = model.parameters_wo_clip()
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    draw, x = torch.Generator().manual_seed(0), motion.to(device)
    own = {**exact.on_device(y, device), "text_embed": text.to(device)}
    total = torch.zeros(())
    for _ in range(STEPS):
        t = torch.randint(0, loop.diffusion.num_timesteps, (len(x),), generator=draw).to(device)
        noise = torch.randn(x.shape, generator=draw).to(device)
        kwargs = {"y": dict(own)}
        losses = loop.diffusion.training_losses(model, x, t, kwargs, noise=noise, dataset=loop.data.dataset)
        total = losses["loss"].mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return float(total), [weight.detach().cpu() for weight in weights]


def objective(loop: Any, motion: Tensor, y: Mapping[str, Any], _: measure.Sizes) -> Found:
    """Forward and backward of the objectives alone, in seconds, and how far ours is from the plain translation."""
    space = loop.data.dataset.space.to(motion.device)
    observation, _rest = Observation.take(dict(y))
    x_t = motion + 0.3 * torch.randn(motion.shape, generator=torch.Generator().manual_seed(0)).to(motion.device)
    t = torch.full((len(motion),), 10, device=motion.device)
    alpha_bar = torch.full((len(motion),), 0.5, device=motion.device)
    weights = {"position": 7 / 22, "velocity": 350 / 22}

    def ours(terms: Mapping[str, float]) -> Callable[[Tensor], Tensor]:
        of = Objective(terms, TERMS)
        return lambda x: of(Step(x, motion, t, alpha_bar, observation, space))["loss"]

    losses = {"reprojection": ours(weights), "posterior": ours({"posterior": 1.0})}
    losses["its plain translation"] = lambda x: plain(x, observation, space, weights)
    found = {name: quickest(loss, x_t) for name, loss in losses.items()}
    one, other = losses["reprojection"](x_t), losses["its plain translation"](x_t)
    return {**found, "objective apart": float(((one - other) / other).abs().max())}


def plain(x: Tensor, observation: Observation, space: FeatureSpace, weights: Mapping[str, float]) -> Tensor:
    """The paper's reprojection and velocity as its formulas say them, with the host's own decoding. -> [B]"""
    process = importlib.import_module("data_loaders.humanml.scripts.motion_process")
    joints = process.recover_from_ric(x.squeeze(2).transpose(1, 2) * space.std + space.mean, space.skeleton.num_joints)
    rotation, shift = observation.extrinsics[..., :3], observation.extrinsics[..., 3]
    seen = torch.einsum("btij,btkj->btki", rotation, joints) + shift.unsqueeze(2)
    depth = seen[..., 2]
    off = seen[..., :2] / depth.clamp_min(0.5).unsqueeze(-1) - observation.keypoints
    m = observation.weight * (depth >= 0.5)
    both, squared = m[:, 1:] * m[:, :-1], depth.detach() ** 2
    change = off[:, 1:] - off[:, :-1]
    position = (m * squared * (off**2).sum(-1)).sum((1, 2)) / m.sum((1, 2))
    velocity = (both * squared[:, 1:] * (change**2).sum(-1)).sum((1, 2)) / both.sum((1, 2))
    return weights["position"] * position + weights["velocity"] * velocity


def quickest(loss: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Seconds of forward and backward, the least of a few."""
    clock, taken = measure.Clock(), []
    for _ in range(REPEATS):
        given, start = x.clone().requires_grad_(), clock.now()
        loss(given).mean().backward()
        taken.append(clock.now() - start)
    return min(taken)


@torch.no_grad()
def sampling(loop: Any, motion: Tensor, y: Mapping[str, Any], sizes: measure.Sizes) -> Found:
    """Seconds to sample `many` motions, in groups, without guidance."""
    loop.model.eval()
    text = loop.model.encode_text(y["text"][:1])
    clock = measure.Clock()
    start = clock.now()
    for count in groups(sizes.many):
        mask = y["mask"][:1].expand(count, *y["mask"].shape[1:])
        own = {"mask": mask, "text_embed": text.expand(1, count, -1), "lengths": y["lengths"][:1].expand(count)}
        loop.diffusion.p_sample_loop(
            loop.model, (count, *motion.shape[1:]), clip_denoised=False, model_kwargs={"y": own}, progress=False
        )
    return {"sampled": clock.now() - start}


def refining(loop: Any, motion: Tensor, y: Mapping[str, Any], sizes: measure.Sizes) -> Found:
    """Seconds to refine `many` clips, in groups, of which the first estimates what all share."""
    space, shared, clock = loop.data.dataset.space.to(motion.device), None, measure.Clock()
    start = clock.now()
    for count in groups(sizes.many):
        rows = torch.arange(count, device=motion.device) % len(motion)
        seen, _rest = Observation.take({name: part[rows] for name, part in y.items() if torch.is_tensor(part)})
        _, shared = refine(decode(space.raw(motion[rows]), space.skeleton), seen, space.skeleton, shared=shared)
    return {"refined": clock.now() - start}


def groups(count: int) -> list[int]:
    """Sizes of groups of at most GROUP that make `count`."""
    return [min(GROUP, count - start) for start in range(0, count, GROUP)]


CHECKS: Mapping[str, Callable[[Any, Tensor, Mapping[str, Any], measure.Sizes], Found]] = {
    "parity": parity, "objective": objective, "sampling": sampling, "refinement": refining,
}  # fmt: skip
"""What runs on the model of a loop and its batch and gives figures by name, in the order in which they run."""
