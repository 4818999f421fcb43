"""The images of a step at the size that `curriculum.image_size` gives it.

B rows of this rank, V views, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

from training.model import Rows


def resized(rows: Rows, size: int) -> Rows:
    """The rows with all of their images scaled to size x size pixels (bicubic, antialiased)."""
    if rows.images_BHWC.shape[1:3] == (size, size):
        return rows
    further = rows.further
    if further is not None:
        views_BVHWC = further.images_BVHWC
        views = _scaled(views_BVHWC.flatten(0, 1), size)
        further = further._replace(images_BVHWC=views.view(*views_BVHWC.shape[:2], *views.shape[1:]))
    return rows._replace(images_BHWC=_scaled(rows.images_BHWC, size), further=further)


@torch.no_grad()
def _scaled(images_BHWC: Tensor, size: int) -> Tensor:
    """uint8 to uint8."""
    if not len(images_BHWC):
        return images_BHWC.new_zeros(0, size, size, images_BHWC.shape[3])
    images = images_BHWC.permute(0, 3, 1, 2).float()
    images = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return images.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
