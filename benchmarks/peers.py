"""An interpreter of its own for libraries that a benchmark compares with, so that their pins are none of ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from record import WORK


def interpreter(name: str, packages: Sequence[str], *, dependencies: bool = True) -> Path:
    """The Python of a virtual environment with these packages, made on first use."""
    python = WORK / "peers" / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    options = [] if dependencies else ["--no-deps"]
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
    subprocess.run([*install, *packages], check=True)
    return python
