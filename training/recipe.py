"""The recipe of a training run, section by section, in the order in which a step uses them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pairmill.config import EXECUTION, Config
from pairmill.errors import RecipeError
from pairmill.towers.config import ModelConfig
from pairmill.yaml_text import write_yaml
from training.data.config import DataConfig
from training.evaluate.config import EvaluateConfig
from training.objectives.config import LossConfig
from training.objectives.declaration import EVERY_PATCH
from training.schedule import CurriculumConfig, OptimConfig, TemperatureConfig


class PatchKeepingConfig(Config):
    """Some images are encoded from the patches most like their text (SyCoCa).  See `training.patch_keeping`."""

    rows: float = Field(0.5, gt=0, le=1, description="share of the images, which are others at every step")
    share: float = Field(0.5, gt=0, lt=1, description="share of the patches of such an image that are kept")


class TrainConfig(Config):
    """How long, from which seed, in which precision."""

    steps: int | None = Field(None, ge=1, description="optimiser steps; set this or epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the data; set this or steps")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the weights, the data's order, the crops and dropout")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "bf16",
        description="number format of the towers; weights and loss are float32, as with open_clip's amp_bf16",
    )
    accumulate: int = Field(
        1, ge=1, description="micro-batches of a step; the loss is still that of the whole batch (GradCache)"
    )
    patch_keeping: PatchKeepingConfig | None = Field(
        None,
        description="of some images, only the patches most like their text, as a moving average of the model sees "
        "both; null: every patch of all",
    )

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without `patch_keeping` where there is none."""
        return {name: value for name, value in super().identity().items() if name != "patch_keeping" or value}


class DeepSpeedConfig(Config):
    """What is split over the workers."""

    stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="ZeRO stage; 1: splits optimiser state, 2: gradients too, 3: weights too",
        json_schema_extra=EXECUTION,
    )
    offload: bool = Field(
        False, description="whether CPU memory holds the optimiser's state (stages 1-3)", json_schema_extra=EXECUTION
    )


class ComputeConfig(Config):
    """Where it runs.  Nothing here changes what is learnt, except the order of floating-point sums."""

    address: str | None = Field(None, description="Ray address; null: RAY_ADDRESS, else a local cluster")
    num_cpus: int | None = Field(None, ge=1, description="cores of a local cluster; null: all")
    dashboard: bool = Field(False, description="whether a local cluster starts its dashboard (127.0.0.1 only)")
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="training processes; auto: one per GPU, or one without GPUs"
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="GPUs that a worker reserves; auto: 1 where the cluster has GPUs, else 0"
    )
    cpus_per_worker: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="cores that a worker reserves; auto: half of the cores, shared among workers; the rest read data",
    )
    memory_gb: float | None = Field(None, gt=0, description="memory that a worker reserves, 10^9 bytes; null: none")
    accelerator_type: str | None = Field(
        None, description="GPU type of the workers' nodes, in Ray's names (H100, …); null: any"
    )
    autoscaling: bool = Field(
        False,
        description="whether nodes may join: a run then waits for what the cluster lacks, and is not refused; set "
        "workers, gpus_per_worker and cpus_per_worker",
    )
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="threads of a worker; auto: its share of a node's cores"
    )
    max_failures: int = Field(3, ge=0, description="worker failures after which the run ends in error")


class CheckpointConfig(Config):
    """Which checkpoints are kept."""

    every_steps: int = Field(1000, ge=1, description="optimiser steps between checkpoints")
    keep_last: int = Field(2, ge=1, description="number of newest checkpoints that are kept")
    keep_best: str | None = Field(
        None,
        description="evaluation metric, `dataset/metric`; checkpoints of its highest values are kept, and the newest; "
        "null: the newest only",
    )


class LogConfig(Config):
    """Where figures go besides metrics.jsonl and TensorBoard."""

    every_steps: int = Field(1, ge=1, description="steps between lines of metrics.jsonl")
    wandb: str | None = Field(None, description="project of Weights & Biases; needs `pip install wandb`")
    mlflow: str | None = Field(None, description="experiment of MLflow; needs `pip install mlflow`")


