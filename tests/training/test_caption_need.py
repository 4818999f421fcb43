"""The need `captions`: a CoCa's decoder against open_clip's own forward pass and loss, and in steps."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from gloo_ranks import run_on_ranks
from need_steps import three_steps
from open_clip.loss import CoCaLoss
from test_step import ROWS, SLOTS, setup_of
from test_step import recipe as step_recipe
from test_step import rows_of as plain_rows_of
from torch import Tensor

from pairmill.errors import RecipeError
from training.gather import Exchange
from training.losses.vocabulary import word_losses
from training.model import DualEncoder, Rows
from training.objectives.declaration import When
from training.recipe import TrainRecipe

COCA = Path("tests/pairmill/towers/configs/coca.json")
CONTEXT, WORDS = 8, 61


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tests' CoCa with few words and places."""
    config = json.loads(COCA.read_text())
    for section in ("text_cfg", "multimodal_cfg"):
        config[section] |= {"context_length": CONTEXT, "vocab_size": WORDS}
    file = tmp_path_factory.mktemp("coca") / "small.json"
    file.write_text(json.dumps(config))
    return str(file)


def of_step(architecture: str, *, accumulate: int = 1, stage: int = 0, precision: str = "fp32") -> TrainRecipe:
    return step_recipe(
        loss={"objective": "clip", "terms": {"captioning": {"weight": 2.0}}},
        model={"architecture": architecture, "patch_dropout": None},
        train={"accumulate": accumulate, "precision": precision},
        deepspeed={"stage": stage},
    )


def rows_of(step: int, rank: int, world: int, *, slots: int = SLOTS) -> Rows:
    """Texts of 2 to CONTEXT tokens, the start and end of which are the highest ids."""
    random = torch.Generator().manual_seed(50 + step)
    tokens = torch.randint(1, WORDS - 2, (ROWS, slots, CONTEXT), generator=random)
    length = torch.randint(2, CONTEXT + 1, (ROWS, slots, 1), generator=random)
    place = torch.arange(CONTEXT)
    tokens = torch.where(place < length, tokens, 0)
    tokens[..., 0] = WORDS - 2
    tokens = torch.where(place == length - 1, WORDS - 1, tokens)
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    plain = plain_rows_of(step, 0, 1)
    of_slots = {name: getattr(plain, name)[:, :slots] for name in ("text_mask_BK", "kind_BK", "language_BK")}
    return plain._replace(tokens_BKL=tokens, **of_slots).part(share)


def test_loss_and_gradients_are_those_of_open_clips_coca(small: str) -> None:
    from training.worker import build

    used = of_step(small)
    rows = rows_of(0, 0, 1, slots=1)
    rows = rows._replace(text_mask_BK=torch.ones_like(rows.text_mask_BK))
    module = DualEncoder(build(used), "fp32", needs=("captions",)).double()
    objective = used.loss.opened()
    objective.begin(setup_of(used)._replace(slots=1))
    objective.when = When(0, 1, 1)
    # Pixels in float64, as the towers.
    module._pixels = lambda images: DualEncoder._pixels(module, images).double()  # type: ignore[method-assign]
    model: Any = module.model
    found = objective(module(rows), rows, Exchange())
    found.total.backward()
    mine = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    out = model(module._pixels(rows.images_BHWC), rows.tokens_BKL[:, 0])
    out["logit_scale"] = out["logit_scale"].sum()
    contrast, caption = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(**out)
    # Ours takes embeddings in float32.
    torch.testing.assert_close(found.parts["captioning"], caption, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.total.double(), contrast + caption, rtol=1e-5, atol=0)
    (contrast + caption).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert mine["text_decoder.text_projection"].abs().sum() > 0


@pytest.fixture(scope="module")
def whole(small: str) -> tuple[Tensor, dict[str, Tensor]]:
    found: tuple[Tensor, dict[str, Tensor]] = run_on_ranks(1, three_steps, of_step(small), rows_of)[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("world", "accumulate", "stage"), [(1, 4, 0), (2, 2, 2), (2, 1, 3)])
