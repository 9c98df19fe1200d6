"""The start of a process: `python -m mdistiller_dfpt COMMAND ...`, and the console script `mdistiller-dfpt`."""

import sys

from .handlers import end_at_once

end_at_once()  # before anything else is imported: from here on a signal is one line

from .commands.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
