"""Any objective on plain tensors, for tools outside a training run, and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pairmill.errors import RecipeError, nearest
from pairmill.layout import TEXT_KINDS
from pairmill.registry import ChosenBy
from training.data.asked_columns import NOISE, WEIGHT
from training.objectives.config import OBJECTIVES
from training.objectives.declaration import COLUMNS, NEEDS, Objective, Setup, When, opened
from training.objectives.tensor_shapes import as_tensors, check_alike, check_shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows

#: Tensors that every objective takes.  B rows, K text slots, D embedding; features are L2-normalised.
BASIC: Mapping[str, str] = {
    "image": "embeddings of images",
    "text": "of their texts",
    "text_mask": "the slot holds a text; left out: all do",
    "text_role": f"what kind of text it is: {', '.join(f'{at} {kind}' for at, kind in enumerate(TEXT_KINDS))} "
    "(`training.data.texts.kind_code`); left out or -1: unknown",
    "text_lang": "`training.data.texts.language_code`; left out: unknown, -1",
    "group_id": "of either sign: rows of one group are no negatives of each other; left out or -1: none",
    "sample_id": "names the row in the data; left out: its number",
    "logit_scale": "1/temperature; left out: of the objective's temperature",
    "logit_bias": "left out: the objective's",
}
#: Tensors of NEEDS that may be left out: then everything is there.
_OPTIONAL = ("neg_mask", "text_token_mask")
#: What a teacher may give beside its embeddings.
_TAUGHT = tuple(
    t
    for need in NEEDS.values()
    for t in need.tensors
    if not t.endswith(("_mask", "_hidden", "_boxes", "_patches", "_there", "_labels"))
)
#: The same rows as a teacher sees them: an average of the model, or a model that does not learn.
TEACHER = ("teacher_image", "teacher_text", "teacher_logit_scale", *(f"teacher_{name}" for name in _TAUGHT))
#: Of a row's negatives, and how many dimensions they have.
_NEGATIVES: Mapping[str, int] = {"neg_text": 3, "teacher_neg_text": 3, "neg_mask": 2}
#: Embeddings of earlier steps, for the objectives that keep them; others do without.
QUEUES = ("queue_image", "queue_text")
#: What is taken in place of a tensor that an objective asks for and is not given.
STAND_INS: Mapping[str, str] = {
    "teacher_raw_image": "teacher_image",
    "teacher_raw_text": "teacher_text",
    "teacher_image_views": "teacher_image",
    "text_there": "text_mask",
}
#: Where the run stands, integers; left out: the last step of a run of one epoch.
WHEN = ("step", "steps", "steps_per_epoch")


def loss_by_name(
    name: str, tensors: Mapping[str, Any], settings: Mapping[str, Any] | None = None, form: str = "paper"
) -> LossOutput:
    """The loss of one process's rows by an objective's name, differentiable in every floating tensor.

    tensors: by the names of BASIC, TEACHER, QUEUES, WHEN, NEEDS and COLUMNS; the objective's own state and the
    parameters of its heads by their names; None for one that is left out.  float64 tensors give a float64 loss.
    Data (COLUMNS), teacher and state are constants.  settings: the objective's own keys.
    form: released: what the official code computes, if it is among the `forms` of the objective; else as paper.
    Raises RecipeError for an unknown name, setting, tensor or form, for a tensor that the objective lacks, and for one
    of another type or shape than its name has (`tensor_shapes`); a mask may be zeros and ones of any type.
    """
    from training.gather import Exchange

    for what, given in (("tensors", tensors), ("settings", settings or {})):
        if not isinstance(given, Mapping):
            raise RecipeError(f"{what} must be a mapping of names", value=type(given).__name__, fix="give a dict")
    return computed(name, tensors, settings or {}, form, Exchange())[0]


def computed(
    name: str,
    tensors: Mapping[str, Any],
    settings: Mapping[str, Any],
    form: str,
    exchange: Exchange,
    tile: tuple[int, int] = (1024, 2048),
) -> tuple[LossOutput, Objective]:
    """As `loss_by_name`, of one rank's rows over any exchange; the objective, whose state has changed by one step."""
    objective = _opened(name, settings, form)
    tensors = _negatives_by_row(as_tensors(tensors))
    asked = [*_asked(objective), *BASIC, *objective.columns, *(kept.name for kept in objective.keeps)]
    check_shapes(tensors, asked, average="teacher" in objective.needs)
    tensors = _with_stand_ins(objective, tensors)
    _check_tensors(name, objective, tensors)
    _check_kinds(tensors)
    features, rows = _features(objective, tensors), _rows(tensors)
    image, text = features.image_BD, features.text_BKD
    objective.begin(
        Setup(
            image.shape[1],
            text.shape[1],
            len(image),
            exchange.rank,
            exchange.world,
            tile,
            0,
            image.device,
            tensors["image_tokens"].shape[-1] if "image_tokens" in tensors else None,
            tensors["image_patches"].shape[-1] if "image_patches" in tensors else None,
        )
    )
    objective.take_state(
        {kept.name: tensors[kept.name].detach().clone() for kept in objective.keeps if kept.name in tensors}
    )
    features = _with_own(objective, features, rows.text_mask_BK, tensors)
    steps = int(tensors.get("steps", 1))
    objective.when = When(int(tensors.get("step", steps - 1)), steps, int(tensors.get("steps_per_epoch", steps)))
    output = objective(features, rows, exchange)
    objective.after_step(_without_gradient(features), rows, exchange)
    return output, objective


