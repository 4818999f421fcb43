"""Tables of one recipe through two of its selections."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_encoders import VIT

from curation.embedding.stage import Embed
from curation.flow import Tables, flow_of

RECIPE: dict[str, Any] = {
    "embed": {
        "clip": {"model": str(VIT), "pretrained": str(VIT)},
        "other": {"model": str(VIT), "pretrained": __file__},
    },
    "selections": {"good": {"where": "score_clip > 0.2"}},
    "pack": {"selection": "good"},
}


def test_models_are_looked_up_once_for_all_selections_of_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Tables(flow_of(RECIPE, "default"), selection="default")
    asked: list[str] = []
    revision = Embed.revision
    monkeypatch.setattr(Embed, "revision", lambda stage: (asked.append(stage.name), revision(stage))[1])
    packed = Tables(flow_of(RECIPE), selection="good")
    plain = packed.through(flow_of(RECIPE, "default"), "default")
    assert sorted(asked) == ["embed-clip", "embed-other"]
    assert plain.all == expected.all and plain.made_by == expected.made_by
    assert plain.named("selections/default").identity and "selections/good" not in [t.name for t in plain.all]


def test_tables_that_need_no_keys_ask_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embed, "revision", lambda stage: pytest.fail(f"{stage.name} was asked"))
    packed = Tables(flow_of(RECIPE), selection="good", keyed=False)
    packed.through(flow_of(RECIPE, "default"), "default")
