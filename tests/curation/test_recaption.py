from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiny_models
from PIL import Image
from pydantic import ValidationError

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.guard import MANY
from curation.engines.model_files import PROJECT_ROOT
from curation.recaption import RECAPTION, Prompt, Recaption, RecaptionConfig, model_revision, text_seed
from curation.stage import Runtime
from pairmill import faults
from pairmill.errors import JobError, RecipeError, UserError
from pairmill.layout import TEXT

SERVED = RecaptionConfig(
    engine="openai", model="owner/name", revision="v1", prompts={"short": "name it", "long": "about {caption}"}
)


class Scripted:
    """An engine that answers by prompt and image width, and remembers what it was asked."""

    def __init__(self, *, failing_widths: Sequence[int] = (), error: str = "boom", rows_per_call: int = 4) -> None:
        self.rows_per_call = rows_per_call
        self.failing_widths = failing_widths
        self.error = error
        self.calls: list[list[CaptionRequest]] = []

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        self.calls.append(list(requests))
        return [self._answer(request) for request in requests]

    def _answer(self, request: CaptionRequest) -> Generated | Failure:
        if request.image.width in self.failing_widths:
            return Failure(self.error)
        text = "" if "empty" in request.prompt else f"{request.prompt} {request.image.width}"
        return Generated(text, -0.5, cut="long winded" in request.prompt)


def picture(width: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, 8)).save(file, "PNG")
    return file.getvalue()


def table(
    images: Sequence[bytes | None], *, captions: Sequence[str | None] | None = None, dropped: Sequence[int] = ()
) -> pa.Table:
    count = len(images)
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(count)],
            "image": pa.array(images, pa.binary()),
            "caption": pa.array(captions or [f"alt {at}" for at in range(count)], pa.string()),
            "drop_stage": pa.array(["filter" if at in dropped else None for at in range(count)], pa.string()),
            "drop_reason": pa.array(["nsfw" if at in dropped else None for at in range(count)], pa.string()),
        }
    )


def texts(rows: pa.Table) -> list[list[str]]:
    return [[made["text"] for made in row] for row in rows["recaptions"].to_pylist()]


def test_every_live_row_gets_a_text_of_every_prompt_with_its_provenance() -> None:
    rows = table([picture(10), picture(11)])
    out = Recaption(SERVED, engine=Scripted())(rows)
    assert out.select(rows.column_names).equals(rows)
    assert out.schema.field("recaptions").type == pa.list_(RECAPTION)
    assert texts(out) == [["name it 10", "about alt 0 10"], ["name it 11", "about alt 1 11"]]
    assert out["recaptions"][0][1].as_py() == {
        "text": "about alt 0 10",
        "kind": "long",
        "language": "en",
        "model": "owner/name",
        "revision": "v1",
        "prompt_id": "long",
        "sampling": "greedy,max_new_tokens=256",
        "score": -0.5,
    }
    assert out["recaption_status"].to_pylist() == ["success", "success"]
    assert out["recaption_error"].to_pylist() == [None, None]


def test_a_recaption_has_fields_of_the_product_only() -> None:
    wanted = {field.name: field.type for field in TEXT}
    assert {field.name: field.type for field in RECAPTION}.items() <= wanted.items()


def test_each_status() -> None:
    images = [picture(10), picture(11), picture(12), None, b"not an image", picture(13)[:-40], picture(14)]
    rows = table(images, dropped=[1])
    out = Recaption(SERVED, engine=Scripted(failing_widths=[12]))(rows)
    assert out["recaption_status"].to_pylist() == [
        "success",
        "not_needed",
        "engine_error",
        "decode_error",
        "decode_error",
        "decode_error",
        "success",
    ]
    errors = out["recaption_error"].to_pylist()
    assert errors[2] == "short: boom; long: boom"
    assert errors[3] == "no image"
    assert errors[4].startswith("UnidentifiedImageError")
    assert [bool(row) for row in texts(out)] == [True, False, False, False, False, False, True]
    assert out["drop_reason"].equals(rows["drop_reason"])


def test_an_empty_answer_is_no_text() -> None:
    config = SERVED.model_copy(update={"prompts": {"short": "empty", "long": "long winded"}})
    out = Recaption(config, engine=Scripted())(table([picture(10)]))
    assert texts(out) == [[]]
    assert out["recaption_status"].to_pylist() == ["truncated"]
    assert out["recaption_error"].to_pylist() == ["short: empty; long: truncated at 256 tokens; no text"]
    config = SERVED.model_copy(update={"prompts": {"short": "empty"}})
    out = Recaption(config, engine=Scripted())(table([picture(10)]))
    assert out["recaption_status"].to_pylist() == ["empty"]


