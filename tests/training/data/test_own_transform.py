"""Text transforms that are defined here and registered by one line shape the texts of batches read by Ray's tasks."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import Field
from small_datasets import jpeg, reader_of, tokenizer, uid, write_parquet
from test_train import losses

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from pairmill.registry_docs import render
from training.data.batches import Batch
from training.data.config import DataConfig, TextSelector
from training.data.cursor import make_plan
from training.data.source import open_sources
from training.data.stream import batches
from training.data.text_transforms import TEXT_TRANSFORMS, Text, TextTransform
from training.data.texts import TextChooser, row_generator
from training.recipe import TrainRecipe
from training.train import train
from tune.recipe import SweepRecipe
from tune.space import draw_points, recipe_at

TINY = str(Path(__file__).parents[1] / "evaluate" / "tiny_clip.json")


class PrefixConfig(NamedConfig):
    prefix: str = Field(description="stands before the text")
    by_language: dict[str, str] = Field({}, description="another one for some languages")


class Prefix(TextTransform):
    """Puts words before the text."""

    Config = PrefixConfig

    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        prefix = self.config.by_language.get(text.language, self.config.prefix)
        return [text._replace(text=f"{prefix} {text.text}")]


class WordDropoutConfig(NamedConfig):
    share: float = Field(0.5, ge=0, le=1, description="probability that a word is left out, 0-1")


class WordDropout(TextTransform):
    """Leaves out words at random."""

    Config = WordDropoutConfig

    def __call__(self, text: Text, rng: np.random.Generator) -> list[Text]:
        words = text.text.split()
        stay = rng.random(len(words)) >= self.config.share
        return [text._replace(text=" ".join(itertools.compress(words, stay)))]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # Ray's workers cannot import the tests
    with TEXT_TRANSFORMS.extended("prefix", Prefix), TEXT_TRANSFORMS.extended("word_dropout", WordDropout):
        yield
    cloudpickle.unregister_pickle_by_value(module)


def read(root: Path, texts: Any, n: int, *, with_ray: bool = False, rank: int = 0, world: int = 1) -> list[Batch]:
    if not (path := root / "x.parquet").exists():
        write_parquet(path, 48)
    config = DataConfig.checked(
        {"path": str(path), "batch_size": 12, "lanes": 4, "bundle_rows": 8, "reader_cpus": 0.25, "texts": texts}
    )
    sources = open_sources(config)
    plan, reader = make_plan(config, sources, seed=1), reader_of(sources, slots=config.text_slots())
    with batches(plan, reader, config, rank=rank, world=world, with_ray=with_ray) as made:
        return list(itertools.islice(made, n))


def spelled(batch: Batch) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Token ids of each valid row's slots, by the row's id."""
    return {
        int(batch.sample_id_B[b]): tuple(tuple(slot[slot > 0].tolist()) for slot in batch.tokens_BKL[b])
        for b in np.flatnonzero(batch.row_valid_B)
    }


def ids(text: str) -> tuple[int, ...]:
    return tuple(tokenizer()([text])[0])


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_batches_that_ray_s_tasks_read_hold_what_it_makes(tmp_path: Path) -> None:
    prefix = {"name": "prefix", "prefix": "a photo:", "by_language": {"zh": "照片："}}
    texts = [[{"kind": "long", "transforms": ["sentences", prefix]}], [{"language": "zh", "transforms": [prefix]}]]
    there, here = read(tmp_path, texts, 6, with_ray=True), read(tmp_path, texts, 6)
    for one, other in zip(there, here, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[:-3], other[:-3], strict=True))
    seen = set()
    for row in itertools.chain.from_iterable(spelled(batch).values() for batch in there):
        sentence, chinese = row
        assert sentence in {
            ids(f"a photo: {s}") for n in range(48) for s in (f"First of {n}", f"Second of {n}", "Third")
        }
        assert chinese in {ids(f"照片： 一张图 {n}") for n in range(48)}
        seen.add(sentence)
    assert ids("a photo: Third") in seen and len(seen) > 10


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_it_draws_depends_on_the_row_and_the_epoch_alone(tmp_path: Path) -> None:
    texts = [[{"kind": "long", "transforms": [{"name": "word_dropout", "share": 0.2}]}]]
    alone = read(tmp_path, texts, 8)
    workers = [read(tmp_path, texts, 8, with_ray=True, rank=rank, world=2) for rank in range(2)]
    for step, whole in enumerate(alone):
        parts = [spelled(worker[step]) for worker in workers]
        assert parts[0] | parts[1] == spelled(whole)
    first, second = ({k: v for b in alone[at : at + 4] for k, v in spelled(b).items()} for at in (0, 4))
    assert first.keys() == second.keys() and len(first) == 48, "an epoch is four batches"
    assert sum(first[row] != second[row] for row in first) > 40