def test_ranks_and_micro_batches_are_one_step_of_the_whole_batch(
    small: str, whole: tuple[Tensor, dict[str, Tensor]], world: int, accumulate: int, stage: int
) -> None:
    used = of_step(small, accumulate=accumulate, stage=stage)
    losses, weights = run_on_ranks(world, three_steps, used, rows_of)[0]
    torch.testing.assert_close(losses, whole[0], rtol=1e-4, atol=1e-6)
    assert len(set(losses.tolist())) == 3
    for name, value in whole[1].items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_texts_and_slots_that_are_missing_change_nothing(small: str) -> None:
    from training.worker import build

    module = DualEncoder(build(of_step(small)), "fp32", needs=("captions",))
    rows = rows_of(0, 0, 1)
    first = module(rows)
    losses, labels = first.asked["caption_losses"], first.asked["caption_labels"]
    assert losses.shape == labels.shape == (ROWS, SLOTS, CONTEXT)
    expected = torch.where(rows.tokens_BKL == 0, -100, rows.tokens_BKL)
    expected[..., 0] = expected[~rows.text_mask_BK] = -100
    assert torch.equal(labels, expected) and torch.equal(losses > 0, labels >= 0)
    # Of each text alone, beside its own image, and without the padding of the others.
    for row, slot in [(0, 0), (3, 1)]:
        alone = module(rows.part(slice(row, row + 1))).asked["caption_losses"][0, slot]
        torch.testing.assert_close(alone, losses[row, slot], rtol=1e-4, atol=1e-5)
    empty = module(rows._replace(text_mask_BK=torch.zeros_like(rows.text_mask_BK)))
    assert not empty.asked["caption_losses"].any() and (empty.asked["caption_labels"] < 0).all()
    assert not module.eval()(rows).asked


@pytest.mark.slow
def test_blocks_are_computed_again_as_they_were_in_bfloat16(small: str) -> None:
    found = []
    for again in (False, True):
        used = of_step(small, precision="bf16", accumulate=2)
        used = used.model_copy(update={"model": used.model.model_copy(update={"gradient_checkpointing": again})})
        found.append(run_on_ranks(1, three_steps, used, rows_of)[0][0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("tile", [(1024, 4096), (3, 7)])
def test_tiles_of_the_vocabulary_are_one_cross_entropy(tile: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    states, projection = (torch.randn(*shape, generator=random).double() for shape in ((10, 4), (4, 23)))
    labels = torch.randint(0, 23, (10,), generator=random)
    weight = torch.rand(10, generator=random).double()
    gradients = []
    for of in (partial(word_losses, tile=tile), lambda s, p, y: F.cross_entropy(s @ p, y, reduction="none")):
        leaves = [states.clone().requires_grad_(), projection.clone().requires_grad_()]
        losses = of(*leaves, labels)
        gradients.append([losses, *torch.autograd.grad((losses * weight).sum(), leaves)])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert not word_losses(states[:0], projection, labels[:0]).sum()


def test_a_decoder_that_nothing_teaches_stays_as_it_is(small: str) -> None:
    from training.worker import build

    plain = step_recipe(model={"architecture": small, "patch_dropout": None})
    for used, learns in ((plain, False), (of_step(small), True)):
        model: Any = build(used)
        assert {p.requires_grad for p in model.text_decoder.parameters()} == {learns}
        assert all(p.requires_grad for name, p in model.named_parameters() if not name.startswith("text_decoder"))
    # Nothing in open_clip draws the projection.
    spread = model.text_decoder.text_projection.std()
    torch.testing.assert_close(spread, torch.tensor(64**-0.5), rtol=0.1, atol=0)
    assert torch.equal(spread, build(plain).text_decoder.text_projection.std())  # type: ignore[union-attr, operator]  # a CoCa


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "needs a caption decoder: .*CoCa"),
        ({"text_cfg": {"no_causal_mask": True}}, "needs a text tower that must be causal"),
        ({"multimodal_cfg": {"context_length": CONTEXT - 2}}, "must take the texts"),
    ],
)
def test_towers_without_a_decoder_that_can_learn_are_refused(
    small: str, tmp_path: Path, change: dict[str, dict[str, Any]] | None, said: str
) -> None:
    from training.worker import build

    file = COCA.with_name("vit.json")
    if change is not None:
        config = json.loads(Path(small).read_text())
        file = tmp_path / "changed.json"
        file.write_text(json.dumps({k: {**v, **change[k]} if k in change else v for k, v in config.items()}))
    with pytest.raises(RecipeError, match=f"captioning {said}|captioning: .*{said}"):
        build(of_step(str(file)))
