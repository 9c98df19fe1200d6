"""The losses of this package on the inputs of their authors' values; `python -m tests.distillers.official` records."""

from importlib import import_module
from pathlib import Path

for _file in sorted(Path(__file__).parent.glob("[!_]*.py")):
    import_module(f"{__name__}.{_file.stem}")
