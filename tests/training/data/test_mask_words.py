"""The transform `mask_words`, the list that it reads, and the command that makes the list."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import jpeg
from typer.testing import CliRunner

from pairmill.errors import RecipeError
from pipelines import output
from pipelines.cli import app
from training.data.config import DataConfig
from training.data.mask_words import MaskWords, MaskWordsConfig
from training.data.text_transforms import Text
from training.data.texts import TextChooser, row_generator
from training.data.word_counts import WordCounter
from training.data.word_list import read_word_list
from training.data.word_pieces import counted_words, pieces
from training.recipe import TrainRecipe
from training.train import train

SENTENCE = "A brown dog and a small cat sit on the old wall of a house in the evening sun, near Rome."
WORDS = ("dog", "cat", "wall", "house", "sun", "Rome")


def masked(text: str, draw: int = 0, **keys: Any) -> str:
    config = MaskWordsConfig.checked({"name": "mask_words", "words": WORDS, **keys})
    [made] = MaskWords(config)(Text(text, "en", "alt"), row_generator(7, draw, 0, 0))
    return made.text


def test_a_share_of_the_words_goes_and_only_significant_ones() -> None:
    """20 words, of which 15 % are 3."""
    gone: set[str] = set()
    for draw in range(40):
        left = masked(SENTENCE, draw).replace(",", "").replace(".", "").split()
        lost = [word for word in SENTENCE.replace(",", "").replace(".", "").split() if word not in left]
        assert len(lost) == 3 and set(lost) <= set(WORDS)
        gone |= set(lost)
    assert gone == set(WORDS)


def test_what_is_left_stays_as_it_was_written() -> None:
    assert masked("The Cat's  eyes; one dog", share=0.2) == "The Cat's eyes; one"
    assert masked("a dog, asleep", by="[MASK]") == "a [MASK], asleep"
    assert masked("DOG show", share=1) == "show"


def test_fewer_significant_words_than_the_share_are_all_masked_and_others_only_if_asked() -> None:
    text = "one two three four five six seven eight nine dog"
    assert masked(text, share=0.5) == text.removesuffix(" dog")
    assert len(masked(text, share=0.5, fill=True).split()) == 5 and "dog" not in masked(text, share=0.5, fill=True)


@pytest.mark.parametrize("text", ["dog", "Dog!", "nothing of note", "…"])
def test_a_text_is_never_emptied(text: str) -> None:
    assert masked(text) == text


def test_a_row_loses_the_same_words_wherever_it_is_read_and_others_in_another_epoch() -> None:
    config = DataConfig.model_validate(
        {"path": "x", "texts": [{"transforms": [{"name": "mask_words", "words": WORDS}]}]}
    )
    choose = TextChooser(config.text_slots())
    elsewhere = TextChooser(pickle.loads(pickle.dumps(config.text_slots())))
    text = [Text(SENTENCE, "en", "alt")]

    def drawn(by: TextChooser, row: int, epoch: int) -> str:
        [found] = by(text, row_generator(3, row, epoch, 0))
        assert found is not None
        return found.text

    first = [drawn(choose, row, 0) for row in range(20)]
    assert [drawn(elsewhere, row, 0) for row in reversed(range(20))] == first[::-1]
    assert sum(drawn(choose, row, 1) != one for row, one in enumerate(first)) > 10


def test_chinese_is_masked_by_the_longest_words_of_the_list() -> None:
    known = frozenset({"大熊", "大熊猫", "竹子"})
    assert [piece.word for piece in pieces("大熊猫吃竹子, t恤", known, 3)] == ["大熊猫", "吃", "竹子", "t", "恤"]
    assert masked("大熊猫吃竹子", words=["大熊猫"]) == "吃竹子"


def test_words_keep_apostrophes_hyphens_and_marks() -> None:
    assert [p.word for p in pieces("Ｏne o'clock T-shirt हिन्दी x_y", frozenset(), 1)] == [
        *("one", "o'clock", "t-shirt", "हिन्दी", "x", "y")
    ]
    assert list(counted_words("猫 大熊猫 Dog")) == ["猫", "大熊", "熊猫", "dog"]


def test_counts_rank_words_and_leave_out_those_of_most_texts() -> None:
    counter = WordCounter()
    counter.add(Text(f"the dog the {word}", "en", "alt") for word in ("cat", "cat", "bird", "fish"))
    counter.add([Text("le chat", "fr", "alt"), Text("le chien", "fr", "alt")])
    found = counter.significant(top=2, common=0.5)
    assert [tuple(one) for one in found] == [
        *[("cat", "en", 2, 2), ("bird", "en", 1, 1)],
        *[("chat", "fr", 1, 1), ("chien", "fr", 1, 1)],
    ]
    assert counter.significant(top=1, common=1)[0] == ("the", "en", 8, 4)


def test_rare_words_are_forgotten_before_memory_grows() -> None:
    counter = WordCounter(most=10)
    for number in range(1000):
        counter.add([Text(f"dog dog cat w{number}", "en", "alt")])
    found = counter.significant(top=1000, common=1)
    assert len(found) <= 20
    assert [tuple(one) for one in found[:2]] == [("dog", "en", 2000, 1000), ("cat", "en", 1000, 1000)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twelve captions of which one is written not to fit."""
    animals = ["dog", "cat", "bird", "horse"] * 3
    texts: list[list[dict[str, str]]] = [
        [{"text": f"a photo of a {one}", "language": "en", "kind": "alt"}] for one in animals
    ]
    texts[0].append({"text": "zebra zebra zebra", "language": "en", "kind": "negative"})
    table = pa.table({"image": [jpeg(row) for row in range(12)], "texts": texts})
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=5)
    return tmp_path / "pairs.parquet"


