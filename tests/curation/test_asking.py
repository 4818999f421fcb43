"""What an engine is asked for when it has answered before, and what a kill costs."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from neighbourly import SIZE, Neighbourly
from PIL import Image
from test_telemetry import Recorded

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.generations import Generations, made_from
from curation.engines.guard import MANY
from curation.engines.model_files import PROJECT_ROOT
from curation.engines.own import OwnEngine
from curation.plan_file import Plan, write_plan
from curation.recaption import Recaption, RecaptionConfig
from curation.reuse import to_be_made, with_made_from, work_again
from curation.schema import set_columns
from curation.stage import Runtime
from curation.translate import Translate, TranslateConfig
from pairmill import faults
from pairmill.errors import JobError, UserError
from pairmill.layout import GENERATIONS
from pairmill.own_code import Guard
from pairmill.store import Store

#: Two prompts of one token limit, and one of another, which come apart in batches.
PROMPTS: dict[str, Any] = {"one": "one", "two": "two {caption}", "three": {"text": "three", "max_new_tokens": 9}}


def config(**more: Any) -> RecaptionConfig:
    given = {"engine": "vllm", "model": "samples/models/captioner", "prompts": PROMPTS}
    return RecaptionConfig.checked(given | more)


def picture(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 8)).save(file, "PNG")
    return file.getvalue()


def table(widths: Sequence[int], *, shard: int = 0) -> pa.Table:
    count = len(widths)
    nothing = pa.nulls(count, pa.string())
    columns = {"uid": [f"{at:032x}" for at in range(count)], "image": pa.array(map(picture, widths), pa.binary())}
    columns |= {"caption": [f"alt {width}" for width in widths], "sha256": [str(width) for width in widths]}
    columns |= {"image_settings": nothing, "engine": nothing, "drop_stage": nothing, "drop_reason": nothing}
    return pa.table(columns | {"_shard": pa.repeat(pa.scalar(shard, pa.int32()), count)})


def planned(run: Path, fingerprint: str = "one list") -> Store:
    """A run directory with a plan."""
    store = Store(str(run))
    listed = {"given": ["list"], "url_column": "url", "text_column": None, "files": [], "fingerprint": "f"}
    listed |= {"rows": 9, "first_shard": 0, "shards": 3}
    plan = {"fingerprint": fingerprint, "rows": 9, "shards": 3, "cut": "c", "inputs": [listed]}
    write_plan(store, Plan.checked(plan))
    return store


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(PROJECT_ROOT)
    return Store(str(tmp_path / "run"))


@pytest.fixture
def engine(tmp_path: Path) -> Neighbourly:
    return Neighbourly(tmp_path / "paid")


def captioner(engine: Any, store: Store | None, /, *, meter: Any = None, **more: Any) -> Recaption:
    stage = Recaption(config(**more), engine=engine)
    stage.setup(Runtime(store, meter))
    return stage


def translator(engine: Any, store: Store | None) -> Translate:
    given = {"model": "samples/models/translator", "check_language": False, "max_length_ratio": 9}
    stage = Translate(TranslateConfig.checked(given), engine=engine)
    stage.setup(Runtime(store))
    return stage


def paid_for(engine: Neighbourly, work: Callable[[], pa.Table]) -> tuple[pa.Table, list[str]]:
    """What some work gives, and what it paid for."""
    before = len(engine.paid())
    return work(), engine.paid()[before:]


def objects(store: Store) -> list[Path]:
    return sorted(Path(store.path(GENERATIONS)).glob("??/??/*.json"))


def test_what_was_written_is_not_paid_for_again(run: Store, engine: Neighbourly) -> None:
    rows = table(range(10, 17))
    plain, paid = paid_for(engine, lambda: captioner(engine, None)(rows))
    assert len(paid) == 21
    out, paid = paid_for(engine, lambda: captioner(engine, run)(rows))
    assert out.equals(plain) and len(paid) == len(objects(run)) == 21
    again, paid = paid_for(engine, lambda: captioner(engine, run, engine={"name": "vllm", "rows_per_call": 2})(rows))
    assert again.equals(out) and paid == []  # `rows_per_call` says how the engine runs
    out, paid = paid_for(engine, lambda: captioner(engine, run, engine={"name": "vllm", "dtype": "float16"})(rows))
    assert len(paid) == 21


def test_a_prompt_more_costs_that_prompt(run: Store, engine: Neighbourly) -> None:
    rows = table(range(10, 17))
    had = captioner(engine, run)(rows)
    more = PROMPTS | {"four": "four"}
    out, paid = paid_for(engine, lambda: captioner(engine, run, prompts=more)(rows))
    assert sorted(paid) == sorted(f"four {width}" for width in range(10, 17))
    assert [row[:3] for row in out["recaptions"].to_pylist()] == had["recaptions"].to_pylist()


def test_a_shard_with_three_new_rows_pays_for_three(run: Store, engine: Neighbourly) -> None:
    stage = captioner(engine, run)
    had = with_made_from(stage, stage(table(range(10, 17))), "one recipe")
    changed = table([10, 50, 12, 51, 14, 52, 16])
    block = set_columns(changed, {name: had[name] for name in (*stage.column_names(), "recaption_made_from")})
    work = lambda: work_again(stage, block, to_be_made(stage, block, "one recipe"), "one recipe", stage)[0]  # noqa: E731  # used once
    out, paid = paid_for(engine, work)
    assert {line.split()[-1] for line in paid} == {"50", "51", "52"} and len(paid) == 9
    # A model that is called otherwise makes all rows stale, and not one text.
    block = set_columns(changed, {name: out[name] for name in stage.column_names()})
    block = set_columns(block, {"recaption_made_from": pa.nulls(7, pa.uint64())})
    again, paid = paid_for(engine, work)
    assert paid == [] and again["recaptions"].equals(out["recaptions"])


def test_runs_that_name_one_cache_pay_once(tmp_path: Path, engine: Neighbourly) -> None:
    cache = tmp_path / "cache"
    first, second = planned(tmp_path / "first"), planned(tmp_path / "second", "another list")
    captioner(engine, first, cache=str(cache))(table(range(10, 20)))
    # Another selection, whose rows are in other shards.
    out, paid = paid_for(engine, lambda: captioner(engine, second, cache=str(cache))(table([12, 19, 30], shard=2)))
    assert {line.split()[-1] for line in paid} == {"30"} and out["recaption_status"].to_pylist() == ["success"] * 3
    assert not first.folders(GENERATIONS)


def test_equal_requests_are_asked_for_once(run: Store, engine: Neighbourly) -> None:
    rows = set_columns(table([10, 11, 10, 10]), {"caption": ["a", "b", "a", "c"]})
    out, paid = paid_for(engine, lambda: captioner(engine, None)(rows))
    assert sorted(paid) == ["one 10", "one 11", "three 10", "three 11", "two a 10", "two b 11", "two c 10"]
    texts = [[made["text"] for made in row] for row in out["recaptions"].to_pylist()]
    assert texts[0] == texts[2] and texts[3][1] == "It says two c 10."
    # Prompts of one wording too, and sampled texts of equal pictures.
    twice = {"a": "name it", "b": "name it"}
    _, paid = paid_for(engine, lambda: captioner(engine, run, prompts=twice, temperature=1.0)(rows))
    assert sorted(paid) == ["name it 10", "name it 11"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"seed": 1}, {"seed": 2}, True),
        ({"temperature": 1.0, "seed": 1}, {"temperature": 1.0, "seed": 2}, False),
        ({"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}, False),
        ({"temperature": 0.5}, {"temperature": 1.0}, False),
        ({"num_gpus": 1}, {"num_gpus": 0.5, "actors": 3}, True),
        ({"engine": "openai", "revision": "1"}, {"engine": "openai", "revision": "2"}, False),
        ({"engine": "openai"}, {"engine": {"name": "openai", "extra_body": {"min_p": 0.1}}}, False),
        ({"engine": "openai"}, {"engine": {"name": "openai", "base_url": "http://other/v1"}}, True),
        ({"max_new_tokens": 5}, {"max_new_tokens": 6}, False),
    ],
)
def test_what_decides_a_text_decides_what_is_found(
    run: Store, engine: Neighbourly, one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    rows, prompts = table([10]), {"prompts": {"one": "one"}}
    captioner(engine, run, **prompts, **one)(rows)
    _, paid = paid_for(engine, lambda: captioner(engine, run, **prompts, **other)(rows))
    assert (not paid) == same


def test_translations_are_kept_by_text_and_direction(run: Store, engine: Neighbourly) -> None:
    rows = pa.table(
        {"caption": ["a", "b", "a"], "language": ["en", "en", "de"], "drop_reason": pa.nulls(3, pa.string())}
    )
    out, paid = paid_for(engine, lambda: translator(engine, run)(rows))
    assert sorted(paid) == ["de a zh", "en a zh", "en b zh"]
    more = set_columns(rows, {"caption": ["a", "c", "a"]})
    again, paid = paid_for(engine, lambda: translator(engine, run)(more))
    assert paid == ["en c zh"]
    assert again["translations"][0] == out["translations"][0]


def test_a_failure_is_asked_for_again_and_alone(run: Store, engine: Neighbourly) -> None:
    rows = table(range(10, 14))
    out = captioner(Neighbourly(engine.log, failing=["one 12"]), run)(rows)
    assert out["recaption_error"].to_pylist() == [None, None, "one: cannot", None]
    again, paid = paid_for(engine, lambda: captioner(engine, run)(rows))
    assert paid == ["one 12"] and again["recaption_error"].null_count == 4
    other = [0, 1, 3]
    assert again["recaptions"].take(other).equals(out["recaptions"].take(other))


def test_a_dead_engine_is_noticed_behind_a_full_cache(run: Store, engine: Neighbourly) -> None:
    captioner(engine, run, prompts={"one": "one"})(table(range(10, 14)))
    dead = Neighbourly(engine.log, failing=["one"])
    stage = captioner(dead, run, prompts={"one": "one"})
    assert stage(table(range(10, 14)))["recaption_error"].null_count == 4
    with pytest.raises(JobError, match="not even a probe"):
        stage(table([10, 11, 12, 40]))


class Picky(Neighbourly):
    """Can do nothing that is smaller than the probe."""

    def _one(self, line: str, score: float) -> Generated | Failure:
        return super()._one(line, score) if line.endswith(" 64") else Failure("cannot")


def test_many_rows_that_fail_alike_do_not_end_a_job_that_has_texts(run: Store, engine: Neighbourly) -> None:
    rows = table(range(1, MANY + 5))
    captioner(engine, run, prompts={"one": "one"})(rows.slice(MANY))
    stage = captioner(Picky(engine.log), run, prompts={"one": "one"})
    assert stage(rows)["recaption_status"].to_pylist() == ["engine_error"] * MANY + ["success"] * 4
    with pytest.raises(JobError, match=f"failed for all {MANY} texts"):
        stage(rows.slice(0, MANY))


# What a kill costs


class Killed(Exception):
    pass


def killed(work: Callable[[], object], point: str, at_pass: int, folder: Path) -> bool:
    """Do some work in a process that is killed at the n-th pass through a fault point; whether it came there."""
    child = os.fork()
    if not child:
        faults._armed = faults._parse(f"{point}:kill@{at_pass}", str(folder))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


@pytest.mark.parametrize("point", ["engine.answered", "generation.before_write", "generation.before_rename"])
@pytest.mark.parametrize("failing", [(), ("one 11", "three 15")])
def test_a_shard_that_was_killed_comes_out_the_same_and_pays_for_what_was_at_work(
    tmp_path: Path, run: Store, point: str, failing: tuple[str, ...]
) -> None:
    rows = table(range(10, 20))

    def work(name: str) -> tuple[Neighbourly, Recaption]:
        engine = Neighbourly(tmp_path / f"paid-{name}", failing)
        return engine, captioner(engine, planned(tmp_path / name))

    engine, stage = work("whole")
    expected, whole = paid_for(engine, lambda: stage(rows))
    for at_pass in range(1, 40):
        engine, stage = work(f"killed-{at_pass}")
        (counters := tmp_path / f"counters-{at_pass}").mkdir()
        if not killed(lambda stage=stage: stage(rows), point, at_pass, counters):  # type: ignore[misc]  # bound now
            break
        assert stage(rows).equals(expected)
        # The batch that was being kept, the one that was computed meanwhile, and what failed once more, with a probe.
        at_work = SIZE if point == "engine.answered" else 2 * SIZE
        assert len(engine.paid()) <= len(whole) + at_work + 2 * len(failing)
        assert not list(Path(stage._asking._cache._store.path("begun")).glob("*/*.json"))  # type: ignore[union-attr]
    assert at_pass > 9


def test_a_kill_costs_nothing_of_what_was_there_before(tmp_path: Path, run: Store) -> None:
    """The misses of a call are cut again as they were."""
    store, other = planned(tmp_path / "a"), planned(tmp_path / "b")
    expected = []
    for place in (store, other):
        engine = Neighbourly(tmp_path / "paid")
        captioner(engine, place, prompts={"one": "one"})(table([11, 14, 17]))
        stage = captioner(engine, place)
        (counters := tmp_path / f"of-{place.uri[-1]}").mkdir()
        if place is other:
            assert killed(lambda: stage(table(range(10, 20))), "engine.answered", 3, counters)  # noqa: B023  # called now
        expected.append(stage(table(range(10, 20))))
    assert expected[0].equals(expected[1])


def test_shards_of_a_plan_do_not_decide_each_others_scores(tmp_path: Path, run: Store) -> None:
    """Whichever is first, each comes out as if it were alone; another run, and the same one extended, pay nothing."""
    orders: list[dict[int, pa.Table]] = []
    cache = str(tmp_path / "cache")
    for order in ([0, 1], [1, 0]):
        engine, store = Neighbourly(tmp_path / "paid"), planned(tmp_path / f"first-{order[0]}")
        stage = captioner(engine, store, cache=f"{cache}-{order[0]}")
        orders.append({shard: stage(table([10, 11, 12 + shard, 14], shard=shard)) for shard in order})
        # Each finds its own again.
        again, paid = paid_for(engine, lambda: stage(table([10, 11, 12, 14], shard=0)))  # noqa: B023  # called now
        assert paid == [] and again.equals(orders[-1][0])
    assert orders[0] == orders[1]
    assert orders[0][0]["recaptions"][0] != orders[0][1]["recaptions"][0]
    longer = captioner(engine, planned(tmp_path / "first-1", "a longer list"), cache=f"{cache}-1")
    assert paid_for(engine, lambda: longer(table([10, 11, 12, 13, 14], shard=3)))[1] == []


class Waiting:
    """Answers one by one and stops half-way, as a server that is switched off."""

    rows_per_call, independent = 8, True

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.stops_after = 3

    def caption(self, requests: Sequence[CaptionRequest], answered: Any) -> list[Generated | Failure]:
        for at, request in enumerate(requests):
            if len(self.paid) == self.stops_after:
                raise Killed
            self.paid.append(request.prompt)
            answered([at], [Generated(f"{request.prompt} {request.image.width}", None)])
        return [Failure("reported already")] * len(requests)


def test_an_answer_is_kept_when_it_is_reported(tmp_path: Path, run: Store) -> None:
    engine, rows = Waiting(), table([10, 11, 12, 13])
    stage = captioner(engine, planned(tmp_path / "a"), prompts={"one": "one"})
    with pytest.raises(Killed):
        stage(rows)
    engine.stops_after = 99
    assert stage(rows)["recaption_error"].null_count == 4 and len(engine.paid) == 4
    # Whoever asks the server, the text is there.
    stage(table([12, 10], shard=1))
    assert len(engine.paid) == 4


class Plain:
    """A user's own engine that answers, and does no more."""

    rows_per_call = 8

    def __init__(self) -> None:
        self.paid = 0

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        self.paid += len(requests)
        return [Generated(f"{request.prompt} {request.image.width}", None) for request in requests]


