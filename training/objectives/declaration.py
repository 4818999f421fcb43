"""What an objective declares.  Recipe, loop, checkpoint, sweep and docs derive everything else from it.

    class MyConfig(NamedConfig):
        queue: int = Field(4096, ge=1, description="text embeddings that are kept")

    class Mine(Objective):
        '''What docs/objectives.md says of it.'''

        Config = MyConfig
        config: MyConfig
        needs = ("teacher",)
        keeps = (Kept("queue", "replicated", "the teacher's latest text embeddings"),)

        def start(self, setup): ...                            # -> {"queue": tensor}
        def heads(self, setup): ...                            # -> a module that is trained with the model
        def __call__(self, features, rows, exchange): ...      # -> LossOutput
        def after_step(self, features, rows, exchange): ...    # changes self.state

A line in `config.OBJECTIVES` gives it a name; `loss.objective: mypackage.module:Mine` needs none.

B rows of this rank, G of all ranks, K text slots, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from pairmill.errors import RecipeError, nearest
from pairmill.registry import NamedConfig
from training.data.asked_columns import COLUMNS as COLUMNS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows
    from training.objectives.mask_tokens import MaskTokensConfig


class Need(NamedTuple):
    """Something that costs more than embeddings, so the loop makes it only where an objective asks for it."""

    what: str
    tensors: tuple[str, ...] = ()  #: of `features.asked`, [B, …] each


#: All that an objective may ask for beyond the embeddings, masks, kinds, languages and ids of its rows.
#: P patches, L tokens, the same on all ranks, V views, N negatives of a row.
NEEDS: Mapping[str, Need] = {
    "teacher": Need("embeddings of the same rows by a moving average of the model: `features.teacher`"),
    "frozen_teacher": Need("embeddings of the same rows by the model as its run began: `features.frozen`"),
    "negatives": Need(
        "texts of a row that do not fit it [B, N, D] (`data.negatives`), and which it has [B, N]",
        ("neg_text", "neg_mask"),
    ),
    "raw": Need("embeddings before normalisation, [B, D] and [B, K, D]", ("raw_image", "raw_text")),
    "tokens": Need(
        "unit vectors of image patches [B, P, D] and of text tokens [B, K, L, D], and which those are [B, K, L]",
        ("image_tokens", "text_tokens", "text_token_mask"),
    ),
    "image_views": Need("the images of `views` alone, where nothing needs more texts", ("image_views",)),
    "views": Need(
        "strongly augmented crops of each image, and more draws of its first slot, [B, V, D] each (`data.views`)",
        ("image_views", "text_views"),
    ),
    "text_extra": Need(
        "unit vectors of the corner tokens of texts, [B, K, m, D] (`model.corner_tokens`)", ("text_extra",)
    ),
    "captions": Need(
        "of a CoCa model: -log of the share [B, K, L] that its decoder gives each token of a text, in nats, from the "
        "tokens before it and the image, and which token it is [B, K, L], negative for none; outside of a run, logits "
        "[B, K, L, V] in place of the former",
        ("caption_losses", "caption_labels", "caption_logits"),
    ),
    "masked": Need(
        "the tokens where some are hidden from the model (`hides`), as in `tokens`, and which are, bool [B, P] and "
        "[B, K, L]; nothing is hidden from a teacher",
        ("masked_image_tokens", "image_token_hidden", "masked_text_tokens", "text_token_hidden"),
    ),
    "pixels": Need("what each patch of an image shows, as the tower is given it, [B, P, C]", ("image_patches",)),
    "view_tokens": Need(
        "unit vectors of the patches of two crops of each image (`data.views`) [B, 2, P, D], and where these lie in it "
        "[B, 2, 4]: left, top, right, bottom in one unit; right of left where mirrored",
        ("view_tokens", "view_boxes"),
    ),
    "tower": Need(
        "what the towers give before their own projections, [B, Wi] and [B, K, Wt] of their widths",
        ("tower_image", "tower_text"),
    ),
    "present": Need("which texts there are, bool [B, K], for heads that mix rows", ("text_there",)),
    "columns": Need("columns of the data that the objective names in `columns`, in `rows.asked`"),
}

#: Needs whose tensors are of every patch of an image, in its grid: `model.patch_dropout` leaves some out.
EVERY_PATCH = ("masked", "pixels", "view_tokens")

#: Where a tensor of the state lives.
#: replicated: every worker changes it alike and holds the same; a run resumes with any number of workers.
#: per_worker: each has its own; a run resumes with the number of workers that it was saved with.
Where: TypeAlias = Literal["replicated", "per_worker"]


class Hides(NamedTuple):
    """What the need `masked` hides.  See `training.token_hiding`."""

    image: float | None = None  #: share of an image's patches; None: the image tower has no second pass
    text: float | None = None  #: likewise, of a text's tokens
    patches: Literal["random", "like_text", "unlike_text"] = "random"  #: which ones


class Kept(NamedTuple):
    """A tensor that an objective carries from step to step.  The checkpoint has it."""

    name: str
    where: Where
    what: str


class Setup(NamedTuple):
    """What a run gives an objective before its first step."""

    width: int  #: D
    slots: int  #: K
    rows: int  #: B
    rank: int
    world: int  #: ranks
    tile: tuple[int, int]  #: `loss.tile`, of the kernels
    seed: int
    device: torch.device
    token_width: int | None = None  #: Dt of the need `tokens`; None: D
    patch_values: int | None = None  #: C of the need `pixels`; None: it is not needed
    datasets: int = 1  #: of `data.datasets`
    tower_widths: tuple[int, int] | None = None  #: Wi, Wt of the need `tower`
    pad_id: int = 0  #: what texts are padded with


class When(NamedTuple):
    """Where a run stands, for what changes by schedule."""

    step: int  #: 0 … steps - 1
    steps: int
    steps_per_epoch: int


class Objective:
    """Base of every objective.  Its docstring is its documentation.

    Rule R1 (must): the mean over ranks of `__call__`'s total is the loss of the whole batch, and so is the mean of its
    gradients.  State is changed in `after_step` only, and replicated state by every rank alike.
    """

    #: Its own keys of the recipe.  The module that defines it must not import torch.
    Config: ClassVar[type[NamedConfig]] = NamedConfig
    #: Where its equation is from, as `Name, Authors Year`.
    paper: ClassVar[str] = ""
    #: released: `form` may be that, for what the official code computes where it differs from the paper.
    forms: ClassVar[tuple[str, ...]] = ("paper",)
    #: The values of `loss.mode` in which it is exact.
    modes: tuple[str, ...] = ("gather", "group", "ring", "local")
    #: Names of NEEDS.  An objective made of others sets this and the following in its constructor.
    needs: tuple[str, ...] = ()
    #: Which tensors of its needs the teacher gives too, in `features.teacher.asked`; masks come from the rows alone.
    teacher_tensors: tuple[str, ...] = ()
    #: Whether a teacher encodes the views and negatives that the objective needs of the model.
    teacher_further: bool = True
    #: Tensors of its needs, and `teacher_…`, that `loss_by_name` may be called without.  The loop gives all of them.
    optional_tensors: tuple[str, ...] = ()
    #: Of the need `columns`: names of COLUMNS.  `data.columns` says what they are called in the data.
    columns: tuple[str, ...] = ()
    #: The tensors of `state`, and where each lives.
    keeps: tuple[Kept, ...] = ()
    #: Used where temperature.init is null and no checkpoint brings a temperature.  0.07: CLIP's.
    temperature_init: float = 0.07
    #: Names of the parameters of `heads`, for `loss_by_name`.
    parameters: tuple[str, ...] = ()
    #: Names of parameters of `heads` without weight decay: codebooks, prototypes.  Vectors and biases have none anyway.
    undecayed: tuple[str, ...] = ()
    #: Whether what heads make of a row depends on the other rows of the batch: there must be one micro-batch.
    mixes_rows: bool = False

    config: NamedConfig
    setup: Setup
    #: Set before each step.
    when: When
    #: The recipe's `loss.mask_tokens`.
    token_mask: MaskTokensConfig | None = None
    #: One of `forms`.  A recipe always trains the paper's.
    form: str = "paper"
    #: The tensors of `keeps`, by name.
    state: dict[str, Tensor]

    def __init__(self, config: NamedConfig) -> None:
        """Must be cheap: checking a recipe calls it."""
        self.config = config
        self.state = {}

    def begin(self, setup: Setup) -> None:
        """Get ready for a run.  Raises RecipeError if `start` gives other tensors than `keeps` names."""
        self.setup = setup
        self.state = dict(self.start(setup))
        names = [kept.name for kept in self.keeps]
        if sorted(self.state) != sorted(names):
            raise RecipeError(
                f"loss.objective {self.config.name}: start must give the tensors that keeps names",
                value=f"start: {', '.join(self.state)}; keeps: {', '.join(names)}",
                fix="name exactly the tensors of the state in keeps",
            )
        self._began = _forms_of(self.state)
        if others := [name for name, form in self._began.items() if not isinstance(form, tuple)]:
            raise RecipeError(
                f"loss.objective {self.config.name}: start must give tensors only",
                value=f"{others[0]}: {type(self.state[others[0]]).__name__}",
                fix="make a number a tensor, torch.tensor(0)",
            )

    def check_state(self) -> None:
        """Raise RecipeError unless the state has the form that `start` gave it: only such state can be resumed."""
        now = _forms_of(self.state)
        if now != self._began:
            raise RecipeError(
                f"loss.objective {self.config.name}: after_step must leave the state in the form that start gave it, "
                "or no run can resume",
                value=f"{_spelled(now)}; start: {_spelled(self._began)}",
                fix="give tensors their full size in start, with a tensor that counts what is filled, and name each in "
                "keeps",
            )

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of `features.asked` that its needs bring."""
        return tuple(name for need in self.needs for name in NEEDS[need].tensors)

    @property
    def bias_init(self) -> float | None:
        """Initial value of open_clip's `logit_bias`, which is added to the logits; None: the model gets none.

        Used where no checkpoint brings a bias.
        """
        return None

    @property
    def bias_given(self) -> float | None:
        """What the recipe says of `logit_bias`, which holds over a checkpoint's; None: it says nothing."""
        return None

    @property
    def teacher_decay(self) -> float:
        """Of the need `teacher`: share of the average that a step keeps.  0.995: ALBEF (Li et al. 2021)."""
        return 0.995

    @property
    def hides(self) -> Hides:
        """Of the need `masked`: how much of images and texts is hidden.  ONE-PEACE's shares (Wang et al. 2023)."""
        return Hides(0.75, 0.15)

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """The state before the first step, on `setup.device`.  torch is seeded alike on all ranks."""
        return {}

    def heads(self, setup: Setup) -> nn.Module | None:
        """Parameters of the objective's own, which learn as those of the model do; None: it has none.

        (image_BD, text_BKD) -> `training.model.Own`, which is then in `features.own`, and in `features.teacher.own`.
        With needs that have tensors, these are its third argument, by name.
        After each step, all workers have the first one's buffers (running statistics).
        """
        return None

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """The loss of this rank's rows, computed once a step, of all rows of the step.  A collective call.

        A row without a text (`rows.text_mask_BK`) has no image either, and counts for nothing.
        """
        raise NotImplementedError

    def teacher_of(self, features: Features, *, frozen: bool = False) -> Features:
        """What the need `teacher` brings, or `frozen_teacher`.  Raises RecipeError where there is none."""
        found = features.frozen if frozen else features.teacher
        if found is None:
            raise RecipeError(
                f"loss.objective {self.config.name} must have a {'frozen ' if frozen else ''}teacher",
                value="none",
                fix="declare the need, or give the tensors teacher_image and teacher_text",
            )
        return found

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """Change the state after the optimiser's update, without gradient: once a step, with all rows of the step."""

    def take_state(self, given: Mapping[str, Tensor]) -> None:
        """Go on from some of the state, which `loss_by_name` is given.

        Raises RecipeError for a tensor of another shape than `start` gives it.
        """
        from training.objectives.tensor_shapes import check_alike

        check_alike("the objective's settings make it", given, {name: t.shape for name, t in self.state.items()})
        self.state |= given

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's state.  Raises RecipeError for tensors of another form than `start` gives."""
        now, then = _forms_of(self.state), _forms_of(state)
        if now != then:
            raise RecipeError(
                f"loss.objective {self.config.name} must keep the tensors that its checkpoint holds",
                value=f"{_spelled(now)}; the checkpoint: {_spelled(then)}",
                fix="give the run a new run_dir, with model.pretrained set to the checkpoint",
            )
        self.state = {name: t.to(self.setup.device, copy=True) for name, t in state.items()}


