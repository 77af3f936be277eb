"""Our lines in a parser_util.py: at the right places or not at all, and out again with every byte as it was."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import videomdm_ext.mdm
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import known, launcher, locking, patching, placing

PLAIN = b'''"""A parser
of options."""
import argparse
import os


def apply_rules(args):
    if args.a:
        args.b = os.sep
    return args


def add_diffusion_options(parser):
    group = parser.add_argument_group('diffusion')
    group.add_argument("--noise", default=1)


def last(parser):
    return parser
'''
IMPORT = f"{placing.IMPORT}  {placing.MARKER}"
ACTIVATE = f"    videomdm_ext_installed.activate(args)  {placing.MARKER}"
ADD = f"    videomdm_ext_installed.add_options(group)  {placing.MARKER}"


def checkout_of(root: Path, content: bytes = PLAIN) -> Path:
    """-> a folder with nothing of a checkout but the file."""
    (root / "utils").mkdir(parents=True)
    (root / patching.PATH).write_bytes(content)
    return root


def committed(root: Path, content: bytes = PLAIN) -> Path:
    """-> the same under git."""
    checkout_of(root, content)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def git(root: Path, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false")
    command = ["git", "-C", str(root), *author, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def content_of(root: Path) -> bytes:
    return (root / patching.PATH).read_bytes()


def install(root: Path) -> patching.Plan:
    plan = patching.plan(root)
    patching.apply(plan)
    return plan


def refused(root: Path, action: Callable[[Path], Any], match: str) -> None:
    """The action is an error with this message, and neither the file nor the folder's names have changed."""
    before, names = content_of(root), sorted(root.rglob("*"))
    with pytest.raises(HostError, match=match):
        action(root)
    assert content_of(root) == before
    assert sorted(root.rglob("*")) == names


# -- the places -------------------------------------------------------------------------------------------------------


def test_the_three_lines_are_after_the_imports_before_the_return_and_after_the_options(tmp_path):
    root = checkout_of(tmp_path)
    plan = install(root)
    expected = PLAIN.decode().split("\n")
    expected[4:4], expected[10:10], expected[17:17] = [IMPORT], [ACTIVATE], [ADD]
    assert content_of(root).decode().split("\n") == expected
    assert plan.source == patching.TREE
    assert placing.numbers(plan.insertions) == patching.read_manifest(root).lines == (5, 11, 18)
    shown = [line for line in plan.shown if line.startswith("+")]
    assert shown == ["+    5  " + IMPORT, "+   11  " + ACTIVATE, "+   18  " + ADD]


def test_names_and_indentation_are_the_files_own(tmp_path):
    text = PLAIN.replace(b"args", b"chosen").replace(b"group.", b"new.").replace(b"group =", b"new =")
    root = checkout_of(tmp_path, text.replace(b"    ", b"\t"))
    install(root)
    assert b"\n\tvideomdm_ext_installed.activate(chosen)  #" in content_of(root)
    assert b"\n\tvideomdm_ext_installed.add_options(new)  #" in content_of(root)


