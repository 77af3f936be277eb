"""Hooks and the plugin manager. One test a hook at least, named `test_hook_<hook>_...`; a law below demands it."""

import ast
import hashlib
import inspect
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from environments import install_plugin

from videomdm_ext import hookspecs, plugins
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, make_all
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import ConfigError, PluginError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm import text

ROOT = Path(__file__).parent.parent
HOOKS = [name for name, thing in vars(hookspecs).items() if hasattr(thing, f"{hookspecs.PROJECT}_spec")]
PAGE = (ROOT / "docs" / "hooks.md").read_text("utf-8")
DOCUMENTED = dict(re.findall(r"^### `(\w+)\((.*)\)`$", PAGE, re.MULTILINE))
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

TINY = """
from videomdm_ext.hookspecs import hookimpl

@hookimpl
def register_lifters(register):
    register("frozen", object)
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the environment of whoever runs the tests out of them."""
    monkeypatch.delenv("VIDEOMDM_PLUGINS", raising=False)
    monkeypatch.delenv("VIDEOMDM_TRACE", raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """-> installs a distribution with one module and one entry point, as its files on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(distribution: str, module: str, source: str, *, entry: str = "") -> None:
        install_plugin(tmp_path, distribution, {module: source}, {entry or module: module})
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write


def manager_with(**named: object):
    """-> a manager of the given plugins alone, loaded in this order."""
    manager = plugins.create_manager(builtins=())
    for name, plugin in named.items():
        manager.register(plugin, name=name)
    manager.check_pending()
    return manager


def plugin(*functions: Callable) -> object:
    """-> a plugin with the given functions as its hooks."""
    return type("Plugin", (), {function.__name__: staticmethod(hookimpl(function)) for function in functions})()


def registering(kind: str, *names: str) -> object:
    """-> a plugin that registers a function under each name."""

    def register_all(register):
        for name in names:
            register(name, lambda *given: None)

    register_all.__name__ = f"register_{kind}"
    return plugin(register_all)


def test_every_hook_is_documented_in_firing_order_with_its_arguments():
    expected = {name: ", ".join(inspect.signature(getattr(hookspecs, name)).parameters) for name in HOOKS}
    assert list(DOCUMENTED.items()) == list(expected.items())
    assert all(inspect.getdoc(getattr(hookspecs, name)) for name in HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test_of_its_name(hook):
    tree = ast.parse(Path(__file__).read_text("utf-8"))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert any(name.startswith(f"test_hook_{hook}_") for name in names)


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_kind_of_thing_has_its_hook(kind):
    assert f"register_{kind}" in HOOKS


def collects(kind: str) -> None:
    """Assert that both plugins' things are found, in the order of loading."""
    manager = manager_with(first=registering(kind, "b", "a"), second=registering(kind, "c"))
    assert list(plugins.collect(manager, kind)) == ["b", "a", "c"]


def test_hook_register_datasets_offers_importers_by_name():
    collects("datasets")


def test_hook_register_lifters_offers_lifters_by_name():
    collects("lifters")


def test_hook_register_loss_terms_offers_terms_by_name():
    collects("loss_terms")
    assert list(plugins.collect(plugins.create_manager(), "loss_terms"))[:2] == ["position", "velocity"]


def test_hook_register_text_encoders_offers_functions_that_make_encoders():
    collects("text_encoders")
    owners: dict[str, str] = {}
    assert list(plugins.collect(plugins.create_manager(), "text_encoders", owners)) == ["clip", "minilm", "words"]
    assert set(owners.values()) == {"videomdm_ext.mdm.text"}


@pytest.mark.parametrize("thing", [lambda text: None, "encoder", 3])
def test_a_text_encoder_that_cannot_be_called_as_documented_is_refused_when_it_is_registered(thing):
    def register_text_encoders(register):
        register("mine", thing)

    with pytest.raises(PluginError, match=r"plugin tiny: text encoder 'mine': expected a function of \(\), found"):
        plugins.collect(manager_with(tiny=plugin(register_text_encoders)), "text_encoders")


def test_the_text_encoder_in_the_documentation_is_loaded_and_counts_letters():
    source = next(block for block in BLOCKS if "def make_letters" in block)
    scope = {"torch": torch, "hookimpl": hookimpl}
    exec(source, scope)
    register = staticmethod(scope["register_text_encoders"])
    letters = text.load(manager_with(mine=type("Plugin", (), {"register_text_encoders": register})), "letters")
    found = letters(["Abba"])
    assert found.shape == (1, 512)
    assert found[0, :3].tolist() == [2.0, 2.0, 0.0]


def test_hook_register_evaluators_offers_evaluators_by_name():
    collects("evaluators")
    assert list(plugins.collect(plugins.create_manager(), "evaluators")) == [
        "essential", "views-2d", "text-motion", "t2m", "mardm-67", "tmr", "motionstreamer-272",
    ]  # fmt: skip


def test_the_evaluator_in_the_documentation_is_made_and_has_a_row_a_clip(tmp_path):
    source = next(block for block in BLOCKS if "class Roots" in block)
    scope = {"Evaluator": Evaluator, "hashlib": hashlib, "torch": torch, "hookimpl": hookimpl}
    exec(source, scope)
    manager = manager_with(mine=type("Plugin", (), {"register_evaluators": staticmethod(scope["register_evaluators"])}))
    (roots,), missing = make_all(manager, Ground("set", Card("set", "smpl22", 20.0, "bent", "zlib", ()), tmp_path))
    clips = [torch.zeros(5, 22, 3), torch.ones(7, 22, 3)]
    assert roots.motions(clips, 20.0).tolist() == [[0.0] * 3, [1.0] * 3]
    assert (roots.captions(["a person walks."]), roots.distrust, missing) == (None, "", {})
    assert len(roots.identity) == 64


def test_hook_register_commands_offers_verbs_by_name():
    collects("commands")


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_a_name_registered_twice_is_refused_and_both_plugins_are_named(kind):
    manager = manager_with(mine=registering(kind, "same"), theirs=registering(kind, "same"))
    with pytest.raises(PluginError, match=r"'same': registered by plugin mine and again by plugin theirs"):
        plugins.collect(manager, kind)
    with pytest.raises(PluginError, match="'same': registered by plugin mine and again by plugin mine"):
        plugins.collect(manager_with(mine=registering(kind, "same", "same")), kind)


@pytest.mark.parametrize("name", ["", "With Space", "-flag", "ü"])
def test_a_name_that_cannot_be_a_flag_is_refused(name):
    with pytest.raises(PluginError, match="no usable name"):
        plugins.collect(manager_with(mine=registering("loss_terms", name)), "loss_terms")


def test_hook_add_options_extends_the_group_it_is_given():
    def add_options(group):
        group.add_argument("--stillness", type=float, default=0.5)

    parser = ArgumentParser()
    manager_with(mine=plugin(add_options)).hook.add_options(group=parser.add_argument_group("diffusion"))
    assert parser.parse_args([]).stillness == 0.5


def test_hook_configure_can_stop_the_run():
    def configure(args):
        raise ConfigError(f"--stillness {args.stillness}: expected 0 or more.")

    with pytest.raises(ConfigError, match="--stillness -1"):
        manager_with(mine=plugin(configure)).hook.configure(args=Namespace(stillness=-1))


def test_hook_wrap_dataset_hands_the_dataset_from_plugin_to_plugin():
    def wrapping(name):
        def wrap_dataset(dataset, split):
            return f"{name}({dataset})" if split == "train" else None

        return plugin(wrap_dataset)

    manager = manager_with(first=wrapping("first"), second=wrapping("second"))
    assert plugins.wrap_dataset(manager, "clips", args=Namespace(), split="train") == "second(first(clips))"
    assert plugins.wrap_dataset(manager, "clips", args=Namespace(), split="test") == "clips"


def test_hook_make_diffusion_answers_a_subclass_that_knows_the_terms_or_none():
    def make_diffusion(base, args, terms):
        return type("Mine", (base,), dict(terms)) if args.supervision == "2d" else None

    class Base:
        """Stands for the host's diffusion class."""

    hook = manager_with(mine=plugin(make_diffusion)).hook
    mine = hook.make_diffusion(base=Base, args=Namespace(supervision="2d"), terms={"stillness": 1})
    assert issubclass(mine, Base)
    assert mine.stillness == 1
    assert hook.make_diffusion(base=Base, args=Namespace(supervision="3d"), terms={}) is None


def test_hook_add_metrics_gathers_every_plugins_numbers():
    def measuring(**numbers):
        def add_metrics(samples, reference):
            return {name: value * samples / reference for name, value in numbers.items()}

        return plugin(add_metrics)

    manager = manager_with(first=measuring(a=1, b=2), second=measuring(c=3))
    assert plugins.add_metrics(manager, samples=10.0, reference=5.0) == {"a": 2.0, "b": 4.0, "c": 6.0}
    with pytest.raises(PluginError, match="metric 'a': registered by plugin first and again by plugin second"):
        plugins.add_metrics(manager_with(first=measuring(a=1), second=measuring(a=2)), samples=1.0, reference=1.0)


def test_builtins_are_loaded_first_and_whatever_the_limit(install, monkeypatch):
    install("tiny-plugin", "tiny_plugin", TINY, entry="tiny")
    first = [name for name, _ in plugins.create_manager().list_name_plugin()][: len(plugins.BUILTINS)]
    monkeypatch.setenv("VIDEOMDM_PLUGINS", "")
    alone = [name for name, _ in plugins.create_manager().list_name_plugin()]
    assert tuple(first) == tuple(alone) == plugins.BUILTINS


def test_importing_the_manager_imports_no_builtin():
    code = "import sys, videomdm_ext.plugins as p; print(sorted(set(p.BUILTINS) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_variable_limits_which_entry_points_load(install, monkeypatch):
    install("tiny-one", "tiny_one", TINY)
    install("tiny-two", "tiny_two", "raise RuntimeError('not to be loaded')")
    monkeypatch.setenv("VIDEOMDM_PLUGINS", " tiny_one ,")
    manager = plugins.create_manager(builtins=())
    assert [name for name, _ in manager.list_name_plugin()] == ["tiny_one"]


def test_a_plugin_that_is_asked_for_but_missing_is_an_error_that_lists_the_installed_ones(install, monkeypatch):
    install("tiny-plugin", "tiny_plugin", TINY, entry="tiny")
    monkeypatch.setenv("VIDEOMDM_PLUGINS", "tiny,huge")
    with pytest.raises(PluginError, match=r"no plugin named huge; installed: .*tiny"):
        plugins.create_manager(builtins=())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import package_that_is_not_installed", "package_that_is_not_installed"),
        ("def broken(:", "invalid syntax"),
        (TINY + "\n@hookimpl\ndef register_losses(register):\n    pass\n", "register_losses"),
        (TINY + "\n@hookimpl\ndef configure(arguments):\n    pass\n", "arguments"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_an_error_that_names_its_distribution(install, source, reason):
    install("tiny-plugin", "tiny_plugin", source, entry="tiny")
    with pytest.raises(PluginError, match="'tiny' of distribution tiny-plugin cannot be loaded") as caught:
        plugins.create_manager(builtins=())
    assert reason in str(caught.value)
    assert caught.value.__cause__ is not None


def test_two_distributions_with_one_plugin_name_are_refused_and_both_named(install):
    install("tiny-one", "tiny_one", TINY, entry="tiny")
    install("tiny-two", "tiny_two", TINY, entry="tiny")
    with pytest.raises(PluginError, match=r"'tiny': offered by tiny-\w+ and by tiny-\w+") as caught:
        plugins.create_manager(builtins=())
    assert all(name in str(caught.value) for name in ("tiny-one", "tiny-two"))


def test_tracing_prints_each_call_who_answers_and_what(monkeypatch, capsys):
    def make_diffusion(args):
        return "diffusion"

    for value in ("", "0", "1"):
        monkeypatch.setenv("VIDEOMDM_TRACE", value)
        manager_with(mine=plugin(make_diffusion)).hook.make_diffusion(base=int, args=Namespace(), terms={})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "videomdm: make_diffusion(base: type, args: Namespace, terms: dict) -> mine",
        "videomdm: make_diffusion answered str",
    ]
