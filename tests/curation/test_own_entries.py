"""Engines, heads and kinds of a user's own that fail, answer wrongly, end the interpreter or do not return."""

from __future__ import annotations

import copy
import io
import sys
import threading
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pytest
from PIL import Image

from curation.duplicates.deduplicate import find_losers
from curation.duplicates.equal_values import EqualValues
from curation.duplicates.kinds import DeduplicateConfig
from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.model_files import Checkpoint
from curation.engines.own import OwnEngine
from curation.filters.rules import filter_rows
from curation.filters.stage import FilterConfig
from curation.recaption import Recaption, RecaptionConfig
from curation.stage import Runtime
from curation.translate import Translate, TranslateConfig
from pairmill.errors import JobError, RecipeError
from pairmill.own_code import Guard
from pairmill.registry import NamedConfig
from pipelines.recipe import CurateRecipe
from pipelines.stages.row_stage import own_name


class EngineConfig(NamedConfig):
    does: str = ""


def misbehaves(does: str) -> Any:
    """What a call answers instead of texts; for some, it does not come to answer."""
    if does == "sleeps":
        threading.Event().wait(60)
    if does == "exits":
        sys.exit(3)
    return {"text": "a", "none": None, "short": [Generated("a", None)], "strings": ["a"] * 3}[does]


class Engine:
    """Says how wide a picture is, or what a text is; of width 11 and of "eleven" it does what the recipe says."""

    Config, rows_per_call, sampling = EngineConfig, 8, "greedy"

    def __init__(self, does: str) -> None:
        self._does = does

    @classmethod
    def check(cls, config: EngineConfig, section: Any) -> Checkpoint:
        return Checkpoint(source=section.model, commit=None, revision="1")

    @classmethod
    def load(cls, config: EngineConfig, section: Any, checkpoint: Checkpoint) -> Engine:
        if config.does == "sleeps while it loads":
            threading.Event().wait(60)
        return cls(config.does)

    def supports(self, source: str, target: str) -> bool:
        return True

    def caption(self, requests: Sequence[CaptionRequest]) -> Any:
        return self._answers([str(request.image.width) for request in requests], "11")

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> Any:
        return self._answers(list(texts), "eleven")

    def _answers(self, texts: list[str], odd: str) -> Any:
        if odd in texts and self._does == "raises":
            raise ValueError("eleven is too many")
        if odd in texts and self._does:
            return misbehaves(self._does)
        return [Generated(f"width {text}", None) for text in texts]


def picture(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 8)).save(file, "PNG")
    return file.getvalue()


NONE = pa.nulls(3, pa.string())
ROWS = pa.table(
    {
        "uid": ["a", "b", "c"],
        "url": ["http://h/a", "http://h/b", "http://h/c"],
        "image": [picture(width) for width in (10, 11, 12)],
        "caption": ["ten", "eleven", "twelve"],
        "language": ["en"] * 3,
        "drop_stage": NONE,
        "drop_reason": NONE,
    }
)


def engine(does: str) -> dict[str, Any]:
    return {"model": "m", "engine": {"name": f"{__name__}:Engine", "does": does}, "engine_timeout_s": 0.3}


def recaption(does: str) -> Recaption:
    stage = Recaption(RecaptionConfig.checked({**engine(does), "prompts": {"short": "name it"}}, at="recaption"))
    stage.setup(Runtime())
    return stage


def test_an_engine_that_raises_for_a_row_costs_that_row() -> None:
    made = recaption("raises")(ROWS)
    assert made["recaption_status"].to_pylist() == ["success", "engine_error", "success"]
    assert made["recaption_error"].to_pylist() == [None, "short: ValueError: eleven is too many", None]
    assert [text["text"] for row in made["recaptions"].to_pylist() for text in row] == ["width 10", "width 12"]


def test_an_engine_that_ends_the_interpreter_for_a_row_costs_that_row() -> None:
    made = recaption("exits")(ROWS)
    assert made["recaption_status"].to_pylist() == ["success", "engine_error", "success"]
    assert "sys.exit" in made["recaption_error"].to_pylist()[1]


WRONG = {
    "sleeps": r"took longer than 0\.3 s.*\n.*engine_timeout_s",
    "none": "must answer every request.*found: NoneType",
    "short": "must answer every request.*found: 1 answers to 3",
    "strings": "must answer every request.*found: a str",
    "text": "must answer every request.*found: str",
}


@pytest.mark.parametrize("does", WRONG)
def test_an_engine_that_answers_wrongly_or_not_ends_the_job_and_is_named(does: str) -> None:
    with pytest.raises(JobError, match=rf"recaption\.engine {__name__}:Engine {WRONG[does]}"):
        recaption(does)(ROWS)


def test_an_engine_that_does_not_load_in_time_ends_the_job() -> None:
    with pytest.raises(JobError, match=r"Engine took longer than 0\.3 s"):
        recaption("sleeps while it loads")


