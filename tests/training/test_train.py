"""`train` on Ray: a run from files to a checkpoint, killed and resumed, finished, and refused."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pairmill.errors import InputError, JobError, RecipeError, RunDirError
from pairmill.store import Store
from pipelines.models import evaluate_model, export_model, model_folder
from training.driver import progress_line
from training.errors import FinalError, diverged
from training.intact import verify_training
from training.recipe import TrainRecipe
from training.resources import size_workers
from training.train import train
from training.worker import check_best

EMOJI = Path("samples/emoji")
STEPS = 6


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> str:
    """48 drawings with two texts each, and one that is no image."""
    folder = tmp_path_factory.mktemp("emoji")
    labels = [json.loads(line) for line in (EMOJI / "labels.jsonl").read_text().splitlines()[:48]]
    images = [(EMOJI / "images" / label["file"]).read_bytes() for label in labels]
    texts = [[{"text": label[code], "language": code, "kind": "alt"} for code in ("en", "zh")] for label in labels]
    texts.append(texts[0])
    pq.write_table(pa.table({"image": [*images, b"none"], "texts": texts}), folder / "a.parquet", row_group_size=10)
    return str(folder)


def recipe(emoji: str, run_dir: Path, **sections: Any) -> TrainRecipe:
    base: dict[str, Any] = {
        "run_dir": str(run_dir),
        "data": {
            "path": emoji,
            "batch_size": 16,
            "lanes": 4,
            "bundle_rows": 8,
            "texts": [[{"language": "en"}], [{"language": "zh"}]],
            "reader_cpus": 0.5,
        },
        "model": {"architecture": "tests/pairmill/towers/configs/vit.json", "patch_dropout": 0.25},
        "loss": {"objective": "one_to_k", "tile": [8, 8]},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "train": {"steps": STEPS, "precision": "fp32"},
        "curriculum": {"image_size": [[0, 32], [0.5, 64]], "text_length": [[0, 5], [0.6, 32]]},
        "compute": {"workers": 2, "cpus_per_worker": 0.5, "threads": 1},
        "checkpoint": {"every_steps": 2},
        "evaluate": {"datasets": {"emoji": {"path": emoji}}},
    }
    merged = {k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in base.items()}
    return TrainRecipe.checked({**{k: v for k, v in sections.items() if k not in base}, **merged})


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    return [line["loss"] for line in steps]


@pytest.fixture(scope="module")
def whole(
    local_ray: None, emoji: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    run_dir = tmp_path_factory.mktemp("whole")
    kept = {"keep_best": "emoji/image_retrieval_recall@5", "keep_last": STEPS, "every_steps": 2}
    yield run_dir, train(recipe(emoji, run_dir, checkpoint=kept, evaluate={"every_steps": 2}), quiet=True)


@pytest.mark.ray
def test_a_run_leaves_a_line_a_step_and_a_checkpoint(whole: tuple[Path, dict[str, Any]]) -> None:
    run_dir, result = whole
    assert result["finished"] and result["step"] == result["steps"] == STEPS
    assert np.isfinite(losses(run_dir)).all() and len(losses(run_dir)) == STEPS
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    recall = {line["step"]: line["emoji/image_retrieval_recall@5"] for line in lines[1:] if "loss" not in line}
    best = json.loads((Path(result["best_checkpoint"]) / "training.json").read_text())["step"]
    assert set(recall) == {2, 4, 6} and recall[best] == max(recall.values())
    line = lines[1]  # the first is of step 0
    named = {"step", "loss", "logit_scale", "lr", "samples_per_second", "data_wait_fraction", "grad_norm"}
    assert named <= line.keys()
    assert 0 < result["metrics"]["emoji/image_retrieval_recall@5"] <= 1


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_without_a_usable_row_ends_in_an_error_and_no_checkpoint(
    local_ray: None, emoji: str, tmp_path: Path, workers: int
) -> None:
    untagged = pa.table({"image": pq.read_table(emoji)["image"], "text": ["a text"] * 49})
    pq.write_table(untagged, tmp_path / "untagged.parquet")
    data = {"path": str(tmp_path / "untagged.parquet"), "texts": [[{"language": "zh"}]]}
    asked = recipe(emoji, tmp_path / "run", data=data, compute={"workers": workers}, evaluate={"datasets": {}})
    with pytest.raises(RecipeError, match="no_text") as raised:
        train(asked, quiet=True)
    assert "data.texts" in raised.value.fix
    assert not list((tmp_path / "run").rglob("training.json"))


@pytest.mark.ray
def test_the_checkpoint_loads_in_plain_open_clip(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, result = whole
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{result['checkpoint']}")
    export_model(result["checkpoint"], tmp_path / "out", "open_clip")
    again, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval().encode_image(image), again.eval().encode_image(image))
    assert preprocess is not None


@pytest.mark.ray
def test_a_finished_run_is_evaluated_by_its_run_dir(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run_dir, result = whole
    with model_folder(str(run_dir)) as folder:
        assert folder == Path(result["checkpoint"])
    [record] = evaluate_model(str(run_dir), [], None, tmp_path)
    for name, value in record["metrics"].items():
        assert value == pytest.approx(result["metrics"][f"emoji/{name}"], abs=1e-5), name


@pytest.mark.ray
def test_a_finished_run_is_not_run_again(whole: tuple[Path, dict[str, Any]], emoji: str) -> None:
    run_dir, result = whole
    before = (run_dir / "metrics.jsonl").stat().st_mtime_ns
    assert train(recipe(emoji, run_dir), quiet=True) == result
    assert (run_dir / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.ray
def test_a_run_keeps_its_recipe(whole: tuple[Path, dict[str, Any]], emoji: str) -> None:
    with pytest.raises(RunDirError, match=r"optim\.lr: 0\.5"):
        train(recipe(emoji, whole[0], optim={"lr": 0.5}), quiet=True)
    with pytest.raises(RunDirError, match="name"):
        train(recipe(emoji, whole[0], name="another"), quiet=True)  # its checkpoints would not be found


@pytest.mark.ray
def test_a_killed_worker_goes_on_bit_for_bit(
    whole: tuple[Path, dict[str, Any]], emoji: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both workers pass the point: the first one that does dies, and once only.  benchmarks/train_resume.py has more.
    (tmp_path / "faults").mkdir()
    monkeypatch.setenv("PAIRMILL_FAULTS", "train.reported:kill@2")
    monkeypatch.setenv("PAIRMILL_FAULTS_DIR", str(tmp_path / "faults"))
    result = train(recipe(emoji, tmp_path / "run"), quiet=True)
    assert list((tmp_path / "faults").iterdir()), "the fault was met"
    assert result["finished"]
    assert losses(tmp_path / "run") == losses(whole[0])


@pytest.mark.ray
def test_a_run_resumes_bit_for_bit_before_a_damaged_checkpoint(
    whole: tuple[Path, dict[str, Any]], emoji: str, tmp_path: Path
) -> None:
    begun = train(recipe(emoji, tmp_path), quiet=True, until=4)
    weights = Path(begun["checkpoint"]) / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1  # a weight that is only slightly wrong
    weights.write_bytes(data)
    for name in ("result.json", "recipe.yaml"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="must be as it was written"):
        evaluate_model(begun["checkpoint"], [f"evaluate.datasets.emoji.path={emoji}"], None, None)
    result = train(recipe(emoji, tmp_path), quiet=True)
    assert result["finished"] and verify_training(Store(str(tmp_path))) == []
    assert losses(tmp_path) == losses(whole[0])
    assert {file.name for file in (tmp_path / "damaged").iterdir()} == {
        *("result.json", "recipe.yaml", f"train.{Path(begun['checkpoint']).name}")
    }
    ours, theirs = (Path(r["checkpoint"]) / "open_clip_model.safetensors" for r in (result, whole[1]))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_is_asked_to_stop_saves_first(emoji: str, tmp_path: Path) -> None:
    def ask_after_the_first_evaluation() -> None:
        while not (tmp_path / "run" / "metrics.jsonl").exists() or not losses(tmp_path / "run"):
            ended.wait(0.01)
        (tmp_path / "run" / "stop").touch()

    ended = threading.Event()
    threading.Thread(target=ask_after_the_first_evaluation, daemon=True).start()
    wanted = recipe(emoji, tmp_path / "run", compute={"workers": 1}, train={"steps": 9}, evaluate={"every_steps": 1})
    stopped = train(wanted, quiet=True)
    step = stopped["step"]
    assert not stopped["finished"] and 0 < step < 9 and stopped["evaluated"] == step - 1
    assert json.loads((Path(stopped["checkpoint"]) / "training.json").read_text())["step"] == step
    # What was due at the stop is measured where the run resumes.
    resumed = train(wanted, quiet=True)
    assert resumed["finished"] and (resumed["step"], resumed["evaluated"]) == (9, 9)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "emoji/image_retrieval_recall@1" in line] == list(range(10))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_is_asked_to_stop_before_its_first_step_has_nothing_to_save(
    emoji: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.driver._clear", lambda store: None)  # what an earlier stop left
    (tmp_path / "stop").touch()
    stopped = train(recipe(emoji, tmp_path, compute={"workers": 1}), quiet=True)
    assert (stopped["step"], stopped["checkpoint"], stopped["finished"]) == (0, None, False)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_loss_that_is_not_a_number_ends_the_run_and_says_so(emoji: str, tmp_path: Path) -> None:
    diverging = {"optim": {"lr": 1e30, "warmup_steps": 0}, "compute": {"workers": 1}}
    with pytest.raises(JobError, match="no checkpoint was saved before"):
        train(recipe(emoji, tmp_path, **diverging, checkpoint={"every_steps": 99}), quiet=True)


def test_a_run_that_diverged_later_names_its_last_checkpoint() -> None:
    assert "the last checkpoint, of step 40, is intact" in str(diverged("the loss of step 41 is nan", 40))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_is_wrong_is_said_before_any_work(emoji: str, tmp_path: Path) -> None:
    for sections, said in (
        ({"data": {"batch_size": 512}}, "49 rows"),
        ({"data": {"image_column": "picture"}}, "picture"),
        ({"model": {"architecture": "ViT-B-33"}}, "ViT-B-32"),
        ({"compute": {"workers": 64}}, "compute.workers"),
        ({"compute": {"cpus_per_worker": 1.0}}, "data.reader_cpus"),
        ({"loss": {"objective": "one_to_n"}}, "one_to_k"),
        ({"evaluate": {"datasets": {"emoji": {"path": "no/such/folder"}}}}, "no/such/folder"),
        ({"evaluate": {"datasets": {"emoji": {"path": emoji, "kind": "zero_shot"}}}}, "class_names"),
    ):
        with pytest.raises(RecipeError, match=said):
            train(recipe(emoji, tmp_path / "run", **sections), quiet=True)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_one_worker_meets_reaches_the_person(emoji: str, tmp_path: Path) -> None:
    # Known only when something is evaluated: on the first worker, for which the second one waits.
    nobody = {"datasets": {"emoji": {"path": emoji, "languages": ["de"]}}}
    with pytest.raises(RecipeError, match="must have a row to evaluate on"):
        train(recipe(emoji, tmp_path, evaluate=nobody), quiet=True)


def test_a_metric_that_nobody_measures_ranks_no_checkpoints() -> None:
    check_best("emoji/x@5", {"emoji/x@5": 0.1})
    with pytest.raises(FinalError, match="emoji/x@5"):
        check_best("emoji/x@50", {"emoji/x@5": 0.1})


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_run_dir_is_one_run_s(emoji: str, tmp_path: Path) -> None:
    with Store(str(tmp_path)).locked(), pytest.raises(RunDirError, match="one job at a time"):
        train(recipe(emoji, tmp_path), quiet=True)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"precision": "fp16"}, "deepspeed": {"stage": 0}}, "master copy"),
        ({"temperature": {"learnable": False, "final": 0.02}}, r"temperature\.init"),
        ({"checkpoint": {"keep_best": "emoji/x", "every_steps": 3}, "evaluate": {"every_steps": 2}}, "must divide"),
    ],
)
def test_recipes_that_could_not_do_what_they_say(
    sections: dict[str, Any], said: str, emoji: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(emoji, tmp_path, **sections)


def test_progress_says_how_long_the_rest_takes() -> None:
    common = {"loss": 1.0, "logit_scale": 14.0, "lr": 1e-3, "data_wait_fraction": 0.0, "skipped": 4, "grad_norm": 0.25}
    lines = [{"step": n, "samples_per_second": speed, **common} for n, speed in ((8, 1.0), (9, 16.0), (10, 32.0))]
    line = progress_line(lines, 100, batch_size=16)
    assert "ETA 0:01:30" in line and "25% of rows skipped" in line and "gradient 0.25" in line


def test_a_worker_fits_on_a_node(emoji: str, tmp_path: Path) -> None:
    cluster, nodes = {"CPU": 4.0}, [{"CPU": 2.0}, {"CPU": 2.0}]
    with pytest.raises(RecipeError, match="of 2 nodes the largest has 2 CPU"):
        size_workers(recipe(emoji, tmp_path, compute={"workers": 1, "cpus_per_worker": 3}), cluster, nodes)
    auto = recipe(emoji, tmp_path, compute={"workers": 1, "cpus_per_worker": "auto", "threads": "auto"})
    assert size_workers(auto, {"CPU": 8.0}, [{"CPU": 2.0}] * 4)[:4] == (1, 2.0, 0.0, 2)


def test_workers_fill_the_cluster(emoji: str, tmp_path: Path) -> None:
    auto = recipe(emoji, tmp_path, compute={"workers": "auto", "cpus_per_worker": "auto", "threads": "auto"})
    assert size_workers(auto, {"CPU": 64.0, "GPU": 8.0})[:3] == (8, 4.0, 1.0)
    assert size_workers(auto, {"CPU": 2.0})[:3] == (1, 1.0, 0.0)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"gpus_per_worker": 1}, "8 x 1 = 8; the cluster has 0"),
        ({"accelerator_type": "H100"}, "the cluster has L4"),
        ({"memory_gb": 10}, "8 x 10 GB; the cluster has 64.0 GB"),
    ],
)
def test_what_no_node_has_is_refused_unless_nodes_may_join(
    compute: dict[str, Any], said: str, emoji: str, tmp_path: Path
) -> None:
    given = {"workers": 8, "cpus_per_worker": 1, "gpus_per_worker": 0, **compute}
    cluster = {"CPU": 16.0, "memory": 64e9, "accelerator_type:L4": 1.0}
    with pytest.raises(RecipeError, match=said):
        size_workers(recipe(emoji, tmp_path, compute=given), cluster)
    patient = size_workers(recipe(emoji, tmp_path, compute=given | {"autoscaling": True}), cluster)
    assert (patient.number, patient.num_gpus) == (8, given["gpus_per_worker"])


def test_the_best_checkpoint_has_a_number() -> None:
    from training.driver import _best

    kept = [("nan", {"a/x": math.nan}), ("worse", {"a/x": 0.1}), ("best", {"a/x": 0.2}), ("none", {})]
    assert _best(kept, "a/x") == "best"
    assert _best(kept[:1], "a/x") == "nan"
