"""The verbs about a checkout: what they print, their exit statuses, and the next command at their ends."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from videomdm_ext.cli import main as cli
from videomdm_ext.mdm import checkout, doctor

CONTENT = b"def apply_rules(args):\n    return args\n\n\ndef add_diffusion_options(parser):\n    pass\n"
VERBS = ("install", "uninstall", "status", "doctor")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """-> a folder that passes for a checkout."""
    place = tmp_path / "my mdm"
    for seam in checkout.SEAMS:
        (place / seam).parent.mkdir(parents=True, exist_ok=True)
        (place / seam).touch()
    (place / checkout.PARSER).write_bytes(CONTENT)
    return place


def content_of(root: Path) -> bytes:
    return (root / checkout.PARSER).read_bytes()


def test_install_then_status_then_uninstall(root, capsys):
    assert cli.main(["install", "--mdm", str(root)]) == 0
    shown = capsys.readouterr().out
    assert content_of(root) == checkout.appended(CONTENT)
    assert f"Python: {sys.executable}" in shown
    assert shown.splitlines()[-1].startswith(f"Next: cd '{root}' && python -m train.train_mdm --supervision 2d")
    assert cli.main(["status", "--mdm", str(root), "--check"]) == 0
    shown = capsys.readouterr().out
    assert "installed: our line is in utils/parser_util.py" in shown
    assert "this commit is not one of those tested: d4fd88c, d178946, 395f382, 2ce584a, 904e4f1, 5224ee5" in shown
    assert cli.main(["uninstall", "--mdm", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "every other byte is as it was" in shown
    assert f"Next: videomdm run --mdm '{root}' train.train_mdm" in shown
    assert content_of(root) == CONTENT
    assert cli.main(["status", "--mdm", str(root), "--check"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"Next: videomdm install --mdm '{root}'"


EARLY = "from utils.fixseed import fixseed\nfrom utils.parser_util import train_args\nfrom utils import dist_util\n"
LATE = "import torch\nfrom diffusion.respace import SpacedDiffusion\nfrom utils.parser_util import train_args\n"


@pytest.mark.parametrize(
    ("name", "content", "start"),
    [
        ("train_mdm", EARLY, "cd '{root}' && python -m train.train_mdm --supervision"),
        ("train_mdm", LATE, "videomdm run --mdm '{root}' train.train_mdm --supervision"),
        ("train_mdmp", EARLY, "cd '{root}' && python -m train.train_mdmp --supervision"),
    ],
)
def test_the_next_command_is_the_forks_own_program_started_so_that_our_options_come_in_time(
    root, capsys, name, content, start
):
    (root / "train" / f"{name}.py").write_text(content)
    assert cli.main(["install", "--mdm", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Next: {start.format(root=root)}")


def test_a_line_of_ours_that_was_edited_is_reported_with_what_to_do(root, capsys):
    (root / checkout.PARSER).write_bytes(CONTENT + checkout.LINE.replace(checkout.MARKER, "").encode())
    assert cli.main(["status", "--mdm", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "changed: a line of ours in utils/parser_util.py was edited" in shown
    assert shown.splitlines()[-1] == f"Next: git -C '{root}' diff -- utils/parser_util.py"
    assert cli.main(["uninstall", "--mdm", str(root)]) == 1
    assert "Nothing was changed" in capsys.readouterr().err


def test_a_checkout_without_a_seam_has_one_answer_everywhere_and_still_gives_our_lines_back(root, capsys):
    old = CONTENT.replace(b"apply_rules", b"other_rules")
    (root / checkout.PARSER).write_bytes(checkout.appended(old))
    answers = set()
    for words in (["status"], ["install"], ["doctor"], ["run"], ["doctor", "--json"], ["train", "--arm", "3d"]):
        program = {"run": ["train.train_mdm"], "train": ["--save_dir", "x"]}.get(words[0], [])
        assert cli.main([*words, "--mdm", str(root), *program]) == 1
        answers.add(capsys.readouterr().err.strip())
    (answer,) = answers
    assert answer.startswith(
        f"error: {root}: expected a checkout that can be hooked, found that {checkout.PARSER} has no"
    )
    assert f"or see what works here: videomdm host survey {root}" in answer
    for kept in (old, CONTENT + b"<<<<<<< HEAD\n"):  # the second is half merged
        (root / checkout.PARSER).write_bytes(checkout.appended(kept))
        assert cli.main(["uninstall", "--mdm", str(root)]) == 0
        assert content_of(root) == kept
        assert "Next:" not in capsys.readouterr().out  # `run` would refuse it


def told(words, capsys, status=0):
    """-> the JSON that a verb prints."""
    assert cli.main([*words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_doctor_lists_the_state_and_every_finding_with_its_advice_and_status_and_doctor_answer_in_json(
    root, monkeypatch, capsys
):
    found = [
        doctor.Finding("numpy", "remedied", "np.float is gone", ""),
        doctor.Finding("SMPL file", "missing", "no body model", "get it"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda host: found if host.root == root else [])
    state = told(["status", "--mdm", str(root)], capsys)
    keys = {"checkout", "kind", "commit", "state", "about", "tested", "tested_commits", "next"}
    assert set(state) == keys
    assert (state["checkout"], state["kind"], state["commit"], state["tested"]) == (str(root), "mdm", None, False)
    assert (state["state"], state["next"]) == ("not installed", f"videomdm install --mdm '{root}'")
    assert told(["status", "--mdm", str(root), "--check"], capsys, 1) == state
    assert told(["doctor", "--mdm", str(root)], capsys) == state | {"findings": [*map(dataclasses.asdict, found)]}
    standin = told(["status", "--mdm", str(checkout.STANDIN)], capsys)
    assert (standin["kind"], standin["commit"], standin["tested"]) == ("standin", None, False)
    assert cli.main(["doctor", "--mdm", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{root}: MDM, no git commit"
    assert lines[1].startswith("not installed: ")
    assert "remedied  numpy      np.float is gone" in lines
    assert lines[-3:] == [
        "missing   SMPL file  no body model",
        f"{'':<21}-> get it",
        f"Next: videomdm install --mdm '{root}'",
    ]


def test_doctor_without_a_checkout_speaks_of_the_stand_in_and_of_one_without_a_seam(root, monkeypatch, capsys):
    monkeypatch.delenv(checkout.VARIABLE, raising=False)
    monkeypatch.setattr(checkout, "default_places", lambda: [root])
    (root / checkout.PARSER).write_bytes(CONTENT.replace(b"apply_rules", b"other_rules"))
    assert cli.main(["doctor"]) == 1
    assert "parser_util.py has no apply_rules, which returns the final arguments" in capsys.readouterr().err
    monkeypatch.setattr(checkout, "default_places", lambda: [root / "nowhere"])
    finding = doctor.Finding("text: auto", "fine", "--text_features auto takes words here", "")
    monkeypatch.setattr(doctor, "examine", lambda host: [finding] if host.kind == "standin" else [])
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "the stand-in" in lines[0]
    assert lines[1:] == ["fine      text: auto  --text_features auto takes words here", "Next: videomdm demo"]
    assert told(["doctor"], capsys) == {"kind": "standin", "findings": [dataclasses.asdict(finding)]}
    assert cli.main(["doctor", "--mdm", "somewhere"]) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_is_no_checkout_is_refused(tmp_path, capsys, verb):
    assert cli.main([verb, "--mdm", str(tmp_path)]) == 1
    assert "not an MDM checkout" in capsys.readouterr().err


@pytest.mark.mdm
def test_the_verbs_on_a_clone_of_mdm(tmp_path, capsys):
    place = tmp_path / "mdm"
    subprocess.run(["git", "clone", "-q", "--shared", str(checkout.find().root), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "-q", checkout.TESTED[0]], check=True)
    assert cli.main(["install", "--mdm", str(place)]) == 0
    assert cli.main(["status", "--mdm", str(place), "--check"]) == 0
    shown = capsys.readouterr().out
    assert f"MDM at {checkout.TESTED[0]}" in shown
    assert "this commit is one of those tested" in shown
    assert cli.main(["uninstall", "--mdm", str(place)]) == 0
    seen = subprocess.run(
        ["git", "-C", str(place), "status", "--porcelain", "--ignored"], capture_output=True, check=True
    )
    assert seen.stdout == b""
