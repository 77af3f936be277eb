"""Where our three lines belong in MDM's utils/parser_util.py by its syntax tree; how they get in and out.

Files are bytes, and a line ends with its newline byte, so that taking our lines out again gives every byte back.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from videomdm_ext.errors import HostError

PATH = "utils/parser_util.py"

ALIAS = "videomdm_ext_installed"
"""Name under which an edited file imports mdm/installed.py."""
MARKER = "# videomdm_ext: remove with videomdm uninstall"
"""End of each of our lines."""
RULES, OPTIONS, GROUP = "apply_rules", "add_diffusion_options", "diffusion"
IMPORT = f"from videomdm_ext.mdm import installed as {ALIAS}"

OURS = re.compile(rf"\s*({re.escape(IMPORT)}|{ALIAS}\.(activate|add_options)\(\w+\))  {MARKER}\s*".encode())

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Insertion:
    """A line of ours without its ending, and how many of the file's own lines are above it."""

    after: int
    text: str


def unix(content: bytes) -> bytes:
    """The content with Windows line endings made Unix ones."""
    return content.replace(b"\r\n", b"\n")


def mixed(content: bytes) -> bool:
    """Whether only some lines end like Windows lines, or a line ends like those of old Macs."""
    windows = content.count(b"\r\n")
    return content.count(b"\r") != windows or windows not in (0, content.count(b"\n"))


def insert(content: bytes, insertions: Sequence[Insertion]) -> bytes:
    """The content with our lines, each ended like the line above it."""
    lines = content.split(b"\n")
    for insertion in reversed(insertions):
        if insertion.after > len(lines):
            raise HostError(f"expected {insertion.after} lines or more, found {len(lines)}")
        ending = b"\r" if lines[insertion.after - 1].endswith(b"\r") else b""
        lines.insert(insertion.after, insertion.text.encode() + ending)
    return b"\n".join(lines)


def numbers(insertions: Sequence[Insertion]) -> tuple[int, ...]:
    """Line numbers of our lines once they are in, from 1."""
    return tuple(insertion.after + order for order, insertion in enumerate(insertions, 1))


def remove(content: bytes, taken: Sequence[int]) -> bytes:
    """The content without these lines."""
    lines = content.split(b"\n")
    return b"\n".join(line for number, line in enumerate(lines, 1) if number not in taken)


def ours(content: bytes) -> tuple[int, ...]:
    """Numbers of the lines that are ours, whole and unchanged."""
    lines = content.split(b"\n")
    return tuple(number for number, line in enumerate(lines, 1) if OURS.fullmatch(line))


def find(content: bytes) -> tuple[Insertion, ...]:
    """The three places by syntax tree: after the imports, before the rules return, after the group's options."""
    if b"\r" in unix(content):
        raise HostError("expected lines that end with a newline, found a lone carriage return")
    tree, lines = parse(content), content.split(b"\n")
    rules, options = _function(tree, RULES), _function(tree, OPTIONS)
    final, group = _result(rules), _group(options)
    found = [
        Insertion(_imports_end(tree), f"{IMPORT}  {MARKER}"),
        Insertion(_end(rules, lines), f"{_indentation(rules, lines)}{ALIAS}.activate({final})  {MARKER}"),
        Insertion(_end(options, lines), f"{_indentation(options, lines)}{ALIAS}.add_options({group})  {MARKER}"),
    ]
    return tuple(sorted(found, key=lambda insertion: insertion.after))


def verify(before: bytes, after: bytes, insertions: Sequence[Insertion]) -> None:
    """Refuse `after` unless it is the program `before` with our statements at these lines, one a block."""
    tree, expected = parse(after), parse(before)
    added = dict(zip(numbers(insertions), insertions, strict=True))
    rules, options = _function(tree, RULES).body, _function(tree, OPTIONS).body
    blocks = ((tree.body, len(tree.body)), (rules, len(rules) - 1), (options, len(options)))
    right = [_take(block, block[:end], added) for block, end in blocks]
    if not all(right) or len(added) != len(right) or ast.dump(tree) != ast.dump(expected):
        raise HostError("with our lines, the file would not be the same program with three statements more")


def _take(block: list[ast.stmt], allowed: Sequence[ast.stmt], added: Mapping[int, Insertion]) -> bool:
    """Take our statement out of a block. -> whether it was the only one, as it should read, among those allowed."""
    taken = [statement for statement in block if statement.lineno in added]
    if len(taken) != 1 or taken[0] not in allowed or ast.dump(taken[0]) != _dump(added[taken[0].lineno].text):
        return False
    block.remove(taken[0])
    return True


