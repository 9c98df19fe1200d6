"""`python -m mdistiller_dfpt.plugin CHECKOUT --cfg FILE [KEY VALUE ...]`: our methods in mdistiller's own script."""

import sys

from .interop.run_checkout import run_checkout
from .launch.cli import guarded

if __name__ == "__main__":
    sys.exit(guarded(run_checkout, None))