def test_an_engine_that_only_answers_is_kept_call_by_call(tmp_path: Path, run: Store) -> None:
    engine, rows = Plain(), table(range(10, 20))
    assert killed(lambda: captioner(engine, run)(rows), "engine.answered", 2, tmp_path)
    captioner(engine, run)(rows)
    assert engine.paid == 2 * 3  # of the second call: the first one was kept


class Halting(Plain):
    """A user's own engine that reports what it has, and then raises for one request."""

    independent = True

    def caption(self, requests: Sequence[CaptionRequest], answered: Any = None) -> list[Generated | Failure]:
        made = []
        for at, request in enumerate(requests):
            if request.image.width == 11:
                raise ValueError("too wide")
            made += super().caption([request])
            answered([at], made[-1:])
        return made


def test_an_own_engine_reports_too_and_fails_for_one_request(tmp_path: Path, run: Store) -> None:
    engine = Halting()
    own = OwnEngine(engine, Guard("recaption.engine own", 9.0, limit="engine_timeout_s"))
    out = captioner(own, run, prompts={"one": "one"})(table(range(10, 14)))
    assert out["recaption_error"].to_pylist() == [None, "one: ValueError: too wide", None, None]
    assert len(objects(run)) == 3


# Real models


def sample(**more: Any) -> Recaption:
    given = {"model": "samples/models/captioner", "prompts": {"short": "short", "long": "long"}, "max_new_tokens": 24}
    return Recaption(RecaptionConfig.checked(given | {"engine": {"name": "transformers", "batch_size": 3}} | more))


