import os
import subprocess
import sys
from pathlib import Path

import pytest

from pairmill import faults
from pairmill.faults import InjectedFault, fault_point


def arm(monkeypatch: pytest.MonkeyPatch, folder: Path, spec: str) -> None:
    monkeypatch.setattr(faults, "_armed", faults._parse(spec, str(folder)))


def test_unarmed_points_do_nothing() -> None:
    fault_point("anything")


def test_a_fault_happens_at_its_pass_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, tmp_path, "here:raise@3")
    fault_point("here")
    fault_point("elsewhere")
    fault_point("here")
    with pytest.raises(InjectedFault):
        fault_point("here")
    fault_point("here")


def test_a_point_may_be_armed_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, tmp_path, "here:raise@1;here:raise@3")
    with pytest.raises(InjectedFault):
        fault_point("here")
    fault_point("here")
    with pytest.raises(InjectedFault):
        fault_point("here")


def test_passes_are_counted_over_processes(tmp_path: Path) -> None:
    env = os.environ | {"PAIRMILL_FAULTS": "p:kill@3", "PAIRMILL_FAULTS_DIR": str(tmp_path)}
    code = "from pairmill.faults import fault_point; fault_point('p')"
    codes = [subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode for _ in range(4)]
    assert codes == [0, 0, -9, 0]


@pytest.mark.parametrize("spec", ["here", "here:explode@1", "here:kill", "here:kill@x"])
def test_a_wrong_spec_is_refused(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ValueError, match="point:action@n"):
        faults._parse(spec, str(tmp_path))


def test_workers_are_armed_as_their_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PAIRMILL_FAULTS", raising=False)
    monkeypatch.delenv("PAIRMILL_FAULTS_DIR", raising=False)
    assert faults.environment() == {}
    monkeypatch.setenv("PAIRMILL_FAULTS", "a:kill@1")
    monkeypatch.setenv("PAIRMILL_FAULTS_DIR", str(tmp_path))
    assert faults.environment() == {
        "PAIRMILL_FAULTS": "a:kill@1",
        "PAIRMILL_FAULTS_DIR": str(tmp_path),
        "PAIRMILL_DRIVER_PID": str(os.getpid()),
    }
