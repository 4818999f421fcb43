"""Rows keep what expensive stages made of them, whatever happens to the other rows of their shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.download import Download
from curation.engines import Failure, Generated
from curation.flow import flow_of
from curation.images.config import ImageConfig
from curation.images.stage import Inspect
from curation.recaption import RECAPTION
from curation.reuse import WAS, restored, to_be_made, with_made_from, work_again
from curation.schema import live, set_columns
from curation.stage import Column, Stage, StageConfig
from curation.translate import Translate, TranslateConfig

DROPS = ("drop_stage", "drop_reason")


class Count(Stage):
    """A model that counts letters, drops what has none, fails at `?`, and remembers what it was asked."""

    name, segment, pool = "count", "score", "model"
    reads = ("caption", "image")
    adds = (Column("letters", pa.int64()),)
    drops = ("no_letters",)

    def __init__(self) -> None:
        super().__init__(StageConfig())
        self.asked: list[str] = []

    def unfinished(self, rows: pa.Table) -> pa.ChunkedArray:
        return pc.equal(rows["letters"], -1)

    def __call__(self, rows: pa.Table) -> pa.Table:
        alive = live(rows).to_pylist()
        captions = rows["caption"].to_pylist()
        self.asked += [caption for caption, lives in zip(captions, alive, strict=True) if lives]
        found = [(-1 if c == "?" else len(c)) if lives else None for c, lives in zip(captions, alive, strict=True)]
        rows = set_columns(
            rows, {"letters": pa.array(found, pa.int64()), "_seconds_count": pa.array([2.0] * len(rows))}
        )
        return self.drop(rows, no_letters=pc.equal(rows["letters"], 0))


def rows(captions: list[str], dropped: tuple[int, ...] = (), sha: str = "s") -> pa.Table:
    where = [("filter" if at in dropped else None) for at in range(len(captions))]
    columns: dict[str, Any] = {"uid": [str(at) for at in range(len(captions))], "caption": captions}
    columns |= {"image": [b"x"] * len(captions), "sha256": [f"{sha}{at}" for at in range(len(captions))]}
    columns |= {"drop_stage": pa.array(where, pa.string()), "drop_reason": pa.array(where, pa.string())}
    return pa.table(columns)


def first(stage: Count, table: pa.Table) -> pa.Table:
    return with_made_from(stage, stage(table), "model 1")


def again(stage: Count, table: pa.Table, had: pa.Table, made_by: str = "model 1") -> pa.Table:
    """Work on a shard whose table is there; `had` is what it holds."""
    stage.asked.clear()
    earlier = {name: had[name] for name in ("letters", "count_made_from", "count_verdict")}
    block = set_columns(table, earlier | {WAS[name]: had[name] for name in DROPS})
    block = restored(stage, block)
    done, worked = work_again(stage, block, to_be_made(stage, block, made_by), made_by, stage)
    assert done["uid"].equals(table["uid"])
    assert len(worked) >= len(stage.asked)
    return with_made_from(stage, done, made_by)


def test_only_what_changed_is_worked_on_and_every_live_row_comes_out_as_if_it_were_made_anew() -> None:
    stage = Count()
    had = first(stage, rows(["ab", "cde", "", "f", "?"]))
    assert stage.asked == ["ab", "cde", "", "f", "?"]
    changed = rows(["ab", "cdefg", "", "f", "?"], dropped=(3,))
    done = again(stage, changed, had)
    assert stage.asked == ["cdefg", "?"]
    assert done["letters"].to_pylist() == [2, 5, 0, 1, -1]
    assert done["drop_reason"].to_pylist() == [None, None, "no_letters", "filter", None]
    assert done["_seconds_count"].to_pylist() == [2.0] * 5
    fresh = first(Count(), changed).filter(live(changed))
    assert done.select(fresh.schema.names).filter(live(changed)).equals(fresh)


def test_nothing_is_asked_where_nothing_changed() -> None:
    stage = Count()
    had = first(stage, rows(["ab", "cde", ""]))
    done = again(stage, rows(["ab", "cde", ""]), had)
    assert stage.asked == []
    assert done["letters"].equals(had["letters"]) and done["drop_reason"].equals(had["drop_reason"])


def test_a_row_that_comes_back_has_what_was_made_of_it_before() -> None:
    stage = Count()
    had = first(stage, rows(["ab", "cde", "", "?"]))
    out = again(stage, rows(["ab", "cde", "", "?"], dropped=(1, 2, 3)), had)
    assert stage.asked == []
    assert out["drop_stage"].to_pylist() == [None, "filter", "filter", "filter"]
    # Twice dropped, then changed too: only that is paid for.
    out = again(stage, rows(["ab", "cde", "", "?"], dropped=(0, 1)), out)
    assert stage.asked == ["?"]
    back = again(stage, rows(["ab", "cdef", "", "?"]), out)
    assert stage.asked == ["cdef", "?"]
    assert back["letters"].to_pylist() == [2, 4, 0, -1]
    assert back["drop_reason"].to_pylist() == [None, None, "no_letters", None]


def test_what_was_made_of_a_picture_goes_when_the_picture_does() -> None:
    stage = Count()
    status = pa.array(["success", "success"])
    had = first(stage, set_columns(rows(["ab", "cde"]), {"status": status}))
    blocked = set_columns(rows(["ab", "cde"], dropped=(1,)), {"status": pa.array(["success", "hash_blocked"])})
    out = again(stage, blocked, had)
    assert stage.asked == []
    assert (out["letters"].to_pylist(), out["count_made_from"][1].as_py()) == ([2, None], None)


def test_a_row_that_was_never_worked_on_is_worked_on_when_it_comes_back() -> None:
    stage = Count()
    had = first(stage, rows(["ab", "cde"], dropped=(1,)))
    assert again(stage, rows(["ab", "cde"]), had)["letters"].to_pylist() == [2, 3]
    assert stage.asked == ["cde"]


@pytest.mark.parametrize(("sha", "made_by"), [("t", "model 1"), ("s", "model 2")])
def test_another_picture_or_another_model_is_another_result(sha: str, made_by: str) -> None:
    stage = Count()
    had = first(stage, rows(["ab", "cde"]))
    again(stage, rows(["ab", "cde"], sha=sha), had, made_by)
    assert stage.asked == ["ab", "cde"]


# Unfinished rows


class Glossary:
    """A translator that fails for what it does not know."""

    sampling = "greedy"

    def __init__(self, **known: str) -> None:
        self.known = {"1": "1", **known}
        self.asked: list[str] = []

    def supports(self, source: str, target: str) -> bool:
        return True

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
        self.asked += texts
        return [Generated(self.known[text], None) if text in self.known else Failure("out of memory") for text in texts]


def texts(*captions: str) -> dict[str, pa.Array]:
    """A column of one row with these captions."""
    nothing = dict.fromkeys(field.name for field in RECAPTION)
    made = [{**nothing, "text": text, "kind": "short", "language": "en"} for text in captions]
    return {"recaptions": pa.array([[], made], pa.list_(RECAPTION))}


def translator(**known: str) -> tuple[Translate, Glossary]:
    engine = Glossary(**known)
    config = {"model": "samples/models/translator", "check_language": False, "min_length_ratio": 0.0}
    return Translate(TranslateConfig.checked(config | {"max_length_ratio": 9.0}), engine=engine), engine


def translated(table: pa.Table, row: int) -> list[str | None]:
    return [entry["text"] for entry in table["translations"][row].as_py()]


DROPPED = {"drop_stage": pa.array([None, "filter"]), "drop_reason": pa.array([None, "blurry"])}
DONE = set_columns(rows(["sun", "dog"]), {"language": pa.array(["en", "en"])} | texts("cat"))


@pytest.mark.parametrize(
    ("known", "change", "made_by", "stands"),
    [
        ({}, {}, "model 1", ["D", None]),  # it fails for all of the row: what was there stays
        ({"cat": "C"}, {}, "model 1", [None, "C"]),  # as much as before
        ({"dog": "d", "cat": "C"}, {}, "model 1", ["d", "C"]),
        ({}, {}, "model 2", [None, None]),  # another recipe
        ({}, texts("cow"), "model 1", [None, None]),  # another input
        ({}, {"translate_made_from": pa.nulls(2, pa.uint64())}, "model 1", [None, None]),  # of an earlier build
        ({}, DROPPED, "model 1", ["D", None]),
    ],
)
def test_an_unfinished_row_is_worked_on_again_and_loses_nothing_if_it_fails_again(
    known: dict[str, str], change: dict[str, Any], made_by: str, stands: list[str | None]
) -> None:
    first, _ = translator(sun="S", dog="D")
    had = with_made_from(first, first(DONE), "model 1")
    assert (translated(had, 1), had["translate_status"].to_pylist()) == (["D", None], ["success", "partial"])
    second, engine = translator(sun="S", **known)
    block = set_columns(had, change)
    done, _ = work_again(second, block, to_be_made(second, block, made_by), made_by, second)
    done = with_made_from(second, done, made_by)
    assert (translated(done, 0), translated(done, 1)) == (["S"], stands)
    same = made_by == "model 1" and "translate_made_from" not in change
    assert ("sun" in engine.asked, "dog" in engine.asked) == (not same, "drop_stage" not in change)
    if stands == ["D", None]:
        # Whole: with why it is unfinished, so that it is worked on when it comes up again.
        assert done.slice(1).equals(block.slice(1))


class NeverDone(Count):
    """Could always find more letters."""

    def unfinished(self, rows: pa.Table) -> pa.Array:
        return pa.array([True] * len(rows))

    def usable(self, rows: pa.Table) -> pa.ChunkedArray:
        return pc.fill_null(rows["letters"], 0)


def test_of_a_picture_that_is_gone_not_even_a_part_stays() -> None:
    stage = NeverDone()
    had = first(stage, set_columns(rows(["ab", "cde"]), {"status": pa.array(["success", "success"])}))
    blocked = set_columns(rows(["ab", "cde"], dropped=(1,)), {"status": pa.array(["success", "hash_blocked"])})
    assert again(stage, blocked, had)["letters"].to_pylist() == [2, None]


def test_a_stage_that_counts_nothing_usable_gives_the_last_of_two_failures() -> None:
    stage = Count()
    failed = set_columns(rows(["a", "b"]), {"letters": pa.array([-1, 3], pa.int64())})
    assert stage.usable(failed).to_pylist() == [0, 1]
    assert stage.usable(set_columns(failed, {"letters": pa.nulls(2, pa.int64())})).to_pylist() == [1, 1]


def test_usable_translations_of_a_piece_of_a_table_are_its_own() -> None:
    stage, _ = translator(sun="S", dog="D")
    made = stage(DONE)
    whole = pa.concat_tables([made, made])
    assert stage.usable(whole).to_pylist() == [1, 1, 1, 1]
    assert stage.usable(whole.slice(1, 1)).to_pylist() == [1]
    assert stage.usable(whole.slice(0, 0)).to_pylist() == []


# Pictures


def images(*changes: dict[str, Any]) -> pa.Table:
    good = {"status": "success", "sha256": "a", "image": b"old", "robots": "allowed", "opt_out": "", "agent": "one"}
    types = {c.name: c.type for c in (*Download.adds, *Inspect.adds)}
    types |= dict.fromkeys(("uid", *DROPS), pa.string())
    records = [{"uid": str(n), **good, "image_settings": ImageConfig().settings, **c} for n, c in enumerate(changes)]
    for record in records:
        if record["status"] != "success":
            record |= {"image": None, "drop_stage": "download", "drop_reason": record["status"]}
    return pa.table({name: pa.array([r.get(name) for r in records], kind) for name, kind in types.items()})


def test_a_picture_is_outdated_by_its_settings_and_a_failure_by_nothing() -> None:
    table = images({}, {"image_settings": "other"}, {"status": "http_client_error"}, {"status": None})
    assert flow_of({}).of(Download).outdated(table).to_pylist() == [False, True, False, True]


def test_a_failure_never_replaces_a_picture_but_the_owners_wish_is_noted() -> None:
    old = images({}, {}, {}, {}, {"status": "timeout"}, {"status": "timeout"})
    new = images(
        {"image": b"new", "sha256": "b"},
        {"status": "dns_error"},
        {"status": "opt_out", "opt_out": "X-Robots-Tag: noai", "agent": "two"},
        {"status": "robots_disallowed", "robots": "disallowed", "opt_out": "robots.txt: no", "agent": "two"},
        {"image": b"new", "sha256": "c"},
        {"status": "http_client_error"},
    )
    stands = flow_of({}).of(Download).preferred(old, new)
    assert stands["status"].to_pylist() == [*["success"] * 5, "http_client_error"]
    assert stands["image"].to_pylist() == [b"new", b"old", b"old", b"old", b"new", None]
    assert stands["opt_out"].to_pylist() == ["", "", "X-Robots-Tag: noai", "", "", ""]
    assert stands["robots"].to_pylist() == ["allowed", "allowed", "allowed", "disallowed", "allowed", "allowed"]
    assert stands["drop_reason"].to_pylist() == [None] * 5 + ["http_client_error"]
