"""How the sweep's report writes values, metrics, and the possible values of a key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

_KINDS = ("grid", "choice", "uniform", "loguniform", "quniform")
_PERCENT = re.compile(r"(recall|accuracy|acc|chance)\d*(@\d+)?$")
#: What a document may not hold, escaped or not: control characters and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

#: A metric or loss of this size, or one that is not a number, says that a run diverged, and would flatten every other.
_BEYOND = 1e30


def clean(data: Any) -> Any:
    """The data without characters that HTML and XML forbid, and None for numbers that are not finite, or huge."""
    if isinstance(data, str):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", data)
    if isinstance(data, float):
        return data if abs(data) < _BEYOND else None
    if isinstance(data, Mapping):
        return {clean(key): clean(value) for key, value in data.items()}
    return [clean(item) for item in data] if isinstance(data, (list, tuple)) else data


def breakable(name: str) -> Markup:
    """A dotted key or the name of a metric, with places where a line may end."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])", name))


# Metrics


def metric_word(metric: str, trials: Iterable[Mapping[str, Any]]) -> Callable[[float], str]:
    """How the values of a metric are written: shares as percentages, seconds with their unit."""
    values = _values(metric, trials)
    if _is_share(metric, values):
        decimals = 2 if max(values, default=0) < 0.2 else 1
        return lambda value: f"{100 * value:.{decimals}f} %"
    return span if "seconds" in metric else number


def tick_word(metric: str, trials: Iterable[Mapping[str, Any]]) -> Callable[[float], str]:
    """How round values of a metric are written beside an axis."""
    return (lambda value: f"{100 * value:.4g} %") if _is_share(metric, _values(metric, trials)) else number


def _values(metric: str, trials: Iterable[Mapping[str, Any]]) -> list[float]:
    sources = [source for trial in trials for source in (trial["metrics"], *trial["curve"])]
    return [value for source in sources if (value := source.get(metric)) is not None]


def _is_share(metric: str, values: Sequence[float]) -> bool:
    return _PERCENT.search(metric) is not None and all(0 <= value <= 1 for value in values)


# Keys of the space


def given(parameter: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
    """The kind of a key of the space, and its values or limits."""
    return next((kind, parameter[kind]) for kind in _KINDS if parameter.get(kind) is not None)


def may_be(parameter: Mapping[str, Any]) -> str:
    """What a key may be."""
    kind, values = given(parameter)
    if kind in ("grid", "choice"):
        return ", ".join(map(setting, values))
    words = f"{number(values[0])} – {number(values[1])}"
    return {"loguniform": f"{words}, log", "quniform": f"{words}, by {number(values[-1])}"}.get(kind, words)


def setting(value: Any) -> str:
    """A value of a recipe."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def is_number(value: Any) -> bool:
    """Whether a value of a recipe is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Numbers


def number(value: float) -> str:
    """Four digits, or all of a whole number."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.4g}"


def count(n: float | None) -> str:
    """A whole number."""
    return "–" if n is None else f"{n:,.0f}"


def share(part: float, whole: float | None) -> str:
    """A part as a percentage."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def span(seconds: float | None) -> str:
    """A time, in the unit that suits it."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