def parse(content: bytes) -> ast.Module:
    """The syntax tree of a file that Python can compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(content, "utils/parser_util.py", "exec", dont_inherit=True)
            return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise HostError(f"expected a file that this Python can read, found: {error}") from error


def _dump(text: str) -> str:
    return ast.dump(ast.parse(text.strip()).body[0])


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    """The one plain function of this name, at the top level and nowhere bound again."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == name]
    if not found:
        raise HostError(f"expected a function {name}, found none")
    if len(found) > 1 or any(_binds(node, name) for node in ast.walk(tree)):
        raise HostError(f"expected the name {name} to be given once, found it given several times")
    (function,) = found
    if not isinstance(function, ast.FunctionDef) or function not in tree.body or function.decorator_list:
        raise HostError(f"expected {name} to be a plain function at the top level, found it nested or decorated")
    if any(_star(node) and node.lineno > function.lineno for node in tree.body):
        raise HostError(f"expected {name} to be what the file defines, found an import of * below it")
    return function


def _binds(node: ast.AST, name: str) -> bool:
    """Whether the node gives a name a value otherwise than by def or class."""
    if isinstance(node, ast.Name):
        return node.id == name and not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.alias):
        return (node.asname or node.name.split(".")[0]) == name
    if isinstance(node, ast.arg):
        return node.arg == name
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return node.name == name
    return isinstance(node, ast.MatchMapping) and node.rest == name


def _star(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)


def _imports_end(tree: ast.Module) -> int:
    """Last line of the first block of imports at the top level, before which only a docstring may stand."""
    body = tree.body[1:] if ast.get_docstring(tree, clean=False) is not None else tree.body
    end = 0
    for statement in body:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            break
        end = statement.end_lineno or 0
    if not end:
        raise HostError("expected imports at the beginning of the file, found none")
    return end


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below this one, without what belongs to functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            yield from _own(child)


def _last(function: ast.FunctionDef) -> ast.stmt:
    """The last statement; the function has no other return than that, and is no generator."""
    last = function.body[-1]
    ends = (ast.Return, ast.Yield, ast.YieldFrom)
    if any(isinstance(node, ends) and node is not last for node in _own(function)) or isinstance(last, ast.Raise):
        raise HostError(f"expected {function.name} to end in one place, found several ends")
    return last


def _result(rules: ast.FunctionDef) -> str:
    """The parameter that the rules return at their end."""
    last, names = _last(rules), {argument.arg for argument in rules.args.posonlyargs + rules.args.args}
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Name) or last.value.id not in names:
        raise HostError(f"expected {rules.name} to end with the return of its parameter, found otherwise")
    return last.value.id


def _group(options: ast.FunctionDef) -> str:
    """The variable that holds the group titled `diffusion`, made of a parameter and given once."""
    names = {argument.arg for argument in options.args.posonlyargs + options.args.args}
    found = [_assigned(statement, names) for statement in options.body]
    held = [name for name in found if name is not None]
    if len(held) != 1 or sum(_binds(node, held[0]) for node in ast.walk(options)) != 1:
        raise HostError(f"expected {options.name} to make the group {GROUP!r} once, as a variable, found otherwise")
    return held[0]


def _assigned(statement: ast.stmt, parsers: set[str]) -> str | None:
    """X of a statement `X = parser.add_argument_group('diffusion')`."""
    match statement:
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id=parser), attr="add_argument_group"),
                args=[ast.Constant(value=title), *_],
            ),
        ) if title == GROUP and parser in parsers:
            return str(name)
    return None


def _end(function: ast.FunctionDef, lines: Sequence[bytes]) -> int:
    """How many lines are above the function's end: above its final return, or up to its last statement's last."""
    last = _last(function)
    if not isinstance(last, ast.Return):
        return last.end_lineno or last.lineno
    _before(last, lines)
    return last.lineno - 1


def _indentation(function: ast.FunctionDef, lines: Sequence[bytes]) -> str:
    return _before(function.body[0], lines).decode()


def _before(statement: ast.stmt, lines: Sequence[bytes]) -> bytes:
    """The white space in front of a statement that begins its line."""
    space = lines[statement.lineno - 1][: statement.col_offset]
    if space.strip(b" \t"):
        raise HostError(f"expected line {statement.lineno} to begin with a statement of its own, found it shared")
    return space
