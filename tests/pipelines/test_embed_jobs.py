"""Models that look at picture and text together, in a job: tables of their own, one decode, nothing fetched again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from demo_job import DemoJob
from safetensors.numpy import save_file
from tiny_encoders import VIT, write_clip, write_open_clip_weights
from typer.testing import CliRunner

from curation.embedding.config import EmbedConfig
from curation.embedding.stage import Embed
from curation.embedding.vectors import vectors_of
from curation.stage import Runtime
from pairmill.store import Store
from pipelines import output
from pipelines.cli import app
from pipelines.consent import ConsentError
from pipelines.curate import curate
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server


class Job(DemoJob):
    def embed(self, *names: str) -> dict[str, Any]:
        models = {
            "vit": {"model": str(VIT), "pretrained": str(self.folder / "vit.pt"), "batch_size": 16},
            "other": {"model": str(VIT), "pretrained": str(self.folder / "other.pt"), "batch_size": 16},
            "clip": {"model": str(self.folder / "clip"), "batch_size": 16},
        }
        return {name: models[name] for name in names}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("embed")
    write_open_clip_weights(folder / "vit.pt")
    write_open_clip_weights(folder / "other.pt", seed=9)
    write_clip(folder / "clip")
    save_file({"weight": np.ones((1, 48), np.float32)}, folder / "head.safetensors")
    with demo_server() as base_url:
        rows = demo_rows(base_url)
        plain = rows.filter(pc.equal(rows["case"], "plain")).slice(0, 110)
        pq.write_table(plain, folder / "urls.parquet")
        pq.write_table(plain.slice(0, 45), folder / "few.parquet")
        yield Job(folder, base_url)


def tables(store: Store) -> dict[str, dict[int, Any]]:
    names = ["images", "columns/filter", "selections/default", "pairs"]
    names += [f"columns/{name}" for name in store.folders("columns") if name not in ("filter", "policy")]
    return {name: store.index(name) for name in names}


def changed(before: dict[str, dict[int, Any]], after: dict[str, dict[int, Any]]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.ray
def test_models_heads_and_their_changes_make_their_own_tables(job: Job) -> None:
    report = curate(job.recipe(embed=job.embed("vit", "clip")))
    assert report["complete"]
    assert [s["name"] for s in report["stages"]][4:7] == ["filter", "embed-clip", "embed-vit"]
    store = Store(str(job.folder / "run"))
    first, asked = tables(store), job.asked()
    files = {p: p.stat().st_mtime_ns for p in (job.folder / "run" / "images").rglob("*.parquet")}

    stage = Embed(EmbedConfig(**job.embed("vit")["vit"]), "vit")
    stage.setup(Runtime())
    for shard in store.index("columns/embed-vit"):
        images = store.load("images", shard, ["uid", "image"])
        filtered = store.load("columns/filter", shard, ["caption", "drop_stage", "drop_reason"])
        made = stage(pa.table({name: t[name] for t in (images, filtered) for name in t.schema.names}))
        found = store.load("columns/embed-vit", shard)
        for name in stage.column_names()[:2]:
            ours, there = vectors_of(found[name]), vectors_of(made[name])
            assert (ours[1] == there[1]).all()
            np.testing.assert_allclose(ours[0].astype(np.float32), there[0].astype(np.float32), atol=2e-3)
    pairs = pq.read_table(sorted((job.folder / "run" / "pairs").glob("part-*.parquet")))
    assert pairs["score_vit"].null_count == 0 and "image_embedding_vit" not in pairs.schema.names

    head = {"sum": {"name": "mlp", "embedding": "vit", "weights": str(job.folder / "head.safetensors")}}
    curate(job.recipe(embed=job.embed("vit", "clip"), score=head))
    second = tables(store)
    assert changed(first, second) == {"columns/score-sum", "pairs"}
    for shard in store.index("columns/score-sum"):
        vectors, mask = vectors_of(store.load("columns/embed-vit", shard)["image_embedding_vit"])
        expected = vectors.astype(np.float32).sum(1)
        scores = store.load("columns/score-sum", shard)["sum"].drop_null().to_numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert len(scores) == mask.sum()

    swapped = {**job.embed("clip"), "vit": job.embed("other")["other"]}
    with pytest.raises(ConsentError, match="embed-vit must have your consent"):
        curate(job.recipe(embed=swapped, score=head))
    assert tables(store) == second
    curate(job.recipe(embed=swapped, score=head), yes=True)
    assert changed(second, tables(store)) == {"columns/embed-vit", "columns/score-sum", "pairs"}
    assert job.asked() == asked, "nothing was fetched"
    assert files == {p: p.stat().st_mtime_ns for p in (job.folder / "run" / "images").rglob("*.parquet")}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("point", "table"),
    [
        ("engine.embed:kill@3", "embed-vit"),
        ("commit.columns/embed-vit.manifest.before_rename:kill-driver@2", "embed-vit"),
        ("engine.embed_texts:kill@2", "embed_texts-vit"),
        ("commit.columns/embed_texts-vit.manifest.before_rename:kill-driver@1", "embed_texts-vit"),
        ("commit.columns/score-sum.data.before_rename:kill@1", "score-sum"),
        ("commit.columns/score-sum.manifest.before_rename:kill-driver@2", "score-sum"),
    ],
)
def test_a_job_that_is_killed_while_it_embeds_or_scores_resumes_to_the_same_tables(
    job: Job, point: str, table: str
) -> None:
    head = {"sum": {"name": "mlp", "embedding": "vit", "weights": str(job.folder / "head.safetensors")}}
    sections: dict[str, Any] = {
        # Texts that models write are there only where a model writes some.
        "recaption.enabled": table == "embed_texts-vit",
        "input.path": str(job.folder / "few.parquet"),
        "embed": job.embed("vit"),
        "score": head if table == "score-sum" else {},
    }
    name = f"killed-{table}-{point.partition(':')[2]}"
    faults = job.folder / f"{name}-faults"
    faults.mkdir()
    recipe = job.folder / f"{name}.yaml"
    recipe.write_text(job.recipe(name, **sections).to_yaml())
    armed = {"PAIRMILL_FAULTS": point, "PAIRMILL_FAULTS_DIR": str(faults)}
    command = [sys.executable, "-m", "pipelines", "curate", str(recipe), "--json"]
    # In a session of its own: Ray ends the whole process group of a worker that was killed.
    done = subprocess.run(command, env=os.environ | armed, capture_output=True, check=False, start_new_session=True)
    assert done.returncode in (0, -9), done.stderr[-2000:]
    [passes] = faults.glob("*.passes")
    assert passes.stat().st_size >= int(point.partition("@")[2])
    curate(job.recipe(name, **sections))
    curate(job.recipe(f"whole-{table}", **sections))
    store, whole = Store(str(job.folder / name)), Store(str(job.folder / f"whole-{table}"))
    for made in (f"columns/{table}", "pairs"):
        assert {n: e.content for n, e in store.index(made).items()} == {
            n: e.content for n, e in whole.index(made).items()
        }
        assert store.index(made)


@pytest.mark.ray
def test_the_command_fits_a_filter_to_a_selection_of_the_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    curate(job.recipe("fitted", embed=job.embed("vit")))
    store = Store(str(job.folder / "fitted"))
    file = job.folder / "filter.safetensors"
    given = ["fit-filter", store.uri, "--embedding", "vit", "--to", str(file), "--json"]
    few = CliRunner().invoke(app, [*given, "--good", "default"])
    assert few.exit_code == 2 and "ordinary pairs or more to fit a filter to" in few.output
    examples = job.folder / "examples"
    examples.mkdir()
    pairs = pq.read_table(sorted((job.folder / "fitted" / "pairs").glob("part-*.parquet")))
    for number, row in enumerate(pairs.select(["image", "caption"]).to_pylist()):
        (examples / f"{number}.webp").write_bytes(row["image"]["bytes"])
        (examples / f"{number}.txt").write_text(row["caption"])
    monkeypatch.setattr(output, "_stdout", said := io.StringIO())
    done = CliRunner().invoke(app, [*given, "--good", str(examples)])
    assert done.exit_code == 0, done.output
    found = json.loads(said.getvalue())
    assert found["good"]["fitted"] + found["good"]["held_out"] == len(pairs)
    assert 0 <= found["auc"] <= 1 and file.with_suffix(".md").is_file()
    score = {"good": {"name": "mlp", "embedding": "vit", "weights": str(file)}}
    report = curate(job.recipe("fitted", embed=job.embed("vit"), score=score))
    assert report["complete"]
    scored = pq.read_table(sorted((job.folder / "fitted" / "pairs").glob("part-*.parquet")))["good"]
    assert scored.null_count == 0 and pc.max(scored).as_py() <= 1


@pytest.mark.ray
def test_commands_fit_noise_and_clusters_and_probe_the_source(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = job.embed("vit")
    curate(job.recipe("noise", embed=embed))
    store = Store(str(job.folder / "noise"))

    def command(*given: str) -> dict[str, Any]:
        monkeypatch.setattr(output, "_stdout", said := io.StringIO())
        done = CliRunner().invoke(app, [given[0], store.uri, "--embedding", "vit", *given[1:], "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(said.getvalue())
        return found

    files = {name: str(job.folder / f"{name}.safetensors") for name in ("nevlp", "capro", "clusters")}
    rows = command("fit-noise", "--score", "nevlp", "--to", files["nevlp"])["pairs"]
    assert rows >= 50
    assert command("fit-noise", "--score", "capro", "--concepts", "3", "--to", files["capro"])["pairs"] == rows
    references = str(job.folder / "noise" / "columns" / "embed-vit")
    given = ("fit-clusters", "--clusters", "7", "--references", references, "--to", files["clusters"])
    assert command(*given)["references"] == rows
    probe = command("probe-source", "--by", "width > 0 and contains(caption, 'a')")
    assert {one["name"] for one in probe["groups"]} == {"true", "false"} and 0 <= probe["accuracy"] <= 1
    assert (job.folder / "noise" / "probes" / "source-vit.json").is_file()

    before = tables(store)
    score = {name: {"name": name, "embedding": "vit", "weights": file} for name, file in files.items()}
    assert curate(job.recipe("noise", embed=embed, score=score))["complete"]
    assert changed(before, tables(store)) == {*(f"columns/score-{name}" for name in files), "pairs"}
    pairs = pq.read_table(sorted((job.folder / "noise" / "pairs").glob("part-*.parquet")))
    assert all(pairs[name].null_count == 0 for name in ("nevlp", "nevlp_loss", "capro", "capro_concept", "clusters"))
    assert pc.all(pairs["clusters_near"]).as_py()  # the references are the run itself
    assert 0 <= pc.min(pairs["nevlp"]).as_py() <= pc.max(pairs["capro"]).as_py() <= 1


@pytest.mark.ray
def test_texts_that_models_write_are_scored_beside_and_again_when_they_change(job: Job) -> None:
    # Without gates, the product has every text that is scored.
    written: dict[str, Any] = {"recaption.enabled": True, "translate.enabled": True, "gate.enabled": False}
    written["input.path"] = str(job.folder / "few.parquet")
    embed = job.embed("vit", "clip")
    written["selections"] = {
        "fits": {"from": "default", "where": "score_vit_recaption > quantile(score_vit_recaption, 0.5)"}
    }
    report = curate(job.recipe("written", embed=embed, **written))
    assert report["complete"]
    names = [s["name"] for s in report["stages"]]
    assert names[-5:] == ["recaption", "translate", "embed_texts-clip", "embed_texts-vit", "pack"]
    assert all(s["rows_in"] == s["rows_kept"] for s in report["stages"][-4:]), "no row is dropped"
    store = Store(str(job.folder / "written"))
    first, asked = tables(store), job.asked()
    files = {p: p.stat().st_mtime_ns for p in (job.folder / "written" / "images").rglob("*.parquet")}
    pairs = pq.read_table(sorted((job.folder / "written" / "pairs").glob("part-*.parquet")))
    rows = pairs.select(["texts", "score_vit", "score_vit_texts", "score_vit_recaption"]).to_pylist()
    for row in rows:
        assert len(row["texts"]) == len(row["score_vit_texts"]) and row["score_vit_texts"][0] == row["score_vit"]
        by_model = [
            s for t, s in zip(row["texts"], row["score_vit_texts"], strict=True) if t["kind"] in ("short", "long")
        ]
        assert row["score_vit_recaption"] == max(by_model, default=None)
    assert any(len(row["texts"]) > 2 for row in rows)
    for shard in store.index("columns/embed_texts-vit"):
        pictures = store.load("columns/embed-vit", shard)["image_embedding_vit"].to_pylist()
        found = store.load("columns/embed_texts-vit", shard).to_pylist()
        for picture, row in zip(pictures, found, strict=True):
            for vector, score in zip(
                row["written_embedding_vit"] or (), (row["score_vit_texts"] or ())[1:], strict=True
            ):
                one, other = (np.array(each, np.float64) for each in (picture, vector))
                cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
                assert score == pytest.approx(cosine, abs=2e-3)

    # A selection over what is written late is made after it.
    there = sorted(row["score_vit_recaption"] for row in rows if row["score_vit_recaption"] is not None)
    kept = [m["stages"]["select"]["rows_kept"] for m in store.manifests("selections/fits")]
    assert sum(kept) == sum(one > there[-(-len(there) // 2) - 1] for one in there) > 0

    prompts = {"short": "Say what it is."}
    other = {**written, "recaption.prompts": prompts}
    curate(job.recipe("written", embed=embed, **other), yes=True)
    second = tables(store)
    assert changed(first, second) == {
        *("columns/recaption", "columns/translate", "columns/embed_texts-clip", "columns/embed_texts-vit", "pairs"),
    }
    swapped = {**job.embed("clip"), "vit": job.embed("other")["other"]}
    curate(job.recipe("written", embed=swapped, **other), yes=True)
    assert changed(second, tables(store)) == {"columns/embed-vit", "columns/embed_texts-vit", "pairs"}
    assert job.asked() == asked, "nothing was fetched"
    assert files == {p: p.stat().st_mtime_ns for p in (job.folder / "written" / "images").rglob("*.parquet")}
