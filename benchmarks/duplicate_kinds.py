"""What each kind of duplicate finds among 20,000 real drawings with planted copies, against comparing all pairs.

    python benchmarks/worth_it.py --seeds 0         once: trains the model whose embeddings are compared
    python benchmarks/duplicate_kinds.py            about ten minutes

Rows are emoji by three artists and all clip art of `drawings.py`, with its duplicates, and of every tenth drawing five
copies (0.6 times as large; JPEG; WebP; cropped by 5 %; the same picture with an edited caption) and one that must not
be found: its hue turned by 120 degrees, if it has one.  Of the clip art's 1,221 copies by bytes, five are not among the
rows: four have no title, one is too large.  For every kind, with its defaults:

- **joined rightly**: of the links, the share whose ends comparing all pairs connects too.
- **pairs found**: of the pairs that it finds, the share in one family.
- **copies**: the share in the family of their drawing, by way.
- **layouts**: whether ten ways to divide the rows among shards and partitions lose the same rows for the same reasons.

Comparing all pairs uses nothing of the kinds but their definitions: XOR and bits of hashes, distances of colours,
products of unit vectors in float64, intersections of sets of n-grams as products of a sparse matrix.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from caption_texts import edited
from drawings import drawings, encoded, on_white
from PIL import Image
from record import WORK, machine, record, table
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from curation.duplicates.deduplicate import found_edges, met_rows, survivors
from curation.duplicates.fitting import fitted_to
from curation.duplicates.kinds import DeduplicateConfig, Kind, kinds_of
from curation.duplicates.shingles import distinct
from curation.embedding.config import EmbedConfig
from curation.embedding.stage import Embed
from curation.images.config import ImageConfig
from curation.images.inspect import inspect_image
from curation.schema import DROPS
from curation.stage import Runtime

NAMES = ("duplicate_pair", "duplicate_image", "near_duplicate_image", "near_duplicate_text", "semantic_duplicate")
WAYS = ("smaller", "jpeg", "webp", "cropped", "caption", "recoloured")
EVERY = 10
LAYOUTS = 10
CACHE = WORK / "duplicate-kinds-64.parquet"  # colours of 64 parts
_BLOCK = 1024
_ROWS = pa.schema(
    [
        *(("caption", pa.string()), ("sha256", pa.string()), ("phash", pa.uint64()), ("colours", pa.binary())),
        *(("original_width", pa.int32()), ("original_height", pa.int32()), ("of", pa.int64()), ("way", pa.string())),
    ]
)
Pairs = npt.NDArray[np.int64]


def copies(data: bytes, text: str, chance: random.Random) -> Iterator[tuple[str, bytes, str]]:
    """The ways of one drawing: name, file, caption."""
    image = on_white(data)
    width, height = image.size
    yield "smaller", encoded(image.resize((max(32, round(0.6 * width)), max(32, round(0.6 * height)))), "PNG"), text
    yield "jpeg", encoded(image, "JPEG", quality=75), text
    yield "webp", encoded(image, "WEBP", quality=60), text
    left, top = round(0.025 * width), round(0.025 * height)
    yield "cropped", encoded(image.crop((left, top, width - left, height - top)), "PNG"), text
    yield "caption", data, edited(text, chance, text.split())
    hue, saturation, value = image.convert("HSV").split()
    if np.mean(np.asarray(saturation) > 100) > 0.1:
        turned = hue.point(lambda h: (h + 85) % 256)
        yield "recoloured", encoded(Image.merge("HSV", (turned, saturation, value)).convert("RGB"), "PNG"), text


def all_rows() -> pa.Table:
    """uid, what the kinds read, `of` (the row that a copy was made of) and `way`; kept in `CACHE`."""
    import pyarrow.parquet as pq

    if CACHE.is_file():
        return pq.read_table(CACHE)
    config, lines, images = ImageConfig(size=128), [], []

    def add(data: bytes, text: str, of: int | None, way: str | None) -> bool:
        found = inspect_image(data, config, frozenset())
        if not found.image:
            return False
        images.append(found.image)
        here = {
            name: getattr(found, name) for name in ("sha256", "phash", "colours", "original_width", "original_height")
        }
        lines.append({"caption": text, **here, "of": of, "way": way})
        return True

    for number, drawing in enumerate(drawings(copies=True)):
        data = drawing.file.read_bytes()
        at = len(lines)
        if add(data, drawing.text, None, None) and number % EVERY == 0:
            for way, copy, text in copies(data, drawing.text, random.Random(number)):
                add(copy, text, at, way)
    rows = pa.Table.from_pylist(lines, schema=_ROWS)
    rows = rows.append_column("uid", pa.array([f"{n * 2654435761 % 2**32:032x}" for n in range(len(rows))]))
    rows = rows.append_column("image_embedding_clip", embeddings(rows, images))
    pq.write_table(rows, CACHE)
    return rows


def embeddings(rows: pa.Table, images: list[bytes]) -> pa.ChunkedArray:
    """Those of the model that `worth_it.py` trains."""
    scorer = WORK / "worth-it" / "scorer"
    if not scorer.is_dir():
        raise SystemExit("the model of benchmarks/worth_it.py is needed\nfix: python benchmarks/worth_it.py --seeds 0")
    stage = Embed(EmbedConfig(model=str(scorer)), "clip")
    stage.setup(Runtime())
    found = []
    for begin in range(0, len(rows), 500):
        some = rows.slice(begin, 500).select(["uid", "caption"])
        some = some.append_column("image", pa.array(images[begin : begin + 500], pa.binary()))
        for name in DROPS:
            some = some.append_column(name, pa.nulls(len(some), pa.string()))
        found.append(stage(some)["image_embedding_clip"])
    return pa.chunked_array([chunk for one in found for chunk in one.chunks])


def brute(name: str, rows: pa.Table, kind: Kind) -> Pairs:
    """All pairs (a < b), [2, pairs], that the definition of a kind calls duplicates."""
    config: Any = kind.config
    if name in ("duplicate_pair", "duplicate_image"):
        same: dict[Any, list[int]] = defaultdict(list)
        captions = [" ".join(text.casefold().split()) for text in rows["caption"].to_pylist()]
        for at, sha in enumerate(rows["sha256"].to_pylist()):
            same[(sha, captions[at]) if name == "duplicate_pair" else sha].append(at)
        pairs = [(a, b) for group in same.values() for n, a in enumerate(group) for b in group[n + 1 :]]
        return np.array(pairs, np.int64).reshape(-1, 2).T
    if name == "near_duplicate_image":
        phash = rows["phash"].to_numpy()
        ones = np.bitwise_count(phash)
        good = (ones >= config.min_bits) & (ones <= 64 - config.min_bits)
        colours = np.array([np.frombuffer(one, np.uint8) for one in rows["colours"].to_pylist()], np.float64)
        points = colours.reshape(len(rows), 64, 3)

        def close(a: slice) -> npt.NDArray[np.bool_]:
            near = np.bitwise_count(phash[a, None] ^ phash[None]) <= config.max_distance
            both: npt.NDArray[np.bool_] = near & good[a, None] & good[None]
            return both

        a, b = _pairs(len(rows), close)
        apart = np.sqrt(((points[a] - points[b]) ** 2).sum(2)).max(1)
        alike = apart <= config.max_colour
        return np.stack([a[alike], b[alike]])
    if name == "near_duplicate_text":
        folded = pa.table(dict(kind.narrow(rows)))["folded_caption"]
        with_text = np.flatnonzero(folded.is_valid())
        sets = distinct(
            folded.take(pa.array(with_text)).to_pylist(), ngram=config.ngram, dense_ngram=config.dense_ngram
        )
        grams = np.unique(sets.hashes, return_inverse=True)[1]
        indptr = np.append(sets.start, len(grams))
        matrix = sparse.csr_array((np.ones(len(grams), np.float32), grams, indptr))
        size, right = sets.size, matrix.T.tocsc()

        def like(a: slice) -> npt.NDArray[np.bool_]:
            both = (matrix[a] @ right).toarray()
            found: npt.NDArray[np.bool_] = both >= config.threshold * (size[a, None] + size[None] - both) - 1e-9
            return found

        a, b = _pairs(len(with_text), like)
        return np.stack([with_text[a], with_text[b]])
    vectors = np.array(rows["image_embedding_clip"].to_pylist(), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.stack(_pairs(len(rows), lambda a: vectors[a] @ vectors.T > 1 - config.epsilon))


def _pairs(n: int, close: Any) -> tuple[Pairs, Pairs]:
    found = []
    for begin in range(0, n, _BLOCK):
        a, b = np.nonzero(close(slice(begin, min(n, begin + _BLOCK))))
        a = a + begin
        found.append(np.stack([a[a < b], b[a < b]]))
    both = np.concatenate(found, 1)
    return both[0], both[1]


def lost(rows: pa.Table, kinds: tuple[Kind, ...], shards: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Edges, and losers in the order of their uids, of rows divided at random among shards and partitions."""
    order = np.random.default_rng(seed).permutation(len(rows)) if seed else np.arange(len(rows))
    ends = np.linspace(0, len(rows), shards + 1).astype(int)
    met = []
    for shard, (begin, end) in enumerate(pairwise(ends)):
        part = rows.take(pa.array(order[begin:end]))
        score = pc.multiply(part["original_width"].cast(pa.float64()), part["original_height"].cast(pa.float64()))
        place = {
            "shard": pa.repeat(pa.scalar(shard, pa.int32()), len(part)),
            "row": pa.array(range(len(part)), pa.int32()),
        }
        for name, values in {**place, "score": score}.items():
            part = part.append_column(name, values)
        met.append(met_rows(part, kinds=kinds))
    together = pa.concat_tables(met)
    key = together["key"].to_numpy() % shards
    edges = pa.concat_tables([found_edges(together.filter(pa.array(key == one)), kinds=kinds) for one in range(shards)])
    losers = survivors(edges, kinds=kinds, partitions=shards)
    return edges, losers.drop_columns(["shard", "row"]).sort_by("uid")


