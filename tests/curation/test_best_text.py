"""Which of a row's texts is its caption."""

from __future__ import annotations

from typing import Any

import pytest

from curation.best_text import CaptionConfig, best_text
from curation.flow import flow_of
from pairmill.errors import RecipeError
from pairmill.layout import row_texts


def row(
    *texts: tuple[str, str], alt: str = "alt", scores: list[float | None] | None = None, **more: Any
) -> dict[str, Any]:
    """A row with recaptions (kind, text), and the scores of all its texts by the encoder `clip`."""
    made = [{"kind": kind, "text": text, "language": "en"} for kind, text in texts]
    return {"uid": "0", "caption": alt, "language": "en", "recaptions": made, "score_clip_texts": scores, **more}


SHORT, LONG = ("short", "short"), ("long", "long")


@pytest.mark.parametrize(
    ("given", "config", "best"),
    [
        (row(SHORT, LONG), {}, "short"),
        (row(LONG), {}, "long"),
        (row(), {}, "alt"),
        (row(SHORT), {"prefer": ("alt",)}, "alt"),
        (row(LONG), {"prefer": ("short",)}, "alt"),
        (row(alt=""), {}, None),
        (row(SHORT, alt=""), {"prefer": ("alt", "short")}, "short"),
        # Never a text that fits less than the alt text, where that is known.
        (row(SHORT, LONG, scores=[0.3, 0.2, 0.4]), {}, "long"),
        (row(SHORT, LONG, scores=[0.3, 0.2, 0.1]), {}, "alt"),
        (row(SHORT, scores=[0.3, 0.3]), {}, "short"),
        (row(SHORT, scores=[None, -0.5]), {}, "short"),
        (row(SHORT, scores=[0.3, None]), {}, "short"),
        (row(SHORT, scores=[0.3, 0.2]) | {"language": "zh"}, {}, "short"),
        (row(SHORT, alt="", scores=[0.3, 0.2]), {}, "short"),
        # The best of all
        (row(SHORT, LONG, scores=[0.3, 0.35, 0.4]), {"best_of": True}, "long"),
        (row(SHORT, LONG, scores=[0.5, 0.35, 0.4]), {"best_of": True}, "alt"),
        (row(SHORT, LONG, scores=[0.3, 0.4, 0.4]), {"best_of": True}, "short"),
        (row(SHORT, LONG, scores=[0.3, 0.35, 0.4]), {"best_of": True, "prefer": ("short", "alt")}, "short"),
        (row(SHORT, LONG), {"best_of": True}, "short"),
        # Another judge
        (row(SHORT, scores=[0.3, 0.2], score_b_texts=[0.1, 0.2]), {}, "short"),
        (row(SHORT, scores=[0.3, 0.2], score_b_texts=[0.1, 0.2]), {"judge": "clip"}, "alt"),
        # Share of the rows
        (row(SHORT), {"recap_p": 0.0}, "alt"),
        (row(SHORT, alt=""), {"recap_p": 0.0}, "short"),
    ],
)
def test_the_caption(given: dict[str, Any], config: dict[str, Any], best: str | None) -> None:
    assert best_text(given, row_texts(given), CaptionConfig.checked(config)) == best


def test_scores_of_a_refused_text_are_not_another_text_s() -> None:
    refused = {"refused_by": "length", "text": None, "edited_by": None}
    accepted = dict.fromkeys(refused)
    given = row(SHORT, LONG, scores=[0.3, 0.1, 0.4], gate=[refused, accepted])
    assert best_text(given, row_texts(given), CaptionConfig()) == "long"


def test_a_share_of_the_rows_is_recaptioned_and_always_the_same() -> None:
    config = CaptionConfig(recap_p=0.8)
    rows = [row(SHORT) | {"uid": f"{n:032x}"} for n in range(2000)]
    found = [best_text(one, row_texts(one), config) for one in rows]
    # Four standard deviations of a binomial draw of 2,000 are 72.
    assert abs(found.count("short") - 1600) < 72
    assert found == [best_text(one, row_texts(one), config) for one in rows]
    fewer = [best_text(one, row_texts(one), CaptionConfig(recap_p=0.5)) for one in rows]
    assert all(one == "short" for one, other in zip(found, fewer, strict=True) if other == "short"), (
        "a smaller share is a part"
    )


def test_a_judge_must_score_what_models_write() -> None:
    recipe: dict[str, Any] = {"recaption": {"model": "any"}}
    clip = {"clip": {"model": "ViT-B-32", "pretrained": "openai"}}
    flow_of({**recipe, "embed": clip, "pack": {"judge": "clip", "best_of": True}})
    with pytest.raises(RecipeError, match=r"pack\.judge must name(?s:.)*clip"):
        flow_of({**recipe, "embed": clip, "pack": {"judge": "clap"}})
    with pytest.raises(RecipeError, match=r"pack\.best_of must have scores"):
        flow_of({**recipe, "pack": {"best_of": True}})
