"""The keys shared by all stages with an engine, and by engines in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from curation.engines.asking import Asking
from curation.engines.generations import Generations
from curation.engines.model_files import Checkpoint, DType
from curation.engines.own import OwnEngine
from curation.plan_file import read_plan
from curation.telemetry import count_generations
from pairmill.config import EXECUTION, Placement, digest
from pairmill.errors import RecipeError
from pairmill.layout import GENERATIONS
from pairmill.own_code import LONGEST_S, Guard
from pairmill.registry import NamedConfig, Registry, is_import_path, source_digest
from pairmill.uris import absolute_in_recipe

if TYPE_CHECKING:
    from curation.stage import Runtime


class EngineConfig(Placement):
    """Which model, by which engine, on which share of the machine."""

    enabled: bool | None = Field(default=None, description="whether to run this stage; null: if it has a model")
    model: str | None = Field(
        default=None,
        min_length=1,
        description="hub id (owner/name) or folder; a relative one is looked up in the working directory, then in "
        "the project root",
    )
    revision: str | None = Field(
        default=None,
        description="hub branch, tag or commit; for a folder, the content digest that it must have; null: main, or any "
        "content",
    )
    engine_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=LONGEST_S,
        description="seconds that one call of an engine of your own may take, and its loading; ours have their own "
        "limits",
        json_schema_extra=EXECUTION,
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description="folder or address of the texts that engines wrote, which runs may share: what is there is not "
        "written again; null: generations/ in the run directory",
        json_schema_extra=EXECUTION,
    )
    engine: NamedConfig  # each stage has engines of its own

    @field_validator("cache")
    @classmethod
    def _a_place(cls, value: str | None) -> str | None:
        """The same place wherever a worker is."""
        if value is None:
            return None
        return absolute_in_recipe(value, "cache", "be a folder or an address that can be reached")

    @model_validator(mode="after")
    def _enabled_means_model(self) -> EngineConfig:
        if self.enabled and self.model is None:
            raise ValueError("model must be set where enabled is true; name a model, or set enabled: false")
        return self

    def loaded(self, registry: Registry[Any], checkpoint: Checkpoint) -> Any:
        """The engine that the recipe names, loaded; one of a user's own within its time limit.

        registry: of the stage's engines.  Raises UserError if it cannot be loaded here, JobError if an own one fails.
        """
        name = self.engine.name
        load = registry.get(name).load
        if not is_import_path(name):
            return load(self.engine, self, checkpoint)
        guard = Guard(f"{registry.key} {name}", self.engine_timeout_s, limit="engine_timeout_s")
        return OwnEngine(guard.called(lambda: load(self.engine, self, checkpoint)), guard)

    def asking(self, engine: Any, checkpoint: Checkpoint, runtime: Runtime, stage: str, **decides: Any) -> Asking:
        """An engine behind the cache that the recipe names, else behind that of the run.

        stage: its name.  decides: what decides its texts, beside engine, model and revision.
        Raises UserError for a cache that cannot be written.
        """
        cache = None
        if self.cache is not None:
            cache = Generations(self.cache)
        elif runtime.store is not None:
            cache = Generations(runtime.store.within(GENERATIONS))
        if cache is not None:
            cache.open()
        plan = None if runtime.store is None else read_plan(runtime.store)
        whole = self.identity()
        by: dict[str, Any] = {name: whole[name] for name in ("engine", "model", "source") if name in whole}

        def count(outcome: str, requests: int) -> None:
            if runtime.meter is not None:
                count_generations(runtime.meter, stage, outcome, requests)

        return Asking(
            engine,
            name=f"{stage}.engine {self.engine.name}",
            decides={**by, "revision": checkpoint.revision, **decides},
            cache=cache,
            plan=None if plan is None else digest([plan.fingerprint, plan.cut, plan.shards]),
            job=runtime.job,
            count=count,
        )

    @property
    def named_model(self) -> str:
        """The model.  Raises RecipeError if there is none."""
        if self.model is None:
            raise RecipeError(
                "a stage with an engine must name its model", value="model: null", fix="set its key model"
            )
        return self.model

    @property
    def active(self) -> bool:
        """Whether the stage runs."""
        return self.model is not None if self.enabled is None else self.enabled

    def identity(self) -> dict[str, Any]:
        """As for every configuration, with the source of an engine that is not ours.

        Without `enabled`: only active stages have an identity.
        """
        found = {name: value for name, value in super().identity().items() if name != "enabled"}
        return found | ({"source": source_digest(self.engine.name)} if is_import_path(self.engine.name) else {})


class BatchedConfig(NamedConfig):
    """The keys of an engine that computes batches in the stage's own actor."""

    batch_size: int = Field(
        default=32,
        ge=1,
        description="texts generated at once; halved when memory runs out",
        json_schema_extra=EXECUTION,
    )


class InProcessConfig(BatchedConfig):
    """The keys of an engine that runs torch in the stage's own actor."""

    dtype: DType = Field(default="auto", description="computing precision; auto: bfloat16 on a GPU, float32 on a CPU")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps|xpu)$",
        description="torch device of the engine; auto: the GPU that Ray gave the actor, or else the CPU",
        json_schema_extra=EXECUTION,
    )
