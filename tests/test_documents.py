"""The documents: the table of options is the program's, the plugin page works, every command is one that exists."""

import ast
import dataclasses
import re
import runpy
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import documents
import pytest
import torch
import tyro
from commands import filled, is_named, verb_of
from documents import ROOT
from environments import install_plugin

from videomdm_ext import plugins, run
from videomdm_ext.bench.plan import load_arm
from videomdm_ext.cli import main as cli
from videomdm_ext.cli import training
from videomdm_ext.config import Fairness, Source, Speed, Supervision, add_arguments
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.lifters.base import Lifter
from videomdm_ext.mdm import checkout

MAKER = runpy.run_path(str(ROOT / "docs" / "make_options.py"))
OPTIONS = documents.GENERATED.read_text(encoding="utf-8")
COMMANDS = documents.commands()
OURS = [command for command in COMMANDS if command.words[0] == "videomdm"]
OTHERS = {
    "git", "pip", "python3.11", ".", "cd", "pytest", "ruff", "mypy", "lint-imports", ".ci/run", "torchrun",
    "ray", "srun", "blender",
}  # fmt: skip
"""Programs in the documents that are not ours, and are not run here."""
MDM_ONLY = {"eval.eval_humanml"}
"""Modules in the documents that MDM has and the stand-in has not."""
CONFIGS = (Supervision, Source, Fairness, Speed)


def section(verb: str) -> str:
    """The part of options.md about a verb."""
    (found,) = re.findall(rf"^## `videomdm {verb}`\n(.*?)(?=^## |\Z)", OPTIONS, re.MULTILINE | re.DOTALL)
    return found


def test_the_options_are_documented_as_they_are():
    assert MAKER["document"]() == OPTIONS, "docs/options.md is old. Run: python docs/make_options.py"


