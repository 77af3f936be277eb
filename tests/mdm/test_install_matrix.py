"""Install, status and uninstall on real checkouts of MDM: never a wrong place, always a clean return."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import videomdm_ext.mdm
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, known, launcher, locking, patching, placing

pytestmark = pytest.mark.mdm
REPOSITORY = Path(__file__).parents[2]
PINNED = known.known()[0]
PLACES = (5, 55, 94)
"""Our lines in an edited file of the pinned commit."""
KNOWN_SINCE = "d178946658a38f6a33027589ba7c579f2644beb6"
"""The first commit with the pinned commit's file."""


@pytest.fixture
def clone(mdm_checkout: checkout.Checkout, tmp_path: Path) -> Path:
    """-> a clean clone at the pinned commit."""
    place = tmp_path / "mdm"
    git(tmp_path, "clone", "-q", "--shared", str(mdm_checkout.root), str(place))
    git(place, "checkout", "-q", PINNED.commit)
    return place


def git(root: Path, *words: str, **options: Any) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "advice.detachedHead=false")
    done = subprocess.run(["git", "-C", str(root), *author, *words], capture_output=True, check=True, **options)
    return done.stdout.decode()


def content_of(root: Path) -> bytes:
    return (root / patching.PATH).read_bytes()


def lines_of(root: Path) -> tuple[int, ...]:
    """Numbers of the lines of ours."""
    return tuple(number for number, line in enumerate(content_of(root).split(b"\n"), 1) if b"videomdm_ext" in line)


def there_and_back(root: Path, source: str, places: tuple[int, ...]) -> None:
    """Installed by this source at these lines and nowhere else; uninstalled, every byte and git's view is as before."""
    before, seen, mode = content_of(root), git_sees(root), (root / patching.PATH).stat().st_mode
    assert patching.examine(root).state == patching.NOT_INSTALLED
    assert patching.apply(patching.plan(root)).source == source
    assert patching.examine(root).state == patching.INSTALLED
    assert lines_of(root) == places
    assert placing.remove(content_of(root), places) == before
    check_behaviour(root)
    if (root / ".git").exists():
        assert set(git_sees(root)) - set(seen) == {" M utils/parser_util.py", "!! .videomdm/"}
    patching.uninstall(root)
    assert patching.examine(root).state == patching.NOT_INSTALLED
    assert (content_of(root), git_sees(root), (root / patching.PATH).stat().st_mode) == (before, seen, mode)
    assert not (root / locking.FOLDER).exists()


def git_sees(root: Path) -> list[str]:
    return git(root, "status", "--porcelain", "--ignored").splitlines() if (root / ".git").exists() else []


def check_behaviour(root: Path) -> None:
    """MDM's own parser hands us its group and, last of all, the very arguments it returns."""
    seen: list[Any] = []
    stub = SimpleNamespace(add_options=seen.append, activate=seen.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "videomdm_ext.mdm.installed", stub)
        patch.setattr(videomdm_ext.mdm, "installed", stub, raising=False)
        patch.setattr(sys, "argv", ["train_mdm", "--save_dir", "x", "--context_len", "7"])
        names: dict[str, Any] = {"__name__": "parser_util"}
        exec(compile(content_of(root), "parser_util", "exec", dont_inherit=True), names)
        args = names["train_args"]()
    group, final = seen
    assert isinstance(group, argparse._ArgumentGroup)
    assert group.title == "diffusion"
    assert final is args
    assert args.pred_len == 7


def refused(root: Path, match: str) -> None:
    """The installation is an error with this message, and nothing has changed."""
    before, seen, names = content_of(root), git_sees(root), sorted(os.listdir(root))
    with pytest.raises(HostError, match=match):
        patching.apply(patching.plan(root))
    assert (content_of(root), git_sees(root), sorted(os.listdir(root))) == (before, seen, names)


# -- the pinned commit ------------------------------------------------------------------------------------------------


def test_a_clean_checkout(clone):
    there_and_back(clone, f"{PINNED.commit}.patch", PLACES)


def test_our_patch_is_what_git_applies(clone):
    """On a clean checkout git makes the same bytes of it, and takes them out again."""
    patch = str(known.PATCHES / f"{PINNED.commit}.patch")
    before, after = content_of(clone), patching.plan(clone).after
    git(clone, "apply", "--unidiff-zero", patch)
    assert content_of(clone) == after
    git(clone, "apply", "--unidiff-zero", "--reverse", patch)
    assert content_of(clone) == before