GOOD_RULES = [
    "def apply_rules(args):\n    args.a = 1\n    return args\n",
    "def apply_rules(args):\n    return args\n",
    'def apply_rules(args, b=None):\n\t"""Docs\n    return args\n\t"""\n\tif b:\n\t\targs.a = 2\n\treturn args # x\n',
    "def apply_rules(o):\n  f = lambda: (yield)\n  def g(a):\n    return a\n  o = g(o)\n\n  # last\n  return (\n  o)\n",
    "def apply_rules(\n    args,\n):\n    args.a = '''\n    return args\n'''\n    return args\n",
]  # fmt: skip
BAD_RULES = [
    "",
    "def apply_rules(args): return args\n",
    "def apply_rules(args):\n    args.a = 1; return args\n",
    "def apply_rules(args):\n    if args.a:\n        return args\n    return args\n",
    "def apply_rules(args):\n    args.a = 1\n",
    "def apply_rules(args):\n    args.a = 1\n    return\n",
    "def apply_rules(args):\n    return vars(args)\n",
    "def apply_rules(args):\n    other = args\n    return other\n",
    "def apply_rules(args):\n    try:\n        args.a = 1\n    finally:\n        return args\n",
    "def apply_rules(args):\n    yield 1\n    return args\n",
    "def apply_rules(*args):\n    return args\n",
    "async def apply_rules(args):\n    return args\n",
    "@staticmethod\ndef apply_rules(args):\n    return args\n",
    "class apply_rules:\n    pass\n",
    "class Rules:\n    def apply_rules(args):\n        return args\n",
    "if 1:\n    def apply_rules(args):\n        return args\n",
    "def apply_rules(args):\n    return args\ndef apply_rules(args):\n    return args\n",
    "def apply_rules(args):\n    return args\napply_rules = print\n",
    "def apply_rules(args):\n    return args\nimport os as apply_rules\n",
    "def apply_rules(args):\n    return args\nfrom os import *\n",
    "def apply_rules(args):\n    return args\nfor apply_rules in []:\n    pass\n",
    "def apply_rules(args)\n    return args\n",
]
GROUP = "    group = parser.add_argument_group('diffusion')\n"
GOOD_OPTIONS = [
    f"def add_diffusion_options(parser):\n{GROUP}    group.add_argument('--x')\n",
    f"def add_diffusion_options(parser):\n{GROUP}",
    f"def add_diffusion_options(parser):\n{GROUP}    group.add_argument(\n'--x',\n)  # end\n    # after\n\n",
    f"def add_diffusion_options(parser):\n{GROUP}    if parser:\n        group.add_argument('--x')\n    # after\n",
    f"def add_diffusion_options(parser, b=1):\n{GROUP}    group.add_argument('--x'); b = 2;\n",
    f"def add_diffusion_options(parser):\n    other = parser.add_argument_group('x')\n{GROUP}    return group\n",
    f'def add_diffusion_options(parser):\n    """d"""\n{GROUP}    x = """\n    text\n"""\n',
    f"def add_diffusion_options(parser):\n    def inner():\n        return 1\n{GROUP}",
]
BAD_OPTIONS = [
    "",
    "def add_diffusion_options(parser): group = parser.add_argument_group('diffusion')\n",
    f"def add_diffusion_options(parser):\n{GROUP}    if group:\n        return\n    group.add_argument('--x')\n",
    f"def add_diffusion_options(parser):\n{GROUP}    group = parser.add_argument_group('more')\n",
    f"def add_diffusion_options(parser):\n{GROUP}{GROUP}",
    f"def add_diffusion_options(parser):\n{GROUP}    del group\n",
    f"def add_diffusion_options(parser):\n{GROUP}    raise ValueError\n",
    f"def add_diffusion_options(parser):\n{GROUP}    x = 1 \\\n\n",
    f"def add_diffusion_options():\n{GROUP}",
    "def add_diffusion_options(parser):\n    group = parser.add_argument_group('model')\n",
    "def add_diffusion_options(parser):\n    group = parser.add_argument_group(title)\n",
    "def add_diffusion_options(parser):\n    parser.add_argument_group('diffusion').add_argument('--x')\n",
    "def add_diffusion_options(parser):\n    if 1:\n        group = parser.add_argument_group('diffusion')\n",
    "def add_diffusion_options(parser):\n    parser.group = parser.add_argument_group('diffusion')\n",
    "def add_diffusion_options(parser):\n    a = b = parser.add_argument_group('diffusion')\n",
    "add_diffusion_options = lambda parser: parser.add_argument_group('diffusion')\n",
]
GOOD_IMPORTS = [
    "import argparse\nimport os\n",
    "import argparse; import os; X = 1\n",
    "from argparse import (\n    ArgumentParser,\n    Namespace,\n)\n\nfrom os import *\n",
    "from __future__ import annotations\n\n\nimport os  # the last\nY = 2\nimport sys\n",
    "import os\ntry:\n    import json\nexcept ImportError:\n    json = None\n",
]
BAD_IMPORTS = ["", "X = 1\nimport os\n", "import os; X = (\n    1,\n)\n", "import os \\\n\nX = 1\n"]
HEADS = [
    "",
    "# a comment\n",
    '"""Docs\n\nimport os\n"""\n',
    "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n",
    "\ufeff",
    "\f\n",
]
BETWEEN = [
    "\n\n",
    "",
    "\ndef other(a):\n    return a\n",
    "\nTEXT = '''\ndef apply_rules(args):\n    return args\n'''\n",
]


