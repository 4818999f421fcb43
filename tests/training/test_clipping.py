import math

from training.clipping import Clipping


def test_the_latest_norm_and_the_share_of_clipped_steps_since_the_last_line() -> None:
    clipping = Clipping(1.0)
    for norm in (0.5, 2.0, 1.0, 3.0):
        clipping.seen(norm)
    assert clipping.lap() == {"grad_norm": 3.0, "clipped": 0.5}
    clipping.seen(0.25)
    assert clipping.lap() == {"grad_norm": 0.25, "clipped": 0.0}


def test_without_clipping_there_is_no_share_and_no_number_where_there_is_none() -> None:
    clipping = Clipping(None)
    clipping.seen(math.inf)
    assert clipping.lap() == {"grad_norm": None}
