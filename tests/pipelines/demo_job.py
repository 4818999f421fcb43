"""A run over some of the demo's rows, without models, beside the server that counts its requests."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.demo import RECIPE
from pipelines.recipe import CurateRecipe, load_recipe


class DemoJob(NamedTuple):
    folder: Path
    base_url: str

    def recipe(self, run: str = "run", **sections: Any) -> CurateRecipe:
        return load_recipe(
            RECIPE,
            [
                *(f"run_dir={self.folder / run}", f"input.path={self.folder / 'urls.parquet'}"),
                *("shards.rows_per_shard=40", "recaption.enabled=false", "translate.enabled=false"),
                *(f"{name}={json.dumps(value)}" for name, value in sections.items()),
            ],
        )

    def asked(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.base_url}/_count") as answer:
            return dict(json.load(answer))