def pieces(good: list[str], bad: list[str]) -> st.SearchStrategy[tuple[str, bool]]:
    """One of the texts, good in most draws, and whether it can be edited."""
    right = st.sampled_from(good).map(lambda text: (text, True))
    return st.one_of(right, right, right, st.sampled_from(bad).map(lambda text: (text, False)))


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A parser file, and whether it can be edited."""
    imports, rules, options = (
        draw(pieces(good, bad))
        for good, bad in ((GOOD_IMPORTS, BAD_IMPORTS), (GOOD_RULES, BAD_RULES), (GOOD_OPTIONS, BAD_OPTIONS))
    )
    functions = draw(st.permutations([rules[0], options[0]]))
    between = [draw(st.sampled_from(BETWEEN)) for _ in range(3)]
    body = "".join(text for pair in zip(between, [*functions, ""], strict=True) for text in pair)
    text = draw(st.sampled_from(HEADS)) + imports[0] + body
    text = text[:-1] if draw(st.booleans()) and text.endswith("\n") else text
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))).encode(), imports[1] and rules[1] and options[1]


@given(files())
def test_a_file_is_edited_where_it_means_what_it_should_or_is_left_alone(drawn):
    content, editable = drawn
    with tempfile.TemporaryDirectory() as folder:
        root = checkout_of(Path(folder) / "mdm", content)
        if not editable:
            refused(root, install, "Nothing was changed.*videomdm run --mdm")
            return
        install(root)
        check_program(content, content_of(root))
        patching.uninstall(root)
        assert content_of(root) == content
        assert [place.name for place in root.iterdir()] == ["utils"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("imports", text) for text in BAD_IMPORTS),
        *(("rules", text) for text in BAD_RULES),
        *(("options", text) for text in BAD_OPTIONS),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, kind, text):
    """Each alone, beside parts that are good."""
    parts = {"imports": GOOD_IMPORTS[0], "rules": GOOD_RULES[0], "options": GOOD_OPTIONS[0], kind: text}
    refused(checkout_of(tmp_path, "\n".join(parts.values()).encode()), install, "expected|would not be")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("imports", text) for text in GOOD_IMPORTS),
        *(("rules", text) for text in GOOD_RULES),
        *(("options", text) for text in GOOD_OPTIONS),
    ],
)
def test_what_is_clear_is_edited(tmp_path, kind, text):
    parts = {"imports": GOOD_IMPORTS[0], "rules": GOOD_RULES[0], "options": GOOD_OPTIONS[0], kind: text}
    content = "\n".join(parts.values()).encode()
    root = checkout_of(tmp_path, content)
    install(root)
    check_program(content, content_of(root))


def check_program(before: bytes, after: bytes) -> None:
    """The edited file is the old program, and calls us with the group and with the very object it returns."""

    class WithoutOurs(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST | None:
            ours = isinstance(node, ast.stmt) and placing.ALIAS in ast.unparse(node)
            if ours and not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If | ast.Try):
                return None
            return super().generic_visit(node)

    assert ast.dump(WithoutOurs().visit(ast.parse(after))) == ast.dump(ast.parse(before))
    seen: list[tuple[str, Any]] = []
    stub = SimpleNamespace(
        activate=lambda args: seen.append(("activate", args)), add_options=lambda group: seen.append(("add", group))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "videomdm_ext.mdm.installed", stub)
        patch.setattr(videomdm_ext.mdm, "installed", stub, raising=False)
        names: dict[str, Any] = {"__name__": "parser_util"}
        exec(compile(after, "parser_util", "exec", dont_inherit=True), names)
        parser = argparse.ArgumentParser()
        names["add_diffusion_options"](parser)
        given_back = names["apply_rules"](argparse.Namespace(a=0))
    assert [what for what, _ in seen] == ["add", "activate"]
    assert seen[0][1] is parser._action_groups[-1]
    assert seen[0][1].title == "diffusion"
    assert seen[1][1] is given_back


@pytest.mark.parametrize("content", [PLAIN.replace(b"argparse\n", b"argparse\r"), PLAIN + b"\0", b"", b"\xff\xfe"])
def test_a_file_that_is_not_lines_of_python_is_refused(tmp_path, content):
    refused(checkout_of(tmp_path, content), install, "expected")


def test_each_line_ends_like_the_line_above_it(tmp_path):
    """Windows line endings from line 11 on: two lines of ours end like Unix, the third like Windows."""
    lines = PLAIN.split(b"\n")
    content = b"\n".join(lines[:10]) + b"\n" + b"\r\n".join(lines[10:])
    root = checkout_of(tmp_path, content)
    install(root)
    endings = [line.endswith(b"\r") for line in content_of(root).split(b"\n") if placing.ALIAS.encode() in line]
    assert endings == [False, False, True]
    patching.uninstall(root)
    assert content_of(root) == content


# -- a known commit ---------------------------------------------------------------------------------------------------


@pytest.fixture
def patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """-> a folder of patches in which PLAIN is a known file, with our lines at other places than the syntax tree's."""
    folder = tmp_path / "patches"
    folder.mkdir()
    hunks = [(3, 4, IMPORT), (9, 11, ACTIVATE), (14, 17, ADD)]
    body = "".join(f"@@ -{after},0 +{line} @@\n+{text}\n" for after, line, text in hunks)
    (folder / "abc.patch").write_text(f"--- a/{patching.PATH}\n+++ b/{patching.PATH}\n{body}")
    blob = subprocess.run(["git", "hash-object", "--stdin"], input=PLAIN, capture_output=True, check=True).stdout
    files = {patching.PATH: blob.decode().strip(), "other.py": known.git_blob(b"x\n")}
    record = {"commit": "abc", "date": "2025-01-01", "sha256": hashlib.sha256(PLAIN).hexdigest(), "files": files}
    (folder / "abc.json").write_text(json.dumps(record))
    monkeypatch.setattr(known, "PATCHES", folder)
    return folder


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_known_file_is_edited_by_its_patch_with_its_own_line_endings(tmp_path, ending):
    content = PLAIN.replace(b"\n", ending)
    root = checkout_of(tmp_path / "mdm", content)
    plan = install(root)
    assert plan.source == "abc.patch"
    lines = content_of(root).split(ending)
    assert [number for number, line in enumerate(lines, 1) if b"videomdm_ext" in line] == [4, 11, 17]
    assert content_of(root).count(b"\r") == (content_of(root).count(b"\n") if ending == b"\r\n" else 0)
    patching.uninstall(root)
    assert content_of(root) == content


