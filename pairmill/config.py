"""The base of every configuration: frozen, no unknown keys, and an identity that leaves out how a stage runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticKnownError
from pydantic_core.core_schema import CoreSchema, WithDefaultSchema, no_info_before_validator_function
from typing_extensions import Self

from pairmill.errors import RecipeError, UserError, nearest

#: `Field(..., json_schema_extra=EXECUTION)` marks a field that says how a stage runs (concurrency, deadlines, rates),
#: not what it computes: changing it makes no committed shard stale.
EXECUTION: dict[str, Any] = {"execution": True}

#: `Field(..., json_schema_extra=POLICY)` marks a field that says what may be fetched and kept (sizes, ports, opt-outs),
#: not what is made of it: changing it makes no committed shard stale; it is applied to what is known of every row.
POLICY: dict[str, Any] = {"policy": True}


#: The type of pydantic's error around a UserError of an entry that a recipe chooses by name (`pairmill.registry`).
OF_ENTRY = "of_entry"


class _SchemaWithDefaults(GenerateJsonSchema):
    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        if "default_factory" in schema and not schema.get("default_factory_takes_data"):
            schema = {**schema, "default": cast(Callable[[], Any], schema["default_factory"])()}
        return super().default_schema(schema)


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown key is an error."""

    # Deferred: a recipe's model is built once, with those of its sections, and not each of them by itself as well.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    @classmethod
    def checked(cls, data: Any, *, at: str = "") -> Self:
        """The configuration of plain data.  Raises RecipeError with the first thing that is wrong.

        at: the dotted key of the recipe that holds the data, for messages.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explain(error, cls, at) from error

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """As pydantic's, but true and false are no numbers."""
        made: CoreSchema = _numbers_only(handler(source), outermost=True)
        return made

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """As pydantic's, with the defaults that a factory makes."""
        return super().model_json_schema(*args, **{"schema_generator": _SchemaWithDefaults, **options})

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is computed, as plain JSON data."""
        fields = type(self).model_fields
        data = self.model_dump(mode="json")
        kept = {}
        for name, value in data.items():
            if marked(fields[name], EXECUTION) or marked(fields[name], POLICY):
                continue
            kept[name] = _identity_of(getattr(self, name), value)
        return kept

    def policy(self) -> dict[str, Any]:
        """The fields that say what may be fetched and kept, as plain JSON data."""
        fields = type(self).model_fields
        return {name: value for name, value in self.model_dump(mode="json").items() if marked(fields[name], POLICY)}


#: What a schema of pydantic-core holds beside schemas.
_NO_SCHEMAS = frozenset({"default", "metadata", "serialization", "expected"})


def _numbers_only(schema: Any, *, outermost: bool = False) -> Any:
    """The schema of a section, which refuses true and false for each number; the sections in it do so themselves."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_numbers_only, schema))
    if not isinstance(schema, dict) or (schema.get("type") == "model" and not outermost):
        return schema
    if schema.get("type") in ("int", "float"):
        return no_info_before_validator_function(partial(_no_truth_value, schema["type"]), cast(CoreSchema, schema))
    # Validators of a section stand around its model.
    outermost = outermost and schema.get("type") != "model"
    return {
        key: inner if key in _NO_SCHEMAS else _numbers_only(inner, outermost=outermost) for key, inner in schema.items()
    }


def _no_truth_value(kind: Literal["int", "float"], value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("int_type" if kind == "int" else "float_type")
    return value


class Placement(Config):
    """How many actors a stage has and what each reserves.  None of it changes what is computed."""

    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="number of actors; auto: as many as the cluster holds", json_schema_extra=EXECUTION
    )
    actors_min: int | None = Field(
        None,
        ge=1,
        description="actors at the start, more as the work grows, up to `actors`; null: all from the start",
        json_schema_extra=EXECUTION,
    )
    num_cpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="CPUs of each actor", json_schema_extra=EXECUTION
    )
    num_gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="GPUs of each actor; auto: a share if the cluster has any",
        json_schema_extra=EXECUTION,
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="memory that each actor reserves, 10^9 bytes; null: none",
        json_schema_extra=EXECUTION,
    )
    accelerator_type: str | None = Field(
        None,
        description="GPU type that a node must have, by Ray's name (A100, L4, …); null: any",
        json_schema_extra=EXECUTION,
    )


