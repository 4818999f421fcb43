from typing import Literal

from pydantic import Field

from pairmill.registry import NamedConfig, Registry
from pairmill.registry_docs import render


class KiteConfig(NamedConfig):
    line_m: float = Field(30.0, gt=0, description="length of the line, m")
    tail: Literal["forked", "straight"] | None = Field(None, description="a | b")
    ribbons: tuple[str, ...] = Field((), description="colours")
    knots: tuple[int, ...] = Field(default_factory=lambda: (1, 2), description="where, m")
    maker: str = Field(pattern="^[a-z]+$", description="who\nmade it")


class Kite:
    """Flies in wind.

    Second paragraph.
    """

    Config = KiteConfig


class Stone:
    Config = NamedConfig


def drop() -> None:
    """Falls."""


PAGE = """\
## Things that fly

Key `sky.thing`: one of these names, or the import path `package.module:attribute` of your own.

### `kite`

Flies in wind.

Second paragraph.

| key | value | default | meaning |
|---|---|---|---|
| `line_m` | number > `0` | `30.0` | length of the line, m |
| `tail` | `forked`, `straight` or null | `null` | a \\| b |
| `ribbons` | list of text | `[]` | colours |
| `knots` | list of integer | `[1, 2]` | where, m |
| `maker` | text like `^[a-z]+$` | required | who made it |

### `stone`

### `drop`

Falls.
"""


def test_a_registry_reads_as_its_entries_say() -> None:
    registry: Registry[object] = Registry("sky.thing", {"kite": f"{__name__}:Kite"})
    registry.add("stone", Stone)
    registry.add("drop", drop)
    assert render(registry, "Things that fly") == PAGE


def test_an_entry_that_is_there_for_a_while_is_in_the_page_for_a_while() -> None:
    registry: Registry[object] = Registry("sky.thing")
    with registry.extended("kite", Kite):
        assert "`line_m`" in render(registry, "x")
    assert "kite" not in render(registry, "x")
