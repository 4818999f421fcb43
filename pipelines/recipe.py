"""The curation recipe: one frozen model a section, read from YAML, overridden by dotted keys, kept with the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field

from curation.duplicates.kinds import DeduplicateConfig
from curation.filters import FilterConfig
from curation.images.inspect import ImageConfig
from curation.inputs import InputConfig
from curation.pack import PackConfig
from curation.plan import ShardsConfig
from curation.recaption import RecaptionConfig
from curation.translate import TranslateConfig
from curation.web.config import DownloadConfig
from pairmill.config import EXECUTION, Config, Placement, put
from pairmill.errors import RecipeError


class ClusterConfig(Config):
    """Where the job runs, and how much of it.  Nothing here changes the dataset."""

    address: str | None = Field(
        None, description="Ray address; null: the cluster that the job was submitted to (RAY_ADDRESS), else a local one"
    )
    dashboard: bool = Field(False, description="start the dashboard of a local cluster (127.0.0.1 only)")
    num_cpus: int | None = Field(None, ge=1, description="cores of a local cluster; null: all")
    autoscaling: bool = Field(
        False, description="nodes may join: what no node has is waited for, where it would be refused"
    )
    download: Placement = Field(Placement(), description="the downloading actors; auto: one for every two cores")
    wave_shards: int = Field(4096, ge=1, description="shards handed to Ray Data at a time; bounds the driver's memory")


class CurateRecipe(Config):
    """A curation job, whole."""

    run_dir: str = Field(description="where everything of this run is kept; a local folder, s3:// or gs://")
    input: InputConfig
    shards: ShardsConfig = ShardsConfig()
    download: DownloadConfig = DownloadConfig()
    image: ImageConfig = ImageConfig()
    filter: FilterConfig = FilterConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    recaption: RecaptionConfig = RecaptionConfig()
    translate: TranslateConfig = TranslateConfig()
    pack: PackConfig = PackConfig()
    cluster: ClusterConfig = Field(ClusterConfig(), json_schema_extra=EXECUTION)

    def to_yaml(self) -> str:
        """The recipe with every default spelled out; `load_recipe` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


R = TypeVar("R", bound=Config)


def load_recipe(path: Path, overrides: Sequence[str] = (), kind: type[R] = CurateRecipe) -> R:  # type: ignore[assignment]  # a default of a type variable's type needs PEP 696
    """The recipe, of `kind`, of a YAML file with `dotted.key=value` overrides (values are YAML too).

    Raises RecipeError for a file that cannot be read, an unknown key, or a value that breaks a rule.
    """
    return kind.checked(read_mapping(path, overrides))


def parse_recipe(
    text: str,
    overrides: Sequence[str] = (),
    kind: type[R] = CurateRecipe,  # type: ignore[assignment]  # as above
    *,
    source: str = "the recipe",
) -> R:
    """As `load_recipe`, of the YAML text itself."""
    return kind.checked(_parsed(text, overrides, source))


def read_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a YAML file, with overrides, unchecked.  Raises RecipeError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("the recipe must be a file that can be read", value=error, fix="check the path") from error
    return _parsed(text, overrides, str(path))


def _parsed(text: str, overrides: Sequence[str], source: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(
            "the recipe must be YAML", value=f"{source}: {error}", fix="mend the line it names"
        ) from error
    if not isinstance(data, dict):
        raise RecipeError(
            "a recipe is a mapping of sections",
            value=f"{source} holds a {type(data).__name__}",
            fix="start from a file in pipelines/recipes/",
        )
    _override(data, overrides)
    return data


def parse_section(kind: type[R], name: str, section: Any, overrides: Sequence[str] = ()) -> R:
    """One section of a recipe, with overrides whose keys begin with its name.  Raises RecipeError as `load_recipe`."""
    data = {name: section}
    _override(data, overrides)
    if unknown := data.keys() - {name}:
        raise RecipeError(
            f"overrides are keys of {name} here", value=sorted(unknown)[0], fix=f"e.g. {name}.batch_size=64"
        )
    return kind.checked(data[name])


def _override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        put(data, *parse_override(override))


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of `dotted.key=value`, the value as YAML reads it.  Raises RecipeError."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError("an override has the form dotted.key=value", value=override, fix="e.g. image.size=224")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError("an override's value must be YAML", value=override, fix=str(error)) from error
