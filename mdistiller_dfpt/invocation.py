"""How the commands of this process are started, for messages that name another command."""

import sys
from pathlib import Path


def command_line(name: str) -> str:
    """A command as the user of this process would type it: `mdistiller-dfpt train`, or `python tools/train.py`."""
    started = Path(sys.argv[0])
    if started.parent.name == "tools" and started.suffix == ".py":
        return f"python tools/{name.replace('-', '_')}.py"
    if started.name == "__main__.py" and started.parent.name == "mdistiller_dfpt":
        return f"python -m mdistiller_dfpt {name}"
    return f"mdistiller-dfpt {name}"