def test_a_translator_is_called_in_the_same_way() -> None:
    def translated(does: str) -> pa.Table:
        stage = Translate(TranslateConfig.checked(engine(does), at="translate"))
        stage.setup(Runtime())
        return stage(ROWS)

    made = translated("raises")["translate_error"].to_pylist()
    assert made[0] is None and made[2] is None and "eleven is too many" in made[1]
    with pytest.raises(JobError, match=r"translate\.engine .*took longer"):
        translated("sleeps")


def test_a_job_says_whose_code_it_was_calling() -> None:
    assert own_name(recaption("")) == f"{__name__}:Engine"


class Head:
    """Finds the picture of width 11 unlike the others."""

    Config = EngineConfig
    input: Literal["pixels", "embedding"] = "pixels"
    columns = pa.schema([("nsfw", pa.float32())])

    def __init__(self, does: str) -> None:
        self._does = does

    @classmethod
    def revision(cls, config: EngineConfig) -> str:
        return "1"

    @classmethod
    def load(cls, config: EngineConfig) -> Head:
        return cls(config.does)

    def __call__(self, images: pa.ChunkedArray) -> Any:
        if picture(11) in images.to_pylist():
            if self._does == "raises":
                raise ValueError("eleven is too many")
            return misbehaves(self._does)
        return pa.table([pa.array([0.0] * len(images), pa.float32())], schema=self.columns)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("raises", r"raised ValueError: eleven is too many \(.*\), for the row with uid b, url http://h/b"),
        ("exits", "raised SystemExit: 3.*, for the row with uid b"),
        ("none", "raised TypeError.*, for the row with uid b"),
        ("sleeps", r"took longer than 0\.3 s.*\n.*filter\.callables_timeout_s"),
    ],
)
def test_a_head_that_fails_is_named_with_the_row(does: str, says: str) -> None:
    keys = {"nsfw_max": 0.5, "nsfw_head": {"name": f"{__name__}:Head", "does": does}, "callables_timeout_s": 0.3}
    config = FilterConfig.checked({"min_side": None, "max_aspect": None, **keys}, at="filter")
    sizes = {name: pa.array([20] * 3, pa.int32()) for name in ("width", "height")}
    rows = pa.table(
        {**{name: ROWS[name] for name in ROWS.column_names}, "alt": ["a picture of a red house"] * 3, **sizes}
    )
    with pytest.raises(JobError, match=rf"filter\.nsfw_head: {__name__}:Head {says}"):
        filter_rows(rows, config=config)


class Kind(EqualValues):
    name, strength, timeout_s = "same_caption", 5, 0.3
    reads = ("caption",)
    columns = pa.schema([("caption", pa.string())])


def raises(*_: Any) -> Any:
    raise ValueError("eleven is too many")


def sleeps(*_: Any) -> Any:
    threading.Event().wait(60)


@pytest.mark.parametrize("method", ["narrow", "keys", "edges"])
@pytest.mark.parametrize(
    ("does", "says"), [(raises, "raised ValueError: eleven is too many"), (sleeps, r"took longer than 0\.3 s")]
)
def test_a_kind_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, method: str, does: Any, says: str) -> None:
    monkeypatch.setattr(Kind, method, does)
    config = DeduplicateConfig.checked({"kinds": [f"{__name__}:Kind"]}, at="deduplicate")
    sizes = {name: pa.array([1.0] * 3) for name in ("score", "original_width", "original_height")}
    ends = {"uid": ["a", "b", "c"], "shard": pa.array([0] * 3, pa.int32()), "row": pa.array(range(3), pa.int32())}
    with pytest.raises(JobError, match=rf"deduplicate\.kinds: {__name__}:Kind {says}"):
        find_losers(pa.table({**ends, **sizes, "caption": ["x", "y", "x"]}), config=config)


def test_what_an_engine_raises_may_be_of_any_kind() -> None:
    class Panic(BaseException):
        pass

    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    def answered(error: BaseException) -> list[Any]:
        class Raising:
            def translate(self, texts: Sequence[str], **_: str) -> Any:
                if "eleven" in texts:
                    raise error
                return [Generated(text, None) for text in texts]

        engine = OwnEngine(Raising(), Guard("it", 5.0))
        return [one.error if isinstance(one, Failure) else one.text for one in translated(engine)]

    def translated(engine: OwnEngine) -> list[Any]:
        return list(engine.translate(["ten", "eleven"], source="en", target="zh"))

    assert answered(Panic()) == ["ten", "EndedError: it raised Panic"]
    assert answered(Silent()) == ["ten", "Silent: "]


def test_an_engine_can_be_copied() -> None:
    assert copy.copy(OwnEngine(Engine(""), Guard("it", 5.0))).sampling == "greedy"


@pytest.mark.parametrize("section", ["recaption", "translate"])
def test_a_time_limit_is_a_week_at_most(section: str) -> None:
    with pytest.raises(RecipeError, match="604800"):
        CurateRecipe.checked({"run_dir": "r", "input": {"path": "p"}, section: {"engine_timeout_s": 1e12}})
