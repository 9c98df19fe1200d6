"""Tests and measures this project on a GPU: python tools/gpu_acceptance.py --minutes N [--data FOLDER] [KEY VALUE ...].

What it does and what it writes: docs/performance.md, section `On a GPU`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # and not in a process that it starts
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from mdistiller_dfpt.handlers import end_at_once

    end_at_once()
    from tools.acceptance.main import main

    sys.exit(main(None))
