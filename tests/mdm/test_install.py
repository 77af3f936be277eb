"""One line in a parser_util.py: it goes in and comes out with every other byte as it was, and MDM trains with it."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.mdm.checkout import PARSER

ROOT = Path(__file__).parents[2]
PATCH = ROOT / "patches" / "parser_util.patch"
EARLIER = tuple(
    f"{text}  {checkout.MARKER}"
    for text in (
        "from videomdm_ext.host import installed as videomdm_ext_installed",
        "    videomdm_ext_installed.activate(args)",
        "    videomdm_ext_installed.add_options(group)",
    )
)
"""The lines of version 0.1."""
CONTENT = (
    b"import argparse\n\n\ndef apply_rules(args):\n    return args\n\n\ndef add_diffusion_options(parser):\n    pass\n"
)


def written(root: Path, content: bytes = CONTENT) -> Path:
    """-> a folder with nothing of a checkout but the file."""
    (root / PARSER).parent.mkdir(parents=True, exist_ok=True)
    (root / PARSER).write_bytes(content)
    return root


def content_of(root: Path) -> bytes:
    return (root / PARSER).read_bytes()


LINES = st.lists(st.sampled_from([b"import os", b"", b"\tx = 1", b"# \xc3\xa4", b"# videomdm_ext"]), min_size=1)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(LINES, st.lists(ENDS, min_size=1), st.booleans(), st.sampled_from([b"", b"y = 2", b"y = 2\n", b"\r\n"]))
@example([b"x"], [b"\r"], True, b"")
@example([b""], [b"\n"], False, b"")
def test_without_our_line_a_file_is_what_it_was_and_what_was_added_since(lines, ends, final, later):
    """Whatever its line endings, with or without a final one, and with lines written below ours."""
    pairs = [line + ends[number % len(ends)] for number, line in enumerate(lines)]
    content = b"".join(pairs) if final else b"".join(pairs[:-1]) + lines[-1]
    made = checkout.appended(content)
    assert made.count(checkout.LINE.encode()) == 1
    assert checkout.without(made) == content
    assert checkout.without(content) == content
    if made.endswith(b"\n"):
        assert checkout.without(made + later) == content + later
    else:  # the editor gave our line, and so the content, an ending
        assert checkout.without(made + b"\n" + later) == content + made[len(content) :].split(b"import")[0] + later


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("place", [0, 3, 8])
def test_the_lines_of_an_earlier_version_are_seen_renewed_and_taken_out(tmp_path, ending, place):
    content = CONTENT.replace(b"\n", ending)
    lines = content.split(ending)
    old = ending.join([*lines[:place], *(line.encode() for line in EARLIER), *lines[place:]])
    for action, kept in ((checkout.install, checkout.appended(content)), (checkout.uninstall, content)):
        root = written(tmp_path / "mdm", old)
        (root / ".videomdm").mkdir()
        (root / ".videomdm" / "install.json").write_text("{}")
        assert checkout.examine(root).state == checkout.EARLIER
        action(root)
        assert content_of(root) == kept
        assert [path.name for path in root.iterdir()] == ["utils"]


def test_installing_twice_changes_nothing_and_neither_does_taking_out_what_is_not_in(tmp_path):
    root = written(tmp_path)
    assert "nothing to take out" in checkout.uninstall(root)
    assert content_of(root) == CONTENT
    checkout.install(root)
    (root / PARSER).write_bytes(content_of(root) + b"mine = 1\n")
    assert "nothing was changed" in checkout.install(root)
    assert content_of(root) == checkout.appended(CONTENT) + b"mine = 1\n"
    checkout.uninstall(root)
    assert content_of(root) == CONTENT + b"mine = 1\n"


def test_the_file_is_exchanged_with_its_mode_and_never_written_into(tmp_path):
    """Who has it open reads on in the old one: there is no moment at which half of it is there."""
    root = written(tmp_path)
    (root / PARSER).chmod(0o754)
    for action in (checkout.install, checkout.uninstall):
        before = content_of(root)
        with open(root / PARSER, "rb") as file:
            action(root)
            assert file.read() == before != content_of(root)
        assert (root / PARSER).stat().st_mode & 0o7777 == 0o754


@pytest.mark.parametrize("name", ["fsync", "chown", "replace"])
def test_a_crash_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    def full(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    root = written(tmp_path)
    monkeypatch.setattr(os, name, full)
    with pytest.raises(KeyboardInterrupt):
        checkout.install(root)
    assert content_of(root) == CONTENT
    assert [path.name for path in (root / "utils").iterdir()] == ["parser_util.py"]


def refused(root: Path, match: str) -> None:
    before = content_of(root)
    for action in (checkout.install, checkout.uninstall):
        with pytest.raises(HostError, match=match):
            action(root)
    assert content_of(root) == before


def test_a_read_only_file_is_refused_whoever_asks(tmp_path):
    (written(tmp_path, CONTENT + EARLIER[0].encode()) / PARSER).chmod(0o444)
    refused(tmp_path, r"read-only.*Nothing was changed.*chmod u\+w .*videomdm run --mdm")


def test_a_line_of_ours_that_was_edited_is_refused_with_the_way_out(tmp_path):
    for line in (checkout.LINE, EARLIER[0]):
        written(tmp_path, CONTENT + line.replace(checkout.MARKER, "# mine").encode())
        assert checkout.examine(tmp_path).state == checkout.CHANGED
        refused(tmp_path, "Nothing was changed. Delete it, or restore the file: git -C .* checkout -- utils")


def test_a_link_that_leads_outside_is_refused_and_one_inside_is_kept(tmp_path):
    root = written(tmp_path / "mdm")
    (root / PARSER).rename(tmp_path / "outside.py")
    (root / PARSER).symlink_to(tmp_path / "outside.py")
    refused(root, "link to")
    (tmp_path / "outside.py").rename(root / "inside.py")
    (root / PARSER).unlink()
    (root / PARSER).symlink_to(root / "inside.py")
    checkout.install(root)
    assert (root / PARSER).is_symlink()
    assert (root / "inside.py").read_bytes() == checkout.appended(CONTENT)
    assert imported(root) == (0, [])


def test_the_stand_in_and_a_folder_without_the_file_are_refused(tmp_path):
    with pytest.raises(HostError, match="stand-in has our options already"):
        checkout.install(checkout.STANDIN)
    with pytest.raises(HostError, match="expected a file"):
        checkout.install(tmp_path)


IMPORT = "import sys; sys.path.insert(0, '.'); import utils.parser_util"


def imported(root: Path) -> tuple[int, list[str]]:
    """utils.parser_util of this folder, imported by a Python. -> its exit status and the lines of its errors"""
    done = forks.run(["-c", IMPORT], cwd=root)
    return done.returncode, done.stderr.splitlines()


def test_a_python_without_this_package_ends_with_one_sentence(tmp_path):
    checkout.install(written(tmp_path))
    command, environment = [sys.executable, "-S", "-c", IMPORT], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"error: {tmp_path / PARSER}: expected the package videomdm_ext, which {sys.executable}")


def test_an_older_checkout_with_our_line_and_one_with_earlier_lines_end_with_one_sentence(tmp_path):
    status, (sentence,) = imported(written(tmp_path, EARLIER[0].encode() + b"\n" + CONTENT))
    assert status == 1
    assert "videomdm install --mdm ." in sentence
    written(tmp_path, checkout.appended(CONTENT.replace(b"apply_rules", b"other_rules")))
    status, (sentence,) = imported(tmp_path)
    assert status == 1
    assert sentence.startswith(f"error: {tmp_path}: expected a checkout that can be hooked, found that {PARSER} has no")


@pytest.fixture(scope="module")
def clone(mdm_checkout: checkout.Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> a clone with MDM's whole history."""
    place = tmp_path_factory.mktemp("clone") / "mdm"
    git(mdm_checkout.root, "clone", "-q", "--shared", ".", str(place))
    return place


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


