"""The curation recipe: one section per stage, read from YAML, overridden by dotted keys, kept with the run."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, create_model, model_validator

from curation.flow import Flow, flow_of
from curation.inputs import InputConfig
from curation.selections.config import Selection
from curation.stages import CHOSEN_STAGES, SECTIONS, STAGES
from pairmill import yaml_text
from pairmill.config import EXECUTION, Config, put
from pairmill.errors import RecipeError
from pairmill.redaction import secret_places
from pairmill.registry import ChosenBy, NamedConfig


class ClusterConfig(Config):
    """Where the job runs and with which resources.  None of it changes the dataset."""

    address: str | None = Field(
        None, description="Ray address; null: the cluster that the job was submitted to (RAY_ADDRESS), else a local one"
    )
    dashboard: bool = Field(False, description="whether a local cluster has a dashboard (127.0.0.1 only)")
    num_cpus: int | None = Field(None, ge=1, description="cores of a local cluster; null: all")
    autoscaling: bool = Field(
        False,
        description="whether nodes may join: the job waits for resources that no node has yet",
    )
    wave_shards: int = Field(4096, ge=1, description="shards given to Ray Data at a time; bounds the driver's memory")


class _Job(Config):
    run_dir: str = Field(description="folder that keeps everything of this run: local, s3:// or gs://")
    input: InputConfig


def _sections() -> dict[str, Any]:
    """A field for each stage, with the configuration that the stage declares."""
    kinds = [STAGES.get(name) for name in STAGES.names]
    ours = {kind.section_name(): (kind.Config, Field(default_factory=kind.Config)) for kind in kinds}
    chosen = [SECTIONS.get(name) for name in SECTIONS.names]
    return ours | {
        kind.section_name(): (Mapping[str, kind.Entry or kind.Config], Field({}, description=kind.meaning))  # type: ignore[misc]  # a type that is made here
        for kind in chosen
    }


if TYPE_CHECKING:

    class _Sections(_Job):
        def __getattr__(self, name: str) -> Any: ...

else:
    _Sections = create_model("_Sections", __base__=_Job, **_sections())


class CurateRecipe(_Sections):
    """A curation job, whole."""

    stages: tuple[Annotated[NamedConfig, ChosenBy(CHOSEN_STAGES)], ...] = Field(
        (), description="further stages, in flow order: import paths package.module:Stage, or {name: …} with their keys"
    )
    selections: dict[str, Selection] = Field(
        {},
        description="selections of the run, by name: an expression over others, such as good & ~tiny, or rules; see "
        "docs/selections.md",
    )
    cluster: ClusterConfig = Field(ClusterConfig(), json_schema_extra=EXECUTION)

    @property
    def selection(self) -> str:
        """The selection that the product is made from."""
        return str(self.pack.selection or self.deduplicate.name)

    @model_validator(mode="after")
    def _flows(self) -> CurateRecipe:
        self.flow()
        return self

    def flow(self, selection: str | None = None) -> Flow:
        """The stages of this recipe in order; selection: as for `flow_of`.  Raises RecipeError if they do not fit."""
        return flow_of(dict(self), selection)

    def to_yaml(self) -> str:
        """The recipe with every default spelled out; `load_recipe` reads it back to an equal one."""
        return yaml_text.write_yaml(self.model_dump(mode="json"))


R = TypeVar("R", bound=Config)


def load_recipe(path: Path, overrides: Sequence[str] = (), kind: type[R] = CurateRecipe) -> R:  # type: ignore[assignment]  # a default of a type variable's type needs PEP 696
    """The recipe of class `kind` in a YAML file, with `dotted.key=value` overrides (values are YAML too).

    Raises RecipeError for a file that cannot be read, a recipe of another kind, an unknown key, a value that breaks a
    rule, or a secret.
    """
    data = read_mapping(path, overrides)
    try:
        return kind.checked(data)
    except RecipeError:
        check_kind(read_mapping(path), kind, path)
        raise


def check_kind(data: Mapping[str, Any], kind: type[Config], path: Path) -> None:
    """Raise RecipeError for the recipe of another command: one that knows more of its keys."""
    if not data.keys() - kind.model_fields.keys():
        return
    # Imported for the error alone: torch comes with them.
    from training.recipe import TrainRecipe
    from tune.recipe import SweepRecipe

    commands: dict[str, type[Config]] = {"curate": CurateRecipe, "train": TrainRecipe, "sweep": SweepRecipe}
    unknown = {name: len(data.keys() - known.model_fields.keys()) for name, known in commands.items()}
    closest = min(unknown, key=lambda name: (unknown[name], commands[name] is not kind))
    for name, known in commands.items():
        if known is kind and closest != name:
            own = min(data.keys() & commands[closest].model_fields.keys() - kind.model_fields.keys())
            raise RecipeError(
                f"the recipe must be one of `pairmill {name}`",
                value=f"{path}, with keys of `pairmill {closest}` such as {own}",
                fix=f"run `pairmill {closest}` with it, or name another file",
            )


def parse_recipe(
    text: str,
    overrides: Sequence[str] = (),
    kind: type[R] = CurateRecipe,  # type: ignore[assignment]  # as above
    *,
    source: str = "the recipe",
) -> R:
    """`load_recipe` for the YAML text itself."""
    return kind.checked(_parsed(text, overrides, source))


def read_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a YAML file, with overrides, unchecked.  Raises RecipeError if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError("the recipe must be a readable file", value=error, fix="check the path") from error
    # Of text in UTF-16 or UTF-32, one of the first four bytes is zero, or they are a mark.
    if b"\0" in content[:4] or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RecipeError(
            "the recipe must be a readable file of text in UTF-8",
            value=f"{path} is in UTF-16 or UTF-32",
            fix="save it as UTF-8",
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(
            "the recipe must be a readable file of text in UTF-8",
            value=f"{path}: {error}",
            fix="check the path, or save it as UTF-8",
        ) from error
    return _parsed(text, overrides, str(path))


def _parsed(text: str, overrides: Sequence[str], source: str) -> dict[str, Any]:
    data = yaml_text.read_mapping(text, source)
    _override(data, overrides)
    _refuse_secrets(data)
    return data


def _refuse_secrets(data: dict[str, Any]) -> None:
    """Raise RecipeError for a recipe that holds a secret: it is kept with the run, and shown to all who see the run."""
    for place in secret_places(data):
        raise RecipeError(
            f"{place} must not hold a secret: a recipe is kept with its run",
            value=f"{place} holds a password, a key or a token",
            fix="name an environment variable that holds it, set where the work is done: `…_env`; ${NAME} in base_url "
            "and extra_body; for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for models HF_TOKEN",
        )


def parse_section(kind: type[R], name: str, section: Any, overrides: Sequence[str] = ()) -> R:
    """One section of a recipe, with overrides whose keys begin with its name.  Raises as `load_recipe`."""
    data = {name: section}
    _override(data, overrides)
    _refuse_secrets(data)
    if unknown := data.keys() - {name}:
        raise RecipeError(
            f"overrides must be keys of {name} here", value=sorted(unknown)[0], fix=f"write {name}.KEY=value"
        )
    return kind.checked(data[name])


def _override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        put(data, *parse_override(override))


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of `dotted.key=value`, the value as YAML reads it.  Raises RecipeError."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError("an override must have the form dotted.key=value", value=override, fix="write image.size=224")
    return key.strip(), yaml_text.read_yaml(value, override)
