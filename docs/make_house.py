"""Write the diagram of the package's rooms into CONTRIBUTING.md, from what their modules import."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
MARKS = "<!-- rooms: written by docs/make_house.py -->\n", "<!-- end of rooms -->\n"


def rooms() -> list[str]:
    """The rooms from top to bottom, as the contract of import-linter has them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        (layers,) = [c["layers"] for c in tomllib.load(file)["tool"]["importlinter"]["contracts"] if "layers" in c]
    return [room for layer in layers for room in layer.split(" | ")]


def imports(known: list[str]) -> set[tuple[str, str]]:
    """Which room imports which other; imports inside functions count."""
    found: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "videomdm_ext").rglob("*.py")):
        room = path.relative_to(ROOT / "videomdm_ext").parts[0].removesuffix(".py")
        if room not in known or "standin" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                package, _, rest = name.partition(".")
                other = rest.partition(".")[0]
                if package == "videomdm_ext" and other in known and other != room:
                    found.add((room, other))
    return found


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges without those that a longer way says too."""
    below: dict[str, set[str]] = {}

    def reach(room: str) -> set[str]:
        if room not in below:
            nearest = {other for one, other in edges if one == room}
            below[room] = nearest.union(*map(reach, nearest))
        return below[room]

    return {(a, b) for a, b in edges if not any(b in reach(c) for one, c in edges if one == a and c != b)}


def diagram() -> str:
    """The block of mermaid between the marks."""
    order = rooms()
    edges = sorted(reduced(imports(order)), key=lambda edge: [order.index(room) for room in edge])
    return "\n".join(["```mermaid", "flowchart TD", *(f"    {a} --> {b}" for a, b in edges), "```", ""])


def document() -> str:
    """CONTRIBUTING.md with the diagram as it is now."""
    start, end = (re.escape(mark) for mark in MARKS)
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(f"(?<={start}).*?(?={end})", lambda _: diagram(), text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