@pytest.mark.parametrize(
    ("prompt", "status", "kept"),
    [
        ("A dog. A dog. A dog. A dog. A", "repetition", "A dog."),
        ("dog dog dog dog dog", "repetition", None),
        ("I'm sorry, I can't see it,", "refusal", None),
        ("<think>Hm", "reasoning", None),
        ("<think>Hm</think>A dog", "success", "A dog 10"),
    ],
)
def test_what_is_no_caption_gives_way_to_the_alt_text(prompt: str, status: str, kept: str | None) -> None:
    config = SERVED.model_copy(update={"prompts": {"short": prompt}})
    out = Recaption(config, engine=Scripted())(table([picture(10)]))
    assert texts(out) == [[kept] if kept else []]
    assert out["recaption_status"].to_pylist() == ["success" if kept else status]
    error = out["recaption_error"][0].as_py()
    assert error is None if status == "success" else status in error


def test_rows_go_to_the_engine_in_order_prompt_by_prompt() -> None:
    engine = Scripted(rows_per_call=2)
    Recaption(SERVED, engine=engine)(table([picture(10 + at) for at in range(5)], dropped=[1]))
    asked = [[(request.prompt.split()[0], request.image.width) for request in call] for call in engine.calls]
    assert asked == [
        [("name", 10), ("name", 12), ("about", 10), ("about", 12)],
        [("name", 13), ("name", 14), ("about", 13), ("about", 14)],
    ]


def test_images_reach_the_engine_as_rgb_and_as_the_bytes_of_the_table() -> None:
    engine = Scripted()
    encoded = picture(10, "RGBA")
    Recaption(SERVED, engine=engine)(table([encoded], captions=[None]))
    assert engine.calls[0][0].image.mode == "RGB"
    assert engine.calls[0][0].encoded == encoded
    assert engine.calls[0][1].prompt == "about "


def test_the_caption_is_not_read_unless_a_prompt_wants_it() -> None:
    config = SERVED.model_copy(update={"prompts": {"short": "name it"}})
    out = Recaption(config, engine=Scripted())(table([picture(10)]).drop_columns(["caption"]))
    assert texts(out) == [["name it 10"]]


@pytest.mark.parametrize("dropped", [(), (0, 1)])
def test_nothing_to_do_asks_nothing(dropped: Sequence[int]) -> None:
    engine = Scripted()
    out = Recaption(SERVED, engine=engine)(table([None] * len(dropped), dropped=dropped))
    assert out.num_rows == len(dropped)
    assert out.schema.field("recaptions").type == pa.list_(RECAPTION)
    assert not any(engine.calls)


def test_a_dead_engine_stops_the_job() -> None:
    # The probe is 64 px wide.
    engine = Scripted(failing_widths=[10, 64], error="CUDA error")
    with pytest.raises(JobError, match="CUDA error"):
        Recaption(SERVED, engine=engine)(table([picture(10)]))


def test_one_bad_row_alone_in_its_table_does_not() -> None:
    out = Recaption(SERVED, engine=Scripted(failing_widths=[10]))(table([picture(10)]))
    assert out["recaption_status"].to_pylist() == ["engine_error"]


def test_a_table_without_one_text_stops_the_job() -> None:
    with pytest.raises(JobError, match="boom"):
        Recaption(SERVED, engine=Scripted(failing_widths=[10]))(table([picture(10)] * MANY))


