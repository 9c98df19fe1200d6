"""Tables defined by yaml files: rows of methods, columns of pairs, published values with sources, cells naming runs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config.compose import CONFIGS, is_config
from ..config.limits import as_directory
from ..config.load import name_from
from ..config.yaml_reader import read_yaml
from ..errors import ConfigError
from ..trusted_files import check_trust

METRICS = ("last", "best", "mean_last_5")


class Published(NamedTuple):
    """A published value and its source; `others`: those that other sources give for the same."""

    value: float
    source: str
    others: tuple["Published", ...] = ()

    def each(self) -> "tuple[Published, ...]":
        """This one, then the others."""
        return (self, *self.others)


class Cell(NamedTuple):
    """A method on a pair: the config that trains it, its overrides, and the folder of its runs."""

    row: str
    column: str
    config: Path
    overrides: tuple[str, ...]
    folder: str  # below LOG.PREFIX
    published: Published | None


class TableSpec(NamedTuple):
    """A table: title, titles of rows and columns, cells by (row, column), metric and reference."""

    title: str
    metric: str
    reference: str
    seeds: tuple[int, ...]
    rows: dict[str, str]
    columns: dict[str, str]
    sources: dict[str, str]
    cells: dict[tuple[str, str], Cell]


def load_table(path: Path) -> TableSpec:
    """The table defined by a yaml file; ConfigError naming file and key for any error.

    Keys: title; configs (folder of the configs, relative to the file, or packaged); metric; seeds; reference (the row
    that others are compared with); sources {key: text}; columns {pair: {title, ...}}; rows {key: {title, config,
    overrides, published: {pair: [value, source]}}}, or a list of such pairs where sources differ. `config` is a
    path below `configs` without .yaml, in which `{row}`, `{pair}` and the entries of the column are substituted;
    default: `{row}/{pair}`.
    """
    data, _ = read_yaml(path)
    try:
        return _spec(path, data)
    except KeyError as e:
        raise ConfigError(f"{path}: {e.args[0]} is missing") from None
    except (TypeError, AttributeError, ValueError, IndexError, OverflowError, OSError) as e:
        raise ConfigError(f"{path}: not a table ({e})") from None


def _spec(path: Path, data: Mapping[str, Any]) -> TableSpec:
    unknown = set(data) - {"title", "configs", "metric", "seeds", "reference", "sources", "columns", "rows"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {sorted(unknown)[0]}")
    root, sources = _folder_of_configs(path, data["configs"]), data.get("sources", {})
    columns, rows = data["columns"], data["rows"]
    cells = {}
    for row, entry in rows.items():
        check_trust(path, entry.get("overrides", {}))
        for pair in entry.get("published", {}):
            if pair not in columns:
                raise ConfigError(f"{path}: rows.{row}.published names {pair}, which is not a column")
        for pair, column in columns.items():
            if pair in entry.get("without", []):
                continue
            words = {key: value for key, value in column.items() if key != "title"}
            name = _filled(entry.get("config", "{row}/{pair}"), {**words, "row": row, "pair": pair})
            config = root / f"{name}.yaml"
            if not is_config(config):
                raise ConfigError(f"{path}: rows.{row} names {config}, which does not exist")
            overrides = tuple(str(w) for item in entry.get("overrides", {}).items() for w in item)
            tag = f"/{as_directory(row)}" if overrides else ""
            cells[row, pair] = Cell(
                row, pair, config, (*overrides, "EXPERIMENT.TAG", row) if overrides else (),
                name_from(config) + tag, _published(path, sources, row, pair, entry.get("published", {}).get(pair)),
            )  # fmt: skip
    if data["metric"] not in METRICS:
        raise ConfigError(f"{path}: metric is {data['metric']}; it must be one of {', '.join(METRICS)}")
    if data["reference"] not in rows:
        raise ConfigError(f"{path}: reference is {data['reference']}, which is not a row")
    seeds = tuple(int(s) for s in data["seeds"])
    return TableSpec(
        str(data["title"]), data["metric"], data["reference"], seeds, _titles(rows), _titles(columns), dict(sources),
        cells,
    )  # fmt: skip


def _folder_of_configs(path: Path, name: str) -> Path:
    """The folder that a table names: relative to it, or like those of `--cfg` one of the packaged configs."""
    beside, packaged = path.parent / name, CONFIGS / name
    return packaged if not beside.is_dir() and ".." not in Path(name).parts and packaged.is_dir() else beside


def _filled(text: str, words: Mapping[str, Any]) -> str:
    """The text with `{word}` replaced; KeyError if there is no such word."""
    return re.sub(r"\{(\w+)\}", lambda found: str(words[found[1]]), text)


def _titles(part: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(entry["title"]) for key, entry in part.items()}


def _published(path: Path, sources: Mapping[str, str], row: str, pair: str, entry: list | None) -> Published | None:
    if entry is None:
        return None
    found = []
    for value, source in entry if isinstance(entry[0], list) else [entry]:
        if source not in sources:
            raise ConfigError(
                f"{path}: rows.{row}.published.{pair} has the source {source}, which `sources` does not name"
            )
        found.append(Published(float(value), source))
    return found[0]._replace(others=tuple(found[1:]))
