"""A small run directory, made without Ray and without a network by the real plan, commit, selection and pack.

What becomes of a row is said by the first segment of its URL's path: `ok`, a `Status` (http_client_error, …), a reason
of the filter stage (text_too_short, …), or `same-<x>`, which gives it the picture of every other `same-<x>`.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import yaml
from PIL import Image

from curation.download import Download
from curation.duplicates.stage import Deduplicate
from curation.filters.stage import FILTER_COLUMNS, FILTER_REASONS
from curation.flow import Tables, flow_of
from curation.gates.stage import GateConfig, GateStage
from curation.images.config import ImageConfig
from curation.images.stage import Inspect
from curation.inputs import InputConfig
from curation.pack import PackConfig, cut_parts, pack_rows, product_columns
from curation.plan import ShardsConfig, plan
from curation.policy import Policy
from curation.recaption import RECAPTION
from curation.schema import DROPS, Status, add_seconds, drop, live, set_columns
from curation.selection import apply_selection, selection_rows
from curation.shards import commit_shard
from curation.stage import Column
from curation.table import Table
from curation.translate import TRANSLATION
from pairmill.layout import PAIRS
from pairmill.recipe_file import write_recipe as write_run_recipe
from pairmill.run_records import write_record as write_run_record
from pairmill.store import Store

#: How far a run has come; each includes those before it.
STEPS = ("plan", "images", "policy", "filter", "select", "recaption", "translate", "gate", "pack")


_FLOW = flow_of({name: {"model": "m", "enabled": True} for name in ("recaption", "translate")})
_NAMES = {
    **{"images": "images", "policy": "columns/policy", "filter": "columns/filter", "select": "selections/default"},
    **{"recaption": "columns/recaption", "translate": "columns/translate", "gate": "columns/gate"},
}


def _table(step: str) -> Table:
    table = Tables(_FLOW, selection="default", keyed=False).named(_NAMES[step])
    return replace(table, upstream=())  # what steps commit is not resumed


def some_rows() -> list[dict[str, Any]]:
    """40 rows: 20 kept, one of each of 17 fates, and 3 that are dropped for what others are."""
    rows = [{"url": f"http://a.example/ok/{n}", "text": f"a red ball, number {n}", "id": n} for n in range(18)]
    fates = [*("http_client_error", "timeout", "dns_error", "opt_out", "robots_disallowed", "forbidden_address")]
    fates += ["rate_limited", "not_an_image", "decode_error", "too_many_pixels"]
    fates += ["image_too_small", "image_too_elongated", "text_too_short", "text_is_url", "language_not_allowed"]
    fates += ["nsfw", "where"]
    rows += [{"url": f"http://b.example/{fate}/1", "text": f"meets {fate}", "id": 100} for fate in fates]
    rows += [{"url": f"http://c.example/same-x/{n}", "text": f"one of three, {n}", "id": 200 + n} for n in range(3)]
    rows += [{"url": "http://a.example/ok/红", "text": "沙滩上的一只狗", "id": 300}]
    rows += [{"url": "http://a.example/ok/0", "text": "a red ball, number 0", "id": 301}]
    return rows


def make_run(
    folder: Path,
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    upto: str = "pack",
    shards_upto: int | None = None,
    rows_per_shard: int = 7,
    url_column: str = "url",
    text_column: str | None = "text",
    recaption: bool = True,
    translate: bool = True,
    pack: PackConfig | None = None,
    gate: GateConfig | None = None,
) -> Store:
    """The run `folder`/run of these input rows (`some_rows` if None), as far as `upto` (one of `STEPS`) says.

    shards_upto: the last step is done for this many shards only (None: for all).
    A run that is packed has ended well; any other was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "input.jsonl"
    listing.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows or some_rows()))
    store = Store(str(folder / "run"))
    given = {"path": str(listing), "format": "jsonl", "url_column": url_column, "text_column": text_column}
    pack = pack or PackConfig(rows_per_part=9, row_group_rows=4)
    planned = plan(store, InputConfig(**given), ShardsConfig(rows_per_shard=rows_per_shard))
    write_recipe(store, input=given, recaption=recaption, translate=translate, pack=pack)
    on = {"recaption": recaption, "translate": translate, "gate": recaption or translate}
    off = {name for name in on if not on[name]}
    steps = [step for step in STEPS[1 : STEPS.index(upto) + 1] if step not in off]
    tables: dict[int, pa.Table] = {n: store.load("plan", n) for n in planned.shard_numbers()}
    for step in (step for step in steps if step != "pack"):
        done = list(tables)[:shards_upto] if step == steps[-1] else list(tables)
        losers = _losers(tables) if step == "select" else {}
        for shard in done:
            tables[shard] = commit_step(store, step, shard, tables[shard], losers.get(shard, []), gate=gate)
    if upto == "pack":
        commit_pairs(store, tables, pack)
    write_record(store, finished=upto == "pack" and shards_upto is None)
    return store


