"""The command `probe-source`: can a linear probe tell the source of a run's pictures from their embeddings?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from curation.embedding.sampled import sampled
from curation.embedding.source_probe import probe_file, probe_groups
from curation.embedding.vectors import vectors_of
from curation.filters.stage import input_columns
from curation.filters.syntax import Source
from curation.filters.where import columns_of, compile_group
from curation.flow import Tables
from curation.forget.tombstones import copying
from curation.plan import input_type, open_plan
from curation.schema import set_columns
from curation.shards import Work, read_shard
from pairmill.config import digest
from pairmill.errors import RunDirError
from pairmill.store import Store
from pipelines.fit_filter import embedder, up_to_date
from pipelines.fit_noise import check_selection

_GROUP = "_group"


def probe_source(
    store: Store,
    recipe: Any,
    embedding: str,
    by: str,
    *,
    selection: str | None = None,
    rows: int = 50_000,
    groups: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Probe a run, keep what came out in `probes/` for its report, and return it with its `path`.

    embedding: a name in the recipe's section `embed`.  by: an expression over columns before deduplication, whose
    values are the groups; host: host(url).  rows: of the sample at most.  groups: how many are told apart at most.
    Raises RecipeError for an unknown embedding, expression or selection, InputError for too few rows, RunDirError if
    rows are forgotten meanwhile.
    """
    check_selection(store, selection)
    stage = embedder(recipe, embedding)
    table = up_to_date(store, recipe, stage)
    tables = Tables(recipe.flow(recipe.deduplicate.name), selection=recipe.deduplicate.name, keyed=False)
    source = Source("host(url)" if by == "host" else by, "--by")
    read = tables.reads(set(columns_of(source)) & tables.flow.columns.keys(), "global")
    kind = input_type(store, open_plan(store).inputs[-1])

    def grouped(shard: int) -> pa.Table:
        found = read_shard(store, Work(shard, dict.fromkeys(read, "")), read, kind)
        found = set_columns(found, input_columns(found))
        group = compile_group(source, found.schema)(found)
        return pa.table({"uid": found["uid"], _GROUP: group})

    column = stage.column_names()[0]
    file, written = probe_file(embedding), False
    try:
        with copying(store):
            sample = sampled(store, table, [column], rows=rows, seed=seed, selection=selection, beside=grouped)
            vectors = vectors_of(sample[column])[0] if len(sample) else np.zeros((0, 1), np.float16)
            named = sample[_GROUP].to_pylist() if len(sample) else []
            result = probe_groups(vectors, named, sample["uid"].to_pylist(), most_groups=groups, seed=seed)
            content = digest([entry.content for _, entry in sorted(store.index(table).items())])
            about = {"embedding": embedding, "model": f"{stage.config.model} {stage.revision()}", "by": by}
            result = {**about, "selection": selection, "content": content, **result}
            store.write_json(file, result, "probe.file")
            written = True
    except RunDirError:
        if written:  # and rows were forgotten meanwhile
            store.remove(file)
        raise
    return {**result, "path": store.path(file)}
