"""The dataset card beside the product: what the rows are, where they come from, how to load them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pairmill.layout import PAIRS
from pairmill.store import Store

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

_CARD = """---
{front}---

# Image-text pairs

{rows:,} pairs, curated by pairmill from a list of web image URLs with alt text.

```python
from datasets import load_dataset

pairs = load_dataset("parquet", data_files="part-*.parquet", split="train")
pairs[0]["image"], pairs[0]["caption"], pairs[0]["texts"]
```

| column | what it is |
|---|---|
| `uid` | 128-bit BLAKE2b of the canonical URL and the raw alt text |
| `image` | the picture, {size} px ({resize}), {format}, without metadata |
| `caption` | the best text (kinds in the order {prefer}) |
| `texts` | every text: `kind`, `language`, `source_index` (the text it was made from), `model`, `revision`, `prompt_id`, `sampling`, `score` |
| `alt` | the alt text as it was found |
| `sha256`, `phash` | of the original bytes; 64-bit DCT perceptual hash |
| `url`, `final_url`, `content_type`, `format`, `original_width`, `original_height` | where the image came from, and what it was |
| `language`, `language_score`, `sharpness`, `entropy`, `nsfw`, `text_quality` | measurements |
| `input` | the other columns of the input list |

The recipe is `recipe.yaml` beside this folder; what was dropped, and why, is in `report.html`.
The images belong to their owners: check their terms before you pass them on.  To take a row out, use its `uid`.
"""


def write_card(store: Store, recipe: Mapping[str, Any], *, rows: int) -> None:
    """Write `pairs/README.md`.  It depends on the recipe and the number of rows alone."""
    size = next((name for most, name in _SIZES if rows < most), "n>10M")
    languages = sorted({"en", *recipe["translate"]["targets"]})
    front = {
        "task_categories": ["image-to-text", "text-to-image", "zero-shot-image-classification"],
        "language": languages,
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": "part-*.parquet"}],
    }
    card = _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        rows=rows,
        size=recipe["image"]["size"],
        resize=recipe["image"]["resize"],
        format=recipe["image"]["format"],
        prefer=", ".join(recipe["pack"]["prefer"]),
    )
    store.write_bytes(f"{PAIRS}/README.md", card.encode())
