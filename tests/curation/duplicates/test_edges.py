import numpy as np

from curation.duplicates.edges import combined, stars


def test_stars_point_from_the_first_of_each_group() -> None:
    a, b = stars(np.array([7, 3, 7, 7, 3, 5]))
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 4)]


def test_combined_groups_agree_in_both_keys() -> None:
    codes = combined(np.array([1, 1, 2, 2, 1]), np.array([-5, 9, -5, 9, 9]))
    assert [codes[1] == code for code in codes] == [False, True, False, False, True]
    assert len(set(codes.tolist())) == 4
