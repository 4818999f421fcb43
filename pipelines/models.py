"""The commands `evaluate` and `export` of a model: find it, load it, measure or convert it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs as pafs
import torch

from pairmill import yaml_text
from pairmill.atomic import whole_file
from pairmill.checkpoint_files import require_whole
from pairmill.damage import damaged
from pairmill.errors import InputError, RecipeError
from pairmill.layout import RECIPE_FILE
from pairmill.origin import origin_of
from pairmill.store import Store
from pairmill.towers.architecture import CONFIG_FILE
from pairmill.towers.build import eval_transform
from pairmill.towers.model_folder import Exported, load_exported
from pipelines.recipe import parse_section, read_mapping
from training.checkpoint import EMA_FILE
from training.evaluate.config import EvaluateConfig
from training.evaluate.results import Record, write_results
from training.evaluate.run import evaluate
from training.export import check_exportable, export_open_clip
from training.export_check import Difference, differences, open_clip_side, own_side, transformers_side
from training.export_transformers import export_transformers
from training.intact import RESULT_FILE, read_result
from training.model_card import CARD_FILE, measured


@contextmanager
def model_folder(path: str) -> Iterator[Path]:
    """The local model folder that a path means: itself, or a run's last checkpoint; from an object store, a copy.

    Raises InputError if it is neither.
    """
    store = Store(_model_path(path))
    if isinstance(store.filesystem, pafs.LocalFileSystem):
        yield Path(store.path("")).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="pairmill-") as scratch:
        folder = Path(scratch) / store.uri.rpartition("/")[2]
        pafs.copy_files(store.path(""), str(folder), source_filesystem=store.filesystem)
        yield folder


def _model_path(path: str) -> str:
    store = Store(path)
    if store.read_text(CONFIG_FILE) is not None:
        return path
    try:
        result = read_result(store)
    except ValueError as error:
        raise damaged(store.path(RESULT_FILE), error) from error
    if result is not None:
        return str(result["checkpoint"])
    raise InputError(
        f"a model must be a checkpoint or an export (a folder with {CONFIG_FILE}), or the run_dir of finished training",
        value=path,
        fix="correct the path; for a run that was killed, give one of its folders RUN/NAME/step-…",
    )


def evaluate_model(
    checkpoint: str, overrides: Sequence[str], recipe: Path | None, to: Path | None, *, average: bool = False
) -> list[Record]:
    """Measure a model on the datasets of a recipe's section `evaluate`; records in CLIP_benchmark's form."""
    section = _sections(checkpoint, recipe).get("evaluate", {})
    _model_path(checkpoint)  # a wrong path is reported before a wrong section
    config = parse_section(EvaluateConfig, "evaluate", section, overrides)
    if not config.datasets:
        raise RecipeError(
            "evaluate.datasets must name at least one dataset",
            value="none",
            fix="give evaluate.datasets.NAME.path=…, or --recipe with a section `evaluate`",
        )
    with model_folder(checkpoint) as folder:
        (model, tokenizer, _, description), name = _loaded(folder, average=average), folder.name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    records = evaluate(
        model.to(device),
        tokenizer,
        eval_transform(model),
        config,
        device=device,
        name=description["name"],
        pretrained=name,
    )
    if to is not None:
        write_results(str(to), records)
    return records


def _sections(checkpoint: str, recipe: Path | None) -> dict[str, Any]:
    """Those of a recipe: the one that is given, else the run's; none if it has none."""
    if recipe is not None:
        return read_mapping(recipe)
    store = Store(checkpoint)
    sections = yaml_text.stored_recipe(store)
    folder = origin_of(store.read_text(RECIPE_FILE) or "")
    return sections if folder is None else {"evaluate": _starting_in(folder, sections.get("evaluate", {}))}


def _starting_in(folder: str, section: Any, key: str = "") -> Any:
    """A section `evaluate` whose relative paths start in a folder; those of overrides start where we are."""
    if isinstance(section, dict):
        return {name: _starting_in(folder, inner, name) for name, inner in section.items()}
    if not isinstance(section, str) or "://" in section or key not in ("path", "class_names", "templates"):
        return section
    there = os.path.join(folder, os.path.expanduser(section))
    return there if key == "path" or os.path.isfile(there) else section


class ExportedFolder(NamedTuple):
    """What `export_model` wrote."""

    files: list[str]
    differences: list[Difference]  #: from the model, as measured


def export_model(checkpoint: str, to: Path, form: str, *, average: bool = False) -> ExportedFolder:
    """Write a model in open_clip's hub form or in transformers', and measure there whether it gives the same.

    The model card says what was measured.
    """
    native = form == "open_clip"
    write = export_open_clip if native else export_transformers
    with model_folder(checkpoint) as folder:
        model, tokenizer, _, description = _loaded(folder, average=average)
        check_exportable(description)
        write(model.state_dict(), description, tokenizer, to)
        found = differences(own_side(model, tokenizer), open_clip_side(to) if native else transformers_side(to))
    library = "open_clip_torch" if native else "transformers"
    card = (to / CARD_FILE).read_text(encoding="utf-8") + measured(found, f"{library} {version(library)}")
    with whole_file(to / CARD_FILE) as stream:
        stream.write(card.encode())
    return ExportedFolder(sorted(str(file.relative_to(to)) for file in to.rglob("*") if file.is_file()), found)


def _loaded(folder: Path, *, average: bool) -> Exported:
    """The model of a folder, with its averaged weights if `average`."""
    require_whole(folder)
    found = load_exported(folder)
    if average:
        if not (folder / EMA_FILE).exists():
            raise InputError(
                "--average must be given for a checkpoint with averaged weights only",
                value=f"{folder} has no {EMA_FILE}",
                fix="leave --average out, or train with model.ema_decay",
            )
        shadow = torch.load(folder / EMA_FILE, map_location="cpu", weights_only=True)["shadow"]
        found.model.load_state_dict(found.model.state_dict() | shadow)
    return found