@pytest.mark.usefixtures("patched")
def test_a_file_with_mixed_line_endings_is_not_known(tmp_path):
    assert install(checkout_of(tmp_path / "mdm", PLAIN.replace(b"\n", b"\r\n", 3))).source == patching.TREE


@pytest.mark.parametrize("wrong", ["blob", "sha256"])
def test_a_file_is_known_by_both_hashes(tmp_path, patched, wrong):
    place = patched / "abc.json"
    record = json.loads(place.read_text())
    if wrong == "blob":
        record["files"][patching.PATH] = known.git_blob(b"")
    else:
        record["sha256"] = hashlib.sha256(b"").hexdigest()
    place.write_text(json.dumps(record))
    assert install(checkout_of(tmp_path / "mdm")).source == patching.TREE


@pytest.mark.usefixtures("patched")
def test_files_that_differ_from_the_known_commit_are_named(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    assert known.closest(root)[1] == ["other.py"]
    (root / "other.py").write_bytes(b"x\r\n")
    assert known.closest(root)[1] == []
    (root / "other.py").write_bytes(b"y\n")
    assert known.closest(root)[1] == ["other.py"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("@@ -3,0 +4 @@", "@@ -4,0 +4 @@"),
        lambda text: text.replace("@@ -3,0", "@@ -3,1"),
        lambda text: text.replace("+4 @@", "+4 @@ def f():"),
        lambda text: text.replace("+from", "-from"),
        lambda text: text.replace("+from", " from"),
        lambda text: text + " def f():\n",
        lambda text: text.replace("utils/", "model/"),
        lambda text: text[:90],
        lambda text: "",
    ],
)
def test_a_patch_with_anything_but_single_insertions_is_broken(tmp_path, patched, change):
    place = patched / "abc.patch"
    place.write_text(change(place.read_text()))
    refused(checkout_of(tmp_path / "mdm"), install, r"abc\.patch: expected insertions.*broken")