#: Size and type of a tensor; the name of its class for anything else.
_Form: TypeAlias = "tuple[tuple[int, ...], torch.dtype] | str"


def _forms_of(state: Mapping[str, object]) -> dict[str, _Form]:
    import torch

    return {
        name: (tuple(one.shape), one.dtype) if isinstance(one, torch.Tensor) else type(one).__name__
        for name, one in state.items()
    }


def _spelled(forms: Mapping[str, _Form]) -> str:
    parts = (form if isinstance(form, str) else f"{list(form[0])} {form[1]}" for form in forms.values())
    return ", ".join(f"{name} {part}" for name, part in zip(forms, parts, strict=True)) or "none"


def opened(kind: type[Objective], config: NamedConfig) -> Objective:
    """The objective that a name or an import path led to, which `begin` readies for a run.

    Raises RecipeError if it declares its state wrongly, has a need that is unknown, or no loss.
    """
    name = config.name
    objective = kind(config)
    _check_keeps(name, objective.keeps)
    if isinstance(objective.needs, str):
        raise RecipeError(
            f"loss.objective {name} must declare `needs` as a tuple of names",
            value=repr(objective.needs),
            fix='write needs = ("name",)',
        )
    _check_known(name, "needs", objective.needs, NEEDS)
    if ("columns" in objective.needs) != bool(objective.columns):
        raise RecipeError(
            f"loss.objective {name} must declare the need columns and name them in `columns`, or neither",
            value=f"needs: {', '.join(objective.needs)}; columns: {', '.join(objective.columns)}",
            fix='write needs = ("columns",) and columns = ("name",)',
        )
    _check_known(name, "columns", objective.columns, COLUMNS)
    if kind.__call__ is Objective.__call__:
        raise RecipeError(
            f"loss.objective {name} must define __call__",
            value="no such method",
            fix="write def __call__(self, features, rows, exchange): …",
        )
    return objective


