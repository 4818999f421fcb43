import io

from rich.console import Console

from pipelines.progress import Board, Count, _eta, _table


def test_the_board_counts_over_workers() -> None:
    board = Board()
    board.begin("download", 100.0)
    board.begin("download", 99.0)
    board.add("download", 10, 7, 104.0)
    board.add("download", 20, 20, 109.0)
    [count] = board.read()[0].values()
    assert (count.rows, count.kept) == (30, 27)
    assert count.rows_per_second() == 3.0
    assert count.images_per_second() == 2.7


def test_a_warning_stands_until_it_is_taken_back() -> None:
    board = Board()
    board.warn("download", "the network is down")
    assert board.read()[1] == {"download": "the network is down"}
    board.warn("download", "")
    assert board.read()[1] == {}


def test_eta() -> None:
    assert _eta(Count(rows=10, kept=10, began=0, latest=5), 30) == "00:00:10"
    assert _eta(Count(rows=30, kept=1, began=0, latest=5), 30) == "done"
    assert _eta(Count(), 30) == "—"
    assert _eta(Count(rows=1, began=0, latest=100), 5_000) == "5.8 days"


def test_the_table_says_what_each_stage_has_done() -> None:
    out = io.StringIO()
    counts = {"download": Count(rows=3000, kept=2000, began=0, latest=10)}
    Console(file=out, width=120).print(_table(counts, {"x": "most fetches fail"}, 6000))
    for word in ("download", "3,000", "2,000", "1,000", "300", "200", "00:00:10", "most fetches fail"):
        assert word in out.getvalue()
