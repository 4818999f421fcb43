"""A user's own stage that could not work is refused with the recipe, by rule, value and fix."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.flow import Flow, flow_of
from curation.own_stage import own_stage
from curation.schema import DROPS
from curation.stage import Column, Stage, StageConfig
from pairmill.errors import RecipeError, UserError


class Sound(Stage):
    """What each of the others breaks one rule of."""

    name, segment = "sound", "score"
    reads = ("caption",)
    adds = (Column("tone", pa.float32()),)
    drops = ("too_loud",)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows


NEEDS_MORE: dict[str, Any] = {"__init__": lambda self, config, model: None}

#: What is declared otherwise, and the words that the message must have.
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a path as name": ({"name": "../x"}, r"name of lower-case letters.*\n.*\.\./x"),
    "a space": ({"name": "my stage"}, r"name of lower-case letters"),
    "upper case": ({"name": "Sound"}, r"name of lower-case letters"),
    "no text as name": ({"name": 3}, r"must declare `name`"),
    "a name of ours": ({"name": "filter"}, r"another name than the stages of every recipe\n.*filter"),
    "a name of ours that is off": ({"name": "recaption"}, r"another name than the stages of every recipe"),
    "no such segment": ({"segment": "scores"}, r"one of the segments collect, score, rewrite\n.*scores"),
    "a segment of ours": ({"segment": "global"}, r"one of the segments"),
    "no such pool": ({"pool": "gpu"}, r"pool tasks or model"),
    "the fetchers' pool": ({"pool": "fetch"}, r"pool tasks or model"),
    "within another": ({"within": "filter"}, r"workers of its own"),
    "a table of ours": ({"table": "images"}, r"table columns/NAME of its own"),
    "a table outside": ({"table": "columns/../../x"}, r"table columns/NAME of its own"),
    "no shards": ({"shards_at_once": 0}, r"1 or more shards"),
    "no work": ({"__call__": Stage.__call__}, r"define __call__"),
    "a needy constructor": (NEEDS_MORE, r"made from its configuration alone\n.*TypeError"),
    "reads without a comma": ({"reads": "caption"}, r"`reads` as a tuple of names"),
    "reads what nobody adds": ({"reads": ("captoin",)}, r"added by stages before it\n.*captoin\n.*caption"),
    "adds without a comma": ({"adds": Column("tone", pa.float32())}, r"`adds` as a tuple of Column"),
    "adds names": ({"adds": ("tone",)}, r"`adds` as a tuple of Column"),
    "no type": ({"adds": (Column("tone", "float"),)}, r"give tone a type of pyarrow"),  # type: ignore[arg-type]
    "a type that parquet changes": ({"adds": (Column("at", pa.timestamp("s")),)}, r"keeps\n.*becomes timestamp\[ms\]"),
    "a type that cannot be written": ({"adds": (Column("at", pa.month_day_nano_interval()),)}, r"cannot be stored"),
    "a type without nulls": (
        {"adds": (Column("at", pa.dense_union([pa.field("a", pa.int8())])),)},
        r"cannot be stored",
    ),
    "a private column": ({"adds": (Column("_shard", pa.int32()),)}, r"columns with names of"),
    "a column with a dot": ({"adds": (Column("a.b", pa.int32()),)}, r"columns with names of"),
    "a column of the plan": ({"adds": (Column("uid", pa.string()),)}, r"one stage only\n.*uid"),
    "the list's column": ({"adds": (Column("input", pa.string()),)}, r"one stage only\n.*input"),
    "a drop column": ({"adds": (Column("drop_reason", pa.string()),)}, r"one stage only\n.*drop_reason"),
    "a column of a stage that is off": ({"adds": (Column("recaptions", pa.string()),)}, r"one stage only"),
    "a column of the product": ({"adds": (Column("texts", pa.string()),)}, r"one stage only\n.*texts"),
    "a column of the filter": ({"adds": (Column("language", pa.string()),)}, r"one stage only\n.*language"),
    "a column of the filter's rules": ({"adds": (Column("would_drop_nsfw", pa.bool_()),)}, r"one stage only"),
    "a column of what results are made from": ({"adds": (Column("sound_made_from", pa.uint64()),)}, r"one stage only"),
    "one column twice": ({"adds": (Column("tone", pa.float32()),) * 2}, r"one stage only"),
    "drops without a comma": ({"drops": "too_loud"}, r"`drops` as a tuple of names"),
    "a reason with a space": ({"drops": ("too loud",)}, r"drop reasons of lower-case letters"),
    "a reason of ours": ({"drops": ("forgotten",)}, r"drop reasons of its own"),
    "a reason that is a count": ({"drops": ("rows_kept",)}, r"drop reasons of its own"),
    "a reason twice": ({"drops": ("too_loud", "too_loud")}, r"drop reasons of its own"),
    "nothing to do": ({"adds": (), "drops": ()}, r"add columns or drop rows"),
    "after nothing": ({"after": "filtre"}, r"follow a stage of the recipe\n.*filtre\n.*filter"),
    "after a later segment": ({"after": "pack"}, r"follow a stage of its own segment"),
    "before its segment": ({"after": "policy", "reads": ()}, r"follow a stage of its own segment"),
    "between stages of one table": ({"segment": "collect", "after": "download", "reads": ()}, r"fill images\n.*sound"),
    "looks at nothing": ({"looks_at": ("blur",)}, r"look at stages before it only\n.*blur"),
    "counts on nothing": ({"counted": {"columns/x": ("y",)}}, r"count on tables that the recipe makes"),
    "an identity that is no data": ({"identity": lambda self: object()}, r"identity of plain JSON data"),
    "no configuration": ({"Config": dict}, r"attribute Config, a subclass of NamedConfig"),
}


def declared(**changed: Any) -> type[Stage]:
    kind: type[Stage] = type("Broken", (Sound,), {"__module__": __name__, **changed})
    return kind


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def of(*kinds: Any) -> Flow:
        for at, kind in enumerate(kinds):
            monkeypatch.setattr(sys.modules[__name__], f"Named{at}", kind, raising=False)
        return flow_of({"stages": [f"{__name__}:Named{at}" for at in range(len(kinds))]})

    yield of


def test_a_sound_stage_is_taken(flow: Any) -> None:
    assert "sound" in flow(Sound)
    assert "sound" in flow(declared(segment="collect", after="inspect", reads=("image",)))


@pytest.mark.parametrize("how", BROKEN)
def test_a_stage_that_could_not_work_is_refused(flow: Any, how: str) -> None:
    changed, says = BROKEN[how]
    with pytest.raises(UserError, match=f"(?s){says}"):
        flow(declared(**changed))


def test_without_a_name_it_is_refused(flow: Any) -> None:
    class Nameless(Stage):
        segment = "score"

    with pytest.raises(RecipeError, match="declare `name`"):
        flow(Nameless)


@pytest.mark.parametrize("found", [Sound(StageConfig(name="sound")), len, dict, Stage, None, "text"])
def test_what_is_no_stage_is_refused(flow: Any, found: object) -> None:
    with pytest.raises(RecipeError, match=r"an entry of stages must be a subclass of curation\.stage\.Stage"):
        flow(found)


def test_two_stages_have_reasons_of_their_own(flow: Any) -> None:
    with pytest.raises(RecipeError, match=r"drop reasons of its own.*\n.*too_loud"):
        flow(Sound, declared(name="other", adds=()))


#: Source of a module that cannot be imported, and what the message must have.
FAILING = {
    "an import inside": ("import no_such_package_of_ours", "no_such_package_of_ours"),
    "a syntax error": ("def broken(:", "SyntaxError"),
    "any error": ("{}['key']", "KeyError"),
    "an exit": ("raise SystemExit(0)", "SystemExit"),
}


@pytest.mark.parametrize("how", FAILING)
def test_a_module_that_cannot_be_imported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    source, says = FAILING[how]
    (tmp_path / "failing_stage.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing_stage", raising=False)
    with pytest.raises(RecipeError, match=rf"(?s)can be imported\n.*failing_stage:Stage.*{says}"):
        flow_of({"stages": ["failing_stage:Stage"]})


@pytest.mark.parametrize("path", [":Stage", "curation.stage:", "..stage:Stage", "curation.stage:Stage.no", " :x"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(RecipeError, match="import path"):
        flow_of({"stages": [path]})


def test_columns_of_the_list_must_exist(flow: Any) -> None:
    found = flow(declared(reads=("caption", "source"), reads_input=True))
    planned = pa.schema([("uid", pa.string()), ("url", pa.string()), ("alt", pa.string()), ("index", pa.int64())])
    with pytest.raises(RecipeError, match=r"stage sound reads .*\n.*source"):
        found.check(planned)
    found.check(planned.append(pa.field("input", pa.struct([("source", pa.string())]))))


def test_the_documented_example_is_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "documented").mkdir()
    (tmp_path / "documented" / "__init__.py").touch()
    (tmp_path / "documented" / "stage.py").write_text(example, encoding="utf-8")
    with pytest.raises(RecipeError, match="PYTHONPATH"):
        own_stage("documented.stage:Length")
    monkeypatch.syspath_prepend(tmp_path)
    stage = own_stage({"name": "documented.stage:Length", "least": 3})
    rows = pa.table({"caption": ["ab", "abc"], **{name: pa.nulls(2, pa.string()) for name in DROPS}})
    done = stage(rows)
    assert done["letters"].to_pylist() == [2, 3]
    assert done["drop_reason"].to_pylist() == ["too_few_letters", None]
