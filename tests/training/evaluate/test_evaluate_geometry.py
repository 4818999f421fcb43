import math

import pytest
import torch

from training.evaluate.geometry import alignment, effective_rank, geometry_metrics, modality_gap, uniformity


def unit(rows: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dimension, generator=generator), dim=1)


def test_gap_and_alignment_by_hand() -> None:
    image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert modality_gap(image, text) == pytest.approx(math.dist((0.5, 0.5), (0.0, 1 / 3)))
    pairs = (torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]))
    assert alignment(image, text, *pairs, chunk=2) == pytest.approx(4 / 3)
    assert modality_gap(image, image) == alignment(image, image, torch.arange(2), torch.arange(2)) == 0


@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_uniformity_is_over_pairs_of_distinct_rows(chunk: int) -> None:
    rows = unit(64, 5, 0)
    expected = torch.pdist(rows.double()).square().mul(-2).exp().mean().log().item()
    assert uniformity(rows, chunk=chunk) == pytest.approx(expected, abs=1e-5)


def test_uniformity_of_a_point_is_zero_and_of_a_sample_is_near() -> None:
    assert uniformity(unit(1, 5, 0).expand(9, -1)) == pytest.approx(0, abs=1e-5)
    rows = unit(2000, 16, 1)
    assert uniformity(rows, max_rows=500) == pytest.approx(uniformity(rows), abs=0.02)
    with pytest.raises(ValueError, match="two rows"):
        uniformity(rows[:1])


def test_effective_rank_equals_that_of_the_singular_values() -> None:
    rows = unit(200, 24, 2) * torch.linspace(0.1, 2, 24)
    singular = torch.linalg.svdvals(rows.double() - rows.double().mean(0))
    share = singular / singular.sum()
    expected = math.exp(-(share * share.log()).sum())
    assert effective_rank(rows, chunk=33) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_counts_dimensions() -> None:
    axes = torch.cat([torch.eye(8), -torch.eye(8)])
    assert effective_rank(axes) == pytest.approx(8)
    collapsed = unit(500, 3, 3) @ unit(3, 64, 4)
    assert 2 < effective_rank(collapsed) < 3.001
    assert effective_rank(unit(1, 16, 5).expand(20, -1)) == 1
    assert math.isnan(effective_rank(torch.full((3, 2), math.nan)))


def test_all_of_it() -> None:
    found = geometry_metrics(unit(30, 8, 6), unit(1, 8, 7), torch.arange(30), torch.zeros(30, dtype=torch.int64))
    assert set(found) == {
        *("modality_gap", "alignment", "effective_rank_image", "effective_rank_text", "uniformity_image")
    }
