"""The search space as data: dotted keys of the training recipe, what each may be, and when it matters.

    loss.objective:           {grid: [clip, siglip]}                every value, with every other grid value
    loss.objective.bias_init: {choice: [-10, -5], when: {loss.objective: siglip}}
    optim.lr:                 {loguniform: [1.0e-4, 1.0e-2]}        drawn

A point is one draw: {key: value}, without the keys that do not matter in it.  Where the recipe chooses something by
name, the space does so too, and the chosen entry's own keys stand below that name.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from pairmill.config import Config, digest, fields_at, put
from pairmill.errors import RecipeError, nearest
from pairmill.registry import chosen_at
from training.recipe import TrainRecipe

Point = dict[str, Any]

#: The sweep gives each trial its own.
_NOT_SWEPT = ("run_dir", "name")


class Parameter(Config):
    """What one key of the recipe may be: exactly one of the five kinds."""

    grid: tuple[Any, ...] | None = Field(None, description="values that are all tried")
    choice: tuple[Any, ...] | None = Field(None, description="values of which one is drawn")
    uniform: tuple[float, float] | None = Field(None, description="[lowest, highest], drawn evenly")
    loguniform: tuple[float, float] | None = Field(None, description="[lowest, highest], drawn evenly in the logarithm")
    quniform: tuple[float, float, float] | None = Field(None, description="[lowest, highest, step], drawn evenly")
    when: dict[str, Any] = Field({}, description="keys, and the value (or list of values) each must have in a point")

    @model_validator(mode="after")
    def _consistent(self) -> Parameter:
        given = [name for name in ("grid", "choice", "uniform", "loguniform", "quniform") if getattr(self, name)]
        if len(given) != 1:
            raise RecipeError(
                "a key of the space must have exactly one of grid, choice, uniform, loguniform, quniform, not empty",
                value=json.dumps(self.model_dump(exclude_none=True, mode="json")),
                fix="write, for example, {loguniform: [0.01, 0.1]}",
            )
        if self.limits is not None:
            low, high = self.limits
            problem = (
                "the lowest value of a range of the space must be below its highest"
                if low >= high
                else "the lowest value of loguniform must be above 0"
                if self.loguniform and low <= 0
                else "the step of quniform must be above 0 and at most its range"
                if self.quniform and not 0 < self.quniform[2] <= high - low
                else None
            )
            if problem:
                raise RecipeError(problem, value=list(self.range or ()), fix="correct the range")
        return self

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The values of a grid or a choice; None for a range."""
        return self.grid or self.choice

    @property
    def range(self) -> tuple[float, ...] | None:
        """The numbers of a range as given; None for a grid or a choice."""
        return self.uniform or self.loguniform or self.quniform

    @property
    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest value of a range."""
        return None if self.range is None else (self.range[0], self.range[1])

    @property
    def edges(self) -> tuple[Any, ...]:
        """The values to check: all, or the ends of a range."""
        return self.values or self.limits or ()

    def draw(self, share: float) -> Any:
        """The value at `share` in [0, 1) of what may be drawn."""
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        assert self.range is not None
        low, high = self.range[:2]
        if self.loguniform:
            return min(high, max(low, math.exp(math.log(low) + share * (math.log(high) - math.log(low)))))
        if self.quniform:
            step = self.quniform[2]
            return round(low + step * int(share * (int((high - low) / step + 1e-9) + 1)), 12)
        return low + share * (high - low)


Space = Mapping[str, Parameter]


def matters(parameter: Parameter, point: Point, recipe: Mapping[str, Any]) -> bool:
    """Whether a parameter's `when` holds, for the point's values so far and the base recipe's others."""
    return all(_is(_value_in(point, recipe, key), wanted) for key, wanted in parameter.when.items())


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one, or one of a list of them; what is chosen by name is its name too."""
    names = [value, value.get("name")] if isinstance(value, Mapping) else [value]
    asked = [_meant(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    return any(_meant(name) in asked for name in names)


def _meant(value: Any) -> Any:
    """What a recipe takes a value for: a key of numbers or truth values takes them as texts too."""
    if not isinstance(value, str):
        return value
    truth = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
    try:
        return truth[value.lower()] if value.lower() in truth else float(value)
    except ValueError:
        return value


def _value_in(point: Point, recipe: Mapping[str, Any], key: str) -> Any:
    """The value that a key has at a point: its own, else that of a section the point sets whole, else the recipe's."""
    parts = key.split(".")
    for depth in range(len(parts), 0, -1):
        section = ".".join(parts[:depth])
        if section in point:
            return _inside(point[section], parts[depth:])
    return value_at(recipe, key)