def recipe(dataset: Path, words: Path) -> dict[str, Any]:
    slot = [{"transforms": [{"name": "mask_words", "words": str(words)}]}]
    return {
        "run_dir": str(dataset.parent / "run"),
        "data": {"path": str(dataset), "texts": [[{}], slot], "batch_size": 4},
        "train": {"steps": 1},
    }


def counted(dataset: Path, to: Path, *options: str) -> Any:
    config = dataset.parent / "recipe.yaml"
    config.write_text(json.dumps(recipe(dataset, to)))
    return CliRunner().invoke(app, ["count-words", str(config), "--to", str(to), *options])


def test_the_command_makes_a_list_that_the_transform_reads(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_stdout", said := io.StringIO())
    to = dataset.parent / "words.tsv"
    done = counted(dataset, to, "--common", "0.5", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(said.getvalue())["rows"] == 12
    assert read_word_list(str(to))[0] == {"dog", "cat", "bird", "horse"}
    again = to.read_bytes()
    counted(dataset, to, "--common", "0.5")
    assert to.read_bytes() == again
    loaded = TrainRecipe.checked(recipe(dataset, to))
    chosen = TextChooser(loaded.data.text_slots())([Text("a red dog", "en", "alt")], np.random.default_rng(0))
    assert [text.text for text in chosen if text] == ["a red dog", "a red"]


def test_fewer_rows_are_a_sample_of_all_pieces(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_stdout", said := io.StringIO())
    assert counted(dataset, dataset.parent / "some.tsv", "--rows", "7", "--json").exit_code == 0
    assert json.loads(said.getvalue())["rows"] == 7


def test_a_run_notes_its_list_and_does_not_resume_with_another(dataset: Path) -> None:
    words = dataset.parent / "words.txt"
    with pytest.raises(RecipeError, match="count-words"):
        train(TrainRecipe.checked(recipe(dataset, words)))
    words.write_text("Dog\ncat\t7\n", encoding="utf-8")
    first = TrainRecipe.checked(recipe(dataset, words))
    noted = json.loads(json.dumps(first.model_dump(mode="json")))
    assert TrainRecipe.checked(noted).identity() == first.identity()
    words.write_text("horse\n", encoding="utf-8")
    other = TrainRecipe.checked(recipe(dataset, words))
    assert other.identity() != TrainRecipe.checked(noted).identity() == first.identity()
    with pytest.raises(RecipeError, match="which has changed"):
        train(TrainRecipe.checked(noted))
    words.unlink()
    assert TrainRecipe.checked(noted).identity() == first.identity()


@pytest.mark.parametrize(("content", "said"), [(b"\n \n", "holds no word"), (b"\xff", "not UTF-8")])
def test_a_list_without_words_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        read_word_list(str(tmp_path / "words.txt"))
