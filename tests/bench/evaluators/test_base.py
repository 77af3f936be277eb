"""Making what plugins register, and how well captions are found by true motions: exact chance, and when to distrust."""

import itertools
from pathlib import Path

import pytest
import torch

from videomdm_ext import plugins
from videomdm_ext.bench.evaluators.base import (
    Evaluator,
    Ground,
    Retrieval,
    TrueMotion,
    UnavailableError,
    chance,
    make_all,
    retrieve,
)
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import PluginError
from videomdm_ext.hookspecs import hookimpl

GROUND = Ground("set", Card("set", "smpl22", 20.0, "bent", "zlib", ()), Path("cache"))


class Roots(Evaluator):
    name = "roots"
    comparable = "Anything."
    identity = "0" * 64

    def motions(self, clips, fps):
        return torch.cat([clip[:, 0] for clip in clips])


def manager_of(**makers):
    class Registering:
        @hookimpl
        def register_evaluators(self, register):
            for name, make in makers.items():
                register(name, make)

    manager = plugins.create_manager(builtins=())
    manager.register(Registering(), name="registering")
    return manager


def missing(ground):
    raise UnavailableError(f"{ground.clips}: no weights")


def test_evaluators_are_made_on_the_ground_and_those_that_cannot_be_had_say_why():
    grounds = []
    manager = manager_of(roots=lambda ground: grounds.append(ground) or Roots(), weighty=missing)
    made, why = make_all(manager, GROUND)
    assert [evaluator.name for evaluator in made] == ["roots"]
    assert why == {"weighty": "set: no weights"}
    assert grounds == [GROUND]


def test_an_evaluator_that_is_not_wanted_is_not_made():
    manager = manager_of(roots=lambda ground: pytest.fail("made"), weighty=missing)
    assert make_all(manager, GROUND, without=("roots", "weighty")) == ([], {})


def test_what_is_no_evaluator_or_bears_another_name_is_refused():
    with pytest.raises(PluginError, match=r"evaluator 'space': expected make.* of this name, found one named 'roots'"):
        make_all(manager_of(space=lambda ground: Roots()), GROUND)
    with pytest.raises(PluginError, match="found function"):
        make_all(manager_of(space=lambda ground: missing), GROUND)


KINDS = 12


def motion(number: int, kind: int) -> TrueMotion:
    """-> a motion whose every coordinate is its kind, with two captions that tell it."""
    return TrueMotion(f"clip{number}", torch.full((70, 22, 3), float(kind)), (f"kind {kind}.", f"{kind} it is."))


def by_kind(clips) -> torch.Tensor:
    """The kind that is in the clip, as one of KINDS directions."""
    return torch.eye(KINDS)[[int(clip[0, 0, 0]) for clip in clips]]


def by_caption(shift: int = 0):
    def embed(captions) -> torch.Tensor:
        kinds = [int(caption.strip(".").split()[1 if caption.startswith("kind") else 0]) for caption in captions]
        return torch.eye(KINDS)[[(kind + shift) % KINDS for kind in kinds]]

    return embed


MOTIONS = [motion(number, number % KINDS) for number in range(40)]


@pytest.mark.parametrize(("captions", "fitting"), [(5, 1), (5, 2), (4, 3), (6, 6)])
def test_chance_is_the_share_of_all_orders(captions, fitting):
    for top in (1, 2, 3):
        orders = list(itertools.permutations(range(captions)))
        found = sum(any(place < fitting for place in order[:top]) for order in orders) / len(orders)
        assert chance(captions, fitting, top) == pytest.approx(found)


def test_a_perfect_space_finds_every_caption_and_is_trusted():
    found = retrieve(MOTIONS, by_kind, by_caption())
    assert found.groups == found.gallery == (1.0, 1.0, 1.0)
    assert found.distrust() == ""
    assert (found.clips, found.captions) == (40, KINDS)
    for top, share in zip((1, 2, 3), found.gallery_chance, strict=True):
        assert share == pytest.approx(top / KINDS)
    assert 0 < found.gain[0] <= found.gain[1] < 1


def test_a_space_that_takes_every_caption_for_another_finds_none_and_is_distrusted():
    crops = []

    def nearly(clips):
        crops.extend(len(clip) for clip in clips)
        return by_kind(clips) + 1e-3 * torch.arange(KINDS)

    found = retrieve(MOTIONS, nearly, lambda captions: -by_caption()(captions))
    assert found.groups == (0.0, 0.0, 0.0)
    assert "0.00, by chance 0.2" in found.distrust()
    assert set(crops) == {64}


def test_a_caption_that_another_clip_gave_fits_too():
    shared = [TrueMotion(f"{n}", torch.full((5, 22, 3), float(n % 6)), (f"kind {n % 6}.",)) for n in range(12)]
    assert retrieve(shared, by_kind, by_caption()).groups[0] == 1.0


@pytest.mark.parametrize(
    ("found", "chances", "gain", "captions", "reason"),
    [
        (0.9, 0.2, (0.3, 0.8), 9, ""),
        (0.39, 0.2, (0.1, 0.3), 9, "too near"),
        (0.79, 0.6, (0.1, 0.3), 9, "too near"),
        (0.81, 0.6, (0.1, 0.3), 9, ""),
        (0.9, 0.2, (-0.01, 0.9), 9, "its 95 % interval includes chance"),
        (0.9, 0.2, (0.3, 0.8), 4, "only 4 different captions"),
    ],
)
def test_near_chance_or_with_few_captions_nothing_is_to_be_ranked(found, chances, gain, captions, reason):
    three = (found, found, found)
    told = Retrieval(20, captions, three, (chances, chances, chances), three, three, gain).distrust()
    assert reason in told
    assert bool(told) == bool(reason)
