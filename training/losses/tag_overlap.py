"""How many tags two pictures share, of all that either has, tile by tile.

r pictures of a tile's rows, c of its columns, T tags of a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: A place of `sets` without a tag.
NONE = -1


def sets(tags: Tensor) -> Tensor:
    """int64 [n, T] with each tag of a picture once; what is negative is no tag."""
    ordered = tags.sort(1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(again | (ordered < 0), NONE)


def overlap(query: Tensor, key: Tensor, *, dtype: torch.dtype) -> Tensor:
    """|A ∩ B| / |A ∪ B| of sets, int64 [r, T] and [c, T] -> [r, c]; 0 where both are empty.

    r·c·T additions; memory for c numbers for each tag that the rows have, r·T of them at most.
    """
    known, at = torch.unique(query, return_inverse=True)
    # One column of `has` for each tag of the rows: which of the keys have it.
    place = torch.searchsorted(known, key).clamp_(max=len(known) - 1)
    held = (known[place] == key) & (key != NONE)
    has = torch.zeros(len(known), len(key), device=key.device)
    has[place[held], held.nonzero()[:, 0]] = 1.0
    both = torch.nn.functional.embedding_bag(at, has, mode="sum").to(dtype)
    sizes = ((side != NONE).sum(1).to(dtype) for side in (query, key))
    either = torch.add(next(sizes)[:, None], next(sizes)).sub_(both)
    return both.div_(either.clamp_(min=1))
