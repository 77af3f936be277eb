"""Making what plugins register: one that cannot be had is told, one that is none is refused."""

from pathlib import Path

import pytest
import torch

from videomdm_ext import plugins
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, UnavailableError, make_all
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