def commit_step(
    store: Store,
    step: str,
    shard: int,
    rows: pa.Table,
    losers: Sequence[int] = (),
    run: int = 1,
    gate: GateConfig | None = None,
) -> pa.Table:
    """Do one step for one shard's rows (as the step before returned them), and commit its table; returns the rows."""
    rows = _gate(rows, gate or GateConfig()) if step == "gate" else _STEP[step](rows, losers)
    private = {"_shard": pa.repeat(pa.scalar(shard, pa.int32()), len(rows))}
    commit_shard(store, [_table(step)], set_columns(rows, private), run)
    return rows


def write_recipe(store: Store, **sections: Any) -> None:
    """The parts of recipe.yaml that reports and exports read."""
    models = {
        name: {"enabled": None, "model": f"samples/models/{name}" if sections[name] else None}
        for name in ("recaption", "translate")
    }
    recipe = {
        "input": sections["input"],
        "deduplicate": {"name": "default"},
        "image": {"format": "jpg"},
        "pack": sections["pack"].model_dump(mode="json"),
        **models,
    }
    write_run_recipe(store, yaml.safe_dump(recipe))


def write_record(store: Store, run: int = 1, *, finished: bool) -> None:
    """The journal's record of one invocation."""
    now = time.time()
    names = ("collect", "deduplicate", "rewrite", "pack") if finished else ("collect",)
    segments = {name: [now - 4 + at, now - 3 + at if finished else None] for at, name in enumerate(names)}
    record = {
        "run": run,
        "command": "pairmill curate recipe.yaml",
        "started_at": now - 5,
        "finished_at": now if finished else None,
        "failed": None,
        "segments": segments,
        "versions": {"python": "3.11.7", "pairmill": "0.1.0"},
        "cluster": {"CPU": 2.0},
    }
    write_run_record(store, record)


def retry_shard(store: Store, shard: int) -> None:
    """What `retry-failed` leaves when it is killed after one shard: its images are new, all else is of before."""
    rows = store.load("plan", shard)
    urls = pa.array([url.replace("/timeout/", "/ok/") for url in rows["url"].to_pylist()])
    commit_step(store, "images", shard, set_columns(rows, {"url": urls}), run=2)


def shard_with(store: Store, fate: str) -> int:
    """The first shard that has a row of this fate."""
    numbers = sorted(store.index("plan"))
    return next(n for n in numbers if any(f"/{fate}/" in url for url in store.load("plan", n)["url"].to_pylist()))


def commit_pairs(
    store: Store,
    tables: Mapping[int, pa.Table],
    config: PackConfig,
    selection: str = "selections/default",
    carried: Mapping[str, Column] = _FLOW.carried,
) -> None:
    """Pack shards (of all steps before) into parts.  carried: the columns that stages carry into them."""
    kept = {shard: sum(store.load(selection, shard)["keep"].to_pylist()) for shard in tables}
    for part in cut_parts(kept, config.rows_per_part):
        packed = [pack_rows(tables[shard], config, "jpg", product_columns(carried)) for shard in part.shards]
        store.commit(PAIRS, part.number, "0" * 16, pa.concat_tables(packed), {}, row_group_rows=config.row_group_rows)


def fate(url: str) -> str:
    """What is to become of the row with this URL."""
    return [*urlsplit(url).path.split("/"), ""][1]


def picture(name: str, size: tuple[int, int] = (96, 64)) -> bytes:
    """A JPEG whose colours are the name's."""
    digest = hashlib.sha256(name.encode()).digest()
    image = Image.frombytes("RGB", (2, 2), digest[:12]).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def _losers(tables: Mapping[int, pa.Table]) -> dict[int, list[int]]:
    """Shard -> positions of the rows whose bytes another row had before them."""
    seen: set[str] = set()
    losers: dict[int, list[int]] = {}
    for shard, rows in tables.items():
        for at, (sha, alive) in enumerate(zip(rows["sha256"].to_pylist(), live(rows).to_pylist(), strict=True)):
            if alive and sha in seen:
                losers.setdefault(shard, []).append(at)
            elif alive:
                seen.add(sha)
    return losers


def _images(rows: pa.Table, _: object) -> pa.Table:
    records = []
    for url, alive in zip(rows["url"].to_pylist(), live(rows).to_pylist(), strict=True):
        records.append(_image_record(url) if alive else {})
    rows = _with(rows, records, (*Download.adds, *Inspect.adds))
    status = rows["status"].to_pylist()
    for stage in (Download, Inspect):
        masks = {reason: pa.array([x == reason for x in status]) for reason in stage.drops}
        rows = add_seconds(drop(rows, stage.name, masks, stage.drops), stage.name, 0.5)
    return rows


