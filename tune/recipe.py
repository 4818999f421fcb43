"""The recipe of a sweep: a training recipe, a space around it, how it is searched and what is best."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pairmill.config import EXECUTION, Config
from pairmill.errors import RecipeError, nearest
from pairmill.yaml_text import write_yaml
from training.recipe import TrainRecipe
from tune.space import Parameter, check_space

#: The objective that is no metric of an evaluation: rows trained per second, the median over a trial's steps.
SPEED = "samples_per_second"


class ObjectiveConfig(Config):
    """What makes a trial good."""

    metric: str = Field(
        description="`dataset/metric` of the training recipe's evaluation, or samples_per_second",
    )
    mode: Literal["max", "min"] = Field("max", description="whether high or low values are good")


class SearchConfig(Config):
    """Which points are tried, and which trials are stopped early."""

    method: Literal["random", "tpe", "pbt"] = Field(
        "random",
        description="which points are tried; random: every grid value, other values drawn (a grid where there are no "
        "others); tpe: Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), grids are choices; pbt: a "
        "population whose worst quarter continues from the best quarter's checkpoints with changed values (Jaderberg "
        "et al. 2017)",
    )
    trials: int = Field(
        1,
        ge=1,
        description="random: points per combination of grid values; tpe: points; pbt: population size",
    )
    seed: int = Field(0, ge=0, description="seed of the points")
    scheduler: Literal["asha", "none"] = Field(
        "asha",
        description="which trials stop early; asha: every trial is trained a little, the best of them further, and so "
        "on (asynchronous successive halving, Li et al. 2020); none: every trial is trained to the end",
    )
    grace_steps: int | None = Field(
        None, ge=1, description="asha: training steps before trials are first compared; null: evaluate.every_steps"
    )
    reduction: float = Field(3.0, gt=1, description="asha: the best 1 of so many continues (Li et al.: 3 or 4)")
    random_first: int = Field(8, ge=1, description="tpe: points that are drawn before it learns from them")
    segment_steps: int | None = Field(None, ge=1, description="pbt: training steps between exchanges")
    concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="trials at a time; auto: as many as the cluster holds", json_schema_extra=EXECUTION
    )


class RepeatConfig(Config):
    """The best points are trained again with other seeds, so that noise is not taken for a winner."""

    best: int = Field(2, ge=0, description="number of points; 0: none, and the report has no intervals")
    seeds: int = Field(2, ge=1, description="further seeds of each; an interval is over these and the first one")


class SweepRecipe(Config):
    """A whole sweep."""

    run_dir: str = Field(description="folder that holds everything of this sweep; must be local or shared")
    name: str = Field("sweep", pattern=r"^[A-Za-z0-9_.-]+$", description="name of the sweep in dashboards")
    train: dict[str, Any] = Field(description="training recipe that every trial starts from, without run_dir")
    space: dict[str, Parameter] = Field(description="dotted keys of the training recipe, and what each may be")
    selections: dict[str, dict[str, Any] | str] = Field(
        {},
        description="selections of the curated run at train.data.path, by name, made before the first trial without a "
        "fetch: dotted keys of its curation recipe (filter and deduplicate), or rules or an expression as in its own "
        "section selections; the space's data.selection names these and any that the run has",
    )
    search: SearchConfig = SearchConfig()
    objectives: tuple[ObjectiveConfig, ...] = Field(
        min_length=1, description="what trials are measured by; the first ranks them"
    )
    repeat: RepeatConfig = RepeatConfig()
    keep_checkpoints: Literal["best", "all"] = Field(
        "best",
        description="which checkpoints a finished sweep keeps; best: those of its best points",
        json_schema_extra=EXECUTION,
    )

    @model_validator(mode="after")
    def _consistent(self) -> SweepRecipe:
        if "://" in self.run_dir:
            raise RecipeError(
                "a sweep's run_dir must be a local or shared folder",
                value=self.run_dir,
                fix="name one that all nodes see",
            )
        base = TrainRecipe.checked({**self.train, "run_dir": self.run_dir})
        check_space(self.space, self.base)
        self._check_objectives(base)
        search = self.search
        if search.method == "pbt":
            if search.segment_steps is None or base.train.steps is None or base.train.steps % search.segment_steps:
                raise RecipeError(
                    "with search.method pbt, search.segment_steps must divide train.train.steps",
                    value=f"segment_steps: {search.segment_steps}, steps: {base.train.steps}",
                    fix="set both, the segment to a divisor of the steps",
                )
            if search.trials < 4:
                raise RecipeError(
                    "with search.method pbt, search.trials must be at least 4",
                    value=search.trials,
                    fix="raise search.trials",
                )
        elif search.scheduler == "asha" and (search.grace_steps or base.evaluate.every_steps) is None:
            raise RecipeError(
                "with search.scheduler asha, there must be steps to compare trials at",
                value="search.grace_steps: null, train.evaluate.every_steps: null",
                fix="set one of them (a tenth of the steps is usual), or search.scheduler: none",
            )
        elif search.scheduler == "asha" and base.train.steps is None:
            raise RecipeError(
                "with search.scheduler asha, train.train.steps must give the length of a trial",
                value=f"train.train.epochs: {base.train.epochs}",
                fix="set train.train.steps in place of epochs, or search.scheduler: none",
            )
        return self

    def _check_objectives(self, base: TrainRecipe) -> None:
        for objective in self.objectives:
            dataset, slash, _ = objective.metric.partition("/")
            if objective.metric != SPEED and not (slash and dataset in base.evaluate.datasets):
                known = [f"{name}/…" for name in base.evaluate.datasets] + [SPEED]
                raise RecipeError(
                    "objectives must be metrics of datasets of train.evaluate.datasets, or samples_per_second",
                    value=objective.metric,
                    fix=f"perhaps you mean: {nearest(objective.metric, known)}",
                )
        if self.objectives[0].metric == SPEED:
            raise RecipeError(
                "the first objective must be a metric of an evaluation: trials are stopped and ranked by it",
                value=SPEED,
                fix="put another objective before it",
            )

    @property
    def base(self) -> dict[str, Any]:
        """The training recipe that points change, with every default spelled out."""
        return TrainRecipe.checked({**self.train, "run_dir": self.run_dir}).model_dump(mode="json")

    def to_yaml(self) -> str:
        """The recipe with every default spelled out."""
        return write_yaml(self.model_dump(mode="json", exclude_none=True))
