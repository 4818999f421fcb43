"""Boxes that a head finds, in a job: painted over for one model, blurred in the product, and nowhere else."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import Field
from ray import cloudpickle
from tiny_encoders import VIT, write_open_clip_weights

from curation.embedding.config import EmbedConfig
from curation.embedding.stage import Embed
from curation.heads import HEADS
from curation.heads.boxes import BOXES
from curation.images.blur import blur_boxes
from curation.stage import Runtime
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from pairmill.store import Store
from pairmill.towers.eval_transform import decode
from pipelines.consent import ConsentError
from pipelines.curate import curate
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, load_recipe
from training.data.curated import SelectionSource


class PatchConfig(NamedConfig):
    left: float = Field(0.25, description="where the box begins")


class Patch:
    """A head that a script registers: a box in every second picture."""

    Config = PatchConfig
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("patches", pa.int32()), ("boxes", BOXES)])

    @classmethod
    def revision(cls, config: PatchConfig) -> str:
        return "1"

    @classmethod
    def load(cls, config: PatchConfig) -> Patch:
        head = cls()
        head.left = config.left
        return head

    left: float

    def __call__(self, images: pa.ChunkedArray) -> pa.Table:
        box = {"left": self.left, "top": 0.25, "right": 0.75, "bottom": 0.75, "score": 1.0}
        found = [[box] if len(image.as_py()) % 2 else [] for image in images]
        return pa.table([pa.array(map(len, found), pa.int32()), pa.array(found, BOXES)], schema=self.columns)


class Job:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "run"))

    def recipe(self, **head: Any) -> CurateRecipe:
        model = {"model": str(VIT), "pretrained": str(self.folder / "vit.pt"), "batch_size": 16}
        sections = {
            "embed": {"a_masked": {**model, "mask_text": "patch"}, "plain": model},
            "score": {"patch": {"name": "patch", **head}},
            "pack.blur_faces": "patch",
        }
        return load_recipe(
            RECIPE,
            [
                *(f"run_dir={self.folder / 'run'}", f"input.path={self.folder / 'urls.parquet'}", "image.format=png"),
                *("shards.rows_per_shard=40", "recaption.enabled=false", "translate.enabled=false"),
                *(f"{name}={json.dumps(value)}" for name, value in sections.items()),
            ],
        )

    def tables(self) -> dict[str, Any]:
        names = ["images", "selections/default", "pairs", *(f"columns/{one}" for one in self.store.folders("columns"))]
        return {name: self.store.index(name) for name in names}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("boxes")
    write_open_clip_weights(folder / "vit.pt")
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # the cluster's workers cannot import the tests
    with demo_server() as base_url, HEADS.extended("patch", Patch):
        rows = demo_rows(base_url)
        pq.write_table(rows.filter(pc.equal(rows["case"], "plain")).slice(0, 60), folder / "urls.parquet")
        yield Job(folder)
    cloudpickle.unregister_pickle_by_value(module)


def columns(job: Job, shard: int) -> pa.Table:
    """What there is of a shard, side by side."""
    found = [job.store.load("images", shard, ["uid", "image"])]
    found.append(job.store.load("columns/filter", shard, ["caption", "drop_stage", "drop_reason"]))
    found += [job.store.load(f"columns/{name}", shard) for name in ("score-patch", "embed-a_masked", "embed-plain")]
    return pa.table({name: table[name] for table in reversed(found) for name in table.schema.names})


@pytest.mark.ray
def test_boxes_are_painted_over_for_one_model_and_blurred_in_the_product(job: Job) -> None:
    report = curate(job.recipe())
    assert report["complete"]
    names = [stage["name"] for stage in report["stages"]]
    assert names[names.index("filter") + 1 :][:3] == ["score-patch", "embed-a_masked", "embed-plain"]
    masked = Embed(job.recipe().flow().named("embed-a_masked").config, "a_masked")
    plain = Embed(EmbedConfig(model=str(VIT), pretrained=str(job.folder / "vit.pt")), "plain")
    pictures: dict[str, tuple[bytes, list[Any]]] = {}
    for shard in job.store.index("columns/score-patch"):
        there = columns(job, shard)
        pictures |= {row["uid"]: (row["image"], row["patch_boxes"]) for row in there.to_pylist()}
        bare = there.select(["uid", "image", "caption", "drop_stage", "drop_reason", "patch_boxes"])
        for stage, name in ((masked, "score_a_masked"), (plain, "score_plain")):
            stage.setup(Runtime())
            np.testing.assert_allclose(stage(bare)[name].to_numpy(), there[name].to_numpy(), atol=1e-5)
        differ = np.abs(there["score_a_masked"].to_numpy() - there["score_plain"].to_numpy()) > 1e-6
        assert (differ[np.asarray(pc.equal(there["patch"], 0))] == 0).all()
        assert differ[np.asarray(pc.equal(there["patch"], 1))].mean() > 0.9
    pairs = pq.read_table(sorted((job.folder / "run" / "pairs").glob("part-*.parquet"))).to_pylist()
    assert {row["faces_blurred"] for row in pairs} == {0, 1}
    for row in pairs:
        stored, boxes = pictures[row["uid"]]
        assert row["faces_blurred"] == len(boxes)
        whole = decode(stored)
        assert whole is not None
        if boxes:
            shown = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
            assert (shown == blur_boxes(whole, boxes)).all()
        else:
            assert row["image"]["bytes"] == stored
    assert "faces_blurred" in (job.folder / "run" / "README.md").read_text()
    with pytest.raises(RecipeError, match=r"data\.selection must be null for a run that blurs faces"):
        SelectionSource(str(job.folder / "run"), "default")

    before = job.tables()
    curate(job.recipe())
    assert job.tables() == before, "nothing is made again"
    with pytest.raises(ConsentError, match="score-patch must have your consent"):
        curate(job.recipe(left=0.3))
    curate(job.recipe(left=0.3), yes=True)
    after = job.tables()
    stale = {name for name in before if before[name] != after[name]}
    assert stale == {"columns/score-patch", "columns/embed-a_masked", "pairs"}