def test_the_syntax_tree_leads_to_the_places_of_our_patch(clone):
    assert placing.find(content_of(clone)) == PINNED.insertions


def test_the_record_holds_the_commits_own_hashes(clone):
    named = {patching.PATH: PINNED.blob, **PINNED.files}
    for path, blob in named.items():
        assert git(clone, "rev-parse", f"{PINNED.commit}:{path}").strip() == blob, path
    assert set(checkout.SEAMS) <= set(named)
    assert PINNED.fits(content_of(clone))
    assert known.closest(clone) == (PINNED, [])
    assert git(clone, "show", "-s", "--format=%cs", PINNED.commit).strip() == PINNED.date


def test_the_record_holds_every_module_that_our_code_names(clone):
    """As in after("utils.model_util", ...): what is changed at run time is compared by status and doctor."""
    named = set()
    for place in Path(known.__file__).parent.glob("*.py"):
        for module in re.findall(r'"((?:{})(?:\.\w+)+)"'.format("|".join(launcher.PACKAGES)), place.read_text("utf-8")):
            path = module.replace(".", "/") + ".py"
            if (clone / path).is_file():
                named.add(path)
    assert "utils/model_util.py" in named
    assert named <= {patching.PATH, *PINNED.files}, "add these to the record in patches/"


def test_no_line_of_our_patch_is_mdms(clone):
    own = {line.strip() for line in content_of(clone).decode().split("\n") if line.strip()}
    text = (known.PATCHES / f"{PINNED.commit}.patch").read_text()
    assert not own & {line.lstrip("+ ").strip() for line in text.split("\n")}


def test_windows_line_endings(clone):
    (clone / patching.PATH).write_bytes(content_of(clone).replace(b"\n", b"\r\n"))
    assert git_sees(clone) == [" M utils/parser_util.py"]
    before = content_of(clone)
    assert patching.apply(patching.plan(clone)).source == f"{PINNED.commit}.patch"
    assert lines_of(clone) == PLACES
    assert content_of(clone).count(b"\r\n") == content_of(clone).count(b"\n")
    check_behaviour(clone)
    patching.uninstall(clone)
    assert content_of(clone) == before


def test_windows_line_endings_made_by_git(clone, tmp_path):
    place = tmp_path / "windows"
    git(tmp_path, "clone", "-q", "--shared", "-c", "core.autocrlf=true", str(clone), str(place))
    assert content_of(place).count(b"\r\n") == content_of(place).count(b"\n") > 300
    there_and_back(place, f"{PINNED.commit}.patch", PLACES)
    assert known.closest(place) == (PINNED, [])


def test_a_prefixed_line_moves_the_places_by_one(clone):
    (clone / patching.PATH).write_bytes(b"# A line of ours\n" + content_of(clone))
    refused(clone, "found changes")
    git(clone, "commit", "-qam", "a line more")
    there_and_back(clone, patching.TREE, tuple(place + 1 for place in PLACES))


def test_an_archive_without_git_is_known_by_its_hash(clone):
    shutil.rmtree(clone / ".git")
    there_and_back(clone, f"{PINNED.commit}.patch", PLACES)
    (clone / patching.PATH).write_bytes(b"# A line of ours\n" + content_of(clone))
    there_and_back(clone, patching.TREE, tuple(place + 1 for place in PLACES))


def test_a_read_only_file(clone):
    (clone / patching.PATH).chmod(0o444)
    refused(clone, r"parser_util\.py: expected to be writable.*chmod u\+w")


def test_a_dirty_tree(clone):
    """Changes elsewhere are no obstacle; those of the file are, staged or not."""
    (clone / "README.md").write_text("mine")
    (clone / "notes.txt").write_text("mine")
    there_and_back(clone, f"{PINNED.commit}.patch", PLACES)
    (clone / patching.PATH).write_bytes(content_of(clone) + b"\n")
    refused(clone, "found changes")
    git(clone, "add", patching.PATH)
    refused(clone, "found changes")


def test_installed_twice(clone):
    patching.install(checkout.find(clone))
    refused(clone, "found them installed by")


# -- other commits ----------------------------------------------------------------------------------------------------