@pytest.mark.parametrize(
    ("old", "new"),
    [("-3,0 +4", "-1,0 +2"), ("-9,0 +11", "-8,0 +10"), ("-9,0 +11", "-10,0 +12"), ("-14,0 +17", "-99,0 +102")],
)
def test_a_patch_with_a_line_where_it_would_mean_something_else_is_broken(tmp_path, patched, old, new):
    """In the docstring, in an if, below the return, below the file's end."""
    place = patched / "abc.patch"
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new))
    refused(checkout_of(tmp_path / "mdm"), install, "patch is broken")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"commit": "a", "date": "b", "sha256": "c", "files": {}}'])
def test_a_record_that_is_none_is_named(tmp_path, patched, content):
    (patched / "abc.json").write_text(content)
    refused(checkout_of(tmp_path / "mdm"), install, r"abc\.json: expected")


def test_without_patches_the_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "PATCHES", tmp_path / "none")
    refused(checkout_of(tmp_path / "mdm"), install, "pip install -e")


def test_the_patches_of_this_package_hold_our_lines_alone():
    places = sorted(known.PATCHES.glob("*.patch"))
    assert [place.stem for place in places] == sorted(commit.commit for commit in known.known())
    for place in places:
        for line in place.read_bytes().split(b"\n")[2:]:
            assert line == b"" or line.startswith(b"@@ -") or placing.ours(line[1:]) == (1,), line
        texts = [insertion.text.strip() for insertion in known.read_patch(place)]
        assert texts == [IMPORT, ACTIVATE.strip(), ADD.strip()]