def _image_record(url: str) -> dict[str, object]:
    name = fate(url)
    status = name if name in {s.value for s in Status} else "success"
    record: dict[str, object] = {
        "status": status,
        "http_status": {"http_client_error": 404, "rate_limited": 429, "timeout": None}.get(status, 200),
        "final_url": url,
        "content_type": "image/jpeg",
        "original_bytes": 1000,
        "elapsed_s": 0.02 + (len(url) % 7) / 50,
        "attempts": 1,
        "error": None if status == "success" else f"{status}: as asked",
        "opt_out": "x-robots-tag: noai" if status == "opt_out" else None,
    }
    if status == "success":
        image = picture(name if name.startswith("same-") else url)
        record |= {"image": image, "sha256": hashlib.sha256(image).hexdigest(), "width": 96, "height": 64}
        record |= {"original_width": 960, "original_height": 640, "format": "jpeg", "frames": 1}
        record |= {"phash": 2**63 + len(url), "colours": bytes(192), "sharpness": 100.0, "entropy": 5.0}
        record |= {"opt_out": "", "robots": "allowed", "route": "80", "image_settings": ImageConfig().settings}
    return record


def _policy(rows: pa.Table, _: object) -> pa.Table:
    return add_seconds(_FLOW.of(Policy)(rows), "policy", 0.01)


def _filter(rows: pa.Table, _: object) -> pa.Table:
    records = []
    for alt, alive in zip(rows["alt"].to_pylist(), live(rows).to_pylist(), strict=True):
        language = "zh" if any("一" <= c <= "鿿" for c in alt) else "en"
        records.append({"caption": alt.strip(), "language": language, "language_score": 0.9} if alive else {})
    rows = _with(rows, records, FILTER_COLUMNS)
    fates = [fate(url) for url in rows["url"].to_pylist()]
    masks = {reason: pa.array([f == reason for f in fates]) for reason in FILTER_REASONS}
    return add_seconds(drop(rows, "filter", masks, FILTER_REASONS), "filter", 0.1)


def _select(rows: pa.Table, losers: Sequence[int]) -> pa.Table:
    reason = pa.array(["duplicate_image"] * len(losers), pa.string())
    best = pa.array(["0" * 32] * len(losers), pa.string())
    lost = pa.table({"row": pa.array(list(losers), pa.int32()), "reason": reason, "survivor": best})
    chosen = selection_rows(rows, lost)
    rows = set_columns(rows, {name: chosen[name] for name in ("keep", "reason", "duplicate_group")})
    # The columns stay, to be committed; what apply_selection drops is what later steps see.
    dropped = apply_selection(rows, "deduplicate", Deduplicate.drops)
    rows = set_columns(rows, {name: dropped[name] for name in (*DROPS, "image")})
    return add_seconds(rows, "deduplicate", 0.01)


def _recaption(rows: pa.Table, _: object) -> pa.Table:
    made = {"language": "en", "model": "samples/models/captioner", "revision": "sha256:531ed0123456789a"}
    made |= {"score": -0.25, "sampling": "greedy,max_new_tokens=64"}
    texts = [
        [
            {"text": "ball", "kind": "short", "prompt_id": "short", **made},
            {"text": f"A ball as in {alt}, seen from far away", "kind": "long", "prompt_id": "long", **made},
        ]
        if alive
        else []
        for alt, alive in zip(rows["alt"].to_pylist(), live(rows).to_pylist(), strict=True)
    ]
    columns = {
        "recaptions": pa.array(texts, pa.list_(RECAPTION)),
        "recaption_status": pa.array(["success" if t else "not_needed" for t in texts]),
        "recaption_error": pa.nulls(len(rows), pa.string()),
        "recaption_made_from": pa.nulls(len(rows), pa.uint64()),
    }
    return add_seconds(set_columns(rows, columns), "recaption", 2.0)


def _translate(rows: pa.Table, _: object) -> pa.Table:
    made = {"language": "zh", "model": "samples/models/translator", "revision": "beef0123", "score": -0.5}
    good = {"text": "球", "source_kind": "short", "source_index": 1, "status": "success", **made}
    bad = {"text": None, "source_kind": "long", "source_index": 2, "status": "bad_length", **made}
    texts = [[good, bad] if alive else [] for alive in live(rows).to_pylist()]
    columns = {
        "translations": pa.array(texts, pa.list_(TRANSLATION)),
        "translate_status": pa.array(["partial" if t else "not_needed" for t in texts]),
        "translate_error": pa.nulls(len(rows), pa.string()),
        "translate_made_from": pa.nulls(len(rows), pa.uint64()),
    }
    return add_seconds(set_columns(rows, columns), "translate", 1.0)


def _gate(rows: pa.Table, config: GateConfig) -> pa.Table:
    return add_seconds(GateStage(config)(rows), "gate", 0.1)


_STEP = {
    **{"images": _images, "policy": _policy, "filter": _filter, "select": _select},
    **{"recaption": _recaption, "translate": _translate},
}


def _with(rows: pa.Table, records: Iterable[Mapping[str, object]], columns: Sequence[Column]) -> pa.Table:
    listed = list(records)
    return set_columns(rows, {f.name: pa.array([r.get(f.name) for r in listed], f.type) for f in columns})
