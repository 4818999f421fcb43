"""A job needs seconds to start.  What another process does to the run in that time is not overlooked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from curation.forget.request import request
from curation.forget.takedown import begin, preview
from curation.plan import extend, plan
from pairmill.errors import RunDirError
from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from pipelines import curate as job
from pipelines.forget import forget
from pipelines.recipe import CurateRecipe

pytestmark = pytest.mark.ray

#: Never requested: the job is refused before.
URL = "http://a.example/{}.jpg"


def forgets(store: Store, folder: Path) -> None:
    forget(store, request(url=[URL.format(3)]), sure=True)


def is_killed_while_it_forgets(store: Store, folder: Path) -> None:
    begin(store, preview(store, request(url=[URL.format(3)])))


def extends(store: Store, folder: Path) -> None:
    (folder / "more.txt").write_text(URL.format("more") + "\n")
    recipe = recipe_of(folder)
    extend(store, [str(folder / "more.txt")], recipe.input, recipe.shards)


def recipe_of(folder: Path) -> CurateRecipe:
    return CurateRecipe.checked(
        {"run_dir": str(folder / "run"), "input": {"path": str(folder / "urls.txt"), "text_column": None}}
    )


@pytest.mark.parametrize("change", [forgets, is_killed_while_it_forgets, extends])
@pytest.mark.parametrize("planned", [False, True])
def test_a_run_that_was_changed_while_the_job_started_is_left_alone(
    tmp_path: Path,
    local_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Store, Path], None],
    planned: bool,
) -> None:
    (tmp_path / "urls.txt").write_text("".join(URL.format(n) + "\n" for n in range(9)))
    recipe = recipe_of(tmp_path)
    store = Store(recipe.run_dir)
    plan(store, recipe.input, recipe.shards)
    write_recipe(store, recipe.to_yaml())
    connected = job.connected

    @contextmanager
    def slowly(given: CurateRecipe) -> Iterator[Any]:
        change(store, tmp_path)
        with connected(given) as pools:
            yield pools

    monkeypatch.setattr(job, "connected", slowly)
    with pytest.raises(RunDirError, match=r"must (stay as it is|be completed)"):
        job.curate(recipe, planned=planned)
    assert not os.path.exists(store.path("images"))
