"""A metric, and a kind of dataset, that are defined here and registered by one line do all that built-in ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import Field

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from pairmill.registry_docs import render
from pairmill.store import Store
from pairmill.towers.build import build_model, image_statistics, model_description
from pairmill.towers.config import ModelConfig
from pairmill.towers.eval_transform import EvalTransform
from pairmill.towers.tokenizer import open_tokenizer
from pipelines.models import evaluate_model
from training.evaluate.config import EvaluateConfig
from training.evaluate.dataset_kinds import KINDS, DatasetKind, Embedded
from training.evaluate.evaluated_rows import read_rows
from training.evaluate.metrics import METRICS, Metric
from training.evaluate.ranks import positive_ranks, positives_of
from training.export import export_open_clip
from training.recipe import TrainRecipe
from training.train import train
from tune.journal import Journal, Trial
from tune.recipe import SweepRecipe
from tune.space import recipe_at

EMOJI = Path(__file__).parents[3] / "samples" / "emoji"
MODEL = ModelConfig(architecture=str(Path(__file__).parent / "tiny_clip.json"))


class RankQuantileConfig(NamedConfig):
    share: float = Field(0.5, ge=0, le=1, description="share of the texts that rank as high, 0-1")


class RankQuantile(Metric):
    """Rank of a text's best image that this share of all texts reaches."""

    Config = RankQuantileConfig
    needs = ("image_ND", "text_UD", "image_P", "text_P")

    def __call__(self, *, image_ND: Any, text_UD: Any, image_P: Any, text_P: Any) -> dict[str, float]:
        positives = positives_of(text_P, image_P, len(text_UD), len(image_ND))
        ranks = positive_ranks(text_UD, image_ND, positives).best_N
        return {"rank_quantile": float(torch.quantile(ranks.double(), self.config.share))}


class Rows(DatasetKind):
    """Images alone."""

    task, gives = "counting", ("image_ND", "hue_N")

    def __call__(self, encoder: Any) -> Iterator[Embedded]:
        rows = encoder.rows(read_rows(self.dataset), lambda row: len(row.texts), reason="never")
        features = {"image_ND": rows.image_ND, "hue_N": torch.tensor(rows.chosen)}
        yield Embedded("none", len(rows.chosen), 0, features, rows.skipped)


class Total(Metric):
    """Texts of all images."""

    needs = ("hue_N",)

    def __call__(self, *, hue_N: Any) -> dict[str, float]:
        return {"total": hue_N.sum()}


@pytest.fixture(scope="module")
def labels() -> list[dict[str, str]]:
    lines = (EMOJI / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[::20]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, labels: list[dict[str, str]]) -> str:
    path = tmp_path_factory.mktemp("own-metric") / "emoji.parquet"
    images = [(EMOJI / "images" / label["file"]).read_bytes() for label in labels]
    pq.write_table(pa.table({"image": images, "text": [label["en"] for label in labels]}), path)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = build_model(MODEL, temperature_init=None, bias_init=None)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    export_open_clip(made.state_dict(), model_description(MODEL, made), open_tokenizer(MODEL), folder)
    return folder


def naive_ranks(folder: Path, labels: list[dict[str, str]]) -> list[int]:
    """Place of each text's own image among all, each image and text encoded alone by open_clip."""
    made, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    made.eval()
    tokenizer, (mean, std) = open_clip.SimpleTokenizer(context_length=32), image_statistics(made)
    rows = []
    with torch.inference_mode():
        for label in labels:
            pixels = EvalTransform(32)((EMOJI / "images" / label["file"]).read_bytes())
            assert pixels is not None
            chw = torch.from_numpy((pixels / 255 - np.array(mean)) / np.array(std)).float().permute(2, 0, 1)
            rows.append(made.encode_image(chw[None], normalize=True)[0].double().numpy())
        texts = [made.encode_text(tokenizer([label["en"]]), normalize=True)[0].double().numpy() for label in labels]
    scores = np.stack(texts) @ np.stack(rows).T
    return [int((scores[at] >= scores[at, at]).sum()) for at in range(len(labels))]