def test_what_our_lines_call_is_there():
    """The module they import has both functions, and the launcher knows an edited file by their name."""
    tree = ast.parse((Path(known.__file__).parent / "installed.py").read_text())
    assert {"activate", "add_options"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert placing.ALIAS == launcher.INSTALLED


# -- what git says ----------------------------------------------------------------------------------------------------


def test_after_an_installation_git_sees_one_changed_file_and_afterwards_none(tmp_path):
    root = committed(tmp_path / "mdm")
    install(root)
    assert git(root, "status", "--porcelain") == " M utils/parser_util.py\n"
    patching.uninstall(root)
    assert git(root, "status", "--porcelain", "--ignored") == ""


@pytest.mark.parametrize("staged", [False, True])
def test_a_file_with_changes_is_refused(tmp_path, staged):
    root = committed(tmp_path / "mdm")
    (root / patching.PATH).write_bytes(PLAIN + b"# mine\n")
    if staged:
        git(root, "add", ".")
    refused(root, install, r"found changes .*Commit them, or restore the file: git -C")
    git(root, "commit", "-qam", "mine")
    install(root)


def test_a_change_that_is_staged_alone_is_refused(tmp_path):
    root = committed(tmp_path / "mdm")
    (root / patching.PATH).write_bytes(PLAIN + b"# mine\n")
    git(root, "add", ".")
    (root / patching.PATH).write_bytes(PLAIN)
    refused(root, install, "found changes")


def test_changes_elsewhere_or_of_line_endings_and_modes_are_no_obstacle(tmp_path):
    root = committed(tmp_path / "mdm")
    content = PLAIN.replace(b"\n", b"\r\n")
    (root / "new.py").touch()
    (root / patching.PATH).write_bytes(content)
    (root / patching.PATH).chmod(0o755)
    install(root)
    assert content_of(root).count(b"\r") == content_of(root).count(b"\n")
    assert (root / patching.PATH).stat().st_mode & 0o777 == 0o755
    patching.uninstall(root)
    assert content_of(root) == content
    assert (root / patching.PATH).stat().st_mode & 0o777 == 0o755


def test_where_git_does_not_answer_an_unknown_file_is_refused_and_a_known_one_is_not(tmp_path, request):
    root = checkout_of(tmp_path / "mdm")
    (root / ".git").write_text("gitdir: nowhere")
    refused(root, install, "git to tell")
    request.getfixturevalue("patched")
    assert install(root).source == "abc.patch"


def test_the_checkout_that_is_asked_about_is_not_that_of_the_environment(tmp_path, monkeypatch):
    """As in a git hook, where GIT_DIR names another repository."""
    root, other = committed(tmp_path / "mdm"), committed(tmp_path / "other", b"")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    install(root)


# -- refused before anything is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [patching.PATH, "utils", "."])
def test_what_is_read_only_is_refused_whoever_asks(tmp_path, place):
    root = checkout_of(tmp_path / "mdm")
    mode = (root / place).stat().st_mode
    (root / place).chmod(mode & ~0o222)
    refused(root, install, r"read-only.*chmod u\+w")
    (root / place).chmod(mode)
    install(root)
    (root / place).chmod(mode & ~0o222)
    refused(root, patching.uninstall, r"read-only.*chmod u\+w")
    (root / place).chmod(mode)


def test_a_link_that_leads_outside_is_refused_and_one_inside_is_kept(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    outside = tmp_path / "outside.py"
    (root / patching.PATH).rename(outside)
    (root / patching.PATH).symlink_to(outside)
    refused(root, install, "link to")
    outside.rename(root / "inside.py")
    (root / patching.PATH).unlink()
    (root / patching.PATH).symlink_to(root / "inside.py")
    install(root)
    assert (root / patching.PATH).is_symlink()
    assert placing.ALIAS.encode() in (root / "inside.py").read_bytes()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_of_ours_that_is_none_is_refused(tmp_path, kind):
    root = checkout_of(tmp_path / "mdm")
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        (root / locking.FOLDER).symlink_to(tmp_path / "elsewhere")
    else:
        (root / locking.FOLDER).touch()
    refused(root, install, "Move it away")


def test_the_stand_in_and_a_folder_without_the_file_are_refused(tmp_path):
    with pytest.raises(HostError, match="stand-in has our options already"):
        patching.plan(patching.STANDIN)
    with pytest.raises(HostError, match="expected a file"):
        patching.plan(tmp_path)


def test_what_is_installed_is_not_installed_twice(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    plan = install(root)
    refused(root, install, "installed by syntax tree")
    refused(root, lambda _: patching.apply(plan), "installed by syntax tree")


def test_a_file_that_changed_after_it_was_planned_is_left_alone(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    plan = patching.plan(root)
    (root / patching.PATH).write_bytes(PLAIN + b"\n")
    refused(root, lambda _: patching.apply(plan), "changed meanwhile")


# -- out again --------------------------------------------------------------------------------------------------------


def test_a_file_changed_since_gives_our_lines_back_only_with_force(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    install(root)
    (root / patching.PATH).write_bytes(b"# mine\n" + content_of(root))
    status = patching.examine(root)
    assert status.state == patching.CHANGED
    assert "3 of our 3 lines are in it, at lines (6, 12, 19), not (5, 11, 18), and the rest is not" in status.about
    refused(root, install, "Take them out first")
    refused(root, patching.uninstall, r"3 of our 3 lines.*--force .*\(6, 12, 19\)")
    assert "the rest is left as it was" in patching.uninstall(root, force=True)
    assert content_of(root) == b"# mine\n" + PLAIN
    assert not (root / locking.FOLDER).exists()


def test_lines_of_ours_that_were_only_moved_come_out_without_force(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    install(root)
    (root / patching.PATH).write_bytes(content_of(root).replace(b"uninstall\n", b"uninstall  \n"))
    assert "every byte is as before" in patching.uninstall(root)
    assert content_of(root) == PLAIN


@pytest.mark.parametrize(
    ("old", "new"),
    [("activate(args)  #", "activate(args); x = 1  #"), (f"(group)  {placing.MARKER}", "(group)"), ("    args.b", "")],
)
def test_even_with_force_a_file_in_doubt_is_refused_with_the_way_to_restore_it(tmp_path, old, new):
    """Our line shared with another statement, without its marker, or a file that would not be Python."""
    root = checkout_of(tmp_path / "mdm")
    install(root)
    (root / patching.PATH).write_bytes(content_of(root).replace(old.encode(), new.encode()))
    refused(root, lambda root: patching.uninstall(root, force=True), "git -C .* checkout -- utils/parser_util.py")


def test_lines_of_ours_without_a_record_are_reported_and_taken_out_with_force(tmp_path):
    """As in a clone of a checkout in which the edit was committed."""
    root = checkout_of(tmp_path / "mdm")
    plan = patching.plan(root)
    (root / patching.PATH).write_bytes(plan.after)
    assert patching.examine(root).state == patching.CHANGED
    refused(root, install, "no record")
    refused(root, patching.uninstall, "no record")
    patching.uninstall(root, force=True)
    assert content_of(root) == PLAIN


@pytest.mark.parametrize("restored", [PLAIN, PLAIN + b"# a newer one\n"])
def test_a_file_that_git_restored_loses_its_record_or_is_installed_anew(tmp_path, restored):
    root = checkout_of(tmp_path / "mdm")
    for then in (patching.uninstall, install):
        install(root)
        (root / patching.PATH).write_bytes(restored)
        assert patching.examine(root).state == patching.NOT_INSTALLED
        then(root)
        assert (root / locking.FOLDER).exists() == (then is install)
        (root / patching.PATH).write_bytes(PLAIN)
        patching.uninstall(root)


def test_uninstalling_what_is_not_installed_changes_nothing(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    assert "nothing to take out" in patching.uninstall(root)
    assert [place.name for place in root.iterdir()] == ["utils"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"lines": 3}', '{"lines": [], "colour": 1}'])
def test_a_record_that_cannot_be_read_is_named_with_what_to_do(tmp_path, content):
    root = checkout_of(tmp_path / "mdm")
    install(root)
    (root / locking.FOLDER / patching.MANIFEST).write_text(content)
    for action in (patching.examine, install, patching.uninstall):
        refused(root, action, r"install\.json: expected the record.*checkout -- ")


def test_a_record_whose_lines_do_not_give_the_old_file_back_is_refused(tmp_path):
    root = checkout_of(tmp_path / "mdm")
    install(root)
    place = root / locking.FOLDER / patching.MANIFEST
    place.write_text(place.read_text().replace("18", "17"))
    refused(root, patching.uninstall, "expected the lines that give the old file back")


def test_another_version_of_this_package_is_told_and_takes_the_lines_out(tmp_path, monkeypatch):
    root = checkout_of(tmp_path / "mdm")
    install(root)
    monkeypatch.setattr(patching, "__version__", "99.0")
    assert "; this is version 99.0" in patching.examine(root).about
    patching.uninstall(root)
    assert content_of(root) == PLAIN


# -- crashes and two at once ------------------------------------------------------------------------------------------


def test_the_file_is_exchanged_and_never_written_into(tmp_path):
    """Who has it open reads on in the old one: there is no moment at which half of it is there."""
    root = checkout_of(tmp_path / "mdm")
    for action in (install, patching.uninstall):
        before = content_of(root)
        with open(root / patching.PATH, "rb") as file:
            action(root)
            assert file.read() == before != content_of(root)


OPERATIONS = ("mkdir", "open", "replace", "fsync", "unlink", "rmdir", "chmod")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("action", [install, patching.uninstall])
def test_an_error_in_any_file_operation_leaves_the_old_or_the_new_file_and_a_status_that_tells(
    tmp_path, monkeypatch, action, error
):
    root = committed(tmp_path / "mdm")
    new = patching.plan(root).after
    for limit in range(100):
        if action is patching.uninstall:
            install(root)
        with monkeypatch.context() as patch:
            failed = fail_after(patch, limit, error)
            try:
                action(root)
            except (HostError, KeyboardInterrupt):
                assert failed
        check_told(root, new)
        lock = root / locking.FOLDER / locking.LOCK
        if lock.exists():
            lock.unlink()
        complete_and_clean(root, new)
        if not failed:
            return
    pytest.fail("more file operations than expected")


def fail_after(patch: pytest.MonkeyPatch, limit: int, error: BaseException) -> list[str]:
    """Let the operation after `limit` ones raise. -> a list that then holds its name."""
    done, failed = [], []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def operation(*given: Any, **named: Any) -> Any:
            if len(done) == limit and not failed:
                failed.append(name)
                raise error
            done.append(name)
            return real(*given, **named)

        return operation

    for name in OPERATIONS:
        patch.setattr(os, name, counted(name))
    return failed


def check_told(root: Path, new: bytes) -> None:
    """The file is the old or the new one, and the status fits it."""
    state, content = patching.examine(root).state, content_of(root)
    assert content in (PLAIN, new)
    assert state != patching.CHANGED
    if state == patching.INSTALLED:
        assert content == new
    if state == patching.NOT_INSTALLED:
        assert content == PLAIN


def complete_and_clean(root: Path, new: bytes) -> None:
    """Whatever the state, an installation can be completed; and taken out, which leaves nothing."""
    if patching.examine(root).state != patching.INSTALLED:
        install(root)
    assert content_of(root) == new
    assert patching.examine(root).state == patching.INSTALLED
    patching.uninstall(root)
    assert content_of(root) == PLAIN
    assert git(root, "status", "--porcelain", "--ignored") == ""
    assert not (root / locking.FOLDER).exists()


def test_an_interrupted_installation_can_also_be_taken_out(tmp_path, monkeypatch):
    root = checkout_of(tmp_path / "mdm")
    with monkeypatch.context() as patch:
        real = patching._write
        patch.setattr(patching, "_write", lambda folder, made: made.state == "pending" and real(folder, made))
        install(root)
    status = patching.examine(root)
    assert (status.state, "with all of our lines" in status.about) == (patching.INTERRUPTED, True)
    patching.uninstall(root)
    assert content_of(root) == PLAIN
    assert not (root / locking.FOLDER).exists()


PROGRAM = """
import sys
from pathlib import Path
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import patching

plan = patching.plan(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    patching.apply(plan)
except HostError as error:
    print("refused", error)
else:
    print("installed")
"""


def test_of_several_installations_at_once_one_is_made(tmp_path):
    root = committed(tmp_path / "mdm")
    new = patching.plan(root).after
    command = [sys.executable, "-c", PROGRAM, str(root)]
    many = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(4)
    ]
    for process in many:
        assert process.stdout.readline() == "ready\n"
    for process in many:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in many]
    assert sorted(answer.split()[0] for answer in answers) == ["installed", "refused", "refused", "refused"]
    assert patching.examine(root).state == patching.INSTALLED
    assert content_of(root) == new


@pytest.mark.parametrize("action", [install, patching.uninstall])
def test_a_lock_is_told_with_its_holder_and_whether_it_is_gone(tmp_path, action):
    root = checkout_of(tmp_path / "mdm")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with locking.locked(root) as folder:
        lock = folder / locking.LOCK
        holder = json.loads(lock.read_text())
        assert holder["process"] == os.getpid()
        refused(root, action, rf"lock: .*process {os.getpid()} on .*may be at work\. When it has ended, delete")
        lock.write_text(json.dumps({**holder, "process": gone.pid}))
        refused(root, action, rf"process {gone.pid} on .* which is gone\. Delete this file")
        lock.write_text(json.dumps({**holder, "process": gone.pid, "host": "elsewhere"}))
        refused(root, action, "may be at work")
        lock.write_text("")
        refused(root, action, "found one, which may be at work")
    assert [place.name for place in root.iterdir()] == ["utils"]
