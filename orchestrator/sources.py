"""Where rows come from: a file as it lies, or a data set, copied into the run before its first stage.

The copy makes a run repeat what it did: a resume reads the same rows, without a network, whatever has become
of the data set since.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.data import DataError, Row, Rows, first_faults, read_demonstrations, read_texts
from orchestrator.recipe import Recipe
from orchestrator.recipe_settings import DataSettings
from orchestrator.recipe_stages import PretrainStage, SftStage
from orchestrator.run import Run
from orchestrator.whole_files import replaced

DATA_FIELDS = ("data", "held_out_data", "prompts", "gold_prompts")


def read_rows(
    run: Run, read: Callable[..., Rows], data: str | DataSettings, limit: int | None = None
) -> Rows:
    """The first `limit` rows of a stage's data by one of the readers of orchestrator/data.py.

    Rows that were left out are told in the report.
    """
    rows = rows_of(run.directory, read, data)
    note_left_out(run, data, rows)
    return rows if limit is None else Rows(rows[:limit])


def note_left_out(run: Run, data: str | DataSettings, rows: Rows) -> None:
    """Tells in the report which rows were left out."""
    if rows.left_out:
        named = "; ".join(first_faults(list(rows.left_out)))
        lines = len({fault.partition(":")[0] for fault in rows.left_out})
        run.ledger.note(f"{name_of(data)}: {lines} rows of the wrong shape were left out: {named}")


def rows_of(run_directory: Path, read: Callable[..., Rows], data: str | DataSettings) -> Rows:
    """All rows of a stage's data, as the run in that directory reads them."""
    return read(source_path(data, run_directory), shape=shape_of(data), bad_rows=bad_rows_of(data))


def supervised_rows(run_directory: Path, settings: PretrainStage | SftStage) -> Rows:
    """What a supervised stage trains on: the rows of its data, and behind them those that a stage made.

    `left_out` says what could not be used.
    """
    read = read_demonstrations if settings.loss_on == "assistant" else read_texts
    found = rows_of(run_directory, read, settings.data) if settings.data is not None else Rows()
    rows = Rows(found)
    rows.left_out = found.left_out
    made = settings.demonstrations if isinstance(settings, SftStage) else None
    if made is not None:
        rows += read(demonstrations_path(run_directory, made))
    return rows


def demonstrations_path(run_directory: Path, name: str) -> Path:
    """The file of the demonstrations that a stage makes."""
    return run_directory / "data" / f"{name}.jsonl"


def source_path(data: str | DataSettings, run_directory: Path) -> Path:
    """The file that holds the rows: the recipe's own, or the run's copy of a data set."""
    if isinstance(data, str):
        return Path(data)
    if data.path is not None:
        return Path(data.path)
    place = {name: getattr(data, name) for name in ("dataset", "subset", "split", "revision")}
    key = hashlib.sha256(json.dumps(place, sort_keys=True).encode()).hexdigest()[:16]
    return run_directory / "data" / f"{key}.jsonl"


def shape_of(data: str | DataSettings) -> str:
    """The shape that the recipe says."""
    return "auto" if isinstance(data, str) else data.shape


def bad_rows_of(data: str | DataSettings) -> int:
    """How many faulty rows may be left out."""
    return 0 if isinstance(data, str) else data.bad_rows


def name_of(data: str | DataSettings) -> str:
    """The data as the recipe names it."""
    return data if isinstance(data, str) else str(data.path or data.dataset)


def data_of(recipe: Recipe) -> Iterator[str | DataSettings]:
    """What the stages read, in order."""
    for settings in recipe.stages.values():
        for field in DATA_FIELDS:
            data = getattr(settings, field, None)
            if data is not None:
                yield data


def copy_datasets(recipe: Recipe, run_directory: Path) -> None:
    """Writes each data set that the recipe names as JSONL into the run; what is there already stays."""
    for data in data_of(recipe):
        if isinstance(data, DataSettings) and data.dataset is not None:
            path = source_path(data, run_directory)
            if not path.exists():
                with replaced(path) as file:
                    for row in _loaded(data):
                        file.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")


def _loaded(data: DataSettings) -> Iterator[Row]:
    """The rows of a data set; DataError says why it cannot be had."""
    try:
        import datasets  # an extra of its own: most runs read files
    except ImportError:
        fault = 'a data set needs the datasets package: pip install -e ".[datasets]"'
        raise DataError(Path(str(data.dataset)), [fault]) from None
    datasets.disable_progress_bars()
    try:
        found = _split(datasets, data)
    except Exception as error:  # builders raise whatever their format's reader does
        said = " ".join(str(error).split())[:300]
        raise DataError(
            Path(str(data.dataset)), [f"cannot be loaded as a data set ({type(error).__name__}: {said})"]
        ) from None
    yield from found


def _split(datasets: Any, data: DataSettings) -> Any:
    """The split; a directory of save_to_disk has its own loader, which asks no network."""
    place = Path(str(data.dataset))
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        found = datasets.load_from_disk(str(place))
        return found[data.split] if isinstance(found, dict) else found
    return datasets.load_dataset(data.dataset, data.subset, split=data.split, revision=data.revision)
