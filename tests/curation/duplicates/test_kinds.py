"""The section of the recipe that chooses the kinds, and what is derived from those that are on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from curation.duplicates.equal_values import EqualValues
from curation.duplicates.kinds import KINDS, DeduplicateConfig, kinds_of, reads, reasons
from pairmill.errors import RecipeError


class DuplicateCaption(EqualValues):
    name, strength = "duplicate_caption", 25
    reads = ("caption",)
    columns = pa.schema([("caption", pa.string())])


def names(config: DeduplicateConfig) -> list[str]:
    return [kind.name for kind in kinds_of(config)]


def test_kinds_stand_strongest_first_in_whatever_order_they_are_given() -> None:
    given = ["near_duplicate_image", f"{__name__}:DuplicateCaption", "duplicate_pair"]
    config = DeduplicateConfig(kinds=given)
    assert names(config) == ["duplicate_pair", "duplicate_caption", "near_duplicate_image"]
    assert config == DeduplicateConfig(kinds=given[::-1])
    assert DeduplicateConfig.checked(config.model_dump(mode="json")) == config
    assert names(DeduplicateConfig()) == ["duplicate_pair", "duplicate_image", "near_duplicate_image"]


def test_what_is_read_is_what_the_kinds_that_are_on_and_the_score_need() -> None:
    assert reads(DeduplicateConfig()) == ("sha256", "caption", "phash", "colours", "original_width", "original_height")
    assert reads(DeduplicateConfig(kinds=["duplicate_image"], score="sharpness")) == ("sha256", "sharpness")
    assert reads(DeduplicateConfig(enabled=False)) == ()
    assert kinds_of(DeduplicateConfig(enabled=False)) == ()


def test_a_registered_kind_is_among_the_reasons_and_in_the_schema() -> None:
    ours = (
        *("duplicate_pair", "duplicate_image", "near_duplicate_image", "near_duplicate_text", "semantic_duplicate"),
    )
    assert reasons() == ours
    with KINDS.extended("duplicate_caption", DuplicateCaption):
        assert reasons() == (ours[0], "duplicate_caption", *ours[1:])
        assert "duplicate_caption" in str(DeduplicateConfig.model_json_schema())
        assert names(DeduplicateConfig(kinds=["duplicate_caption"])) == ["duplicate_caption"]
    assert "duplicate_caption" not in str(DeduplicateConfig.model_json_schema())


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["duplicate_imgae"], ["deduplicate.kinds[0] must be one of", "duplicate_imgae", "duplicate_image"]),
        (["duplicate_image", "duplicate_image"], ["each kind once", "duplicate_image 2 times"]),
        ([{"name": "near_duplicate_image", "max_distanse": 3}], ["deduplicate.kinds[0].max_distanse", "max_distance"]),
        ([{"name": "near_duplicate_image", "max_distance": 16}], ["deduplicate.kinds[0].max_distance", "16"]),
        ([{"max_distance": 3}], ["deduplicate.kinds[0] must be a name"]),
        (["no.such:Kind"], ["import path", "no.such"]),
    ],
)
def test_a_wrong_kind_is_refused_with_rule_value_and_fix(kinds: list[object], says: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        DeduplicateConfig.checked({"kinds": kinds}, at="deduplicate")
    for word in says:
        assert word in str(error.value)
    assert error.value.fix


def test_a_changed_source_of_ones_own_kind_is_another_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import pyarrow as pa
from curation.duplicates.equal_values import EqualValues

class SameSize(EqualValues):
    name, strength = "same_size", 1
    reads = ("width",)
    columns = pa.schema([("width", pa.int32())])
"""
    found = []
    monkeypatch.syspath_prepend(tmp_path)
    for module, text in (("kind_one", source), ("kind_two", source), ("kind_three", source.replace("1\n", "2\n"))):
        (tmp_path / f"{module}.py").write_text(text)
        found.append(list(DeduplicateConfig(kinds=[f"{module}:SameSize"]).identity()["sources"].values()))
    assert found[0] == found[1] != found[2]
    assert "sources" not in DeduplicateConfig().identity()


def test_choosing_kinds_loads_nothing_heavy() -> None:
    program = (
        "import sys; from curation.duplicates.kinds import DeduplicateConfig, reads; reads(DeduplicateConfig());"
        "print(sorted({'scipy', 'ftfy', 'ray', 'cv2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
