"""`python -m tether.worldmodel.conformance --world-model mine:MineConfig [pytest's own options]`."""

import os
import sys

from tether.worldmodel.conformance import ENVIRONMENT

INSTALL = 'pip install -e ".[test]"'


def main(arguments: list[str]) -> int:
    """Runs the rules, and nothing of the project that one stands in. Returns pytest's exit status, 2 without pytest."""
    try:
        import pytest
    except ImportError:
        print(f"expected pytest, which runs the rules, found none: {INSTALL}", file=sys.stderr)
        return 2
    os.environ.update(ENVIRONMENT | dict(os.environ))
    ours = ["-p", "tether.worldmodel.conformance.plugin", "--pyargs", "tether.worldmodel.conformance"]
    alone = ["--noconftest", "-o", "addopts=", "-p", "no:cacheprovider"]
    return int(pytest.main([*ours, *alone, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