def test_it_is_measured_and_written_beside_the_built_in_ones(
    dataset: str, model: Path, labels: list[dict[str, str]], tmp_path: Path
) -> None:
    overrides = [f"evaluate.datasets.emoji.path={dataset}"]
    with METRICS.extended("rank_quantile", RankQuantile):
        [record] = evaluate_model(str(model), overrides, None, tmp_path / "all")
        chosen = "evaluate.metrics=[{name: rank_quantile, share: 0.25}]"
        [alone] = evaluate_model(str(model), [*overrides, chosen], None, tmp_path / "one")
    ranks = naive_ranks(model, labels)
    assert record["metrics"]["rank_quantile"] == pytest.approx(np.quantile(ranks, 0.5))
    assert {"image_retrieval_recall@1", "geometry/modality_gap"} <= record["metrics"].keys()
    assert alone["metrics"] == {"rank_quantile": pytest.approx(np.quantile(ranks, 0.25))}
    [line] = (tmp_path / "one" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["metrics"] == alone["metrics"]
    [before] = evaluate_model(str(model), overrides, None, None)
    del record["metrics"]["rank_quantile"]
    assert before == record, "what others measure stays as it is"


@pytest.mark.slow
def test_the_command_measures_it_by_its_import_path(
    dataset: str, model: Path, labels: list[dict[str, str]], tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipelines", "evaluate", str(model), "--json"),
            f"evaluate.datasets.emoji.path={dataset}",
            f"evaluate.metrics=[recall, '{__name__}:RankQuantile']",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
    )
    assert done.returncode == 0, done.stderr
    [record] = json.loads(done.stdout)["records"]
    assert record["metrics"]["rank_quantile"] == pytest.approx(np.median(naive_ranks(model, labels)))
    assert "image_retrieval_recall@10" in record["metrics"]


def test_an_own_kind_gives_features_to_an_own_metric(dataset: str, model: Path, labels: list[dict[str, str]]) -> None:
    overrides = [f"evaluate.datasets.emoji={{path: {dataset}, kind: rows}}"]
    with KINDS.extended("rows", Rows), METRICS.extended("total", Total):
        [record] = evaluate_model(str(model), overrides, None, None)
    assert record["metrics"] == {"total": len(labels)} and record["task"] == "counting"
    assert record["images"] == len(labels)


def test_two_metrics_of_one_name_are_refused(dataset: str, model: Path) -> None:
    with (
        METRICS.extended("rank_quantile", RankQuantile),
        METRICS.extended("again", RankQuantile),
        pytest.raises(RecipeError, match="different names"),
    ):
        evaluate_model(str(model), [f"evaluate.datasets.emoji.path={dataset}"], None, None)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_run_measures_it_and_a_sweep_ranks_by_it(dataset: str, labels: list[dict[str, str]], tmp_path: Path) -> None:
    own = {"name": f"{__name__}:RankQuantile", "share": 0.25}
    base = {
        "data": {"path": dataset, "batch_size": 8, "lanes": 4, "bundle_rows": 8, "reader_cpus": 0.5},
        "model": {"architecture": MODEL.architecture},
        "train": {"steps": 2, "precision": "fp32"},
        "compute": {"workers": 1, "cpus_per_worker": 0.5, "threads": 1},
        "evaluate": {"every_steps": 2, "datasets": {"emoji": {"path": dataset}}, "metrics": ["recall", own]},
    }
    objective = {"metric": "emoji/rank_quantile", "mode": "min"}
    space = {"optim.lr": {"grid": [1e-3]}}
    sweep = SweepRecipe.checked({"run_dir": str(tmp_path), "train": base, "space": space, "objectives": [objective]})
    journal, point = Journal(Store(sweep.run_dir)), {"optim.lr": 1e-3}
    journal.record(Trial("000", point))
    result = train(recipe_at(sweep.base, point, run_dir=journal.folder("000")), quiet=True)
    expected = np.quantile(naive_ranks(Path(result["checkpoint"]), labels), 0.25)
    assert result["metrics"]["emoji/rank_quantile"] == pytest.approx(expected)
    assert "emoji/image_retrieval_recall@10" in result["metrics"]
    assert journal.standing("000", [2], sweep.objectives[0]).values == [pytest.approx(-expected)]


def test_schema_page_and_keys_show_it() -> None:
    with METRICS.extended("rank_quantile", RankQuantile):
        schema = json.dumps(TrainRecipe.model_json_schema())
        assert "rank_quantile" in schema and "share of the texts that rank as high" in schema
        page = render(METRICS, "Metrics")
        assert "### `rank_quantile`\n\nRank of a text's best image" in page
        assert "| `share` | number ≥ `0` ≤ `1` | `0.5` | share of the texts" in page
        with pytest.raises(RecipeError, match=r"evaluate\.metrics\[0\]\.shar is not a key"):
            EvaluateConfig.checked({"metrics": [{"name": "rank_quantile", "shar": 1}]})
    with pytest.raises(RecipeError, match="must be one of recall, rank_variance, geometry, accuracy"):
        EvaluateConfig.checked({"metrics": ["rank_quantile"]})
