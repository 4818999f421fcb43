import pytest

from pairmill.errors import RecipeError
from training.data.config import DataConfig, TextSelector


def test_one_slot_of_all_texts_is_the_default() -> None:
    assert DataConfig(path="x").text_slots() == ((TextSelector(),),)


def test_a_flat_list_is_one_slot() -> None:
    config = DataConfig.model_validate({"path": "x", "texts": [{"kind": "alt", "p": 0.2}, {"kind": "long", "p": 0.8}]})
    assert config.text_slots() == ((TextSelector(kind="alt", p=0.2), TextSelector(kind="long", p=0.8)),)


def test_nested_lists_are_slots_and_the_last_is_repeated() -> None:
    texts = [[{"kind": "alt", "language": "en"}], [{"language": "zh"}], [{"kind": "long", "transforms": ["sentences"]}]]
    slots = DataConfig.model_validate({"path": "x", "texts": texts, "slots": 5}).text_slots()
    names = [[transform.name for transform in slot[0].transforms] for slot in slots]
    assert names == [[], [], *[["sentences"]] * 3] and slots[2] == slots[4]


def test_path_is_short_for_one_dataset() -> None:
    one = DataConfig(path="x", selection="strict").mixture()
    assert one == DataConfig.model_validate({"datasets": [{"path": "x", "selection": "strict"}]}).mixture()


def test_how_it_is_read_is_no_part_of_what_is_read() -> None:
    few, many = DataConfig(path="x", look_ahead=2), DataConfig(path="x", look_ahead=9, timeout_s=1)
    assert few.identity()["texts"] == [{"kind": "any", "language": "any", "p": 1.0}]
    assert few.identity() == many.identity() != DataConfig(path="x", bundle_rows=7).identity()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "data.path"),
        ({"path": "x", "datasets": [{"path": "y"}]}, "data.path"),
        ({"selection": "s", "datasets": [{"path": "y"}]}, "data.datasets"),
        ({"path": "x", "texts": [{"kind": "alt"}, [{"kind": "long"}]]}, "list"),
        ({"path": "x", "texts": [[]]}, "list"),
        ({"path": "x", "texts": [{"kind": "lnog"}]}, "long"),
        ({"path": "x", "texts": [[{}], [{}]], "slots": 1}, "slots"),
        ({"path": "x", "augment": {"scale": [1.0, 0.9]}}, "scale"),
    ],
)
def test_contradictions_say_what_to_do(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(RecipeError) as raised:
        DataConfig.model_validate(wrong)
    assert named in str(raised.value)
