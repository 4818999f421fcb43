"""`pairmill probe-source`: what the probe finds, and what becomes of its result."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from run_fixture import make_run
from scipy.stats import binom

from curation.embedding.source_probe import fit_softmax, named, probe_groups, source_probes
from curation.embedding.vectors import vector_column
from curation.flow import flow_of
from curation.forget.request import request
from curation.forget.takedown import begin, complete, preview
from pairmill import faults
from pairmill.errors import InputError, RecipeError
from pairmill.store import Store
from pipelines import probe_source as command
from pipelines.probe_source import probe_source

D = 6


def drawn(rows: int, apart: float, groups: int = 3, seed: int = 0) -> tuple[Any, list[str | None], list[str]]:
    """Vectors whose group moves one of their numbers."""
    rng = np.random.default_rng(seed)
    code = rng.integers(groups, size=rows)
    vectors = rng.standard_normal((rows, D))
    vectors[np.arange(rows), code] += apart
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16), [f"crawl {one}" for one in code], [f"{one:032x}" for one in range(rows)]


def test_it_tells_groups_apart_that_differ_and_no_others() -> None:
    found = probe_groups(*drawn(3000, 1.5))
    assert found["tells"] and found["accuracy"] > 0.6 and found["p_value"] < 1e-9
    low, high = found["accuracy_95"]
    assert low < found["accuracy"] < high and high - low < 0.1
    for seed in range(5):
        same = probe_groups(*drawn(3000, 0.0, seed=seed))
        assert not same["tells"] and same["p_value"] > 0.001


def test_its_figures_follow_from_its_counts() -> None:
    vectors, groups, uids = drawn(2000, 0.7, groups=4)
    groups = [None if at % 10 == 0 else "rare" if at < 20 else group for at, group in enumerate(groups)]
    found = probe_groups(vectors, groups, uids, most_groups=3)
    table = np.array(found["confusion"])
    asked, right = int(table.sum()), int(np.trace(table))
    assert found["accuracy"] == right / asked and found["rows"]["held_out"] == asked
    assert found["chance"] == table.sum(1).max() / asked
    assert [one["recall"] for one in found["groups"]] == pytest.approx((np.diag(table) / table.sum(1)).tolist())
    assert found["p_value"] == pytest.approx(binom.sf(right - 1, asked, found["chance"]), rel=1e-6)
    p, z = right / asked, 1.959963984540054
    middle = (p + z * z / 2 / asked) / (1 + z * z / asked)
    half = z / (1 + z * z / asked) * math.sqrt(p * (1 - p) / asked + z * z / 4 / asked**2)
    assert found["accuracy_95"] == pytest.approx([middle - half, middle + half])
    sizes = {name: groups.count(name) for name in set(groups) - {None, "rare"}}
    best = sorted(sizes, key=lambda name: (-sizes[name], name))[:3]
    assert [(one["name"], one["rows"]) for one in found["groups"]] == [(name, sizes[name]) for name in best]
    rows = found["rows"]
    assert rows["used"] == 3 * min(sizes[name] for name in best) == rows["fitted"] + rows["held_out"]
    assert 0.18 < rows["held_out"] / rows["used"] < 0.32
    assert rows["without_group"] == groups.count(None)
    assert rows["of_other_groups"] == 2000 - groups.count(None) - sum(sizes[name] for name in best)


def test_the_classifier_is_at_the_least_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    x, y, penalty = 3 + 2 * rng.standard_normal((80, 3)), rng.integers(3, size=80), 0.05
    weights = fit_softmax(x, y, 3, penalty)

    def loss(w: Any) -> float:
        total = 0.0
        for row, truth in zip(x, y, strict=True):
            logits = [row @ w[:-1, c] + w[-1, c] for c in range(3)]
            total += math.log(sum(map(math.exp, logits))) - logits[truth]
        return total / len(x) + penalty / 2 * float(((w[:-1] * x.std(0)[:, None]) ** 2).sum())

    least = loss(weights)
    for at in np.ndindex(*weights.shape):
        for step in (-0.01, 0.01):
            moved = weights.copy()
            moved[at] += step
            assert loss(moved) > least - 1e-7
    assert named(x, weights).tolist() == [int(np.argmax(row @ weights[:-1] + weights[-1])) for row in x]


@pytest.mark.parametrize("groups", [[None] * 200, ["one"] * 200, ["one"] * 170 + ["two"] * 30])
def test_without_two_groups_there_is_nothing_to_tell(groups: list[str | None]) -> None:
    vectors, _, uids = drawn(200, 1.0)
    with pytest.raises(InputError, match="two groups of 40"):
        probe_groups(vectors, groups, uids)


# In a run


class Stage(NamedTuple):
    config: Any = SimpleNamespace(model="tiny")

    def column_names(self) -> tuple[str, ...]:
        return ("image_embedding_x", "text_embedding_x", "score_x")

    def revision(self) -> str:
        return "r1"


RECIPE = SimpleNamespace(flow=lambda name=None: flow_of({}), deduplicate=SimpleNamespace(name="default"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """240 rows of two crawls, whose vectors differ."""
    monkeypatch.setattr(command, "embedder", lambda recipe, name: Stage())
    monkeypatch.setattr(command, "up_to_date", lambda store, recipe, stage: "columns/embed-x")
    listed = [
        {"url": f"http://{host}.example/ok/{n}", "text": f"a ball, number {n}", "source": f"cc-{host}"}
        for n in range(120)
        for host in ("a", "b")
    ]
    store = make_run(tmp_path, listed, upto="select", rows_per_shard=50)
    rng = np.random.default_rng(0)
    for shard in sorted(store.index("plan")):
        plan = store.load("plan", shard)
        vectors = rng.standard_normal((len(plan), D))
        vectors[:, 0] += [3.0 if "//a." in url else -3.0 for url in plan["url"].to_pylist()]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        column = vector_column(vectors, np.ones(len(plan), np.bool_))
        store.commit(
            "columns/embed-x", shard, "0" * 16, pa.table({"uid": plan["uid"], "image_embedding_x": column}), {}
        )
    return store


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("source", {"cc-a", "cc-b"}),
        ("host", {"a.example", "b.example"}),
        ("input.source", {"cc-a", "cc-b"}),
        ("contains(url, '/a.')", {"true", "false"}),
    ],
)
def test_the_groups_are_the_values_of_an_expression(run: Store, by: str, names: set[str]) -> None:
    done = probe_source(run, RECIPE, "x", by)
    assert {one["name"] for one in done["groups"]} == names
    assert done["tells"] and done["accuracy"] > 0.9 and done["by"] == by and done["embedding"] == "x"
    assert source_probes(run) == [{name: value for name, value in done.items() if name != "path"}]
    assert probe_source(run, RECIPE, "x", by) == done


def test_a_column_of_a_stage_and_a_selection(run: Store) -> None:
    with pytest.raises(InputError, match="two groups"):
        probe_source(run, RECIPE, "x", "language")  # all are English
    assert source_probes(run) == []
    done = probe_source(run, RECIPE, "x", "source", selection="default")
    assert done["selection"] == "default" and done["rows"]["used"] <= 240


def test_mistakes_are_refused_and_leave_an_earlier_result(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_source(run, RECIPE, "x", "source")
    there = source_probes(run)
    with pytest.raises(RecipeError, match="sourc"):
        probe_source(run, RECIPE, "x", "sourc")
    with pytest.raises(RecipeError, match="perhaps you mean: default"):
        probe_source(run, RECIPE, "x", "source", selection="defaults")
    monkeypatch.setattr(faults, "_armed", faults._parse("probe.file.before_rename:raise@1", run.path("")))
    with pytest.raises(faults.InjectedFault):
        probe_source(run, RECIPE, "x", "host")
    assert source_probes(run) == there
    run.write_bytes("probes/source-y.json", b"{")
    assert source_probes(run) == there


def test_what_names_a_forgotten_host_goes_with_it(run: Store) -> None:
    probe_source(run, RECIPE, "x", "host")
    with run.locked():
        begin(run, preview(run, request(host=["b.example"])))
        complete(run)
    assert source_probes(run) == []
