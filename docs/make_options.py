"""Write docs/options.md: every verb with its options, from the classes that the verbs themselves parse.

    python docs/make_options.py

A test fails while the file is another than this would write.
"""

import ast
import dataclasses
import inspect
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

import tyro

from videomdm_ext import plugins
from videomdm_ext.cli.main import VERBS
from videomdm_ext.config import Fairness, Source, Speed, Supervision

PLACE = Path(__file__).parent / "options.md"
HEAD = """# Every option

Made by `python docs/make_options.py` from the program itself; do not edit. `videomdm VERB --help` prints the same.
"""
HOST_VERBS = {
    "train": "`videomdm train [--mdm PATH] [--arm NAME] [--from CHECKPOINT] [--rounds N] [--lifter NAME] OPTIONS`: the "
    "options of the host's `train.train_mdm`, and [ours](#options-of-training-runs). `--mdm` names a checkout, auto "
    "searches for one, and without it the stand-in trains; "
    "`--arm` is a name in configs/arms or a YAML file, and options behind it win. "
    "`--rounds` shares the steps out over rounds: after each but the last the run lifts its clips, and these are the "
    "next round's teachers ([method](method.md#5a-rounds-refreshed-teachers)). `--from` begins with the weights of a "
    "checkpoint ([recipe](mdm.md#from-a-checkpoint-train---from)). `--lifter` names one whose teachers the set of "
    "`--clips` has ([how](data.md#a-second-lifter-for-a-finished-set)).",
    "run": "`videomdm run [--mdm PATH] MODULE OPTIONS`: any program of the host, with its own options and "
    "[ours](#options-of-training-runs). `videomdm run MODULE --help` prints them.",
}
"""Verbs whose options are the host's."""
MORE_VERBS = {"bench --protocol mdm": ("cli.benchmarking", "Protocol")}
"""Commands with options of their own that are no verbs."""
CONFIGS = {
    Supervision: "What supervises a run, stored with it. Formulas: [method.md](method.md).",
    Source: "What the host is given to train on.",
    Fairness: "What makes runs comparable.",
    Speed: "Savings that change the last bits of a result.",
}
KINDS = {bool: "switch", int: "whole number", float: "number", str: "text", Path: "path"}


class ParsedError(Exception):
    """Raised in place of parsing, with the class that a verb parses its words into."""


def document() -> str:
    """The whole file."""
    parts = [HEAD]
    for verb, (module, function, about) in VERBS.items():
        intro = HOST_VERBS.get(verb) or about
        parts.append(f"## `videomdm {verb}`\n\n{intro}\n")
        parts += [] if verb in HOST_VERBS else [table(verb_rows(arguments_of(module, function)))]
    for command, (module, function) in MORE_VERBS.items():
        kind = arguments_of(module, function)
        parts.append(f"## `videomdm {command}`\n\n{inspect.cleandoc(kind.__doc__ or '')}\n\n{table(verb_rows(kind))}")
    parts.append("## Options of training runs\n\nFor `videomdm train`, `videomdm run` and an installed checkout.\n")
    parts += [f"### {about}\n\n{config_table(kind)}" for kind, about in CONFIGS.items()]
    parts.append(importer_options())
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


def arguments_of(module: str, function: str) -> type[Any]:
    """The dataclass that a verb is or parses, found by calling the verb and stopping it where it begins to parse."""

    def stop(arguments: type[Any], **others: Any) -> None:
        raise ParsedError(arguments)

    verb: Any = getattr(import_module(f"videomdm_ext.{module}"), function)
    if isinstance(verb, type):
        return verb
    with mock.patch.object(tyro, "cli", stop):
        try:
            verb([])
        except ParsedError as parsed:
            return parsed.args[0]
    raise TypeError(f"{module}.{function}: expected a verb that calls console.parse first, found none")


def verb_rows(kind: type[Any], given: Any = dataclasses.MISSING) -> Iterator[tuple[str, str, str, str]]:
    """A row for each option; the fields of a dataclass in it are options too, with the defaults of `given`."""
    helps, hints = docstrings(kind), get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        hint, value = hints[item.name], getattr(given, item.name, item.default)
        if dataclasses.is_dataclass(hint):
            yield from verb_rows(hint, value)
        elif tyro.conf.Fixed not in get_args(hint):
            yield flag(item.name, hint, value), values(hint), default(value), helps[item.name]


def flag(name: str, hint: Any, value: Any) -> str:
    """`--name`, with other names for it; `NAME` where it has none because its place tells it."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if tyro.conf.Positional in marks:
        return f"`{name.upper()}`"
    name = next((mark.name for mark in marks if getattr(mark, "name", None)), name).replace("_", "-")
    aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
    return ", ".join(f"`{word}`" for word in [f"--no-{name}" if value is True else f"--{name}", *aliases])


def values(hint: Any) -> str:
    """What may stand behind an option, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return values(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"{values(parts[0])}, one or more"
    if origin is UnionType:
        return values(next(part for part in parts if part is not type(None)))
    return KINDS[hint]


def default(value: Any) -> str:
    """A field's default as it would be typed."""
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, bool):
        return ""
    words = value if isinstance(value, tuple) else [value]
    text = " ".join(word.as_posix() if isinstance(word, Path) else str(word) for word in words)
    return f"`{text}`" if text and value is not None else ""


def docstrings(kind: type[Any]) -> Mapping[str, str]:
    """The text below each field of a class, and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = inspect.cleandoc(str(text.value.value))
    return found


def config_table(kind: type[Any]) -> str:
    """A table of a configuration; a switch also has its --no- form."""
    rows = []
    for item in dataclasses.fields(kind):
        choices = ", ".join(f"`{choice}`" for choice in item.metadata["choices"])
        shown = f"{item.default:.6g}" if type(item.default) is float else str(item.default)
        name = f"`--{item.name}`, `--no-{item.name}`" if type(item.default) is bool else f"`--{item.name}`"
        text = "" if shown in ("", "False") else f"`{shown}`"
        rows.append((name, choices or KINDS[type(item.default)], text, item.metadata["help"]))
    return table(rows)


def importer_options() -> str:
    """What --option of `data import` takes for each kind of source and each lifter."""
    with mock.patch.dict(os.environ, {"VIDEOMDM_PLUGINS": ""}):
        manager = plugins.create_manager()
    rows = list(_extras("", plugins.collect(manager, "datasets"), "extras"))
    rows += _extras("--lifter ", plugins.collect(manager, "lifters"), "options")
    head = "## `--option KEY=VALUE` of `videomdm data import`\n\nA lifter's keys may be written `lifter.KEY=VALUE`.\n\n"
    return head + table(rows, ("kind", "key", "what it is"))


def _extras(prefix: str, things: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, str]]:
    for name, thing in sorted(things.items()):
        for key, about in (getattr(thing, where, None) or {}).items():
            yield f"`{prefix}{name}`", f"`{key}`", about


def table(rows: Iterable[Sequence[str]], titles: Sequence[str] = ("option", "value", "default", "what it does")) -> str:
    """Rows as a table of Markdown; nothing for no rows."""
    lines = [list(titles), ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines) if lines[2:] else ""


def _cell(text: str) -> str:
    """A cell on one line, without characters that mean something to Markdown's tables or to HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PLACE.write_text(document(), encoding="utf-8")
    print(f"{PLACE}: written")
