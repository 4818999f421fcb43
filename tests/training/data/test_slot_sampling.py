"""Some slots of a step, and texts that fit less drawn more often (1-to-K)."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import tokenizer, write_parquet
from test_text_scores import chosen, pairs

from pairmill.errors import RecipeError
from training.data.augment import TrainTransform
from training.data.batches import Batch, assemble, read_here
from training.data.bundle import Reader
from training.data.config import DataConfig, TextSelector
from training.data.cursor import make_plan
from training.data.source import open_sources
from training.data.step_texts import SlotDraw, StepTexts
from training.data.text_transforms import Text
from training.data.texts import TextChooser, row_generator

LANGUAGES = [[{"kind": "alt"}], [{"language": "zh"}], [{"kind": "long"}]]


def test_each_slot_is_drawn_as_often_and_their_order_stays() -> None:
    drawn = [tuple(SlotDraw(5, 2, seed=3).at(step).tolist()) for step in range(2000)]
    assert all(first < second for first, second in drawn)
    # 2,000 draws of ten pairs: 200 of each, standard deviation 13.
    assert len(counts := Counter(drawn)) == 10 and all(abs(n - 200) < 5 * 13 for n in counts.values())
    assert drawn[:50] != [tuple(SlotDraw(5, 2, seed=4).at(step).tolist()) for step in range(50)]


def read(path: str, number: int, *, rank: int = 0, world: int = 1, start: int = 0, **more: Any) -> list[Batch]:
    config = DataConfig.model_validate(
        {"path": path, "texts": LANGUAGES, "batch_size": 4, "lanes": 2, "bundle_rows": 10, **more}
    )
    sources = open_sources(config, ("noise_prob",))
    plan = make_plan(config, sources, seed=3, workers=world)
    slots, negatives = config.text_slots(), config.negative_slots()
    reader = Reader(sources, TrainTransform(4), slots, tokenizer(), 5, "image", ("noise_prob",), None, negatives)
    stream = read_here(plan, reader, rank=rank, world=world, start_batch=start)
    texts = StepTexts(draw=config.slot_draw(plan.seed))
    made = assemble(stream, plan, rank=rank, world=world, start_batch=start, texts=texts)
    return list(itertools.islice(made, number))


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = write_parquet(tmp_path / "a.parquet", 24)
    noise = pa.array([[0.01 * row, 0.5 + 0.01 * row, 1.0] for row in range(24)], pa.list_(pa.float32()))
    pq.write_table(pq.read_table(file).append_column("noise_prob", noise), file)
    return str(file)


def test_a_step_has_the_same_slots_of_every_row(path: str) -> None:
    whole, some = read(path, 12), read(path, 12, sampled_slots=2)
    seen = set()
    for step, (all_of, two) in enumerate(zip(whole, some, strict=True)):
        drawn = SlotDraw(3, 2, seed=3).at(step)
        seen.add(tuple(drawn.tolist()))
        which = [*drawn.tolist(), 3]  # the slot of negatives stays
        length = two.tokens_BKL.shape[2]
        assert np.array_equal(two.tokens_BKL, all_of.tokens_BKL[:, which, :length])
        assert not all_of.tokens_BKL[:, which, length:].any() and two.tokens_BKL[..., -1].any()
        for name in ("text_mask_BK", "kind_BK", "language_BK"):
            assert np.array_equal(getattr(two, name), getattr(all_of, name)[:, which])
        assert np.array_equal(two.asked["noise_prob"], all_of.asked["noise_prob"][:, drawn])
        assert np.array_equal(two.images_BHWC, all_of.images_BHWC)
    assert len(seen) == 3


def test_slots_are_the_same_over_workers_and_after_a_resume(path: str) -> None:
    def texts(batches: list[Batch]) -> list[dict[int, bytes]]:
        return [
            {
                identity: b.tokens_BKL[row][b.tokens_BKL[row] > 0].tobytes()
                for row, identity in enumerate(b.sample_id_B.tolist())
                if identity >= 0
            }
            for b in batches
        ]

    whole = texts(read(path, 8, sampled_slots=1))
    parts = [texts(read(path, 8, rank=rank, world=2, sampled_slots=1)) for rank in range(2)]
    assert [one | other for one, other in zip(*parts, strict=True)] == whole
    assert texts(read(path, 3, start=5, sampled_slots=1)) == whole[5:]


def test_more_slots_than_there_are_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.sampled_slots must be at most"):
        DataConfig.model_validate({"path": "x", "texts": LANGUAGES, "sampled_slots": 4})
    config = DataConfig.model_validate({"path": "x", "texts": LANGUAGES, "slots": 6, "sampled_slots": 4})
    assert config.slots_of_a_step() == 4 and DataConfig(path="x").slots_of_a_step() == 1


def test_what_is_not_set_is_no_part_of_what_is_read() -> None:
    plain = DataConfig(path="x").identity()
    assert "sampled_slots" not in plain and "harder_by" not in plain["texts"][0]
    assert DataConfig(path="x", texts=(TextSelector(harder_by="clip"),)).identity() != plain


def draws(scores: list[float | None], n: int = 3000) -> list[float]:
    """How often each text is drawn, as a share."""
    texts = [Text(str(at), None, "alt", () if w is None else (("clip", w),)) for at, w in enumerate(scores)]
    choose = TextChooser([(TextSelector(harder_by="clip"),)])
    found = Counter(text.text for row in range(n) if (text := choose(texts, row_generator(0, row, 0, 0))[0]))
    return [found[str(at)] / n for at in range(len(scores))]


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        ([0.5, 0.4, 0.2], [0, 0.25, 0.75]),  # gaps 0, 0.1, 0.3
        ([0.3, None, 0.2], [0, 0, 1]),
        ([None, 0.3], [0, 1]),
        ([0.3, 0.3, None], [0.5, 0.5, 0]),
        ([None, None], [0.5, 0.5]),
    ],
)
def test_a_text_is_drawn_by_how_much_worse_than_the_best_it_fits(
    scores: list[float | None], shares: list[float]
) -> None:
    # 3,000 draws: standard deviation of a share at most 0.0092.
    assert np.allclose(draws(scores), shares, atol=5 * 0.0092)
    assert [share for share, wanted in zip(draws(scores), shares, strict=True) if not wanted and share] == []


def test_slots_that_are_equal_draw_the_next_hardest_texts() -> None:
    texts = [Text(str(at), None, "alt", (("clip", w),)) for at, w in enumerate((0.5, 0.4, 0.1))]
    choose = TextChooser([(TextSelector(harder_by="clip"),)] * 3)
    for row in range(50):
        found = choose(texts, row_generator(0, row, 0, 0))
        # Without replacement: of the last two left the better one cannot be drawn before the other.
        assert sorted(text.text for text in found if text) == ["0", "1", "2"]
        assert found[0] != texts[0] and found[2] == texts[0]


def test_scores_come_from_the_data(tmp_path: Path) -> None:
    hard = chosen(pairs(tmp_path / "pairs"), TextSelector(harder_by="clip"))
    assert hard == [{"new 0", "new 1"}, {"caption 1"}, {"caption 2"}]
    with pytest.raises(RecipeError, match="min_score and harder_by must name dual encoders"):
        chosen(tmp_path / "pairs", TextSelector(harder_by="none"))