def families(n: int, pairs: Pairs) -> npt.NDArray[np.int32]:
    graph = sparse.coo_array((np.ones(pairs.shape[1], np.bool_), (pairs[0], pairs[1])), shape=(n, n))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    began = machine()
    rows = all_rows()
    at = {uid: n for n, uid in enumerate(rows["uid"].to_pylist())}
    of, way = rows["of"].to_pylist(), np.array(rows["way"].to_pylist())
    digests = rows["sha256"].to_pylist()
    files = {sha256(d.file.read_bytes()).hexdigest() for d in drawings(copies=True) if d.kind == "clip art"}
    art = [n for n, digest in enumerate(digests) if way[n] is None and digest in files]
    planted = Counter(one for one in way if one is not None)
    figures: dict[str, Any] = {"rows": len(rows), "planted": dict(planted), "kinds": {}}
    lines = []
    for name in NAMES:
        kinds = fitted_to(kinds_of(DeduplicateConfig(kinds=(name,)).resolved(rows.schema.names)), rows)
        edges, losers = lost(rows, kinds, 1, 0)
        ends = np.array([[at[uid] for uid in edges[f"{end}_uid"].to_pylist()] for end in "ab"], np.int64).reshape(2, -1)
        true = brute(name, rows, kinds[0])
        group, right = families(len(rows), ends), families(len(rows), true)
        by_way = {
            one: round(float(np.mean([group[n] == group[of[n]] for n in np.flatnonzero(way == one)])), 4)
            for one in WAYS
        }
        same = [lost(rows, kinds, 1 + 2 * seed, seed)[1].equals(losers) for seed in range(1, LAYOUTS)]
        if name == "duplicate_image":
            figures["clip_art"] = {
                "copies": len(art) - len({digests[n] for n in art}),
                "found": len(art) - len({int(group[n]) for n in art}),
            }
        entry = {
            "pairs": true.shape[1],
            "losers": len(losers),
            "joined_rightly": round(float(np.mean(right[ends[0]] == right[ends[1]])), 5),
            "pairs_found": round(float(np.mean(group[true[0]] == group[true[1]])), 5),
            "copies": by_way,
            "layouts_alike": 1 + sum(same),
        }
        figures["kinds"][name] = entry
        lines.append([name, *(entry[k] for k in entry if k != "copies"), *by_way.values()])
        print(lines[-1], flush=True)
    table(["kind", "pairs", "losers", "joined rightly", "pairs found", "layouts", *WAYS], lines)
    print(f"copies among the clip art itself, by bytes: {figures['clip_art']}")
    record("duplicate_kinds", figures, began)


if __name__ == "__main__":
    main()
