"""The stage as a whole: one tiny row per drop reason, order of reasons, score columns, dropped rows, row identity."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from curation.filters.quality import train_quality
from curation.filters.rules import filter_rows
from curation.filters.stage import FILTER_COLUMNS, FILTER_REASONS, Filter, FilterConfig, columns_read
from pairmill.errors import RecipeError

DECLARED = pa.schema([(column.name, column.type) for column in FILTER_COLUMNS])
NAMES = DECLARED.names

TYPES = pa.schema(
    [
        ("alt", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("original_bytes", pa.int64()),
        ("sharpness", pa.float32()),
        ("entropy", pa.float32()),
        ("image", pa.binary()),
        ("drop_stage", pa.string()),
        ("drop_reason", pa.string()),
    ]
)


def png(color: tuple[int, int, int] = (90, 160, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, "PNG")
    return buffer.getvalue()


def row(alt: str | None = "a red apple on a wooden table", **changes: Any) -> dict[str, Any]:
    good = {
        "alt": alt,
        "width": 256,
        "height": 192,
        "original_width": 640,
        "original_height": 480,
        "original_bytes": 50_000,
        "sharpness": 100.0,
        "entropy": 6.0,
        "image": png(),
        "drop_stage": None,
        "drop_reason": None,
    }
    return {**good, **changes}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TYPES)


def reasons(rows: pa.Table, **config: Any) -> list[str | None]:
    return filter_rows(rows, config=FilterConfig(**config))["drop_reason"].to_pylist()


#: Reason -> (the row it drops, the configuration that is not the default).  A good row beside it must stay.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image_too_small": (row(original_height=199), {}),
    "image_too_elongated": (row(original_width=1441), {}),
    "file_too_small": (row(original_bytes=4_999), {"min_bytes": 5_000}),
    "image_too_blurry": (row(sharpness=9.0), {"min_sharpness": 10.0}),
    "image_too_plain": (row(entropy=0.5), {"min_entropy": 1.0}),
    "text_too_short": (row("a b c"), {}),
    "text_too_few_words": (row("wooden table"), {}),
    "text_too_long": (row("one apple " * 6), {"max_characters": 50}),
    "text_is_url": (row("https://example.com/red/apple"), {"min_words": 0}),
    "text_is_file_name": (row("Screenshot 2024-05-01 at 10.20.30.png"), {}),
    "text_is_boilerplate": (row("Click image to enlarge!"), {}),
    "text_repeats_itself": (row("buy now buy now buy now buy now"), {}),
    "text_too_many_digits": (row("no 4006381333931 or 4006381333948"), {}),
    "text_has_listed_word": (row("a casino, at night in Macau"), {"listed_words": ("casino",)}),
    "language_not_allowed": (row("ein roter Apfel liegt auf dem Tisch"), {"languages": ("en", "zh")}),
    "language_uncertain": (row("Lorem Oden Kaaba"), {"min_language_score": 0.8}),
    "where": (row(height=191), {"where": "height >= 192"}),
    "callable": (row(width=100), {"callables": (f"{__name__}:wider_than_high",)}),
}


def wider_than_high(rows: pa.Table) -> pa.Array:
    return pa.array([w > h for w, h in zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True)])


@pytest.mark.parametrize("reason", CASES)
def test_each_reason_drops_its_row_and_spares_a_good_one(reason: str) -> None:
    bad, config = CASES[reason]
    assert reasons(table(bad, row()), **config) == [reason, None]


def test_every_reason_of_the_stage_has_a_test() -> None:
    elsewhere = {"text_too_common", "text_low_quality", "nsfw"}  # they need more than a row and a configuration
    assert set(CASES) | elsewhere == set(FILTER_REASONS)


def test_text_too_common_goes_by_the_column_and_only_if_the_rule_is_on() -> None:
    dropped = row() | {"drop_stage": "plan", "drop_reason": "duplicate_input"}
    rows = table(dropped, row(), row()).append_column("text_is_common", pa.array([None, True, False]))
    on = filter_rows(rows, config=FilterConfig(max_images_per_text=10))
    off = filter_rows(rows, config=FilterConfig())
    assert on["drop_reason"].to_pylist() == ["duplicate_input", "text_too_common", None]
    assert off["drop_reason"].to_pylist() == ["duplicate_input", None, None]
    assert Filter(FilterConfig(max_images_per_text=10)).counted == {"columns/common_texts-10": ("text_is_common",)}
    assert Filter(FilterConfig(max_images_per_text=10, enabled=False)).counted == {}


def test_text_low_quality(tmp_path: Path) -> None:
    good = [f"a {color} bird sitting on a {thing}" for color in ("red", "blue", "grey") for thing in ("branch", "roof")]
    bad = [f"buy {thing} online cheap sale discount" for thing in ("shoes", "bags", "rings", "phones")]
    train_quality(good, bad, tmp_path / "quality.bin")
    rows = table(row("cheap sale discount, buy rings online"), row("a grey bird sitting on a branch"))
    found = filter_rows(rows, config=FilterConfig(quality_model=tmp_path / "quality.bin", min_quality=0.5))
    assert found["drop_reason"].to_pylist() == ["text_low_quality", None]
    low, high = found["text_quality"].to_pylist()
    assert 0 <= low < 0.5 < high <= 1


def test_nsfw_scores_survivors_and_drops_above_the_threshold_and_what_cannot_be_scored() -> None:
    rows = table(row(), row(original_width=10), row(image=b"\xff\xd8 not a picture"), row(image=None))
    found = filter_rows(rows, config=FilterConfig(nsfw_max=0.9))
    assert found["drop_reason"].to_pylist() == [None, "image_too_small", "nsfw", "nsfw"]
    score, unseen, broken, missing = found["nsfw"].to_pylist()
    assert 0 <= score <= 0.9
    assert (unseen, broken, missing) == (None, None, None)
    assert reasons(table(row()), nsfw_max=score * 0.99) == ["nsfw"]


def test_defaults_keep_ordinary_pairs_in_many_languages() -> None:
    alts = (
        "a red apple on a wooden table",
        "一只狗在海滩上奔跑",
        "红苹果",
        "海辺を走る犬",
        "해변에서 뛰는 개",
        "Ein Hund läuft am Strand",
        "собака бежит по пляжу",
        "สุนัขวิ่งบนชายหาด",
        "Boeing 747-400 at Heathrow, 1999",
        "Women's Nike Air Max 90 — size 38 (white/pink)",
    )
    assert reasons(table(*map(row, alts))) == [None] * len(alts)


def test_the_boundaries_of_datacomp_are_inclusive() -> None:
    at = table(row(original_width=600, original_height=200), row("a bc de"), row("abc de"))
    assert reasons(at) == [None, None, "text_too_few_words"]


def test_the_first_reason_in_the_order_of_the_vocabulary_wins() -> None:
    assert reasons(table(row("IMG_1234", original_width=10))) == ["image_too_small"]
    assert reasons(table(row("img.png"))) == ["text_too_few_words"]


def test_rows_keep_number_order_and_their_other_columns() -> None:
    before = table(row("x"), row(), row(original_width=1), row("红苹果")).append_column("uid", pa.array(list("abcd")))
    after = filter_rows(before, config=FilterConfig())
    untouched = [name for name in before.column_names if not name.startswith("drop_")]
    assert after.select(untouched).equals(before.select(untouched))
    assert after.select(NAMES).schema.equals(DECLARED)


def test_rows_dropped_before_are_left_alone_and_cost_nothing() -> None:
    dropped = row("x", image=None, drop_stage="download", drop_reason="timeout", original_width=None)
    found = filter_rows(table(dropped, row()), config=FilterConfig(nsfw_max=0.9, score_only=("text_too_short",)))
    first, second = found.to_pylist()
    assert (first["drop_stage"], first["drop_reason"]) == ("download", "timeout")
    assert all(first[name] is None for name in [*NAMES, "would_drop_text_too_short"])
    assert second["drop_reason"] is None
    assert second["caption"] == "a red apple on a wooden table"


def test_score_only_fills_a_column_instead_of_dropping() -> None:
    config = FilterConfig(score_only=("text_too_few_words", "where"), where="height >= 192")
    found = filter_rows(table(row("wooden table"), row(height=10), row("abc")), config=config)
    assert found["drop_reason"].to_pylist() == [None, None, "text_too_short"]
    assert found["would_drop_text_too_few_words"].to_pylist() == [True, False, True]
    assert found["would_drop_where"].to_pylist() == [False, True, False]
    declared = pa.schema([(column.name, column.type) for column in Filter(config).adds])
    assert found.select(declared.names).schema.equals(declared)


def test_disabled_measures_and_drops_nothing() -> None:
    found = filter_rows(table(row("x y", original_width=1)), config=FilterConfig(enabled=False, where="width < 0"))
    assert found["drop_reason"].to_pylist() == [None]
    assert found["text_words"].to_pylist() == [2]


def test_missing_alt_text_is_an_empty_caption() -> None:
    found = filter_rows(table(row(None), row("  \t ")), config=FilterConfig())
    assert found["caption"].to_pylist() == ["", ""]
    assert found["language"].to_pylist() == ["und", "und"]
    assert found["drop_reason"].to_pylist() == ["text_too_short"] * 2
    assert reasons(table(row(None)), min_characters=0, min_words=0) == [None]


@pytest.mark.parametrize("rows", [table(), table(row(drop_stage="download", drop_reason="timeout"))])
def test_tables_without_a_live_row(rows: pa.Table) -> None:
    config = FilterConfig(
        nsfw_max=0.5, where="width > 0", callables=(f"{__name__}:wider_than_high",), listed_words=("casino",)
    )
    found = filter_rows(rows, config=config)
    assert found.num_rows == rows.num_rows
    assert found.select(NAMES).schema.equals(DECLARED)


def test_where_sees_added_columns() -> None:
    rows = table(row(), row("一只狗在海滩上奔跑"))
    assert reasons(rows, where="language == 'en' and text_words > 3") == [None, "where"]


def test_columns_read_names_what_the_rules_that_are_on_need() -> None:
    base = ["alt", "width", "height", "drop_stage", "drop_reason", "original_width", "original_height"]
    assert columns_read(FilterConfig()) == base
    config = FilterConfig(min_bytes=1, nsfw_max=0.5, where="license == 'cc0' and language == 'en'")
    assert columns_read(config) == [*base, "original_bytes", "image", "license"]
    rows = table(row()).select(base)
    assert filter_rows(rows, config=FilterConfig())["drop_reason"].to_pylist() == [None]


@pytest.mark.parametrize(
    "config",
    [{"languages": ("english",)}, {"min_quality": 0.5}, {"nsfw_max": 2}, {"min_sides": 3}, {"max_aspect": 0.5}],
)
def test_configuration_out_of_range_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FilterConfig(**config)


def test_an_unknown_score_only_reason_names_its_neighbours() -> None:
    with pytest.raises(RecipeError, match="text_too_short"):
        FilterConfig(score_only=("text_to_short",))


def test_identity_follows_the_content_of_files_and_not_their_path(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("casino\n")
    two.write_text("casino\n")
    before = FilterConfig(listed_words=one).identity()
    assert before == FilterConfig(listed_words=two).identity()
    two.write_text("poker\n")
    assert before != FilterConfig(listed_words=two).identity()
    with pytest.raises(RecipeError, match="listed_words"):
        FilterConfig(listed_words=tmp_path / "none.txt").identity()
