"""docs/library.md as printed: its blocks run in order in one program, with Lightning and datasets of Hugging Face."""

import re

import pytest

from .test_house import ROOT

PAGE = (ROOT / "docs/library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the other libraries
def test_every_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"block {number} of docs/library.md", "exec"), names)
    out = capsys.readouterr().out
    assert names["trainer"].current_epoch == 2, "Lightning trained two epochs"
    assert 100 / 10 < float(names["trainer"].callback_metrics["top1"]) <= 100
    assert "364 test images" in out
    assert "own/Sequential ('digit 0', 'digit 1')" in out
    assert re.search(r"Prediction\(image='', classes=\('\d', '\d'\)", out)
