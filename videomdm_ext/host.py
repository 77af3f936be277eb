"""What the lines of version 0.1 in an MDM checkout import, `from videomdm_ext.host import installed`: they must go."""

from typing import Never


def __getattr__(name: str) -> Never:
    if name != "installed":
        raise AttributeError(name)
    raise SystemExit(
        "error: utils/parser_util.py: expected the line of this version of videomdm_ext, found those of an earlier "
        "one. Renew them with videomdm install --mdm . or take them out with videomdm uninstall --mdm ."
    )