def _check_known(name: str, what: str, given: Iterable[str], known: Mapping[str, object]) -> None:
    for one in given:
        if one not in known:
            raise RecipeError(
                f"loss.objective {name}: {what} must only name {', '.join(known)}",
                value=one,
                fix=f"perhaps you mean: {nearest(one, known)}",
            )


def _check_keeps(name: str, keeps: object) -> None:
    """Raise RecipeError for state that no checkpoint could hold."""
    if not isinstance(keeps, list | tuple) or not all(isinstance(kept, Kept) for kept in keeps):
        raise RecipeError(
            f"loss.objective {name} must declare `keeps` as a tuple of Kept",
            value=repr(keeps),
            fix="write keeps = (Kept(…),)",
        )
    names = [kept.name for kept in keeps]
    for kept in keeps:
        if kept.where not in get_args(Where):
            raise RecipeError(
                f"loss.objective {name} must keep each tensor {' or '.join(get_args(Where))}",
                value=f"{kept.name}: {kept.where}",
                fix=f"perhaps you mean: {nearest(str(kept.where), get_args(Where))}",
            )
        if names.count(kept.name) > 1:
            raise RecipeError(
                f"loss.objective {name} must name each tensor of `keeps` once",
                value=kept.name,
                fix="rename one of them",
            )
