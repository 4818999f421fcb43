"""The shape and type of each tensor that `loss_by_name` takes, and the one check of all of them together.

A letter stands for the same size in all tensors: B rows, K text slots, D embedding, V views, N negatives of a row, P
patches and L tokens of width T, M corner tokens.  A teacher may be wider, E and U, where it is not an average of the
model, and has W views.  S tokens of a caption out of Z words, A values of a patch, G tags of a row, R patches of a
crop, I and J widths of the towers, and Q embeddings of earlier steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pairmill.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


class Shape(NamedTuple):
    """Of one tensor."""

    forms: tuple[tuple[str, ...], ...]  #: letters or numbers, of which one must fit
    kind: Literal["float", "bool", "integer"] = "float"

    def __str__(self) -> str:
        words = " or ".join(f"[{', '.join(form)}]" if form else "scalar" for form in self.forms)
        return words if self.kind == "float" else f"{words} {self.kind}"


def _shape(words: str) -> Shape:
    """[B, K] bool -> its Shape; further forms after a bar."""
    forms, _, kind = words.rpartition("]")
    each = [form.strip(" []").replace(",", " ").split() for form in forms.split("|")]
    return Shape(tuple(map(tuple, each)), kind.strip() or "float")  # type: ignore[arg-type]


#: By name; of a teacher's tensors and an objective's own, see `shapes_of`.
SHAPES: Mapping[str, Shape] = {
    name: _shape(words)
    for name, words in {
        "image": "[B, D]",
        "text": "[B, K, D]",
        "text_mask": "[B, K] bool",
        "text_role": "[B, K] integer",
        "text_lang": "[B, K] integer",
        "group_id": "[B] integer",
        "sample_id": "[B] integer",
        "logit_scale": "[]",
        "logit_bias": "[]",
        "neg_text": "[B, N, D]",
        "neg_mask": "[B, N] bool",
        "raw_image": "[B, D]",
        "raw_text": "[B, K, D]",
        "image_tokens": "[B, P, T]",
        "text_tokens": "[B, K, L, T]",
        "text_token_mask": "[B, K, L] bool",
        "image_views": "[B, V, D]",
        "text_views": "[B, V, D]",
        "text_extra": "[B, K, M, D]",
        "caption_losses": "[B, K, S]",
        "caption_labels": "[B, K, S] integer",
        "caption_logits": "[B, K, S, Z]",
        "masked_image_tokens": "[B, P, T]",
        "image_token_hidden": "[B, P] bool",
        "masked_text_tokens": "[B, K, L, T]",
        "text_token_hidden": "[B, K, L] bool",
        "image_patches": "[B, P, A]",
        "view_tokens": "[B, 2, R, T]",
        "view_boxes": "[B, 2, 4]",
        "tower_image": "[B, I]",
        "tower_text": "[B, K, J]",
        "text_there": "[B, K] bool",
        "noise_prob": "[B, K] | [B]",
        "sample_weight": "[B]",
        "tags": "[B, G] integer",
        "queue_image": "[Q, D]",
        "queue_text": "[Q, D] | [Q, K, D]",
        **dict.fromkeys(("step", "steps", "steps_per_epoch"), "[] integer"),
    }.items()
}

#: Letters that are a size of one tensor alone.
_FREE = "Q"
#: What letters are in the tensors of a teacher.
_OF_TEACHER = {"D": "E", "T": "U", "V": "W"}
#: The tensors that say how large letters are, before all others.
_FIRST = ("image", "text")


def shape_of(name: str, *, average: bool = False) -> Shape | None:
    """The shape of a tensor by name, a teacher's too; None for an objective's own.

    average: the teacher is an average of the model, and as wide.
    """
    if name in SHAPES or not name.startswith("teacher_"):
        return SHAPES.get(name)
    found = SHAPES.get(name.removeprefix("teacher_"))
    if found is None:
        return None
    other = {letter: its for letter, its in _OF_TEACHER.items() if letter == "V" or not average}
    return found._replace(forms=tuple(tuple(other.get(letter, letter) for letter in form) for form in found.forms))


def as_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that are not None; masks of zeros and ones as bool, ids as int64, a scalar of shape [1] as [].

    Numbers are scalars.  Raises RecipeError for what is no tensor, or of another type than its name says.
    """
    import torch

    found: dict[str, Any] = {}
    for name, value in tensors.items():
        shape = shape_of(name)
        scalar = shape is not None and not shape.forms[0]
        if value is None:
            continue
        if not isinstance(value, torch.Tensor):
            if not scalar or isinstance(value, bool) or not isinstance(value, int | float):
                raise RecipeError(
                    f"{name} must be a tensor of torch" + (" or a number" if scalar else ""),
                    value=type(value).__name__,
                    fix=f"give torch.as_tensor({name})",
                )
            found[name] = value
            continue
        value = value[0] if scalar and value.shape == (1,) else value
        found[name] = value if shape is None else _typed(name, value, shape)
    return found


