"""Groups of pairs that are mistaken for each other, against the rule written once more in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.embedding.vectors import vector_column
from curation.heads import HEADS
from curation.heads import hard_groups as module
from curation.heads.hard_groups import HardGroups, HardGroupsConfig, hard_groups
from curation.heads.learnt_filter import Pairs


def pairs_of(rows: int, seed: int = 0, dimensions: int = 6) -> Pairs:
    rng = np.random.default_rng(seed)
    images, noise = rng.standard_normal((2, rows, dimensions))
    texts = images + 0.5 * noise
    unit = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float16) for one in (images, texts)]
    return Pairs(unit[0], unit[1], [])


def naive(pairs: Pairs, size: int, pool: int) -> list[list[int]]:
    """SaHa's loop, with Python's sorts."""
    x, y = pairs.images.astype(float), pairs.texts.astype(float)
    used: set[int] = set()
    groups = []
    for least in (size, 2):
        for anchor in range(len(x)):
            if anchor in used:
                continue
            others = [j for j in range(len(x)) if j != anchor]
            hard = sorted(others, key=lambda j: (-float(x[anchor] @ y[j]), j))[: 2 * (size - 1) * pool]
            owners = [j for j in hard if j not in used][: (size - 1) * pool]
            owners.sort(key=lambda j: float(x[anchor] @ x[j]))
            group = [anchor, *owners[: size - 1]]
            if len(group) >= least:
                groups.append(group)
                used |= set(group)
    return groups


@pytest.mark.parametrize(("rows", "size", "pool"), [(40, 4, 3), (40, 16, 1), (7, 2, 1), (5, 9, 3), (1, 4, 3)])
def test_groups_are_those_of_the_rule(rows: int, size: int, pool: int) -> None:
    found = hard_groups(pairs_of(rows), size=size, pool=pool)
    assert found == naive(pairs_of(rows), size, pool)
    members = [row for group in found for row in group]
    assert len(set(members)) == len(members) and all(2 <= len(group) <= size for group in found)


def test_copies_are_not_in_a_group_for_each_other() -> None:
    pairs = pairs_of(12)
    images, texts = np.concatenate([pairs.images, pairs.images]), np.concatenate([pairs.texts, pairs.texts[::-1]])
    for anchor, *others in hard_groups(Pairs(images, texts, []), size=3, pool=2):
        for other in others:
            assert not (images[anchor] == images[other]).all() and not (texts[anchor] == texts[other]).all()


def columns_of(pairs: Pairs, missing: int | None = None) -> tuple[pa.Array, pa.Array]:
    there = np.ones(len(pairs.images), np.bool_)
    if missing is not None:
        there[missing] = False
    return vector_column(pairs.images, np.ones_like(there)), vector_column(pairs.texts[there], there)


def numbers(head: HardGroups, pairs: Pairs, missing: int | None = None) -> list[Any]:
    images, texts = columns_of(pairs, missing)
    made = head(images, text_embedding_clip=texts)
    assert made.schema == HardGroups.columns
    found: list[Any] = made["group"].to_pylist()
    return found


def test_a_row_has_the_number_of_its_group_and_one_without_a_caption_has_none() -> None:
    config = HardGroupsConfig(name="hard_groups", embedding="clip", size=4, pool=2)
    head = HEADS.get("hard_groups").load(config)
    assert isinstance(head, HardGroups) and head.reads(config) == ("text_embedding_clip",)
    pairs = pairs_of(21)
    found = numbers(head, pairs)
    for group in hard_groups(pairs, size=4, pool=2):
        assert len({found[row] for row in group}) == 1 and found[group[0]] is not None
    assert len(set(found) - {None}) == len(hard_groups(pairs, size=4, pool=2))
    assert numbers(head, pairs, missing=3)[3] is None
    # Other pairs, as of another shard, have other numbers.
    assert not set(found) - {None} & set(numbers(head, pairs_of(21, seed=1)))


def test_groups_do_not_span_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    head = HardGroups(HardGroupsConfig(name="hard_groups", embedding="clip", size=5, pool=3))
    found = numbers(head, pairs_of(20))
    assert not (set(found[:10]) & set(found[10:])) - {None}
    assert len(set(found[10:]) - {None}) >= 2
