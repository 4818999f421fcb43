"""Small images and short texts first: by step alone, as if the data were so, and resumed at any step."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_ranks import run_on_ranks
from need_steps import three_steps
from small_datasets import reader_of, write_parquet
from test_step import recipe as step_recipe
from test_step import rows_of

from pairmill.errors import RecipeError
from pairmill.towers.config import ModelConfig
from pairmill.towers.tokenizer import open_tokenizer
from training.data.batches import Batch, assemble, read_here
from training.data.config import TextSelector
from training.data.cursor import ReadingPlan
from training.data.source import open_source
from training.data.step_texts import Shorten, StepTexts
from training.model import DualEncoder, Further, Rows
from training.recipe import TrainRecipe
from training.resizing import resized
from training.schedule import CurriculumConfig
from training.worker import build

VIT = "tests/pairmill/towers/configs/vit.json"


def test_stages_begin_at_their_share_of_the_steps() -> None:
    config = CurriculumConfig.model_validate({"image_size": [[0, 112], [0.25, 160], [0.5, 224]]})
    assert [config.image_size_at(step, 8) for step in range(8)] == [112, 112, 160, 160, 224, 224, 224, 224]
    assert [config.image_size_at(step, 3) for step in range(3)] == [112, 160, 224]
    assert config.text_length_at(5, 8) is None and CurriculumConfig().image_size_at(0, 8) is None


@pytest.mark.parametrize("stages", [[[0.1, 32]], [[0, 32], [0.5, 48], [0.5, 64]], [[0, 32], [0.6, 48], [0.5, 64]]])
def test_stages_out_of_order_are_refused(stages: list[list[float]]) -> None:
    with pytest.raises(RecipeError, match="must begin at 0"):
        CurriculumConfig.model_validate({"image_size": stages})


@pytest.mark.parametrize(
    ("curriculum", "architecture", "rule"),
    [
        ({"image_size": [[0, 32], [0.5, 48]]}, "vit", "curriculum.image_size must end with the model's"),
        ({"image_size": [[0, 80], [0.5, 64]]}, "vit", "curriculum.image_size must end with the model's"),
        ({"image_size": [[0, 24], [0.5, 64]]}, "vit", "a multiple of the patches"),
        ({"text_length": [[0, 16]]}, "vit", "curriculum.text_length must end with the model's"),
        ({"text_length": [[0, 2], [0.5, 32]]}, "vit", "room for a word"),
        ({"text_length": [[0, 16], [0.5, 32]]}, "siglip", "padding must make no difference"),
    ],
)
def test_what_the_towers_cannot_do_is_refused_before_any_work(
    curriculum: dict[str, Any], architecture: str, rule: str
) -> None:
    model = {"architecture": VIT.replace("vit", architecture), "patch_dropout": None}
    with pytest.raises(RecipeError, match=rule):
        build(with_curriculum(curriculum, model=model))


def with_curriculum(curriculum: dict[str, Any], **sections: Any) -> TrainRecipe:
    plain = step_recipe(**sections)
    return TrainRecipe.model_validate(plain.model_dump() | {"curriculum": curriculum})


def test_a_curriculum_is_part_of_what_is_learnt_and_its_absence_is_not() -> None:
    assert "curriculum" not in step_recipe().identity()
    found = with_curriculum({"text_length": [[0, 16], [0.5, 32]]}).identity()["curriculum"]
    assert found == {"text_length": [[0.0, 16], [0.5, 32]]}


def test_all_images_of_the_rows_are_scaled() -> None:
    rows = rows_of(0, 0, 1)
    views = torch.stack([rows.images_BHWC, rows.images_BHWC.flip(1)], 1)
    nothing = torch.zeros(len(rows.images_BHWC), 0, 12, dtype=torch.long)
    rows = rows._replace(further=Further(views, nothing, nothing, nothing[:, :, 0].bool()))
    found = resized(rows, 32)
    assert found.images_BHWC.shape == (8, 32, 32, 3) and found.images_BHWC.dtype == torch.uint8
    assert found.further is not None and torch.equal(found.further.images_BVHWC[:, 0], found.images_BHWC)
    # Averages stay: 64 x 64 pixels of noise, scaled by an antialiased filter.
    assert torch.allclose(found.images_BHWC.float().mean((1, 2)), rows.images_BHWC.float().mean((1, 2)), atol=2)
    assert found.images_BHWC.float().std() < 0.7 * rows.images_BHWC.float().std()
    assert resized(rows, 64) is rows


def test_a_smaller_image_costs_fewer_patches() -> None:
    model = build(with_curriculum({"image_size": [[0, 32], [0.5, 64]]}, model={"patch_dropout": None}))
    module, seen = DualEncoder(model, "fp32"), list[int]()
    blocks: Any = model.visual
    blocks.transformer.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    rows = rows_of(0, 0, 1)
    for size in (32, 64):
        module(resized(rows, size))
    assert seen == [1 + 4, 1 + 16]


@pytest.mark.parametrize("context", [3, 5, 9])
def test_a_tokenizer_of_a_shorter_context_cuts_so(context: int) -> None:
    whole, short = (open_tokenizer(ModelConfig(architecture=VIT, context_length=length)) for length in (32, context))
    for text in ("word", "a cat on a mat", "one two three four five six seven eight"):
        ids = whole([text])[0]
        cut = ids if len(ids) <= context else np.concatenate([ids[: context - 1], ids[-1:]])
        assert np.array_equal(short([text])[0], cut) and ids[-1] == whole.end_id


def read(path: Path, shorten: Shorten | None, *, number: int, start: int = 0, length: int | None = None) -> list[Batch]:
    source = open_source(str(path))
    plan = ReadingPlan(((source.rows, 1.0),), seed=3, lanes=2, batch_size=8, bundle_rows=12)
    reader = reader_of([source], slots=((TextSelector(kind="alt"),), (TextSelector(kind="long"),)), size=4)
    stream = read_here(plan, reader, start_batch=start)
    made = assemble(stream, plan, start_batch=start, length=length, texts=StepTexts(shorten))
    return list(itertools.islice(made, number))


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("length", [None, 60])
def test_each_step_has_texts_of_its_own_length(tmp_path: Path, end: bool, length: int | None) -> None:
    path = write_parquet(tmp_path / "a.parquet", 24)
    limits = [4, 4, 9, None, None]
    shorten = Shorten(lambda step: limits[step], end)
    whole, cut = read(path, None, number=5), read(path, shorten, number=5, length=length)
    for plain, short, limit in zip(whole, cut, limits, strict=True):
        for row, slot in np.ndindex(plain.text_mask_BK.shape):
            ids = plain.tokens_BKL[row, slot][plain.tokens_BKL[row, slot] > 0].tolist()
            found = short.tokens_BKL[row, slot][short.tokens_BKL[row, slot] > 0].tolist()
            if limit is None or len(ids) <= limit:
                assert found == ids
            else:
                assert found == (ids[: limit - 1] + ids[-1:] if end else ids[:limit])
        assert short.tokens_BKL.shape[2] == min(limit or 99, length or plain.tokens_BKL.shape[2])
        assert np.array_equal(short.text_mask_BK, plain.text_mask_BK)
    for expected, found in zip(cut[2:], read(path, shorten, number=3, start=2, length=length), strict=True):
        assert np.array_equal(expected.tokens_BKL, found.tokens_BKL)


def small_then_whole(step: int, rank: int, world: int) -> Rows:
    return resized(rows_of(step, rank, world), 32 if step < 2 else 64)


@pytest.mark.slow
def test_steps_on_small_images_are_the_same_split_over_workers_with_their_weights() -> None:
    used = [
        with_curriculum({"image_size": [[0, 32], [0.5, 64]]}, model={"patch_dropout": None}, deepspeed={"stage": stage})
        for stage in (0, 3)
    ]
    whole, weights = run_on_ranks(1, three_steps, used[0], small_then_whole)[0]
    split, others = run_on_ranks(2, three_steps, used[1], small_then_whole)[0]
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        others["visual.positional_embedding"], weights["visual.positional_embedding"], rtol=1e-3, atol=1e-5
    )
