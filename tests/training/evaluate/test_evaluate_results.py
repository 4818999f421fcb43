import io
import json
import math
from pathlib import Path

from rich.console import Console

from training.evaluate.results import Record, results_table, write_results


def record(**changes: object) -> Record:
    base = {
        "dataset": "flickr30k",
        "model": "ViT-B-32",
        "pretrained": "run/step-100",
        "task": "zeroshot_retrieval",
        "metrics": {"image_retrieval_recall@1": 0.25, "geometry/modality_gap": 0.5},
        "language": "en,zh",
        "images": 1000,
        "texts": 5000,
        "skipped": {"corrupt_image": 2, "no_text": 0},
    }
    return Record(**(base | changes))  # type: ignore[typeddict-item]


def test_files_are_what_clip_benchmark_build_reads(tmp_path: Path) -> None:
    records = [record(), record(dataset="wds/imagenet", task="zeroshot_classification", metrics={"acc1": math.nan})]
    names = write_results(str(tmp_path / "out"), records)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    assert names[0] == "flickr30k_run-step-100_ViT-B-32_en-zh_zeroshot_retrieval.json"
    files = sorted((tmp_path / "out").glob("*.json"))
    assert len(files) == 2
    # As its `build` makes a row of a file: metrics beside the rest, and a full name.
    rows = []
    for path in files:
        data = json.loads(path.read_text())
        rows.append(data["metrics"] | data | {"model_fullname": data["model"] + " " + data["pretrained"]})
    assert rows[0]["image_retrieval_recall@1"] == 0.25
    assert rows[0]["model_fullname"] == "ViT-B-32 run/step-100"
    assert (rows[1]["dataset"], rows[1]["acc1"]) == ("wds/imagenet", None)
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["dataset"] for line in lines] == ["flickr30k", "wds/imagenet"]


def test_writing_again_replaces(tmp_path: Path) -> None:
    for value in (0.1, 0.2):
        write_results(str(tmp_path), [record(metrics={"image_retrieval_recall@1": value})])
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["metrics"] == {"image_retrieval_recall@1": 0.2}


def test_the_table_shows_every_metric_of_every_record() -> None:
    out = io.StringIO()
    other = record(dataset="emoji", metrics={"acc1": 0.125, "mrv_language/std": 2.5}, skipped={"corrupt_image": 0})
    Console(file=out, width=120).print(results_table([record(), other]))
    text = out.getvalue()
    for shown in ("flickr30k", "emoji", "25.00 %", "12.50 %", "2.5", "0.5", "1,000", "corrupt_image 2"):
        assert shown in text
