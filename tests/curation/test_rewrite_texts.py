"""Alt text, captions and tags become one text: what is asked, what is kept, what is paid for, what is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_server import FaultyServer, serving
from pydantic import ValidationError

from curation.embedding.generated_texts import EmbedTexts
from curation.engines import Failure, Generated, RewriteRequest
from curation.engines.generations import Generations
from curation.engines.guard import MANY
from curation.flow import flow_of
from curation.forget.written_texts import forget_generations
from curation.gates.stage import GateConfig, GateStage
from curation.pack import PackConfig, pack_rows
from curation.recaption import RECAPTION
from curation.reuse import restored, to_be_made, with_made_from, work_again
from curation.rewrite_texts import REWRITE, RewriteTexts, RewriteTextsConfig
from curation.schema import set_columns
from curation.stage import Runtime
from curation.translate import Translate, TranslateConfig
from pairmill.errors import JobError, RecipeError
from pairmill.layout import GATE, GENERATIONS, TEXT, row_texts
from pairmill.store import Store, shard_file

KNOWN = "{caption} | {recaptions} | {recaptions.tags}"
PROMPTS = {"prompts": {"rewritten": {"text": KNOWN, "language": None, "version": 1}}}


def config(**more: Any) -> RewriteTextsConfig:
    return RewriteTextsConfig.checked({"model": "owner/name", "engine": "openai", "revision": "v1", **PROMPTS, **more})


class Scripted:
    """An engine that answers with the prompt, and remembers what it was asked."""

    def __init__(self, *, failing: str = "\0", error: str = "boom") -> None:
        self.failing, self.error = failing, error
        self.asked: list[RewriteRequest] = []

    def rewrite(self, requests: Sequence[RewriteRequest]) -> list[Generated | Failure]:
        self.asked += requests
        return [
            Failure(self.error) if self.failing in one.prompt else Generated(one.prompt, -0.5, cut="cut" in one.prompt)
            for one in requests
        ]


def caption(text: str, kind: str = "short", language: str = "en") -> dict[str, Any]:
    return {"text": text, "kind": kind, "language": language, "model": "c", "prompt_id": kind}


def table(
    captions: Sequence[str | None],
    made: Sequence[list[dict[str, Any]] | None] | None = None,
    dropped: tuple[int, ...] = (),
) -> pa.Table:
    where = [("filter" if at in dropped else None) for at in range(len(captions))]
    columns: dict[str, Any] = {
        "uid": [f"{at:032x}" for at in range(len(captions))],
        "caption": pa.array(captions, pa.string()),
        "language": ["de"] * len(captions),
        "drop_stage": pa.array(where, pa.string()),
        "drop_reason": pa.array(where, pa.string()),
    }
    if made is not None:
        columns["recaptions"] = pa.array(made, pa.list_(RECAPTION))
    return pa.table(columns)


FULL = [caption("a dog"), caption("a dog runs", "long"), caption("dog, sand", "tags"), caption("What?", "question")]


def texts(rows: pa.Table) -> list[list[str]]:
    return [[made["text"] for made in row] for row in rows["rewrites"].to_pylist()]


def test_each_row_gets_one_text_of_all_that_is_known_with_its_provenance() -> None:
    rows = table(["Rex am Strand", None, "x"], [FULL, [*FULL[2:], caption("a cat")], None])
    out = RewriteTexts(config(), engine=Scripted())(rows)
    assert out.select(rows.column_names).equals(rows)
    assert texts(out) == [
        ["Rex am Strand | a dog\na dog runs | dog, sand"],
        ["| a cat | dog, sand"],
        ["x |  |"],
    ]
    assert out["rewrites"][0][0].as_py() == {
        "text": "Rex am Strand | a dog\na dog runs | dog, sand",
        "kind": "rewritten",
        "language": "de",
        "model": "owner/name",
        "revision": "v1",
        "prompt_id": "rewritten@1",
        "sampling": "greedy,max_new_tokens=256",
        "score": -0.5,
        "source_index": 0,
    }
    # Without an alt text, the first caption that the prompt stands for is the source.
    assert [row[0]["source_index"] for row in out["rewrites"].to_pylist()] == [0, 1, 0]
    assert out["rewrite_status"].to_pylist() == ["success"] * 3


def test_a_rewrite_has_fields_of_the_product_only() -> None:
    wanted = {field.name: field.type for field in TEXT}
    assert {field.name: field.type for field in REWRITE}.items() <= wanted.items()


def test_each_status() -> None:
    given = ["a", "drop", " ", None, "fail", "I'm sorry, I can't do that.", "and it is cut,"]
    rows = table(given, [[], FULL, [], [caption("What?", "question")], FULL, [], []], dropped=(1,))
    out = RewriteTexts(config(prompts={"rewritten": "{caption}{recaptions}"}), engine=Scripted(failing="fail"))(rows)
    assert out["rewrite_status"].to_pylist() == [
        *("success", "not_needed", "not_needed", "not_needed", "engine_error", "refusal", "truncated")
    ]
    errors = out["rewrite_error"].to_pylist()
    assert errors[4] == "rewritten: boom" and errors[6] == "rewritten: truncated at 256 tokens; no text"
    assert [len(row) for row in texts(out)] == [1, 0, 0, 0, 0, 0, 0]


def test_what_a_row_is_not_rewritten_from_is_not_asked_about() -> None:
    engine = Scripted()
    prompts = {"a": "{recaptions.tags}", "b": {"text": "{caption}", "kind": "tags"}}
    out = RewriteTexts(config(prompts=prompts), engine=engine)(table(["x", "y"], [FULL, []]))
    assert [one.prompt for one in engine.asked] == ["dog, sand", "x", "y"]
    assert [[one["kind"] for one in row] for row in out["rewrites"].to_pylist()] == [["rewritten", "tags"], ["tags"]]
    assert out["rewrites"][0][0].as_py()["source_index"] == 3


def test_the_prompt_that_is_not_set_has_a_line_for_each_thing_known() -> None:
    engine = Scripted()
    RewriteTexts(RewriteTextsConfig.checked({"model": "m", "engine": "openai"}), engine=engine)(
        table(["Rex", "Rex"], [FULL, None])
    )
    first, second = (one.prompt.split("\n") for one in engine.asked)
    assert first[1:] == ["Alt text: Rex", "Descriptions: a dog", "a dog runs", "Tags: dog, sand"]
    assert second[1:] == ["Alt text: Rex"]
    assert "language of the alt text" in first[0]


@pytest.mark.parametrize(
    "wrong",
    [{"prompts": {"a": "say something"}}, {"prompts": {}}, {"enabled": True, "model": None}, {"targets": ["zh"]}],
)
def test_what_a_recipe_cannot_say(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewriteTextsConfig.model_validate({"model": "m", **wrong})


def test_a_dead_engine_stops_the_job_and_one_bad_row_does_not() -> None:
    with pytest.raises(JobError, match="boom"):
        RewriteTexts(config(), engine=Scripted(failing=""))(table(["a"]))
    with pytest.raises(JobError, match="boom"):
        RewriteTexts(config(), engine=Scripted(failing="a"))(table([f"a{at}" for at in range(MANY)]))
    out = RewriteTexts(config(), engine=Scripted(failing="a"))(table(["a"]))
    assert out["rewrite_status"].to_pylist() == ["engine_error"]


# In the flow


EMBED = {"clip": {"model": "ViT-B-32", "pretrained": "openai", "texts": "all"}}
MODELS = {name: {"model": "m", "engine": "openai"} for name in ("recaption", "rewrite_texts", "translate")}


def test_it_is_off_by_default_and_between_captions_and_translations() -> None:
    assert "rewrite_texts" not in flow_of({"recaption": MODELS["recaption"]})
    order = flow_of({**MODELS, "embed": EMBED}).order
    assert order[-6:] == ("recaption", "rewrite_texts", "translate", "embed_texts-clip", "gate", "pack")
    alone = flow_of({"rewrite_texts": MODELS["rewrite_texts"]})
    assert alone.order[-3:] == ("rewrite_texts", "gate", "pack")


def test_its_prompts_may_name_columns_of_the_row() -> None:
    given = {"model": "m", "engine": "openai", "prompts": {"a": "{caption} {sharpness} {recaptions} {input.t}"}}
    assert flow_of({"rewrite_texts": given}).named("rewrite_texts").reads == ("caption", "sharpness", "input.t")
    given["prompts"] = {"a": "{caption} {sharpnes}"}
    with pytest.raises(RecipeError, match="prompt a of rewrite_texts must name columns"):
        flow_of({"rewrite_texts": given})


def test_a_column_of_the_list_with_the_name_of_the_captions_is_another_one() -> None:
    prompts = {"a": "{caption} {recaptions} {input.recaptions}"}
    flow = flow_of({"rewrite_texts": {"model": "m", "engine": "openai", "prompts": prompts}})
    stage = flow.named("rewrite_texts")
    assert isinstance(stage, RewriteTexts) and stage.optional == ()
    given = RewriteTexts(config(prompts=prompts), engine=(engine := Scripted()))
    inner = pa.StructArray.from_arrays([pa.array(["listed"])], names=["recaptions"])
    given(table(["alt"]).append_column("input", inner))
    assert [one.prompt for one in engine.asked] == ["alt  listed"]


def test_a_rewritten_text_is_translated_and_packed_after_the_captions() -> None:
    out = RewriteTexts(config(prompts={"rewritten": "new {caption}"}), engine=Scripted())(table(["alt"], [FULL[:1]]))

    class Translator:
        sampling = "greedy"

        def supports(self, source: str, target: str) -> bool:
            return True

        def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
            return [Generated(f"zh {text}", -0.1) for text in texts]

    given = {"model": "m", "engine": "openai", "check_language": False, "max_length_ratio": 9}
    out = Translate(TranslateConfig.checked(given), engine=Translator())(out)
    made = row_texts(out.to_pylist()[0])
    assert [(one["kind"], one["text"], one["source_index"]) for one in made] == [
        ("alt", "alt", None),
        ("short", "a dog", None),
        ("rewritten", "new alt", 0),
        ("translated", "zh alt", 0),
        ("translated", "zh a dog", 1),
        ("translated", "zh new alt", 2),
    ]
    packed = pack_rows(out.append_column("image", pa.array([b""], pa.binary())), PackConfig(), "jpg", {})
    assert packed["caption"].to_pylist() == ["new alt"]


def test_a_rewritten_text_that_fits_less_than_the_alt_text_is_not_used_by_default() -> None:
    gate = next(stage for stage in flow_of({**MODELS, "embed": EMBED}).stages if isinstance(stage, GateStage))
    assert list(gate.gates) == ["opener", "language", "length", "image_text_score"]
    assert "score_clip_texts" in gate.reads
    fitting, worse, other = (
        {"caption": "alt", "language": language, "score_clip_texts": scores}
        for language, scores in (("en", [0.2, 0.1, 0.2]), ("en", [0.2, 0.1, 0.19]), ("de", [0.2, 0.1, 0.1]))
    )
    made = {
        "recaptions": pa.array([FULL[:1]] * 3, pa.list_(RECAPTION)),
        "rewrites": pa.array(
            [[{**caption("A dog named Rex.", "rewritten"), "source_index": 0}]] * 3, pa.list_(REWRITE)
        ),
        "drop_reason": pa.nulls(3, pa.string()),
    }
    rows = set_columns(pa.Table.from_pylist([fitting, worse, other]), made)
    out = gate(rows).to_pylist()
    # The caption is worse too, and of another kind: it is what `best_text` compares.
    assert [[one["refused_by"] for one in row[GATE]] for row in out] == [
        [None, None],
        [None, "image_text_score"],
        [None, None],  # scores of two languages cannot be compared
    ]
    assert [one["kind"] for one in row_texts(out[1])] == ["alt", "short"]


def test_gates_that_a_recipe_names_are_all_that_there_are() -> None:
    named = flow_of({**MODELS, "embed": EMBED, "gate": {"gates": ["length"]}}).named("gate")
    assert isinstance(named, GateStage) and list(named.gates) == ["length"]
    without = flow_of({"recaption": MODELS["recaption"], "embed": EMBED}).named("gate")
    assert isinstance(without, GateStage) and list(without.gates) == ["opener", "language", "length"]
    with_scores = flow_of({**MODELS, "embed": EMBED}).named("gate")
    assert with_scores.identity() != without.identity() == GateStage(GateConfig()).identity()


def test_rewritten_texts_are_embedded_and_have_a_best_score() -> None:
    stage = flow_of({**MODELS, "embed": EMBED}).named("embed_texts-clip")
    assert isinstance(stage, EmbedTexts)
    assert {"score_clip_recaption", "score_clip_rewrite", "score_clip_translation"} < {*stage.column_names()}
    assert "rewrites" in stage.decided_by  # type: ignore[operator]  # it has some


# What is paid for


@pytest.fixture
def server() -> Iterator[tuple[FaultyServer, str]]:
    made = FaultyServer()
    with serving(made.chat) as url:
        yield made, url


def stage_at(url: str, store: Store | None = None, **more: Any) -> RewriteTexts:
    engine = {"name": "openai", "base_url": url, "timeout_s": 0.5, "backoff_s": 0.01, "retries": 12}
    stage = RewriteTexts(config(engine=engine, **more))
    stage.setup(Runtime(store))
    return stage


def test_a_failing_server_pays_for_no_text_twice(tmp_path: Path) -> None:
    server = FaultyServer(0.3)
    rows = table([f"text {at}" for at in range(20)])
    with serving(server.chat) as url:
        for _ in range(6):  # a huge body is not asked for again within a call
            out = stage_at(url, Store(str(tmp_path)), prompts={"rewritten": "{caption}"})(rows)
            if "engine_error" not in out["rewrite_status"].to_pylist():
                break
    assert texts(out) == [[f"TEXT {at}"] for at in range(20)]
    assert server.wrong.total() > 3 and set(server.answered.values()) == {1} and len(server.answered) == 20


def test_a_prompt_that_is_added_costs_that_prompt_and_a_new_version_of_it_nothing(
    server: tuple[FaultyServer, str], tmp_path: Path
) -> None:
    counted, url = server
    rows, store = table(["a", "b", "a"]), Store(str(tmp_path))
    stage_at(url, store, prompts={"rewritten": "1 {caption}"})(rows)
    assert counted.answered == {"1 a": 1, "1 b": 1}
    prompts = {"rewritten": {"text": "1 {caption}", "version": 2}, "more": "2 {caption}"}
    out = stage_at(url, store, prompts=prompts)(rows)
    assert counted.answered == {"1 a": 1, "1 b": 1, "2 a": 1, "2 b": 1}
    assert [one["prompt_id"] for one in out["rewrites"].to_pylist()[0]] == ["rewritten@2", "more"]


def test_only_rows_whose_columns_changed_are_asked_about_again() -> None:
    engine = Scripted()
    stage = RewriteTexts(config(), engine=engine)
    before = with_made_from(stage, stage(table(["a", "b", "c"], [FULL, FULL, FULL])), "m")
    engine.asked.clear()
    changed = table(["a", "b", "new"], [FULL, [*FULL, caption("more")], FULL])
    kept = before.select([name for name in before.column_names if name not in changed.column_names])
    rows = restored(stage, set_columns(changed, {name: kept[name] for name in kept.column_names}))
    again = to_be_made(stage, rows, "m")
    assert again.to_pylist() == [False, True, True]
    out, _ = work_again(stage, rows, again, "m", stage)
    assert [one.prompt.split(" ")[0] for one in engine.asked] == ["b", "new"]
    assert texts(out) == texts(RewriteTexts(config(), engine=Scripted())(changed))


def test_what_was_made_of_a_forgotten_row_leaves_the_cache(server: tuple[FaultyServer, str], tmp_path: Path) -> None:
    _, url = server
    store = Store(str(tmp_path))
    rows = table(["Rex", None, "other"], [FULL[:1], [caption("a cat")], []])
    out = stage_at(url, store, prompts={"rewritten": "{caption}{recaptions}"})(rows)
    cache = Generations(store.within(GENERATIONS))

    class Echo:
        sampling = "greedy"

        def supports(self, source: str, target: str) -> bool:
            return True

        def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Generated | Failure]:
            return [Generated(f"zh {text}", -0.1) for text in texts]

    translate = Translate(TranslateConfig.checked({"model": "m", "engine": "openai"}), engine=Echo())
    translate.setup(Runtime(store))
    translate(out)
    held = len(list((tmp_path / GENERATIONS).glob("??/??/*.json")))
    for name, column in (("columns/filter", "caption"), ("columns/recaption", "recaptions")):
        store.write_table(shard_file(name, 0), rows.select(["uid", column]))
    forget_generations(store, [cache], 0, rows["uid"].to_pylist()[:2])
    left = sorted(path.read_text() for path in (tmp_path / GENERATIONS).glob("??/??/*.json"))
    assert held > 3 and len(left) == 3  # of `other`: its rewritten text, and two translations
    assert all("other" in text.lower() for text in left)
