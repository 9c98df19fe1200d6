"""Builds the documentation site: python -m tools.pages [serve]."""

import subprocess
import sys

from . import site
from .options import keep_whole


def main() -> int:
    """Write the pages and build the site, strictly; with `serve`, show it at an address that is printed."""
    if faults := site.faults(site.settings()["nav"]):
        print("\n".join(faults), file=sys.stderr)
        return 2
    config = site.write()
    mode = ["serve"] if sys.argv[1:] == ["serve"] else ["build", "--strict", "--clean"]
    code = subprocess.run([sys.executable, "-m", "zensical", *mode, "-f", str(config)], check=False).returncode
    if code == 0 and "build" in mode:
        keep_whole(config.parent / "site")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