def _check_kinds(tensors: Mapping[str, Any]) -> None:
    """Raise RecipeError for a code of no kind of text: another numbering would put texts into the wrong level."""
    role = tensors.get("text_role")
    if role is not None and bool(((role < -1) | (role >= len(TEXT_KINDS))).any()):
        raise RecipeError(
            f"text_role must be from -1 to {len(TEXT_KINDS) - 1}",
            value=", ".join(str(code) for code in role.unique().tolist()),
            fix=f"number kinds as here: {', '.join(TEXT_KINDS)}",
        )


def _opened(name: str, settings: Mapping[str, Any], form: str) -> Objective:
    if "name" in settings:
        raise RecipeError(
            "the settings of loss_by_name must be the objective's own keys, without name",
            value=f"name: {settings['name']}",
            fix="leave it out; the first argument names the objective",
        )
    config = ChosenBy(OBJECTIVES).parse({"name": name, **settings})
    objective = opened(OBJECTIVES.get(name), config)
    if form not in ("paper", "released"):
        raise RecipeError("form must be paper or released", value=form, fix="leave it out for the paper's")
    # Code and paper agree where an objective names no other form.
    objective.form = form if form in objective.forms else "paper"
    return objective


def _asked(objective: Objective) -> list[str]:
    """The tensors that its needs bring, the teacher's too."""
    asked = list(objective.tensors)
    if {"teacher", "frozen_teacher"} & set(objective.needs):
        asked += ["teacher_image", "teacher_text", *(f"teacher_{one}" for one in objective.teacher_tensors)]
    return asked


def _negatives_by_row(tensors: dict[str, Any]) -> dict[str, Any]:
    """With negatives [B·N, …], those of a row one after the other, as [B, N, …]."""
    rows = len(tensors["image"]) if "image" in tensors and tensors["image"].ndim else 0
    flat = [one for one, plain in _NEGATIVES.items() if one in tensors and tensors[one].ndim == plain - 1 and rows]
    by_row = {one: tensors[one].unflatten(0, (rows, -1)) for one in flat if len(tensors[one]) % rows == 0}
    return {**tensors, **by_row}


