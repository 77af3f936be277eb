"""The package as a wheel: built from a source distribution, installed beside the packages of this environment, and run
outside the source tree."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from commands import SMALL

ROOT = Path(__file__).parent.parent
LEFT_BEHIND = (".git", ".*_cache", "__pycache__", "*.egg-info", "build", "runs", "motion-diffusion-model")
FOUND = """
import json
from importlib import metadata
import videomdm_ext
from videomdm_ext.bench.plan import known_arms, load_arm
from videomdm_ext.mdm import checkout
from videomdm_ext.config import repository
texts = [str(file) for file in metadata.files("videomdm_ext") if "/licenses/" in str(file)]
print(json.dumps({
    "package": videomdm_ext.__file__, "repository": repository(), "arms": [load_arm(a).name for a in known_arms()],
    "licences": texts,
    "places": [str(place) for place in checkout.default_places()], "standin": checkout.standin().kind,
}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> a new environment with the wheel, on top of the packages of this one"""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    build = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    run(sys.executable, "-c", build, "build_sdist", str(folder), cwd=tree)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    run(sys.executable, "-c", build, "build_wheel", str(folder), cwd=source)
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    python = str(venv / "bin" / "python")
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "these.pth").write_text("".join(f"{p}\n" for p in sys.path if Path(p).name == "site-packages"), "utf-8")
    wheel = str(next(folder.glob("*.whl")))
    words = ["install", "-qq", "--no-deps", "--no-compile", "--force-reinstall"]  # Python compiles what is imported
    run(sys.executable, "-m", "pip", "--python", python, *words, wheel)
    return venv


def run(*words: str, cwd: Path | None = None) -> str:
    """-> what a command prints, without this tree on its path"""
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIDEOMDM_MDM_ROOT")}
    done = subprocess.run(words, cwd=cwd, env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_wheel_brings_its_arms_and_licences_along(environment, tmp_path):
    found = json.loads(run(str(environment / "bin" / "python"), "-c", FOUND, cwd=tmp_path))
    assert Path(found["package"]).is_relative_to(environment)
    assert found["repository"] is None
    assert found["arms"] == sorted(place.stem for place in (ROOT / "configs" / "arms").rglob("*.yaml"))
    texts = {place.relative_to(ROOT).as_posix() for place in [ROOT / "LICENSE", *ROOT.glob("third_party/*/LICENSE*")]}
    own = {text for text in texts if "motion-diffusion-model" not in text}
    assert {text.partition("/licenses/")[2] for text in found["licences"]} >= own
    assert [Path(place).parent.name for place in found["places"]] == ["videomdm"]  # the cache, not site-packages
    assert found["standin"] == "standin"


def test_the_package_is_a_program_of_python(environment, tmp_path):
    told = [str(environment / "bin" / "videomdm"), "--version"], [str(environment / "bin" / "python"), "-m",
            "videomdm_ext", "--version"]  # fmt: skip
    assert len({run(*words, cwd=tmp_path) for words in told}) == 1


@pytest.mark.slow
def test_the_demo_of_a_wheel_runs_outside_the_source_tree(environment, tmp_path):
    smallest = [*SMALL["demo"].split(), "--text-features", "words", "--out", "made"]
    shown = run(str(environment / "bin" / "videomdm"), "demo", "--fast", *smallest, cwd=tmp_path)
    assert "Next: videomdm view made" in shown
    assert (tmp_path / "made" / "report.md").is_file()
    assert (tmp_path / "made" / "report.html").is_file()
