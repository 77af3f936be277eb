"""The verbs about a checkout: what they print and ask, their exit statuses, and the next command at their ends."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from videomdm_ext.cli import checkouts
from videomdm_ext.cli import main as cli
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, compat, known, patching

CONTENT = b"""import argparse


def apply_rules(args):
    return args


def add_diffusion_options(parser):
    group = parser.add_argument_group('diffusion')
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """-> a folder that passes for a checkout, with a file that no patch is made for."""
    place = tmp_path / "mdm"
    for seam in checkout.SEAMS:
        (place / seam).parent.mkdir(parents=True, exist_ok=True)
        (place / seam).touch()
    (place / patching.PATH).write_bytes(CONTENT)
    return place


def content_of(root: Path) -> bytes:
    return (root / patching.PATH).read_bytes()


def at_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Somebody sits there and types this answer."""
    typed = io.StringIO(answer)
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("install", checkouts.Install),
        ("uninstall", checkouts.Uninstall),
        ("status", checkouts.State),
        ("doctor", checkouts.Doctor),
        ("host pin", checkouts.Pin),
    ],
)
def test_the_help_of_a_verb_describes_every_option(verb, kind, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb.split(), "--help"])
    assert stop.value.code == 0
    shown = re.sub(r"\W+", "", capsys.readouterr().out).lower()
    for field in dataclasses.fields(kind):
        assert field.name in shown
    assert re.sub(r"\W+", "", kind.__doc__).lower()[:40] in shown


def test_install_then_status_then_uninstall(root, capsys):
    assert cli.main(["install", "--mdm", str(root), "--yes"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("+")] == ["2", "6", "12"]
    assert f"Python: {sys.executable}" in shown
    assert shown.splitlines()[-1].startswith(f"Next: cd {root} && python -m train.train_mdm --supervision 2d")
    assert cli.main(["status", "--mdm", str(root), "--check"]) == 0
    assert "installed: by syntax tree" in capsys.readouterr().out
    assert cli.main(["uninstall", "--mdm", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "every byte is as before" in shown
    assert f"Next: videomdm run --mdm {root} train.train_mdm" in shown
    assert content_of(root) == CONTENT


def test_places_by_syntax_tree_need_a_yes_that_nobody_gives_in_a_pipe(root, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["install", "--mdm", str(root)]) == 1
    assert "repeat with --yes" in capsys.readouterr().err
    assert content_of(root) == CONTENT


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_at_a_terminal_the_places_are_shown_and_asked_about(root, monkeypatch, capsys, answer, agreed):
    at_terminal(monkeypatch, answer)
    assert cli.main(["install", "--mdm", str(root)]) == (0 if agreed else 1)
    shown = capsys.readouterr().out
    assert "     5      return args" not in shown
    assert "+    6      videomdm_ext_installed.activate(args)" in shown
    assert "     1  import argparse" in shown
    assert (content_of(root) == CONTENT) is not agreed
    if not agreed:
        assert f"videomdm run --mdm {root}" in shown


def test_a_known_file_is_installed_without_a_question(root, monkeypatch, capsys):
    found = patching.plan(root)
    record = known.Known("abc", "2025-01-01", known.git_blob(CONTENT), patching.sha256(CONTENT), {}, found.insertions)
    monkeypatch.setattr(patching, "known", lambda: [record])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main(["install", "--mdm", str(root)]) == 0
    assert "by abc.patch" in capsys.readouterr().out


def test_status_tells_the_state_what_differs_and_what_to_do_next(root, capsys):
    files = known.known()[0].files
    assert cli.main(["status", "--mdm", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "not installed: " in shown
    assert f"{len(files)} of the {len(files)} other files" in shown
    assert "model/mdm.py" in shown
    assert shown.splitlines()[-1] == f"Next: videomdm install --mdm {root}"
    assert cli.main(["status", "--mdm", str(root), "--check"]) == 1
    patching.apply(patching.plan(root))
    (root / patching.PATH).write_bytes(content_of(root) + b"# mine\n")
    capsys.readouterr()
    assert cli.main(["status", "--mdm", str(root), "--check"]) == 1
    shown = capsys.readouterr().out
    assert "changed since: 3 of our 3 lines" in shown
    assert shown.splitlines()[-1] == f"Next: videomdm uninstall --mdm {root}"
    assert cli.main(["uninstall", "--mdm", str(root)]) == 1
    assert "--force" in capsys.readouterr().err
    assert cli.main(["uninstall", "--mdm", str(root), "--force"]) == 0
    assert content_of(root) == CONTENT + b"# mine\n"


def test_doctor_lists_the_state_and_every_finding_with_its_advice(root, monkeypatch, capsys):
    found = [
        SimpleNamespace(name="numpy", state="remedied", about="np.float is gone", advice=""),
        SimpleNamespace(name="SMPL file", state="missing", about="no body model", advice="get it"),
    ]
    monkeypatch.setattr(compat, "examine", lambda host: found if host.root == root else [], raising=False)
    assert cli.main(["doctor", "--mdm", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{root}: MDM, no git commit"
    assert lines[1].startswith("not installed: ")
    assert "remedied  numpy      np.float is gone" in lines
    assert lines[-3:] == [
        "missing   SMPL file  no body model",
        f"{'':<21}-> get it",
        f"Next: videomdm install --mdm {root}",
    ]


def test_doctor_without_a_checkout_speaks_of_the_stand_in(monkeypatch, capsys):
    def nowhere(explicit=None):
        raise HostError("No MDM checkout")

    monkeypatch.delenv(checkout.VARIABLE, raising=False)
    monkeypatch.setattr(checkout, "find", nowhere)
    finding = compat.Finding("text: auto", "fine", "--text_features auto takes words here", "")
    monkeypatch.setattr(compat, "examine", lambda host: [finding] if host.kind == "standin" else [])
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the stand-in" in lines[0]
    assert lines[1:] == ["fine      text: auto  --text_features auto takes words here", "Next: videomdm demo"]
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "standin", "findings": [dataclasses.asdict(finding)]}
    assert cli.main(["doctor", "--mdm", "somewhere"]) == 1


@pytest.mark.parametrize("verb", ["install", "uninstall", "status", "doctor"])
def test_a_folder_that_is_no_checkout_is_refused(tmp_path, capsys, verb):
    assert cli.main([verb, "--mdm", str(tmp_path)]) == 1
    assert "not an MDM checkout" in capsys.readouterr().err


def test_without_a_path_the_checkout_is_searched_for(root, monkeypatch, capsys):
    monkeypatch.setenv(checkout.VARIABLE, str(root))
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.startswith(f"{root}: MDM")


def test_host_pin_prints_the_commits_and_how_to_get_the_newest(capsys):
    assert cli.main(["host", "pin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commits = known.known()
    assert lines[: len(commits)] == [f"{commit.commit}  {commit.date}" for commit in commits]
    assert lines[len(commits)].startswith("git clone https://github.com/GuyTevet/motion-diffusion-model")
    assert lines[-2] == f"git -C motion-diffusion-model checkout {commits[0].commit}"
    assert lines[-1] == "Next: videomdm install --mdm motion-diffusion-model"


@pytest.mark.mdm
def test_the_verbs_on_a_clone_of_mdm(tmp_path, capsys):
    place = tmp_path / "mdm"
    subprocess.run(["git", "clone", "-q", "--shared", str(checkout.find().root), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "-q", known.known()[0].commit], check=True)
    assert cli.main(["install", "--mdm", str(place)]) == 0
    assert cli.main(["status", "--mdm", str(place), "--check"]) == 0
    shown = capsys.readouterr().out
    assert f"MDM at {known.known()[0].commit}" in shown
    assert "other files that this package reads or wraps are those of" in shown
    assert cli.main(["uninstall", "--mdm", str(place)]) == 0
    seen = subprocess.run(
        ["git", "-C", str(place), "status", "--porcelain", "--ignored"], capture_output=True, check=True
    )
    assert seen.stdout == b""
