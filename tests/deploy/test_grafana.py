"""The dashboard asks for what the code exports, and Prometheus looks where Ray writes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from curation.telemetry import METRICS
from pairmill.meters import exported
from training.telemetry import METRICS as TRAINING

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALL = {**METRICS, **TRAINING}
SERIES = exported(ALL)

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return found


def expressions() -> list[str]:
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    variables = [v["definition"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    return targets + [re.fullmatch(r"label_values\((\w+), run\)", v)[1] for v in variables]  # type: ignore[index]


def series_in(expression: str) -> set[str]:
    """The series that a PromQL expression reads: names that are no label, function or word of the language."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', " ", _GROUPING.sub(" ", re.sub(r'"[^"]*"', "", expression)))
    words = re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    return set(words) - {"and", "or", "unless", "bool", "offset", "by", "sum", "max"}


def labels_in(expression: str) -> Iterator[tuple[str, str]]:
    """Series and label, for every label that an expression selects or groups by."""
    for series, selector in _SELECTOR.findall(expression):
        yield from ((series, label) for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    for grouping in _GROUPING.findall(expression):
        yield from ((series, label.strip()) for series in series_in(expression) for label in grouping.split(","))


def test_the_names_of_an_expression_are_found() -> None:
    found = series_in(
        'histogram_quantile(0.5, sum by (le, a) (rate(b_bucket{c="d e"}[2m]))) / on (f) max(g) > 1e3 or h'
    )
    assert found == {"b_bucket", "g", "h"}


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_names_what_the_code_exports(expression: str) -> None:
    assert series_in(expression)
    assert series_in(expression) <= SERIES.keys()


@pytest.mark.parametrize("expression", expressions())
def test_every_label_is_a_tag_of_its_metric(expression: str) -> None:
    for series, label in labels_in(expression):
        assert label in {"run", *ALL[SERIES[series]].tags} | ({"le"} if series.endswith("_bucket") else set())


@pytest.mark.parametrize("expression", expressions())
def test_rates_are_of_counters_and_quantiles_of_histograms(expression: str) -> None:
    kinds = {ALL[SERIES[series]].kind for series in series_in(expression)}
    assert not (" offset " in expression and "gauge" in kinds)
    assert ("histogram_quantile" in expression) == ("_bucket" in expression)


def test_every_metric_of_curation_is_shown() -> None:
    assert {SERIES[name] for expression in expressions() for name in series_in(expression)} >= METRICS.keys()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24, "Grafana's grid is 24 wide"


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    [scrape] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape["file_sd_configs"][0]["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
