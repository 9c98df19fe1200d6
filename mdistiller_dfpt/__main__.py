"""`python -m mdistiller_dfpt COMMAND ...`, the same as `mdistiller-dfpt COMMAND ...`."""

import sys

from .commands.main import main

if __name__ == "__main__":
    sys.exit(main())