def train_section(path: Path, selector: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": {
            **{"path": str(path), "batch_size": 8, "lanes": 4, "bundle_rows": 8, "reader_cpus": 0.5},
            "texts": [[selector]],
        },
        "model": {"architecture": TINY},
        "train": {"steps": 2, "precision": "fp32"},
        "compute": {"workers": 1, "cpus_per_worker": 0.5, "threads": 1},
        "evaluate": {"every_steps": 2, "datasets": {"val": {"path": str(path)}}},
    }


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_point_of_a_sweep_chooses_it_and_a_run_learns_from_what_it_makes(tmp_path: Path) -> None:
    rows = range(16)
    # What is drawn for a row follows from its id, which would otherwise follow from the file's content.
    same = {"uid": [uid(row) for row in rows], "image": [jpeg(row) for row in rows]}
    for name, prefix in (("plain", ""), ("written", "a photo: ")):
        table = pa.table({**same, "text": [f"{prefix}number {row}" for row in rows]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    own = {"transforms": [{"name": f"{__name__}:Prefix", "prefix": "a photo:"}]}
    sweep = SweepRecipe.checked(
        {
            "run_dir": "sweep",
            "train": train_section(tmp_path / "plain.parquet", {}),
            "space": {"data.texts": {"grid": [[[{}]], [[own]]]}},
            "objectives": [{"metric": "val/image_retrieval_recall@1"}],
        }
    )
    _, point = draw_points(sweep.space, sweep.base, samples=1, seed=0)
    made = recipe_at(sweep.base, point, run_dir=str(tmp_path / "made"))
    assert isinstance(made.data.text_slots()[0][0].transforms[0], PrefixConfig)
    there = {**train_section(tmp_path / "written.parquet", {}), "run_dir": str(tmp_path / "there")}
    assert train(made, quiet=True)["finished"]
    assert train(TrainRecipe.checked(there), quiet=True)["finished"]
    assert losses(tmp_path / "made") == losses(tmp_path / "there")


def test_the_choice_among_texts_stays_what_it_is_without_it() -> None:
    row = [Text(f"text {n}", "en", "alt") for n in range(5)]
    plain = TextChooser([(TextSelector(),)] * 3)
    shouted = TextChooser([(TextSelector(transforms=({"name": "prefix", "prefix": "x"},)),)] * 3)
    for number in range(50):
        before = [text.text for text in plain(row, row_generator(0, number, 0, 0)) if text]
        assert [text.text for text in shouted(row, row_generator(0, number, 0, 0)) if text] == [
            f"x {t}" for t in before
        ]


def test_what_it_leaves_nothing_of_is_no_text() -> None:
    gone = TextChooser([(TextSelector(transforms=({"name": "word_dropout", "share": 1.0},)),)])
    assert gone([Text("a b c", "en", "alt")], row_generator(0, 1, 0, 0)) == [None]


def test_recipe_schema_and_page_show_it_and_identity_holds_it_where_it_is_used() -> None:
    def identity(**selector: Any) -> Any:
        return DataConfig.checked({"path": "x", "texts": [selector]}).identity()["texts"]

    assert identity() == identity(transforms=[])
    assert identity(transforms=["word_dropout"]) != identity()
    assert identity(transforms=["word_dropout"]) != identity(transforms=[{"name": "word_dropout", "share": 0.1}])
    assert "probability that a word is left out" in json.dumps(TrainRecipe.model_json_schema())
    page = render(TEXT_TRANSFORMS, "Text transforms")
    assert "### `word_dropout`\n\nLeaves out words at random.\n" in page and "| `share` | number ≥ `0` ≤ `1`" in page
    with pytest.raises(RecipeError, match=r"data\.texts\[0\]\.transforms\[0\]\.shar is not a key"):
        identity(transforms=[{"name": "word_dropout", "shar": 1}])
    own = DataConfig.checked({"path": "x", "texts": [{"transforms": [{"name": f"{__name__}:Prefix", "prefix": "x"}]}]})
    assert isinstance(own.text_slots()[0][0].transforms[0], PrefixConfig)
