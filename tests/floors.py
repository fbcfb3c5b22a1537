"""The oldest release of each package that pyproject.toml admits, as constraints for pip.

python tests/floors.py [EXTRA...]
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def floors(extras):
    """A line for each dependency, and those of `extras`; one without a floor is an error."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    needed = list(project["dependencies"])
    for extra in extras:
        needed += project["optional-dependencies"][extra]
    for one in needed:
        found = re.fullmatch(r"([\w-]+)>=([\d.]+)", one)
        if found is None:
            raise SystemExit(f"pyproject.toml must give {one!r} a floor: {one.split('[')[0]}>=...")
        yield "==".join(found.groups())


if __name__ == "__main__":
    print("\n".join(floors(sys.argv[1:])))