def functions_of(content: bytes, root: Path) -> dict[str, object]:
    """The globals of a parser_util.py with this content, written into a folder."""
    names: dict[str, object] = {"__name__": "parser_util", "__file__": str(written(root, content) / PARSER)}
    exec(compile(content, PARSER, "exec", dont_inherit=True), names)
    return names


@pytest.mark.mdm
def test_every_commit_of_mdm_is_hooked_and_comes_out_byte_for_byte(clone, monkeypatch, tmp_path):
    """Each file that MDM ever had, with Unix and Windows line endings: 13."""
    commits = git(clone, "log", "--all", "--format=%H", "--", PARSER).split()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(hook, "begin", lambda: None)
    worked = set()
    for commit in (*commits, *checkout.TESTED):
        content = subprocess.run(["git", "-C", str(clone), "show", f"{commit}:{PARSER}"], capture_output=True).stdout
        for file in (content, content.replace(b"\n", b"\r\n")):
            made = checkout.appended(file)
            assert checkout.without(made) == file
            if works(functions_of(file, tmp_path), monkeypatch):
                worked.add(commit)
                check_behaviour(functions_of(made, tmp_path), monkeypatch)
    assert len(set(commits)) >= 13
    assert worked >= set(checkout.TESTED)


def works(names: dict, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the unedited program reads its arguments; that of the first commits stops at an option of its own."""
    monkeypatch.setattr(sys, "argv", ["train_mdm", "--save_dir", "x"])
    try:
        names["train_args"]()
    except TypeError:
        return False
    return True


def check_behaviour(names: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """MDM's own parser hands us its group and, last of all, the very arguments it returns, once."""
    seen: list[object] = []
    for name in ("add_options", "activate"):
        monkeypatch.setattr(hook, name, seen.append)
    hook.wrap(names)
    hook.wrap(names)
    monkeypatch.setattr(sys, "argv", ["train_mdm", "--save_dir", "x", "--seed", "7"])
    args = names["train_args"]()
    group, final = seen
    assert isinstance(group, argparse._ArgumentGroup)
    assert group.title == "diffusion"
    assert final is args
    assert args.seed == 7


@pytest.mark.mdm
def test_the_patch_is_the_line_and_git_applies_it(clone, tmp_path, monkeypatch):
    git(clone, "checkout", "-q", checkout.TESTED[0])
    before = content_of(clone)
    added = [line[1:] for line in PATCH.read_text().split("\n")[3:] if line.strip() and not line.startswith("@@")]
    assert added == [checkout.LINE]
    git(clone, "apply", str(PATCH))
    assert checkout.examine(clone).state == checkout.INSTALLED
    check_behaviour(functions_of(content_of(clone).replace(checkout.LINE.encode(), b""), tmp_path), monkeypatch)
    git(clone, "apply", "--reverse", str(PATCH))
    assert content_of(clone) == before
    git(clone, "apply", str(PATCH))
    checkout.uninstall(clone)
    assert content_of(clone) == before
    assert git(clone, "status", "--porcelain", "--ignored") == ""
