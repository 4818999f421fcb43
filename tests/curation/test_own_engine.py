"""A caption engine that is defined here and registered by one line does all that a built-in one does."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageStat
from pydantic import Field

from curation.engines import CAPTION_ENGINES, CaptionRequest, Failure, Generated
from curation.engines.model_files import Checkpoint
from pairmill.config import EXECUTION
from pairmill.errors import PairmillError, RecipeError
from pairmill.registry import NamedConfig
from pairmill.registry_docs import render
from pairmill.store import Store
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe


class BrightnessConfig(NamedConfig):
    bright_from: float = Field(200.0, ge=0, le=255, description="mean of all channels from which a picture is bright")
    asked: str = Field("asked", description="folder with a file for each call", json_schema_extra=EXECUTION)


class Brightness:
    """Tells bright pictures from dark ones."""

    Config, rows_per_call = BrightnessConfig, 16

    def __init__(self, config: BrightnessConfig) -> None:
        self._config = config

    @classmethod
    def check(cls, config: BrightnessConfig, section: Any) -> Checkpoint:
        return Checkpoint(source=section.model, commit=None, revision="light 1")

    @classmethod
    def load(cls, config: BrightnessConfig, section: Any, checkpoint: Checkpoint) -> Brightness:
        if section.temperature:
            raise RecipeError("brightness must not be sampled", value=section.temperature, fix="set temperature to 0")
        return cls(config)

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        folder = Path(self._config.asked)
        (folder / str(len(list(folder.iterdir())))).touch()
        return [Generated(self._text(request), -0.125) for request in requests]

    def _text(self, request: CaptionRequest) -> str:
        mean = sum(ImageStat.Stat(request.image).mean) / 3
        return f"{request.prompt}: {'bright' if mean >= self._config.bright_from else 'dark'}"


class Run(NamedTuple):
    recipe: CurateRecipe
    store: Store
    report: dict[str, Any]
    asked: Path


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # Ray's workers cannot import the tests
    with CAPTION_ENGINES.extended("brightness", Brightness):
        yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, registered: None, local_ray: None) -> Run:
    folder = tmp_path_factory.mktemp("own-engine")
    (asked := folder / "asked").mkdir()
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        few = rows.filter(pc.is_in(rows["case"], pa.array(["plain", "missing"]))).slice(0, 40)
        pq.write_table(few, folder / "urls.parquet")
        overrides = [f"run_dir={folder / 'run'}", f"input.path={folder / 'urls.parquet'}", "shards.rows_per_shard=20"]
        engine = f"recaption.engine={{name: brightness, asked: '{asked}'}}"
        model = ["recaption.model=light", "recaption.prompts={long: light}", "translate.enabled=false"]
        recipe = load_recipe(RECIPE, [*overrides, engine, *model, "pack.prefer=[long]"])
        return Run(recipe, Store(recipe.run_dir), curate(recipe), asked)


def changed(recipe: CurateRecipe, **engine: Any) -> CurateRecipe:
    data = recipe.model_dump(mode="json")
    data["recaption"]["engine"] |= engine
    return CurateRecipe.checked(data)


def tables(store: Store) -> dict[str, Any]:
    return {name: store.index(name) for name in ("images", "columns/filter", "selections/default", "columns/recaption")}


def pairs(store: Store) -> list[dict[str, Any]]:
    return list(pq.read_table(sorted(Path(store.path("pairs")).glob("part-*.parquet"))).to_pylist())


def brightness(image: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), float).mean())


@pytest.mark.ray
def test_it_writes_the_captions_of_a_run(run: Run) -> None:
    stages = {stage["name"]: stage for stage in run.report["stages"]}
    kept = run.report["rows_kept"]
    assert stages["recaption"]["rows_kept"] == kept == len(pairs(run.store)) > 20
    seen = set()
    for row in pairs(run.store):
        (text,) = [text for text in row["texts"] if text["kind"] == "long"]
        is_bright = brightness(row["image"]["bytes"]) >= 200
        assert text["text"] == row["caption"] == f"light: {'bright' if is_bright else 'dark'}"
        assert (text["model"], text["revision"], text["score"]) == ("light", "light 1", -0.125)
        seen.add(is_bright)
    assert seen == {True, False}


@pytest.mark.ray
def test_what_it_wrote_is_not_written_again(run: Run) -> None:
    asked, before = sorted(run.asked.iterdir()), tables(run.store)
    assert asked
    (elsewhere := run.asked.parent / "elsewhere").mkdir()
    # How it runs decides no text.
    again = curate(changed(run.recipe, asked=str(elsewhere)))
    assert again["rows_kept"] == run.report["rows_kept"]
    assert sorted(run.asked.iterdir()) == asked and not any(elsewhere.iterdir())
    assert tables(run.store) == before


@pytest.mark.ray
def test_a_key_that_decides_the_text_makes_the_captions_stale_and_nothing_else(run: Run) -> None:
    before, asked = tables(run.store), len(list(run.asked.iterdir()))
    curate(changed(run.recipe, bright_from=0), yes=True)
    after = tables(run.store)
    assert [name for name in before if before[name] != after[name]] == ["columns/recaption"]
    assert {row["caption"] for row in pairs(run.store)} == {"light: bright"}
    assert len(list(run.asked.iterdir())) > asked


@pytest.mark.ray
def test_what_it_refuses_ends_the_job_with_its_own_words(run: Run) -> None:
    data = run.recipe.model_dump(mode="json")
    data["recaption"]["temperature"] = 1.0
    with pytest.raises(PairmillError, match="brightness must not be sampled"):
        curate(CurateRecipe.checked(data), yes=True)


@pytest.mark.usefixtures("registered")
def test_the_schema_and_the_page_show_it() -> None:
    engine = CurateRecipe.model_json_schema()["$defs"]["RecaptionConfig"]["properties"]["engine"]
    assert "brightness" in engine["anyOf"][0]["enum"]
    assert "bright_from" in str(CurateRecipe.model_json_schema())
    page = render(CAPTION_ENGINES, "Caption engines")
    assert "### `brightness`\n\nTells bright pictures from dark ones.\n" in page
    assert "| `bright_from` | number ≥ `0` ≤ `255` | `200.0` | mean of all channels" in page


def test_its_import_path_is_a_name_too() -> None:
    given = {"model": "light", "engine": {"name": f"{__name__}:Brightness", "bright_from": 7}}
    made = CurateRecipe.checked({"run_dir": "r", "input": {"path": "p"}, "recaption": given}).recaption.engine
    assert isinstance(made, BrightnessConfig) and made.bright_from == 7
