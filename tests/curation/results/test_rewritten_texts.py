"""Rewritten texts in the report: what became of the rows, and the texts by kind and language."""

from __future__ import annotations

import pyarrow as pa

from curation.flow import flow_of
from curation.pack import PackConfig
from curation.results.data import Tally, texts_of
from curation.results.outcome import Outcome
from curation.rewrite_texts import REWRITE


def test_they_are_counted_by_status_kind_and_language() -> None:
    flow = flow_of({"rewrite_texts": {"model": "m", "engine": "openai"}})
    made = [[{"text": "a dog", "kind": "rewritten", "language": "en", "source_index": 0}], [], []]
    rows = pa.table(
        {
            "uid": ["0", "1", "2"],
            "alt": ["dog", "cat", "cow"],
            "caption": ["dog", "cat", "cow"],
            "language": ["en"] * 3,
            "rewrites": pa.array(made, pa.list_(REWRITE)),
            "rewrite_status": ["success", "engine_error", "success"],
            # What was made of a row before another stage dropped it is not used.
            "drop_stage": pa.array([None, None, "filter"], pa.string()),
            "drop_reason": pa.array([None, None, "nsfw"], pa.string()),
        }
    )
    tally = Tally(PackConfig(), flow)
    tally.add(Outcome(0, rows, (), {}))
    data = tally.data()
    assert data["rewrite_status"] == {"success": 1, "engine_error": 1, "not_needed": 1}
    assert data["texts"] == {"alt": {"en": 2}, "rewritten": {"en": 1}}
    assert [text["kind"] for text in texts_of(rows.to_pylist()[0])] == ["alt", "rewritten"]