def accelerator_types(resources: Iterable[str]) -> list[str]:
    """The GPU types among the names of Ray's resources: `accelerator_type:A100` gives A100."""
    return sorted(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:"))


def _identity_of(value: object, dumped: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, tuple | list):
        return [_identity_of(inner, plain) for inner, plain in zip(value, dumped, strict=True)]
    if isinstance(value, Mapping):
        return {key: _identity_of(inner, dumped[key]) for key, inner in zip(dumped, value.values(), strict=True)}
    if isinstance(value, set | frozenset):
        # Python orders a set of texts differently in every process.
        return sorted(dumped, key=lambda one: json.dumps(one, sort_keys=True))
    return dumped


def marked(field: FieldInfo, mark: dict[str, Any]) -> bool:
    """Whether a field carries a mark, `EXECUTION` or `POLICY`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and mark.items() <= extra.items()


def digest(data: object, *, size: int = 8) -> str:
    """Hex BLAKE2b (of `size` bytes) of plain JSON data, independent of key order."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def bytes_digest(data: bytes | memoryview) -> str:
    """Hex BLAKE2b (of 16 bytes) of the bytes of a file."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_stamp(path: Path) -> tuple[int, ...]:
    """What differs once a file was written again or replaced; costs no reading.  Raises OSError."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested mappings, making missing ones.  Raises RecipeError for a key below a plain value.

    A string within a section, before the last part of the key, is the bare name of an entry that has keys of its own
    (`registry.ChosenBy`), and becomes a mapping.
    """
    keys = key.split(".")
    for depth, name in enumerate(keys[:-1]):
        inner = data.setdefault(name, {})
        if inner is None:
            inner = data[name] = {}
        if isinstance(inner, str) and depth:
            inner = data[name] = {"name": inner}
        if not isinstance(inner, dict):
            where = ".".join(keys[: depth + 1])
            raise RecipeError(
                f"{where} must be a section for {key} to be set, and it is a plain value",
                value=key,
                fix=f"override {where} itself",
            )
        data = inner
    data[keys[-1]] = value


def _explain(error: ValidationError, model: type[BaseModel], at: str) -> UserError:
    """The first thing that is wrong, in the recipe's terms."""
    problems = error.errors()
    problem, place = problems[0], _place(problems[0]["loc"])
    loc, key = [str(part) for part in place], _dotted(at, place)
    if problem["type"] == OF_ENTRY:
        return _of_entry(problem["ctx"]["error"], problem["ctx"]["key"], key)
    if problem["type"] == "extra_forbidden":
        known = fields_at(model, loc[:-1])
        return RecipeError(
            f"{key} is not a key of the recipe, which must have known keys only",
            value=key,
            fix=f"perhaps you mean: {nearest(loc[-1], known)}",
        )
    if problem["type"] == "missing":
        return RecipeError(f"{key} must be set", value="nothing", fix=f"set it in the recipe, or give {key}=… here")
    value = json.dumps(problem["input"], ensure_ascii=False, default=str)
    # One value may be of several kinds, each of which it breaks.
    same = [other for other in problems if _place(other["loc"]) == place]
    more = len(problems) - len(same)
    command = model.__name__.removesuffix("Recipe").lower()
    # Pydantic says "Input should be …"; a validator of ours its own rule, after "Value error, ".
    _, should, rule = problem["msg"].partition(" should ")
    rule = " or ".join(dict.fromkeys([rule, *(r for p in same[1:] if (r := p["msg"].partition(" should ")[2]))]))
    rule = rule.replace("a valid tuple", "a list").replace("a valid dictionary", "a mapping")
    reason = problem["msg"].removeprefix("Value error, ")
    see = f"`pairmill {command} --schema`" if model.__name__.endswith("Recipe") else "docs/recipe.md"
    return RecipeError(
        f"{key or 'the recipe'} must {rule}" if should else f"{key or 'the recipe'} must be valid: {reason}",
        value=value,
        fix=f"see {see} for allowed values" + (f" ({more} more to fix)" if more else ""),
    )


#: How pydantic calls the kind that it tried, where a value may be of several.
_KIND = re.compile(r"[a-z]+(-[a-z]+)*\[.*\]|constrained-\w+|int|float|str|bool", re.DOTALL)


def _place(loc: Sequence[str | int]) -> list[str | int]:
    """The keys that lead to a value, without the kinds that pydantic tried."""
    place = [part for part in loc if isinstance(part, int) or "[" not in part]
    while len(place) > 1 and isinstance(place[-1], str) and _KIND.fullmatch(place[-1]):
        place.pop()
    return place


def _dotted(at: str, loc: Iterable[str | int]) -> str:
    """The key of a place in a recipe; `[0]` is the first of a list."""
    key = at
    for part in loc:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _of_entry(error: UserError, key: str, full: str) -> UserError:
    """The error of an entry, with the whole key of the recipe in place of that of the registry."""
    bare = re.sub(r"\[\d+\]", "", full)
    if f".{key}".endswith(f".{bare}"):  # a section that was checked by itself
        full = key.removesuffix(bare) + full
    parts = (re.sub(rf"(?<![\w.]){re.escape(key)}(?![\w:])", full, part) for part in (error.rule, error.fix))
    rule, fix = parts
    value = f"{full}{error.value.removeprefix(key)}" if _is_key(error.value, key) else error.value
    return type(error)(rule, value=value, fix=fix)


def _is_key(value: object, key: str) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(f"{key}.")


def fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the section of `model` that `path` leads to, names of a mapping included; none for another place."""
    inner: Any = model
    for part in path:
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            field = inner.model_fields.get(part)
            inner = field.annotation if field else None
        elif isinstance(origin := get_origin(inner), type) and issubclass(origin, Mapping):
            inner = get_args(inner)[1]
        else:
            return []
        inner = _of_values(inner)
    return list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else []


def _of_values(kind: Any) -> Any:
    """A type without what is said of it, and without that it may be null."""
    if get_origin(kind) is Annotated:
        return _of_values(get_args(kind)[0])
    options = [one for one in get_args(kind) if one is not type(None)]
    return _of_values(options[0]) if type(None) in get_args(kind) and len(options) == 1 else kind