def draw_points(space: Space, recipe: Mapping[str, Any], *, samples: int, seed: int) -> Iterator[Point]:
    """`samples` points of each combination of grid values, in a fixed order; the same ones for the same seed.

    What is drawn for a key depends on the seed, the sample and the key alone, so another key in the space changes no
    other's values.  Samples of the same range are spread evenly over it (a random shift of the additive golden-ratio
    sequence, per key), which covers it better than independent draws do.
    """
    seen = set()
    grids = {key: parameter.grid for key, parameter in space.items() if parameter.grid}
    for sample, values in itertools.product(range(samples), itertools.product(*grids.values())):
        combination = dict(zip(grids, values, strict=True))
        number = int(digest(combination), 16) % 2**32 if sample or len(grids) < len(space) else 0
        point: Point = {}
        for key, parameter in space.items():
            if not matters(parameter, point, recipe):
                continue
            point[key] = combination[key] if key in combination else parameter.draw(_share(seed, number, key, sample))
        identity = digest(point)
        # Combinations that differ only in what does not matter are one.
        if identity not in seen:
            seen.add(identity)
            yield point


def _share(seed: int, combination: int, key: str, sample: int) -> float:
    shift = np.random.default_rng((seed, combination, int(digest(key), 16) % 2**32)).random()
    return float((shift + sample * (math.sqrt(5) - 1) / 2) % 1.0)


def recipe_at(base: Mapping[str, Any], point: Point, seed: int | None = None, **top: Any) -> TrainRecipe:
    """The training recipe of a point, with another train.seed if one is given, and other values of `top` keys.

    Raises RecipeError, as a recipe in a file would.
    """
    data = json.loads(json.dumps({**base, **top}))
    values = {**point, **({} if seed is None else {"train.seed": seed})}
    # A section comes before its keys.
    for key in sorted(values, key=lambda key: key.count(".")):
        now = value_at(data, key)
        if not (
            isinstance(now, Mapping) and now.get("name") == values[key]
        ):  # else it is chosen already, with its keys
            put(data, key, values[key])
    return TrainRecipe.checked(data)


def check_space(space: Space, base: Mapping[str, Any]) -> None:
    """Raise RecipeError unless every key is one of the training recipe, and may have each of its values."""
    if not space:
        raise RecipeError(
            "space must have at least one key",
            value="space: {}",
            fix="write, for example, space: {temperature.init: {loguniform: [0.01, 0.2]}}",
        )
    for number, (key, parameter) in enumerate(space.items()):
        _check_key(key)
        points = _chosen(space, key, _context(space, base, key, list(space)[:number]))
        for point, value in itertools.product(points, parameter.edges):
            try:
                recipe_at(base, {**point, key: value})
            except RecipeError as error:
                if _passes(base, _completed(space, base, {**point, key: value})):
                    continue
                fix = (
                    f"{error.fix}; or say with `when` which entries have the key" if len(points) > 1 else str(error.fix)
                )
                raise RecipeError(f"space: {key}: {error.rule}", value=json.dumps(value), fix=fix) from error


