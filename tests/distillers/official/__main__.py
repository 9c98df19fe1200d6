"""Measures the differences to the authors' values and writes `results/official_losses.json`."""

import json

from .cases import RECORD, measured

RECORD.write_text(json.dumps(measured(), indent=1) + "\n")