class TrainRecipe(Config):
    """A whole training run."""

    run_dir: str = Field(description="folder that holds everything of this run; local, shared, s3:// or gs://")
    name: str = Field("train", pattern=r"^[A-Za-z0-9_.-]+$", description="name of the run in dashboards")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    temperature: TemperatureConfig = TemperatureConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig
    curriculum: CurriculumConfig = CurriculumConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    compute: ComputeConfig = Field(ComputeConfig(), json_schema_extra=EXECUTION)
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), json_schema_extra=EXECUTION)
    evaluate: EvaluateConfig = Field(EvaluateConfig(), json_schema_extra=EXECUTION)
    log: LogConfig = Field(LogConfig(), json_schema_extra=EXECUTION)

    @model_validator(mode="after")
    def _consistent(self) -> TrainRecipe:
        if (self.train.steps is None) == (self.train.epochs is None):
            raise RecipeError(
                "train must set exactly one of steps and epochs",
                value=f"steps: {self.train.steps}, epochs: {self.train.epochs}",
                fix="set one and leave the other out",
            )
        if self.data.batch_size % self.train.accumulate:
            raise RecipeError(
                "train.accumulate must divide data.batch_size",
                value=f"{self.train.accumulate} of {self.data.batch_size}",
                fix="choose a divisor",
            )
        slots = len(self.data.text_slots())
        for label, term in self.loss.terms.items():
            if term.slots is not None and max(term.slots) >= slots:
                raise RecipeError(
                    f"loss.terms.{label}.slots must be slots of data.texts, which has {slots}, numbered from 0",
                    value=list(term.slots),
                    fix="list more slots in data.texts, or name others",
                )
        if self.checkpoint.keep_best is not None and not self.evaluate.datasets:
            raise RecipeError(
                "checkpoint.keep_best must be a metric of the evaluation",
                value=f"{self.checkpoint.keep_best}, without evaluate.datasets",
                fix="give evaluate.datasets, or leave checkpoint.keep_best out",
            )
        if self.checkpoint.keep_best is not None:
            every = self.evaluate.every_steps
            if every is None or self.checkpoint.every_steps % every:
                raise RecipeError(
                    "evaluate.every_steps must divide checkpoint.every_steps with checkpoint.keep_best, which "
                    "ranks checkpoints by an evaluation of their own step",
                    value=f"{every}, {self.checkpoint.every_steps}",
                    fix="set evaluate.every_steps to checkpoint.every_steps, or a part of it",
                )
        if self.train.accumulate > 1 and self.loss.opened().mixes_rows:
            raise RecipeError(
                "train.accumulate must be 1 with a projector whose norm is batch, which is over the whole batch",
                value=self.train.accumulate,
                fix="set train.accumulate to 1, or the norm of each projector in loss.terms to layer",
            )
        if self.train.precision == "fp16" and self.deepspeed.stage == 0:
            raise RecipeError(
                "deepspeed.stage must be at least 1 with train.precision fp16, for the float32 master copy of weights",
                value="train.precision: fp16, deepspeed.stage: 0",
                fix="set deepspeed.stage to 1, or train.precision to bf16",
            )
        if self.deepspeed.offload and self.deepspeed.stage == 0:
            raise RecipeError(
                "deepspeed.stage must be at least 1 with deepspeed.offload, which moves the state of that stage",
                value="deepspeed.stage: 0",
                fix="set deepspeed.stage to 1, or deepspeed.offload to false",
            )
        if self.model.ema_decay is not None and self.deepspeed.stage == 3:
            raise RecipeError(
                "deepspeed.stage must be below 3 with model.ema_decay: every worker averages the whole weights",
                value="deepspeed.stage: 3",
                fix="set deepspeed.stage to 2, or leave model.ema_decay out",
            )
        objective = self.loss.opened()
        corners, asked = self.model.corner_tokens, "text_extra" in objective.needs
        if bool(corners) != asked:
            raise RecipeError(
                f"model.corner_tokens must be {'at least 1' if asked else '0'} with loss.objective "
                f"{objective.config.name}, which {'learns from' if asked else 'ignores'} their features",
                value=f"model.corner_tokens: {corners}",
                fix="set model.corner_tokens: 2" if asked else "leave it out, or choose loss.objective: lotlip",
            )
        if {"teacher", "frozen_teacher"} & set(self.loss.opened().needs) and self.deepspeed.stage == 3:
            raise RecipeError(
                f"deepspeed.stage must be below 3 with loss.objective {self.loss.objective.name}: every worker holds "
                "the whole weights of its teacher",
                value="deepspeed.stage: 3",
                fix="set deepspeed.stage to 2, or choose an objective without a teacher",
            )
        if self.model.patch_dropout and set(EVERY_PATCH) & set(self.loss.opened().needs):
            raise RecipeError(
                f"model.patch_dropout must be 0 with loss.objective {self.loss.objective.name} and its terms, which "
                "need every patch of an image",
                value=self.model.patch_dropout,
                fix="leave model.patch_dropout out, or choose another objective",
            )
        self._check_keeping()
        return self

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without `curriculum` where there is none."""
        return {name: value for name, value in super().identity().items() if name != "curriculum" or value}

    def _check_keeping(self) -> None:
        if self.train.patch_keeping is None:
            return
        if needs := {"tokens", "tower", "captions", *EVERY_PATCH} & set(self.loss.opened().needs):
            raise RecipeError(
                "train.patch_keeping must be null with an objective or terms that need patches one by one, or "
                "what a tower gives before its projection",
                value=f"loss.objective {self.loss.objective.name} needs {', '.join(sorted(needs))}",
                fix="leave train.patch_keeping out, or choose another objective",
            )
        if self.model.patch_dropout:
            raise RecipeError(
                "model.patch_dropout must be 0 with train.patch_keeping, which chooses among all patches",
                value=self.model.patch_dropout,
                fix="leave one of them out",
            )
        if self.deepspeed.stage == 3:
            raise RecipeError(
                "deepspeed.stage must be below 3 with train.patch_keeping: every worker averages the whole weights",
                value="deepspeed.stage: 3",
                fix="set deepspeed.stage to 2, or leave train.patch_keeping out",
            )

    def to_yaml(self) -> str:
        """The recipe with every default spelled out."""
        return write_yaml(self.model_dump(mode="json"))