def test_the_rooms_are_drawn_as_they_are():
    made = runpy.run_path(str(ROOT / "docs" / "make_house.py"))
    page = made["document"]()
    assert page == made["PAGE"].read_text(encoding="utf-8"), "Run: python docs/make_house.py"
    assert "    mdm --> data\n    lifters --> data\n" in page
    assert made["reduced"]({("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}) == {("a", "b"), ("b", "c"), ("a", "d")}


def test_every_verb_is_documented_once_in_the_programs_order():
    verbs = re.findall(r"^## `videomdm ([\w -]+)`$", OPTIONS, re.MULTILINE)
    assert verbs == [*cli.VERBS, "bench --protocol mdm"]


@pytest.mark.parametrize("verb", [*sorted(set(cli.VERBS) - {"train", "run"}), "bench --protocol mdm"])
def test_the_documented_options_of_a_verb_are_those_of_its_help(verb, capsys):
    """Names, defaults and texts, as the parser itself prints them."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    heads = re.findall(r"^(?:│ | {1,2})(-.*?)(?:  |│|$)", shown, re.MULTILINE)
    told = {name for head in heads for name in re.findall(r"--\w[\w-]*", head)} - {"--help"}
    rows = [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in section(verb).splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(--[\w-]+)`", row[0])} == told
    plain = re.sub(r"[│╭╮╰╯─\s']", "", shown)
    for _, value, default, text in rows:
        found = plain.partition(re.sub(r"[\s']", "", text.replace("\\|", "|").replace("&lt;", "<")))[2]
        assert found, text
        if default:
            written = "(required)" if default == "required" else f"(default:{default.strip('`').replace(' ', '')})"
            assert found.startswith(written) or value.endswith("one or more"), text


def test_every_option_of_a_training_is_documented_with_its_choices():
    part = OPTIONS[OPTIONS.index("## Options of training runs") :]
    for kind in CONFIGS:
        for field in dataclasses.fields(kind):
            (row,) = [line for line in part.splitlines() if line.startswith(f"| `--{field.name}`")]
            assert all(f"`{choice}`" in row for choice in field.metadata["choices"])
            assert " ".join(field.metadata["help"].split()) in row


def test_every_key_of_every_kind_and_lifter_is_documented():
    manager = plugins.create_manager()
    for kind, where in (("datasets", "extras"), ("lifters", "options")):
        for name, thing in plugins.collect(manager, kind).items():
            for key in getattr(thing, where, None) or {}:
                assert re.search(rf"^\| `(--lifter )?{name}` \| `{key}` \| \w", OPTIONS, re.MULTILINE), (name, key)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's package, installed as pip would leave it. -> the source of its module"""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    (source,), (settings,) = documents.blocks(text, "python"), documents.blocks(text, "toml")
    project = tomllib.loads(settings)["project"]
    ((module,),) = [tomllib.loads(settings)["tool"]["setuptools"]["py-modules"]]
    install_plugin(tmp_path / "packages", project["name"], {module: source}, project["entry-points"][plugins.GROUP])
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delenv("VIDEOMDM_PLUGINS", raising=False)
    yield source
    sys.modules.pop(module, None)


def test_the_page_holds_a_lifter_of_30_lines(plugin):
    lines = [line for line in plugin.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 120
    assert any(isinstance(node, ast.ClassDef) for node in ast.parse(plugin).body)


@pytest.mark.usefixtures("plugin")
def test_the_pages_lifter_puts_every_joint_on_its_ray_at_one_depth(generator):
    """By a camera of the test's own: X_c = R X + t of what comes back, divided by its depth, is the keypoint."""
    lifter = plugins.collect(plugins.create_manager(), "lifters")["cardboard"](seed=0)
    assert isinstance(lifter, Lifter)
    keypoints = 0.3 * torch.rand(30, 22, 2, generator=generator) - 0.15
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    rotation = rotation * torch.linalg.det(rotation)
    camera = torch.cat((rotation, torch.tensor([[0.3], [1.0], [4.0]])), 1)
    lifted = lifter.lift("a", keypoints=keypoints, confidence=torch.ones(30, 22), extrinsics=camera, fps=20.0)
    seen = torch.einsum("ij,tkj->tki", rotation, lifted) + camera[:, 3]
    torch.testing.assert_close(seen[..., :2] / seen[..., 2:], keypoints, atol=1e-5, rtol=0)
    assert float((seen[..., 2] - seen[:, :1, 2]).abs().max()) < 1e-5
    assert float(seen[..., 2].min()) > 0.5


@pytest.mark.usefixtures("plugin")
def test_the_pages_lifter_finds_the_distance_of_somebody_who_stands_in_the_image_plane():
    flat = torch.zeros(20, 22, 3)
    flat[..., 1] = torch.linspace(0.5, 2.0, 22)  # bones under the table's lengths, but for the thighs
    flat[:, 4, 1], flat[:, 5, 1] = flat[:, 1, 1] - 0.42, flat[:, 2, 1] - 0.42
    lifter = plugins.collect(plugins.create_manager(), "lifters")["cardboard"](seed=0)
    spans = {end: (flat[0, end] - flat[0, lifter.info.skeleton.parents[end]]).norm() for end in lifter.ends}
    depth = 5.0
    expected = depth * min(float(lifter.lengths[n] / spans[end]) for n, end in enumerate(lifter.ends))
    camera = torch.eye(3, 4)
    made = lifter.lift("a", keypoints=flat[..., :2] / depth, confidence=torch.ones(20, 22), extrinsics=camera, fps=20.0)
    assert float((made[..., 2] - expected).abs().max()) < 1e-4


class ParsedError(Exception):
    """Raised where a verb has parsed its words."""


def parse(words: Sequence[str]) -> Any:
    """What a verb makes of the words behind it, stopped before it acts. SystemExit for what it does not take."""
    real = tyro.cli

    def stop(*given: Any, **more: Any) -> None:
        raise ParsedError(real(*given, **more))

    def launch(host: object, module: str, args: Sequence[str], **more: Any) -> None:
        raise ParsedError((module, list(args)))

    with (
        mock.patch.object(tyro, "cli", stop),
        mock.patch.object(run.hook, "run", launch),
        mock.patch.object(run.checkout, "find", lambda where=None: where),
        mock.patch.object(training, "with_lifter", lambda path, lifter: path),
        pytest.raises(ParsedError) as parsed,
    ):
        cli.dispatch(list(words))
    return parsed.value.args[0]


def check_host(module: str, words: Sequence[str]) -> None:
    """A module of the host, and options that the stand-in and this package know, with values that they take."""
    if module in MDM_ONLY:
        return
    assert (checkout.STANDIN / f"{module.replace('.', '/')}.py").is_file(), module
    parser = ArgumentParser(allow_abbrev=False)
    for name, add in runpy.run_path(str(checkout.STANDIN / "utils" / "parser_util.py")).items():
        if re.fullmatch(r"add_\w+_options", name):
            add(parser)
    for kind in CONFIGS:
        add_arguments(parser.add_argument_group(kind.__name__), kind)
    for action in parser._actions:
        action.required = False
    parser.parse_args(list(words))


def test_every_module_that_the_documents_name_is_there():
    rooms = {place.name for place in (ROOT / "videomdm_ext").iterdir() if place.is_dir()}
    for document in documents.DOCUMENTS:
        for name in re.findall(r"[`(]([\w/]+\.py)[`)]", document.read_text(encoding="utf-8")):
            if name.split("/")[0] in {*rooms, "videomdm_ext", "tests", "docs"}:
                assert (ROOT / name).is_file() or (ROOT / "videomdm_ext" / name).is_file(), (document.name, name)


def test_every_program_in_the_documents_is_known():
    unknown = [str(c) for c in COMMANDS if c.words[0] not in {"videomdm", "python", *OTHERS}]
    assert not unknown
    assert len(OURS) > 30


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_documented_command_has_a_verb_options_and_values_that_exist(command):
    verb = verb_of(command.words)
    words = filled(command)[1:]
    if "--help" in words or (is_named(command) and verb in cli.VERBS):
        return
    told = parse(words)
    for arm in told.plan.arms if hasattr(told, "plan") else ():
        load_arm(arm)
    if verb in ("train", "run"):
        check_host(*told)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "python"], ids=str)
def test_a_documented_command_of_python_has_a_module_and_options_that_exist(command):
    words = filled(command)[1:]
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
    else:
        check_host(words[1], words[2:])


@pytest.mark.parametrize(
    "words",
    [
        "data check set --stric",
        "bench --dataset DIR --seeds many",
        "train --arm 2e",
        "train --arm 2d --clip a",
        "train --unroll x",
    ],
)
def test_a_documented_command_with_an_error_would_be_found(words):
    with pytest.raises((SystemExit, VideoMDMError)):
        check_host(*parse(words.split()))


def test_commands_are_found_in_blocks_and_in_running_text():
    block = (
        'pip install -e ".[demo]" && videomdm demo     # set up\ncd mdm\nA=1 videomdm status --mdm \\\n  .  # here\n'
    )
    found = [(c.words, c.folder) for c in documents.of_block(block, "a")]
    assert found == [
        (("pip", "install", "-e", ".[demo]"), "."), (("videomdm", "demo"), "."), (("cd", "mdm"), "."),
        (("videomdm", "status", "--mdm", "."), "mdm"),
    ]  # fmt: skip
    (command,) = documents.of_text("so `videomdm run\n[--mdm PATH] a|b ARGS...` and `pip`", "a")
    assert command.words == ("videomdm", "run", "--mdm", "PATH", "a", "ARGS")
