"""Tests that hold ours against img2dataset, which exists only for some versions of Python."""

from __future__ import annotations

import sys

import pytest

needs_img2dataset = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="img2dataset imports imghdr, which Python 3.13 removed"
)
