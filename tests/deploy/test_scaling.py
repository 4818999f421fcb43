"""docs/scaling.md holds what benchmarks/capacity.py says, and that is arithmetic one can follow."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def capacity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("capacity", ROOT / "benchmarks/capacity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["capacity"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_prints(capacity: ModuleType) -> None:
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    held = page.partition(capacity.BEGIN)[2].partition(capacity.END)[0]
    assert held == capacity.tables(), "run python benchmarks/capacity.py --write"


def test_a_run_one_can_work_out_by_hand(capacity: ModuleType) -> None:
    """Two nodes of 10 cores at 50 images/s a core: 1,000 URLs/s, a million in 1,000 s, half of them images."""
    values = {
        "rate": 50,
        "received": 100,
        "stored": 20,
        "success": 0.5,
        "node_cores": 10,
        "answer": 0.5,
        "captioner": 1e9,
        "tokens": 500,
        "flops": 100e12,
        "utilisation": 0.1,
        "training": 1000,
        "epochs": 10,
        "samples": 1e12,
        "node_price": 0.36,
        "gpu_price": 2.0,
        "storage_price": 0.02,
    }
    figures = {name: capacity.Figure(name, value, "", "") for name, value in values.items()}
    found = capacity.needs(capacity.Scale("1 M", 1e6, 2, 5, 4), figures)
    expected = {
        "urls_per_s": 1000,
        "download_h": 1000 / 3600,
        "gbit_per_node": 0.2,  # 500 URLs/s, 250 images/s of 0.8 Mbit
        "received_tb": 0.05,
        "stored_tb": 0.02,  # twice 500,000 of 20 kB
        "shards": 500,
        "hosts_at_once": 1000 / 32,  # 16 at a time, each in half a second
        "largest_host": 0.032,
        "caption_gpu_h": 5e5 / 10 / 3600,  # 10 TFLOP/s over 1 TFLOP a caption
        "caption_h": 1e4 / 3600,
        "training_gpu_h": 5e3 / 3600,  # 5 M samples
        "training_h": 1250 / 3600,
        "download_usd": 0.2,
        "caption_usd": 5e4 / 3600 * 2,
        "training_usd": 5e3 / 3600 * 2,
        "storage_usd_month": 0.4,
    }
    assert dataclasses.asdict(found) == pytest.approx(expected)


def test_training_stops_at_its_samples(capacity: ModuleType) -> None:
    figures = capacity.measured() | capacity.ASSUMED
    last = capacity.needs(capacity.SCALES[-1], figures)
    assert last.training_gpu_h == pytest.approx(34e9 / 800 / 3600)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0475, "0.0475"), (17.06, "17.1"), (245_123.0, "245,000"), (999.4, "999"), (3e6, "3 M"), (312e12, "312 T")],
)
def test_figures_have_three_digits(capacity: ModuleType, value: float, text: str) -> None:
    assert capacity._number(value) == text
