"""The studies of a search, one a config, in Optuna's journal: a file to which each step is appended.

A trial's values depend on its number and the trials before it alone, so a search that was interrupted goes on as if it
had not been.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.effect import differing
from ..errors import CheckpointError, ConfigError, kind_and_message
from ..escape import one_line
from ..json_form import ANY, fault_of
from ..regular_files import opened_to_change, parse_json, read_bytes
from .space import Dimension, as_word

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

JOURNAL = "journal.log"
PRUNERS = ("median", "halving", "none")
AT_RANDOM = 5
"""The first trials of a config: its own values, then random ones; the pruner and the sampler begin after them."""
ASKED = "asked"
OF_STUDY = {
    "asked?": {"config": {str: ANY}, "space": ANY, "seeds": ANY, "pruner": ANY},
    "facts?": {"content": ANY, "teacher": [{"name": str}], "code": ANY},
}
OF_TRIAL = {
    "values": ([float], None), "by_epoch": {str: float}, "by_seed?": {str: float}, "seconds?": float, "reason?": str,
}  # fmt: skip
COMPLETE = {**OF_TRIAL, "values": [float], "by_seed": {str: float}}
"""What a search writes of a study and of a trial."""


def check_installed() -> None:
    """ConfigError if Optuna or matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
        import optuna
    except ModuleNotFoundError as e:
        raise ConfigError(f'a search needs {e.name}: pip install "mdistiller_dfpt[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_journal(folder: Path) -> "JournalStorage":
    """The journal in a folder that this process has locked, made if there is none; CheckpointError if it is damaged."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    class Journal(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with _writing(file):
                super().append_logs(logs)

    file = folder / JOURNAL
    with _writing(file):
        file.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # of a process that was killed while it wrote
        with opened_to_change(file) as journal:  # which is no link
            journal.truncate(_whole_size(file))
        try:
            storage = JournalStorage(Journal(str(file)))
            fault = _fault_of(storage)
        except OSError:
            raise
        except Exception as e:  # Optuna raises many types for what it did not write
            fault = kind_and_message(e)
    if fault:
        raise CheckpointError(f"{file}: cannot be read ({one_line(fault)}); give another --out")
    return storage


def _fault_of(storage: "JournalStorage") -> str | None:
    """What of a journal a search does not write; None if there is nothing."""
    for study in storage.get_all_studies():
        if fault := fault_of(study.user_attrs, OF_STUDY, study.study_name):
            return fault
        for trial in storage.get_all_trials(study._study_id):
            form = COMPLETE if trial.state.name == "COMPLETE" else OF_TRIAL
            steps = {str(step): value for step, value in trial.intermediate_values.items()}
            record = {"values": trial.values, "by_epoch": steps, **trial.user_attrs}
            if fault := fault_of(record, form, f"{study.study_name} trial {trial.number}"):
                return fault
    return None


def _whole_size(file: Path) -> int:
    """The bytes of a journal up to its last line of JSON: a killed process or a power loss may leave part of one."""
    lines = read_bytes(file).splitlines(keepends=True)
    while lines and not (lines[-1].endswith(b"\n") and _is_json(lines[-1])):
        lines.pop()
    return sum(map(len, lines))


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line.decode())
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turns a failed write into a one-line error."""
    try:
        yield
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be written ({e.strerror}); once it can be, repeat the same command to go"
                              " on") from None  # fmt: skip


def pruner_of(name: str, epochs: int) -> "BasePruner":
    """The pruner of this name for runs of so many epochs."""
    from optuna import pruners

    if name == "median":  # early epochs tell little, least of all before the learning rate falls
        return pruners.MedianPruner(n_startup_trials=AT_RANDOM, n_warmup_steps=math.ceil(epochs / 2))
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=math.ceil(epochs / 9), reduction_factor=3)
    return pruners.NopPruner()


def open_study(
    storage: "JournalStorage", name: str, pruner: "BasePruner", asked: Mapping[str, Any], own: Mapping[str, Any]
) -> "Study":
    """The study of a config, made if there is none; its first trial has the `own` values of the config, as coded.

    `asked`: what trials of one study have in common; ConfigError if the study in the journal has it otherwise.
    """
    import optuna

    study = optuna.create_study(
        study_name=name, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
    )
    written = json.loads(json.dumps(asked))
    if other := _differences(written, study.user_attrs.get(ASKED, written)):
        raise ConfigError(f"{name}: the search in this folder is another one: {'; '.join(other)}; give another --out")
    for trial in study.trials:
        if trial.state.is_finished() and {*trial.params} != {*asked["space"]}:
            raise CheckpointError(f"{JOURNAL}: {name} trial {trial.number} is not of this space; give another --out")
    if ASKED not in study.user_attrs or not study.trials:
        study.set_user_attr(ASKED, written)
    if not study.trials and own:
        study.enqueue_trial(dict(own))
    return study


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """One phrase for each way in which what is asked for is not what was asked for."""
    found = differing(now["config"], before["config"], "now", "then")
    for key in ("space", "seeds", "pruner"):
        if now[key] != before[key]:
            found.append(f"{key} {now[key]} now, {before[key]} then")
    return found


def names_of_studies(storage: "JournalStorage") -> list[str]:
    """The studies in a journal."""
    return [study.study_name for study in storage.get_all_studies()]


def interrupted(study: "Study") -> int | None:
    """The number of the trial that has begun and not ended, as one search at a time has the journal; None if none."""
    from optuna.trial import TrialState

    return next((t.number for t in study.trials if t.state == TrialState.RUNNING), None)


def next_trial(study: "Study", storage: "JournalStorage", space: Sequence[Dimension]) -> "Trial":
    """The trial that was interrupted, with its values, or else a new one."""
    import optuna

    number = interrupted(study)
    if number is None:
        known = sum(t.state != optuna.trial.TrialState.WAITING for t in study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=known, n_startup_trials=AT_RANDOM)
        trial = study.ask()
    else:
        study.sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=AT_RANDOM)
        study_id = storage.get_study_id_from_name(study.study_name)
        # The one way to go on with a trial that another process began
        trial = optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))
    try:
        for d in space:
            if d.kind == "float":
                trial.suggest_float(d.key, d.values[0], d.values[1], log=d.log)
            elif d.kind == "int":
                trial.suggest_int(d.key, d.values[0], d.values[1], log=d.log)
            else:
                trial.suggest_categorical(d.key, [as_word(value) for value in d.values])
    except (ValueError, TypeError, KeyError) as e:
        raise CheckpointError(f"{JOURNAL}: {study.study_name} trial {trial.number} is not of this space"
                              f" ({one_line(str(e))}); give another --out") from None  # fmt: skip
    return trial


def values_of(trial: "Trial | FrozenTrial", space: Sequence[Dimension]) -> dict[str, Any]:
    """The values of a trial, as the config has them."""
    return {d.key: d.decoded(trial.params[d.key]) for d in space}
