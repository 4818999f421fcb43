"""The dataset card beside the product: what the rows are, where they come from, how to load them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from curation.blurring import BLURRED
from curation.pack import product_columns
from curation.stage import Column
from pairmill.layout import PAIRS, TEXT_FIELDS
from pairmill.schema_words import row
from pairmill.store import Store

#: The card, beside pairs/: readers that take that folder for a dataset must find only parts in it.
CARD = "README.md"

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

_CARD = """---
{front}---

# Image-text pairs

{rows:,} pairs, curated by pairmill from a list of web image URLs with alt text.

```python
from datasets import load_dataset

pairs = load_dataset("parquet", data_files="pairs/part-*.parquet", split="train")
pairs[0]["image"], pairs[0]["caption"], pairs[0]["texts"]
```

| column | what it is |
|---|---|
{columns}
The dataset is this file and the folder `pairs/`.  The recipe is `recipe.yaml` beside them; what was dropped, and why, is in
`report.html`.
The images belong to their owners: check their terms before you pass them on.  To take a row out, use its `uid`.
"""


def write_card(store: Store, recipe: Mapping[str, Any], carried: Mapping[str, Column]) -> None:
    """Write `README.md`, which depends only on the recipe and the number of rows of the committed parts.

    carried: the columns that stages carry into the product.
    """
    rows = sum(int(manifest["rows"]) for manifest in store.manifests(PAIRS))
    size = next((name for most, name in _SIZES if rows < most), "n>10M")
    languages = sorted({"en", *recipe["translate"]["targets"]})
    front = {
        "task_categories": ["image-to-text", "text-to-image", "zero-shot-image-classification"],
        "language": languages,
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": f"{PAIRS}/part-*.parquet"}],
    }
    card = _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        rows=rows,
        columns="".join(f"{row(f'`{name}`', what)}\n" for name, what in _described(recipe, carried)),
    )
    store.write_bytes(CARD, card.encode())


def _described(recipe: Mapping[str, Any], carried: Mapping[str, Column]) -> Iterator[tuple[str, str]]:
    image, prefer = recipe["image"], ", ".join(recipe["pack"]["prefer"])
    yield "image", f"the picture, {image['size']} px ({image['resize']}), {image['format']}, without metadata"
    yield "caption", f"the best text (kinds in the order {prefer})"
    fields = ", ".join(f"`{name}`" for name in TEXT_FIELDS)
    yield "texts", f"every text: {fields}; `source_index` is the place of the text it was made from"
    if recipe["pack"]["blur_faces"]:
        yield BLURRED.name, BLURRED.description
    for name in product_columns(carried):
        yield name, carried[name].description
    yield "input", "the other columns of the input list, if it has any"