def test_seeds_differ_by_picture_and_prompt() -> None:
    seeds = {text_seed(seed, picture, text) for seed in (0, 1) for picture in ("a", "b") for text in ("name", "say")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert text_seed(0, "a", "name") == text_seed(0, "a", "name")


def test_prompts_take_their_kind_from_their_name() -> None:
    config = RecaptionConfig(
        prompts={"short": "a", "tags": "b", "title": Prompt(text="c", kind="short", max_new_tokens=9, language="zh")},
        max_new_tokens=30,
    )
    resolved = config.resolved_prompts()
    assert {name: (p.kind, p.max_new_tokens, p.language) for name, p in resolved.items()} == {
        "short": ("short", 30, "en"),
        "tags": ("long", 30, "en"),
        "title": ("short", 9, "zh"),
    }


def test_a_recipe_s_plain_data_makes_the_same_configuration() -> None:
    config = RecaptionConfig(model="owner/name")
    assert RecaptionConfig.model_validate(config.model_dump(mode="json")) == config
    assert list(config.prompts) == ["short", "long"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"enabled": True},
        {"model": "m", "prompts": {}},
        {"model": "m", "prompts": {"a b": "x"}},
        {"model": "m", "temperature": -1},
        {"model": "m", "trust_remote_code": True},
        {"model": "m", "openai": {"retries": 1}},
    ],
)
def test_what_a_recipe_cannot_say(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecaptionConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"device": "/etc"}, r"recaption\.engine\.device"),
        ({"name": "openai", "batch_size": 2}, r"recaption\.engine\.batch_size is not a key of the recipe"),
        ({"name": "vllm", "max_model_len": 2}, r"recaption\.engine\.max_model_len is not a key of the recipe"),
        ("tranformers", "perhaps you mean: transformers"),
    ],
)
def test_an_engine_has_keys_of_its_own(engine: object, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        RecaptionConfig.checked({"model": "m", "engine": engine}, at="recaption")


def test_a_stage_without_a_model_has_no_engine_to_load() -> None:
    with pytest.raises(RecipeError, match="must name its model"):
        Recaption(RecaptionConfig()).setup(Runtime())


def test_the_stage_runs_if_it_has_a_model() -> None:
    assert not RecaptionConfig().active
    assert RecaptionConfig(model="m").active
    assert not RecaptionConfig(model="m", enabled=False).active


def test_identity_changes_with_what_decides_a_text_only() -> None:
    base: dict[str, Any] = {"model": "m"}

    def identity(**more: Any) -> dict[str, Any]:
        return RecaptionConfig.model_validate(base | more).identity()

    def engine(name: str, **more: Any) -> dict[str, Any]:
        return identity(engine={"name": name, **more})

    same = [{"engine": {"batch_size": 1}}, {"engine": {"device": "cpu"}}, {"enabled": True}, {"seed": 3}]
    assert all(identity(**more) == identity() for more in [*same, {"num_gpus": 1}, {"engine": "transformers"}])
    different = [
        {"temperature": 1.0},
        {"prompts": {"short": "a"}},
        {"engine": "vllm"},
        {"engine": {"dtype": "float32"}},
    ]
    assert all(identity(**more) != identity() for more in different)
    sampled = {"temperature": 1.0}
    assert identity(**sampled, seed=1) != identity(**sampled, seed=2)
    assert engine("vllm", arguments={"a": 1}) != engine("vllm") == engine("vllm", rows_per_call=9)
    assert engine("openai", logprobs=False) != engine("openai") == engine("openai", retries=9, base_url="http://other")
    # A prompt given as a text is the same as one given in full.
    assert identity(prompts={"short": "a"}) == identity(prompts={"short": {"text": "a", "kind": "short"}})


def test_a_server_s_revision_is_what_the_recipe_says() -> None:
    assert model_revision(SERVED) == "v1"
    assert model_revision(SERVED.model_copy(update={"revision": None})) == "served"


def test_a_model_without_prompts_wants_one_empty_prompt(tmp_path: Path) -> None:
    folder = str(tiny_models.save_vision_encoder_decoder(tmp_path))
    with pytest.raises(UserError, match="must be one empty prompt"):
        Recaption(RecaptionConfig(model=folder)).setup(Runtime())
    stage = Recaption(RecaptionConfig(model=folder, prompts={"short": ""}, max_new_tokens=4))
    stage.setup(Runtime())
    # Its weights are random.
    assert stage(table([picture(10)]))["recaption_status"].to_pylist() in (["success"], ["repetition"], ["truncated"])


@pytest.mark.slow
def test_the_sample_captioner_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = RecaptionConfig(
        model="samples/models/captioner",
        prompts={"short": "short", "long": "long"},
        max_new_tokens=48,
        engine={"batch_size": 4},
    )
    images = sorted((PROJECT_ROOT / "samples" / "emoji" / "images").glob("*.webp"))[:6]
    rows = table([*(path.read_bytes() for path in images), b"broken"])
    stage = Recaption(config)
    stage.setup(Runtime())
    out = stage(rows)
    assert out["recaption_status"].to_pylist() == ["success"] * 6 + ["decode_error"]
    assert {made["revision"] for row in out["recaptions"].to_pylist() for made in row} == {model_revision(config)}
    # Bit for bit the same when computed again, also after an engine call that failed once.
    monkeypatch.setattr(faults, "_armed", faults._parse("engine.recaption:raise@2", str(tmp_path)))
    assert stage(rows).equals(out)
