"""Run a program of the host with this package's options: python -m videomdm_ext.run [--mdm PATH] MODULE ARGS..."""

import argparse
import sys
from collections.abc import Sequence

from videomdm_ext.errors import message_of
from videomdm_ext.mdm import checkout, hook


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 after an expected error, 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="python -m videomdm_ext.run", description=__doc__)
    parser.add_argument("--mdm", metavar="PATH", help="MDM checkout; 'auto' searches; without it the stand-in runs.")
    parser.add_argument("module", help="For example train.train_mdm or sample.generate.")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="Passed on; MODULE --help lists them.")
    options = parser.parse_args(argv)
    try:
        hook.run(checkout.choose(options.mdm), options.module, options.args)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
