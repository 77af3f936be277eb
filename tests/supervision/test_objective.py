"""The whole objective: exact predictions cost nothing, what is not seen is silent, clips are independent."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from people import features_of, observe, orbiting, random_motion, real_batch, space_of
from tolerances import BATCH_INDEPENDENCE, EXACT_LOSS
from torch import Tensor

from videomdm_ext.errors import ConfigError, PluginError
from videomdm_ext.motion.features import FeatureSpace, decode, decode_root, encode
from videomdm_ext.motion.kinematics import HUMANML3D, RAW, HeadingRule, heading
from videomdm_ext.motion.skeletons import NBA16, SMPL22, Skeleton
from videomdm_ext.supervision.objective import Objective, weights_of
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.terms import TERMS, Step, Term

FORMS = {
    "reprojection": ("reprojection", "depth2"),
    "mean1": ("reprojection", "mean1"),
    "none": ("reprojection", "none"),
    "isotropic": ("reprojection", "isotropic"),
    "everything": (",".join(TERMS), "depth2"),
}
each_form = pytest.mark.parametrize("form", FORMS)
Compute = Callable[[Tensor, Observation, Tensor], dict[str, Tensor]]


def alpha_bar_of(x: Tensor) -> Tensor:
    """Some with next to no motion in them, some with hardly any noise."""
    return (7.0 * x[:, 3, 0, 0]).sin().square().clamp(0.01, 0.99)


def objective_of(form: str, space: FeatureSpace, loss: str = "", terms: Mapping[str, Term] = TERMS) -> Compute:
    """-> the loss and its terms of a prediction, an observation and a teacher."""
    known, depth_weight = FORMS[form]
    objective = Objective(weights_of(loss or known, terms), terms)

    def compute(x: Tensor, observation: Observation, x_start: Tensor) -> dict[str, Tensor]:
        return objective(
            Step(x, x_start, torch.arange(len(x)), alpha_bar_of(x), observation, space, depth_weight=depth_weight)
        )

    return compute


def exact_scene(
    positions: Tensor, skeleton: Skeleton, rule: HeadingRule = RAW, start: int = 0
) -> tuple[Tensor, Observation, FeatureSpace]:
    """Stored vectors from frame `start` on as the host has them, and cameras that see just what they decode to."""
    space = space_of(positions, skeleton, rule)
    x = features_of(positions, space)[..., start:]
    cameras = orbiting((len(x),), torch.Generator().manual_seed(6), dtype=x.dtype)
    initial = heading(positions, skeleton, rule)[:, start]
    return x, observe(decode(space.raw(x), skeleton), cameras, initial_heading=initial), space


def wrong_scene(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Observation, Tensor, FeatureSpace]:
    """Predictions, observation, teacher and space of six people, three of them shorter than the batch."""
    generator = torch.Generator().manual_seed(7)
    motion = random_motion(SMPL22, (6,), 24, generator, dtype=dtype)
    x, seen, space = exact_scene(motion, SMPL22)
    valid = torch.arange(24) < torch.tensor((24, 10, 24, 17, 2, 24))[:, None]
    confidence = torch.rand(6, 24, 22, generator=generator).to(dtype)
    confidence[confidence < 0.2] = 0.0
    observation = observe(motion, seen.extrinsics[:, 0], confidence=confidence, valid=valid)
    prediction, teacher = (x + 0.3 * torch.randn(x.shape, generator=generator).to(dtype) for _ in range(2))
    return prediction, observation, teacher, space


def value_and_gradient(
    objective: Compute, x: Tensor, observation: Observation, x_start: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    x = x.clone().requires_grad_()
    terms = objective(x, observation, x_start)
    return terms, torch.autograd.grad(terms["loss"].sum(), x)[0]


@each_form
@pytest.mark.parametrize("rule", [RAW, HUMANML3D], ids=["raw", "humanml3d"])
@pytest.mark.parametrize("start", [0, 11])
@pytest.mark.parametrize("people", ["real", "nba16"])
def test_an_exact_prediction_costs_nothing_in_any_term(form: str, rule: HeadingRule, start: int, people: str) -> None:
    skeleton = NBA16 if people == "nba16" else SMPL22
    generator = torch.Generator().manual_seed(8)
    motion = real_batch()[:4] if people == "real" else random_motion(skeleton, (3,), 40, generator)
    x, observation, space = exact_scene(motion, skeleton, rule, start)
    terms = objective_of(form, space)(x, observation, x)
    for name in terms.keys() - {"floor", "bone_length", "loss"}:
        value = terms[name]
        assert value.max() < EXACT_LOSS, name


def test_an_exact_prediction_of_a_rigid_grounded_person_costs_nothing_in_floor_and_bone_length() -> None:
    motion = real_batch(dtype=torch.float64)
    motion = motion - motion[..., 1].amin(-1)[..., None, None] * torch.tensor((0.0, 1.0, 0.0))
    x, observation, space = exact_scene(motion, SMPL22)
    terms = objective_of("everything", space)(x, observation, x)
    assert terms["floor"].max() < EXACT_LOSS
    assert terms["bone_length"].max() < 1e-6  # the bundled clips' bones are constant to a millimetre


def test_without_the_crops_heading_an_exact_prediction_would_pay_in_the_rotations() -> None:
    x, observation, space = exact_scene(real_batch(), SMPL22, RAW, 11)
    astray = replace(observation, initial_heading=torch.zeros_like(observation.initial_heading))
    objective = objective_of("reprojection", space)
    assert objective(x, astray, x)["alignment"].max() > 1e-3
    assert objective(x, astray, x)["position"].max() < EXACT_LOSS


@each_form
def test_an_erroneous_prediction_costs_something_in_every_term(form: str) -> None:
    x, observation, teacher, space = wrong_scene()
    terms, gradient = value_and_gradient(objective_of(form, space), x, observation, teacher)
    for name, value in terms.items():
        if name not in ("near", "behind"):
            assert value.min() > 1e-6, name
    assert torch.isfinite(gradient).all()
    for clip, valid in zip(gradient, observation.valid, strict=True):
        assert (clip[..., valid] != 0).any()
        assert (clip[..., ~valid] == 0).all()


@each_form
def test_the_loss_is_the_weighted_sum_of_its_terms(form: str) -> None:
    x, observation, teacher, space = wrong_scene(torch.float64)
    weights = {"position": 3.0, "velocity": 5.0, "alignment": 7.0, "near": 11.0}
    weights |= {"floor": 13.0, "bone_length": 17.0, "motion": 2.0} if form == "everything" else {}
    loss = ",".join(f"{name}={weight}" for name, weight in weights.items())
    terms = objective_of(form, space, loss)(x, observation, teacher)
    assert terms.keys() == weights.keys() | {"loss", "behind"}
    expected = sum(weight * terms[name] for name, weight in weights.items())
    assert torch.allclose(terms["loss"], expected)
    assert all(value.shape == (6,) for value in terms.values())


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        ("floor", {"floor": 1.0}),
        ("reprojection", {"position": 7 / 22, "velocity": 350 / 22, "near": 1.0, "alignment": 1.0}),
        ("paper", {"position": 7 / 44, "velocity": 350 / 44, "alignment": 1 / 263}),
        ("paper,alignment=0", {"position": 7 / 44, "velocity": 350 / 44}),
        ("floor=0.25, motion=2", {"floor": 0.25, "motion": 2.0}),
        (
            "near=3,position=0,reprojection,position=2",
            {"position": 2.0, "velocity": 350 / 22, "near": 1.0, "alignment": 1.0},
        ),
    ],
)
def test_a_loss_is_presets_terms_and_weights_of_which_later_ones_win(loss: str, weights: dict[str, float]) -> None:
    assert weights_of(loss, TERMS) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("jitter=1", "expected reprojection, paper, or terms among position, .*found 'jitter'. Is its plugin"),
        ("reprojection=2", "found 'reprojection'"),
        ("ray=1", "found 'ray'.*with the refined teacher it was MDM's own loss, which the arm `refined` pays"),
        ("mdm", "found 'mdm'.*--supervision 3d"),
        ("floor=much", " floor=much: expected NAME=WEIGHT with a weight not below 0, found 'much'"),
        ("floor=", "found ''"), ("floor=-1", "found '-1'"), ("floor=nan", "found 'nan'"), ("floor=inf", "found 'inf'"),
        ("floor=0", "expected a term with a weight above 0"), (" , ", "expected a term with a weight above 0"),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_be_paid_is_refused_with_what_can(loss: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--loss.*{message}"):
        weights_of(loss, TERMS)


def test_every_term_describes_itself_and_weighs_something() -> None:
    assert all(term.about and term.weight > 0 for term in TERMS.values())


def test_alignment_supervises_the_redundant_channels_and_the_yaw_and_the_image_only_the_others() -> None:
    x, observation, teacher, space = wrong_scene()
    image = objective_of("reprojection", space, "reprojection,alignment=0")
    terms, gradient = value_and_gradient(image, x, observation, teacher)
    assert "alignment" not in terms
    assert (gradient[:, 67:] == 0).all()
    assert (gradient[:, :67] != 0).any()
    _, gradient = value_and_gradient(objective_of("reprojection", space, "alignment"), x, observation, teacher)
    assert (gradient[:, 67:] != 0).any()
    assert (gradient[:, 0] != 0).any()
    assert (gradient[:, 1:67] == 0).all()


@pytest.mark.parametrize("rule", [RAW, HUMANML3D], ids=["raw", "humanml3d"])
def test_headings_turned_by_ninety_degrees_cost_and_are_pulled_back_while_the_image_stays(rule) -> None:
    """The same positions can be encoded with any headings, so the image does not see those of a prediction."""
    motion = real_batch(dtype=torch.float64)[:3]
    exact, observation, space = exact_scene(motion, SMPL22, rule)
    own = decode_root(space.raw(exact), SMPL22)[0]
    ramp = torch.linspace(0.0, math.pi / 2, motion.shape[1], dtype=torch.float64)
    x = space.features(encode(decode(space.raw(exact), SMPL22), SMPL22, own + ramp)).requires_grad_()
    objective = objective_of("reprojection", space, "reprojection,velocity=0,alignment=10")
    terms, gradient = value_and_gradient(objective, x.detach(), observation, exact)
    assert terms["position"].max() < EXACT_LOSS
    assert terms["alignment"].min() > 0.05
    assert (gradient[:, 0, :, :-1].sum((1, 2)) * ramp[-1] < 0).all()  # a larger yaw velocity turns to smaller headings
    optimizer = torch.optim.Adam([x], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        objective(x, observation, exact)["loss"].sum().backward()
        optimizer.step()
    found = decode_root(space.raw(x.detach()), SMPL22)[0]
    assert (found - own).abs().max() < 0.02 * math.pi / 2
    assert objective(x.detach(), observation, exact)["position"].max().sqrt() < 0.05


def with_garbage(observation: Observation, value: float) -> Observation:
    """The same frames seen, with `value` in everything else."""
    padding, unseen = ~observation.valid, observation.weight == 0
    parts = {name: part.clone() for name, part in vars(observation).items() if name not in ("weight", "known")}
    parts["keypoints"][unseen] = value
    parts["extrinsics"][padding] = value
    confidence = observation.weight.sqrt()
    confidence[padding] = value
    return Observation.of(confidence=confidence, **parts)


@each_form
@pytest.mark.parametrize("rule", [RAW, HUMANML3D], ids=["raw", "humanml3d"])
@pytest.mark.parametrize("value", [math.nan, 7.0])
def test_garbage_in_padding_or_without_confidence_changes_no_bit(form: str, rule: HeadingRule, value: float) -> None:
    x, observation, teacher, space = wrong_scene()
    objective = objective_of(form, replace(space, rule=rule))
    expected, expected_gradient = value_and_gradient(objective, x, with_garbage(observation, 0.0), teacher)
    for tensor in (x, teacher):
        tensor.movedim(3, 1)[~observation.valid] = value
    found, gradient = value_and_gradient(objective, x, with_garbage(observation, value), teacher)
    for name, term in expected.items():
        assert torch.equal(found[name], term), name
    assert torch.equal(gradient, expected_gradient)


@each_form
@pytest.mark.parametrize("rule", [RAW, HUMANML3D], ids=["raw", "humanml3d"])
def test_the_loss_of_a_clip_does_not_depend_on_its_batch_or_padding(form: str, rule: HeadingRule) -> None:
    x, observation, teacher, space = wrong_scene(torch.float64)  # conjugate gradients multiply rounding
    objective = objective_of(form, replace(space, rule=rule))
    together = objective(x, observation, teacher)
    for clip, length in enumerate(observation.valid.sum(1).tolist()):
        one = slice(clip, clip + 1)
        parts = {name: part[one] for name, part in vars(observation).items() if part is not None}
        cut = {name: part if name == "initial_heading" else part[:, :length] for name, part in parts.items()}
        alone = objective(x[one, ..., :length], Observation(**cut), teacher[one, ..., :length])
        for name, value in alone.items():
            assert value.item() == pytest.approx(together[name][clip].item(), abs=BATCH_INDEPENDENCE, rel=1e-5), name


def test_a_term_of_a_plugin_reaches_the_loss_with_its_weight_and_sees_no_padding() -> None:
    x, observation, teacher, space = wrong_scene()
    seen: list[Step] = []

    def height(step: Step) -> Tensor:
        seen.append(step)
        return step.positions[..., 1].mean((1, 2))

    valid = observation.valid
    for tensor in (x, teacher):
        tensor.movedim(3, 1)[~valid] = math.nan
    terms = {**TERMS, "height": Term(height)}
    objective = objective_of("reprojection", space, "reprojection,height=3", terms)
    values, gradient = value_and_gradient(objective, x, observation, teacher)
    without, without_gradient = value_and_gradient(objective_of("reprojection", space), x, observation, teacher)
    assert torch.allclose(values["loss"], without["loss"] + 3.0 * values["height"])
    assert not torch.allclose(gradient, without_gradient)
    for tensor in (seen[0].x, seen[0].x_start):
        assert (tensor.movedim(3, 1)[~valid] == 0).all()
    assert torch.allclose(seen[0].positions[valid], decode(space.raw(x), SMPL22)[valid], atol=1e-5)
    assert torch.equal(seen[0].x_start[0], teacher[0])


@pytest.mark.parametrize("wrong", [lambda step: step.positions.mean(), lambda step: step.positions.mean((2, 3))])
def test_a_term_that_is_not_one_number_a_clip_is_refused_by_name(wrong: Callable[[Step], Tensor]) -> None:
    x, observation, teacher, space = wrong_scene()
    objective = objective_of("reprojection", space, "mine", {**TERMS, "mine": Term(wrong)})
    with pytest.raises(PluginError, match=r"loss term 'mine': expected one number for each of the 6 clips"):
        objective(x, observation, teacher)