def _with_stand_ins(objective: Objective, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors with STAND_INS."""
    found = dict(tensors)
    for name, other in STAND_INS.items():
        if name in _asked(objective) and name not in found and other in found:
            # An embedding is one view.
            found[name] = found[other][:, None] if name.endswith("_views") else found[other]
    return found


def _check_tensors(name: str, objective: Objective, tensors: Mapping[str, Any]) -> None:
    optional = (*_OPTIONAL, *objective.optional_tensors)
    required = ["image", "text", *(one for one in _asked(objective) if one not in optional), *objective.columns]
    if missing := [one for one in required if one not in tensors]:
        raise RecipeError(
            f"loss.objective {name} must be given the tensors {', '.join(required)}",
            value=f"without {', '.join(missing)}",
            fix="add what is missing",
        )
    known = [*BASIC, *TEACHER, *QUEUES, *WHEN, *COLUMNS, *(t for need in NEEDS.values() for t in need.tensors)]
    own = [*(kept.name for kept in objective.keeps), *objective.parameters]
    if WEIGHT in tensors and WEIGHT not in objective.columns:
        raise RecipeError(
            f"{WEIGHT} must only be given to an objective that names it in its columns",
            value=f"loss.objective {name}, which weighs all rows alike",
            fix="leave it out",
        )
    for one in tensors:
        if one not in known and one not in own:
            raise RecipeError(
                f"the tensors of loss.objective {name} must be named as docs/objectives.md says",
                value=one,
                fix=f"perhaps you mean: {nearest(one, [*known, *own])}",
            )


def _features(objective: Objective, tensors: Mapping[str, Any]) -> Features:
    from training.model import Features

    image, text = tensors["image"], tensors["text"]
    scale = tensors.get("logit_scale", 1 / objective.temperature_init)
    bias = tensors.get("logit_bias", objective.bias_init)
    features = Features(
        image,
        text,
        image.new_tensor(scale) if isinstance(scale, float | int) else scale,
        image.new_tensor(bias) if isinstance(bias, float | int) else bias,
        asked={one: tensors[one] for one in objective.tensors if one in tensors},
    )
    if not any(one in tensors for one in TEACHER):
        return features
    taught = _taught(tensors, features)
    return features._replace(teacher=taught, frozen=taught)


def _taught(tensors: Mapping[str, Any], features: Features) -> Features:
    """What the teacher gives; zeros for embeddings that the objective does without."""
    from training.model import Features

    text = tensors.get("teacher_text")
    text = features.text_BKD.new_zeros(features.text_BKD.shape) if text is None else text.detach()
    image = tensors.get("teacher_image")
    image = text.new_zeros((len(text), text.shape[2])) if image is None else image.detach()
    scale = tensors.get("teacher_logit_scale", features.scale)
    return Features(
        image,
        text,
        (features.image_BD.new_tensor(scale) if isinstance(scale, float | int) else scale).detach(),
        None,
        asked={one: tensors[f"teacher_{one}"].detach() for one in _TAUGHT if f"teacher_{one}" in tensors},
    )


def _rows(tensors: Mapping[str, Any]) -> Rows:
    import torch

    from training.model import Rows

    image, text = tensors["image"], tensors["text"]
    rows, slots = text.shape[:2]

    def given(name: str, otherwise: Tensor) -> Tensor:
        found: Tensor = tensors.get(name, otherwise)
        return found

    unknown = torch.full((rows, slots), -1, device=image.device)
    number = torch.arange(rows, device=image.device)
    group = given("group_id", torch.full_like(number, -1)).long()
    return Rows(
        image.new_zeros((rows, 1, 1, 3), dtype=torch.uint8),
        number.new_zeros((rows, slots, 1)),
        given("text_mask", torch.ones((rows, slots), dtype=torch.bool, device=image.device)),
        # As `sample.group_of`.
        torch.where(group == -1, group, group & (2**63 - 1)),
        given("text_role", unknown),
        given("text_lang", unknown),
        given("sample_id", number),
        {name: _column(name, tensors[name], slots) for name in COLUMNS if name in tensors},
    )


def _column(name: str, values: Tensor, slots: int) -> Tensor:
    """As the data's; `noise_prob` may be [B], of all texts of a row."""
    values = values.detach()
    return values[:, None].expand(-1, slots) if name == NOISE and values.ndim == 1 else values


def drawn_heads(objective: Objective, dtype: torch.dtype) -> nn.Module | None:
    """An objective's own heads as seed 0 draws them; None if it has none.

    dtype: of the features, so that a float64 loss has what a parameter begins with in float64.
    """
    import torch

    usual = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            torch.set_default_dtype(torch.promote_types(usual, dtype))
            return objective.heads(objective.setup)
        finally:
            torch.set_default_dtype(usual)


def _with_own(objective: Objective, features: Features, text_mask_BK: Tensor, tensors: Mapping[str, Any]) -> Features:
    """With what the heads make, of parameters that are among the tensors or drawn by seed 0.

    They see zeros where there is no text: a nan there would be one in the gradient of every weight.
    """
    import torch
    from torch.func import functional_call

    heads = drawn_heads(objective, features.image_BD.dtype)
    if heads is None:
        return features
    heads = heads.to(features.image_BD)
    shapes = {name: list(parameter.shape) for name, parameter in heads.named_parameters()}
    # A number may have brackets or none.
    parameters = {
        name: tensors[name].view(shape) if shape in ([], [1]) and tensors[name].shape in ((), (1,)) else tensors[name]
        for name, shape in shapes.items()
        if name in tensors
    }
    check_alike("the objective's settings make it", parameters, shapes)

    def made(of: Features) -> Features:
        image_BD = torch.where(text_mask_BK.any(1)[:, None], of.image_BD, 0.0)
        text_BKD = torch.where(text_mask_BK[..., None], of.text_BKD, 0.0)
        given = (image_BD, text_BKD, *([of.asked] if of.asked else []))
        return of._replace(own=functional_call(heads, parameters, given))

    # The average of the model has its heads; a frozen model has none, and perhaps another width.
    teacher = features.teacher
    if teacher is not None and "teacher" in objective.needs:
        with torch.no_grad():
            teacher = made(teacher)
    return made(features)._replace(teacher=teacher)


def _without_gradient(features: Features) -> Features:
    return features.map(lambda value: value.detach())