@pytest.mark.slow
def test_a_real_captioner_that_was_stopped_anywhere_gives_the_same_bits(
    tmp_path: Path, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((PROJECT_ROOT / "samples" / "emoji" / "images").glob("*.webp"))[:7]
    rows = set_columns(table(range(1, 8)), {"image": pa.array([path.read_bytes() for path in images])})
    stage, bare = sample(), sample()
    bare.setup(Runtime())
    expected = bare(rows)
    for at_pass in range(1, 7):  # batches of 3, 3, 3, 3 and 2
        stage.setup(Runtime(planned(tmp_path / str(at_pass))))
        (counters := tmp_path / f"counters-{at_pass}").mkdir()
        monkeypatch.setattr(faults, "_armed", faults._parse(f"engine.answered:raise@{at_pass}", str(counters)))
        if at_pass < 6:
            with pytest.raises(faults.InjectedFault):
                stage(rows)
            # As if it had been killed while it kept the batch.
            max(objects(planned(tmp_path / str(at_pass))), key=lambda file: file.stat().st_mtime_ns).unlink()
        assert stage(rows).equals(expected)


@pytest.mark.slow
def test_a_real_translator_that_was_stopped_anywhere_gives_the_same_bits(
    tmp_path: Path, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["red apple", "dog", "smiling face with sunglasses", "cat", "flag: France", "a dog", "x" * 900]
    rows = pa.table({"caption": words, "language": ["en"] * 7, "drop_reason": pa.nulls(7, pa.string())})
    rows = set_columns(rows, {"_shard": pa.repeat(pa.scalar(0, pa.int32()), 7)})
    engine = {"name": "transformers", "pair": ["en", "zh"], "batch_size": 2}
    given = {"model": "samples/models/translator", "engine": engine, "max_new_tokens": 32}
    stage = Translate(TranslateConfig.checked(given))
    stage.setup(Runtime())
    expected = stage(rows)
    assert expected["translate_status"].to_pylist()[-1] == "engine_error"
    for at_pass in range(1, 5):
        stage.setup(Runtime(planned(tmp_path / str(at_pass))))
        (counters := tmp_path / f"counters-{at_pass}").mkdir()
        monkeypatch.setattr(faults, "_armed", faults._parse(f"engine.answered:raise@{at_pass}", str(counters)))
        with pytest.raises(faults.InjectedFault):
            stage(rows)
        kept = objects(planned(tmp_path / str(at_pass)))
        max(kept, key=lambda file: file.stat().st_mtime_ns).unlink()
        assert stage(rows).equals(expected)


# The cache


@pytest.mark.parametrize("harm", ["cut", "empty", "other text", "another's", "a folder", "no json", "nan"])
def test_an_object_that_is_none_is_a_miss_and_is_written_again(run: Store, engine: Neighbourly, harm: str) -> None:
    stage = captioner(engine, run, prompts={"one": "one"})
    rows = table([10, 11])
    had = stage(rows)
    file, other = objects(run)
    content = file.read_bytes()
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    elif harm == "another's":
        file.write_bytes(other.read_bytes())
    else:
        changed = {"cut": content[:-9], "empty": b"", "no json": b"\xff", "nan": b"[" * 9999}
        file.write_bytes(changed.get(harm, content.replace(b"says", b"said")))
    meter = Recorded()
    again, paid = paid_for(engine, lambda: captioner(engine, run, prompts={"one": "one"}, meter=meter)(rows))
    assert len(paid) == 1 and again["recaption_error"].null_count == 2
    texts = [[made["text"] for made in row] for row in again["recaptions"].to_pylist()]
    assert texts == [[made["text"] for made in row] for row in had["recaptions"].to_pylist()]
    counts = {outcome: meter.counts["pairmill_generations", "recaption", outcome] for outcome in ("hit", "damaged")}
    assert counts == {"hit": 1, "damaged": 1}
    _, paid = paid_for(engine, lambda: stage(rows))
    assert len(paid) == (1 if harm == "a folder" else 0)


def test_a_bucket_is_a_cache_too(engine: Neighbourly, run: Store) -> None:
    """An object store as Arrow shows it: no renames, no folders, no locks."""
    memory = MemoryFileSystem()
    run._fs, run._local = pafs.PyFileSystem(pafs.FSSpecHandler(memory)), False
    rows = table(range(10, 17))
    out, paid = paid_for(engine, lambda: captioner(engine, run)(rows))
    again, free = paid_for(engine, lambda: captioner(engine, run)(rows))
    assert again.equals(out) and (len(paid), len(free)) == (21, 0)
    cache = Generations(run.within(GENERATIONS))
    gone = made_from(rows["image"][2].as_py())
    assert sorted(one.text for one in cache.held([gone])) == [
        *("It says one 12.", "It says three 12.", "It says two alt 12 12.")
    ]
    cache.forget([gone])
    assert cache.held([gone]) == []
    _, paid = paid_for(engine, lambda: captioner(engine, run)(rows))
    assert len(paid) == 3
    memory.store.clear()


def test_hits_and_misses_are_counted(run: Store, engine: Neighbourly) -> None:
    captioner(engine, run, prompts={"one": "one"})(table([10, 11]))
    meter = Recorded()
    captioner(engine, run, prompts={"one": "one"}, meter=meter)(table([10, 11, 12]))
    assert {outcome: count for (_, _, outcome), count in meter.counts.items()} == {
        **{"hit": 2, "miss": 1, "damaged": 0, "kept": 1}
    }


def test_an_object_holds_the_answer_as_it_came(run: Store, engine: Neighbourly) -> None:
    captioner(engine, run, prompts={"one": "one"})(table([10]))
    [file] = objects(run)
    kept = json.loads(file.read_text())
    assert kept["of"] == file.stem and {"text": "It says one 10.", "cut": False}.items() <= kept.items()
    assert (file.parent.parent.name, file.parent.name) == (file.stem[:2], file.stem[2:4])


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, run: Store) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache of generations must be a folder that can be written"):
        captioner(Plain(), run, cache=str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cache must be a folder or an address"):
        config(cache="ftp://host/cache")


def test_a_full_disk_ends_the_job_and_keeps_what_there_is(
    run: Store, engine: Neighbourly, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = captioner(engine, run)
    monkeypatch.setattr(faults, "_armed", faults._parse("generation.before_write:disk-full@5", str(tmp_path)))
    with pytest.raises(JobError, match="must stay reachable"):
        stage(table(range(10, 14)))
    monkeypatch.setattr(faults, "_armed", {})
    stage(table(range(10, 14)))
    assert len(engine.paid()) <= 12 + 2 * SIZE


def test_a_relative_cache_is_one_place_for_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = config(cache="texts")
    assert made.cache == str(tmp_path / "texts") and RecaptionConfig.checked(made.model_dump(mode="json")) == made
    assert "cache" not in made.identity()