def test_the_last_ten_commits_that_changed_the_file(clone):
    """Those since the pinned file are edited at its places; the older ones have no apply_rules and are refused."""
    commits = git(clone, "log", "-n", "10", "--format=%H", "--", patching.PATH).split()
    assert len(commits) == 10
    edited = []
    for commit in commits:
        git(clone, "checkout", "-q", commit)
        if b"def apply_rules" in content_of(clone):
            there_and_back(clone, f"{PINNED.commit}.patch", PLACES)
            edited.append(commit)
        else:
            refused(clone, "expected a function apply_rules, found none.*Nothing was changed.*videomdm host pin")
    assert edited == [KNOWN_SINCE]


def test_every_commit_with_the_pinned_file_is_edited_and_its_other_files_are_compared(clone):
    commits = git(clone, "log", "--format=%H", f"{KNOWN_SINCE}^..{PINNED.commit}").split()
    differing = {}
    for commit in commits:
        git(clone, "checkout", "-q", commit)
        if known.git_blob(content_of(clone)) != PINNED.blob:  # a branch that was merged later
            continue
        assert patching.plan(clone).source == f"{PINNED.commit}.patch"
        differing[commit] = known.closest(clone)[1]
    assert differing[PINNED.commit] == []
    changed = git(clone, "diff", "--name-only", KNOWN_SINCE, PINNED.commit).split()
    assert differing[KNOWN_SINCE] == [path for path in PINNED.files if path in changed] != []


# -- crashes ----------------------------------------------------------------------------------------------------------

CRASHING = """
import os, sys
from pathlib import Path
from videomdm_ext.mdm import patching

left = int(sys.argv[3])


def dying(real):
    def operation(*given, **named):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return real(*given, **named)
    return operation


root = Path(sys.argv[1])
plan = patching.plan(root) if sys.argv[2] == "install" else None
for name in ("mkdir", "open", "replace", "fsync", "unlink", "rmdir", "chmod", "chown"):
    setattr(os, name, dying(getattr(os, name)))
patching.apply(plan) if plan else patching.uninstall(root)
"""


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_a_process_killed_at_any_file_operation(clone, verb):
    """Old file or new file; the status tells which, a lock that is left is told, and the way back leaves nothing."""
    old, new = content_of(clone), patching.plan(clone).after
    seen = set()
    for limit in range(60):
        if verb == "uninstall":
            patching.install(checkout.find(clone))
        command = [sys.executable, "-c", CRASHING, str(clone), verb, str(limit)]
        done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False)
        assert done.returncode in (0, 9)
        status = patching.examine(clone)
        assert content_of(clone) == (new if holds_new(status) else old)
        seen.add((status.state, content_of(clone) == new))
        lock = clone / locking.FOLDER / locking.LOCK
        if lock.exists() and status.state != patching.INSTALLED:
            refused(clone, "lock: .*(which is gone. Delete this file|found one, which may be at work)")
        lock.unlink(missing_ok=True)
        if patching.examine(clone).state != patching.INSTALLED:
            patching.install(checkout.find(clone))
        patching.uninstall(clone)
        assert content_of(clone) == old
        assert git_sees(clone) == []
        if done.returncode == 0:
            break
    else:
        pytest.fail("more file operations than expected")
    expected = {(patching.NOT_INSTALLED, False), (patching.INSTALLED, True)}
    interrupted = {(patching.INTERRUPTED, False), (patching.INTERRUPTED, True)}
    assert seen == (expected | interrupted if verb == "install" else expected)


def holds_new(status: patching.Status) -> bool:
    """Whether the status says that the edited file is in place."""
    return status.state == patching.INSTALLED or "with all of our lines" in status.about


# -- MDM's own command ------------------------------------------------------------------------------------------------


def test_mdms_own_parser_takes_our_options_after_the_installation_and_only_then(clone):
    """In processes of their own: help lists them in MDM's group, and so args.json will restore them."""
    program = (
        "import json, sys; from utils import parser_util as p; parser = p.ArgumentParser();"
        "p.add_base_options(parser); p.add_diffusion_options(parser);"
        "args = parser.parse_args(sys.argv[1:]);"
        "print(json.dumps(p.get_args_per_group_name(parser, args, 'diffusion')))"
    )
    command = [sys.executable, "-c", program, "--supervision", "2d"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    plain = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert "unrecognized arguments: --supervision 2d" in plain.stderr
    patching.install(checkout.find(clone))
    edited = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=True)
    names = json.loads(edited.stdout.splitlines()[-1])
    assert names[:3] == ["noise_schedule", "diffusion_steps", "sigma_small"]
    assert {"supervision", "teacher", "clips"} <= set(names[3:])