def _typed(name: str, value: Tensor, shape: Shape) -> Tensor:
    import torch

    if shape.kind == "bool":
        if value.dtype != torch.bool and not bool(((value == 0) | (value == 1)).all()):
            raise RecipeError(
                f"{name} must be bool, or zeros and ones",
                value=f"{value.dtype} with other numbers",
                fix="give what is true as 1 and what is not as 0",
            )
        return value.bool()
    if shape.kind == "integer":
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise RecipeError(f"{name} must hold integers", value=str(value.dtype), fix=f"give {name}.long()")
        return value.long()
    if not value.is_floating_point():
        raise RecipeError(f"{name} must be of floating point", value=str(value.dtype), fix=f"give {name}.float()")
    return value


def check_shapes(tensors: Mapping[str, Any], asked: Iterable[str], *, average: bool) -> None:
    """Raise RecipeError unless all tensors that have a name of SHAPES, or of a teacher, fit it and each other.

    asked: those that the objective reads.  Others must have the rows, slots and widths of these, and nothing else of
    theirs.  average: see `shape_of`.
    """
    import torch

    sizes: dict[str, tuple[int, str]] = {}  # by letter; and in which tensor it was
    first = [name for name in (*_FIRST, *asked) if name in tensors]
    for name in dict.fromkeys((*first, *tensors)):
        value, shape = tensors[name], shape_of(name, average=average)
        if shape is None or not isinstance(value, torch.Tensor):
            continue
        given = tuple(value.shape)
        known = sizes if name in first else {letter: sizes[letter] for letter in "BKDE" if letter in sizes}
        form = next((form for form in shape.forms if _fits(given, form, known)), None)
        if form is None:
            raise RecipeError(
                f"{name} must be {shape}",
                value=_spelled(name, given, shape, known, tensors),
                fix=_FIXES.get((name, len(given)), "give tensors of the same rows, slots and widths"),
            )
        for letter, size in zip(form, given, strict=True):
            if letter != _FREE and name in first:
                sizes.setdefault(letter, (size, name))


#: By name and number of dimensions given.
_FIXES: Mapping[tuple[str, int], str] = {
    ("text", 2): "give a text of each row as text[:, None], [B, 1, D]",
    ("teacher_text", 2): "give a text of each row as teacher_text[:, None], [B, 1, D]",
}


def _fits(given: tuple[int, ...], form: tuple[str, ...], sizes: Mapping[str, tuple[int, str]]) -> bool:
    return len(given) == len(form) and all(
        size == (int(letter) if letter.isdigit() else sizes[letter][0] if letter in sizes else size)
        for size, letter in zip(given, form, strict=True)
    )


def _spelled(
    name: str, given: tuple[int, ...], shape: Shape, sizes: Mapping[str, tuple[int, str]], tensors: Mapping[str, Tensor]
) -> str:
    """What was given, and the tensors that its sizes must agree with."""
    letters = {letter for form in shape.forms for letter in form}
    others = dict.fromkeys(of for letter, (_, of) in sizes.items() if letter in letters and of != name)
    return "; ".join([f"{name} {list(given)}", *(f"{other} {list(tensors[other].shape)}" for other in others)])


def check_alike(what: str, given: Mapping[str, Tensor], wanted: Mapping[str, Iterable[int]]) -> None:
    """Raise RecipeError for a tensor of another shape than is wanted of it."""
    for name, value in given.items():
        if name in wanted and list(value.shape) != list(wanted[name]):
            raise RecipeError(
                f"{name} must be as large as {what}",
                value=f"{list(value.shape)}, not {list(wanted[name])}",
                fix="see the objective's settings in docs/objectives.md",
            )
