"""The stage: in which order gates are asked, and what becomes of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from curation.flow import flow_of
from curation.gates.gate import ACCEPTED, REFUSED, Gate, GateKeys, Verdict, Written
from curation.gates.stage import GateConfig, GateStage
from curation.pack import PackConfig, pack_rows
from curation.recaption import RECAPTION
from curation.translate import TRANSLATION
from pairmill.errors import IntegrityError, RecipeError, RunDirError
from pairmill.layout import GATE, TEXT_FIELDS, VERDICT, of_row_texts, row_texts, written_texts


def recaption(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "kind": "short", "language": "en", "model": "m", "prompt_id": "short", "score": -0.5, **more}


def translation(text: str | None, source: int, **more: Any) -> dict[str, Any]:
    return {"text": text, "language": "zh", "source_index": source, "model": "t", "status": "success", **more}


LONG = "a dog " * 40
ROW: dict[str, Any] = {
    "uid": "u0",
    "caption": "a dog",
    "language": "en",
    "recaptions": [recaption(LONG), recaption("The image shows a dog on a beach in the sun.")],
    "translations": [
        translation("一只狗", 0),
        translation("许多狗", 1),
        translation(None, 1),
        translation("沙滩上的狗", 2),
    ],
    "score_clip_texts": [0.3, 0.1, 0.4, 0.31, 0.11, 0.41],
}


def table(*rows: dict[str, Any], dropped: Sequence[str | None] | None = None) -> pa.Table:
    types = {"recaptions": pa.list_(RECAPTION), "translations": pa.list_(TRANSLATION)}
    made = {name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]}
    return pa.table({**made, "drop_reason": pa.array(dropped or [None] * len(rows), pa.string())})


def gated(*gates: Any, row: dict[str, Any] = ROW) -> dict[str, Any]:
    rows = GateStage(GateConfig.checked({"gates": list(gates)}))(table(row))
    found: dict[str, Any] = rows.to_pylist()[0]
    return found


class Counts(Gate):
    """A user's own gate: refuses the text that is `bad`, and notes what it saw."""

    Config = GateKeys
    seen: ClassVar[list[str]] = []

    def __call__(self, texts: Sequence[Written]) -> Sequence[Verdict]:
        Counts.seen = [one.text for one in texts]
        return [REFUSED if one.text == "bad" else ACCEPTED for one in texts]


class Short(Counts):
    """A gate that forgets to answer."""

    def __call__(self, texts: Sequence[Written]) -> Sequence[Verdict]:
        return []


def test_what_is_refused_is_out_of_the_texts_and_stays_in_its_table() -> None:
    row = gated("opener", "length")
    assert row["recaptions"] == table(ROW)["recaptions"].to_pylist()[0], "the quarantine"
    assert [one["refused_by"] for one in row[GATE]] == ["length", None, None, "source_refused", None]
    assert row[GATE][0]["value"] == 80.0
    texts = row_texts(row)
    assert [one["text"] for one in texts] == ["a dog", "A dog on a beach in the sun.", "一只狗", "沙滩上的狗"]
    assert [one["edited_by"] for one in texts] == [None, "opener", None, None]
    assert [one["source_index"] for one in texts] == [None, None, 0, 1], "places among the texts that are left"
    assert len(written_texts(row)) == 6
    assert of_row_texts(row, row["score_clip_texts"]) == [0.3, 0.4, 0.31, 0.41]


def test_a_row_without_verdicts_has_all_its_texts() -> None:
    assert row_texts(ROW) == row_texts({**ROW, GATE: None}) == written_texts(ROW)
    assert of_row_texts(ROW, [1, 2]) == [1, 2] and of_row_texts(ROW, None) is None
    assert all(set(one) == set(TEXT_FIELDS) for one in written_texts(ROW))


def test_verdicts_of_other_texts_are_an_error() -> None:
    row = gated("length")
    row["recaptions"] = row["recaptions"][:1]
    with pytest.raises(RunDirError, match="a row with 5 verdicts for 4 texts"):
        row_texts(row)


def test_the_product_has_the_accepted_texts_and_their_scores() -> None:
    rows = GateStage(GateConfig())(table(ROW))
    rows = rows.append_column("image", pa.array([b"x"])).append_column("url", pa.array(["http://a/0"]))
    scores = {"score_clip_texts": pa.list_(pa.float32())}
    (packed,) = pack_rows(rows, PackConfig(), "jpg", scores).to_pylist()
    assert [text["text"] for text in packed["texts"]] == [one["text"] for one in row_texts(gated("opener", "length"))]
    assert packed["score_clip_texts"] == pytest.approx([0.3, 0.4, 0.31, 0.41])
    assert packed["caption"] == "A dog on a beach in the sun."


def test_a_later_gate_sees_the_changed_text_and_no_refused_one() -> None:
    gated("length", "opener", f"{__name__}:Counts")
    assert Counts.seen == ["A dog on a beach in the sun.", "一只狗", "许多狗", "沙滩上的狗"]
    gated({"name": f"{__name__}:Counts", "kinds": ["translated"]})
    assert Counts.seen == ["一只狗", "许多狗", "沙滩上的狗"]


def test_a_dropped_row_has_no_verdicts_and_one_without_texts_has_none_to_give() -> None:
    empty = {**ROW, "recaptions": [], "translations": None}
    rows = GateStage(GateConfig())(table(ROW, empty, ROW, dropped=["nsfw", None, None]))
    assert [None if one is None else len(one) for one in rows[GATE].to_pylist()] == [None, 0, 5]
    assert rows[GATE].type == pa.list_(VERDICT)


def test_a_gate_must_answer_for_every_text() -> None:
    with pytest.raises(IntegrityError, match="Verdict for each of 5 texts"):
        gated(f"{__name__}:Short")


def test_a_gate_is_named_once_and_must_be_one() -> None:
    with pytest.raises(RecipeError, match=r"gate\.gates must name each gate once"):
        GateConfig.checked({"gates": ["opener", "opener"]})
    with pytest.raises(RecipeError, match=r"must be a subclass of curation\.gates\.gate\.Gate"):
        GateConfig.checked({"gates": ["curation.pack:Pack"]})


WRITING = {"recaption": {"model": "any"}}
CLIP = {"embed": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}}}


def test_gates_come_last_and_only_where_models_write() -> None:
    assert "gate" not in flow_of({})
    assert "gate" not in flow_of({**WRITING, "gate": {"enabled": False}})
    flow = flow_of({**WRITING, **CLIP, "translate": {"model": "any"}})
    assert flow.order[-4:] == ("translate", "embed_texts-clip", "gate", "pack")


def test_a_score_that_no_stage_makes_is_an_error_of_the_recipe() -> None:
    gates = {"gates": [{"name": "image_text_score", "encoder": "clip", "least": 0.2}]}
    assert "gate" in flow_of({**WRITING, **CLIP, "gate": gates})
    with pytest.raises(RecipeError, match="score_clip_texts"):
        flow_of({**WRITING, "gate": gates})