def _completed(space: Space, base: Mapping[str, Any], point: Point) -> Point:
    """The point with the keys that matter in it: an entry may need another key, which only it brings by a `when`."""
    for key, parameter in space.items():
        if key not in point and parameter.when and matters(parameter, point, base):
            point = {**point, key: parameter.edges[0]}
    return point


def _passes(base: Mapping[str, Any], point: Point) -> bool:
    try:
        recipe_at(base, point)
    except RecipeError:
        return False
    return True


def _chosen(space: Space, key: str, point: Point) -> list[Point]:
    """A point with each entry in turn that may be chosen where `key` is one of an entry's own."""
    path = key.split(".")
    depth = chosen_at(TrainRecipe, path)
    section = ".".join(path[:depth])
    if depth in (None, len(path)) or section not in space:
        return [point]
    when = space[key].when
    return [{**point, section: e} for e in space[section].edges if section not in when or _is(e, when[section])]


def _check_key(key: str) -> None:
    path = key.split(".")
    depth = chosen_at(TrainRecipe, path)
    if depth is not None:
        if path[depth:] == ["name"]:
            raise RecipeError(
                f"space: what {key} names must be chosen by the key above it",
                value=key,
                fix=f"write {'.'.join(path[:depth])}: {{grid: [name, …]}}",
            )
        return  # keys of its own depend on the entry: the recipe itself decides
    known = fields_at(TrainRecipe, path[:-1])
    # Below a section without fixed keys (evaluate.datasets.NAME) the recipe itself decides.
    if known and path[-1] not in known:
        prefix = "".join(f"{part}." for part in path[:-1])
        raise RecipeError(
            f"space must hold keys of the training recipe: {key} is none",
            value=key,
            fix=f"perhaps you mean: {prefix}{nearest(path[-1], known)}",
        )
    if not known and not fields_at(TrainRecipe, path[:1]):
        raise RecipeError(
            f"space must hold keys of the training recipe: {key} is none",
            value=key,
            fix=f"perhaps you mean: {nearest(path[0], fields_at(TrainRecipe, []))}",
        )
    if path[0] in _NOT_SWEPT:
        raise RecipeError(
            f"space must not hold {key}: the sweep gives each trial its own", value=key, fix="leave it out"
        )


def _context(space: Space, base: Mapping[str, Any], key: str, earlier: list[str]) -> Point:
    """The values under which a key matters.  Raises RecipeError if there are none."""
    point: Point = {}
    for name, wanted in space[key].when.items():
        value = wanted[0] if isinstance(wanted, list) and wanted else wanted
        if name in earlier:
            allowed = space[name].values
            limits = space[name].limits
            if allowed is not None and not any(_is(one, value) for one in allowed):
                raise RecipeError(
                    f"space: {key}: `when` must name a value that {name} may have",
                    value=json.dumps(wanted),
                    fix=f"choose one of {json.dumps(allowed)}",
                )
            number = _meant(value)
            within = isinstance(number, int | float) and limits is not None and limits[0] <= number <= limits[1]
            if limits is not None and not within:
                raise RecipeError(
                    f"space: {key}: `when` must name a value that {name} may have",
                    value=value,
                    fix=f"choose one within {limits}",
                )
            point |= {**_context(space, base, name, earlier[: earlier.index(name)]), name: value}
        elif name in space:
            raise RecipeError(
                f"space: {key}: `when` must name keys that stand before it", value=name, fix=f"put {name} above {key}"
            )
        else:
            _check_key(name)
    if not matters(space[key], point, base):
        raise RecipeError(
            f"space: {key} must matter in some point: its `when` must hold for a value of the space or of the recipe",
            value=json.dumps(space[key].when),
            fix="add the key that `when` names to the space, or leave `when` out",
        )
    return point


def value_at(recipe: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key of nested mappings; None if it is not there."""
    return _inside(recipe, key.split("."))


def _inside(value: Any, path: Iterable[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
