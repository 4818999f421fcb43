"""Templates of the reports: escaped, strict, compiled once, and never lost for want of a cache."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jinja2
import pytest

from pairmill.pages import page_template


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's temporary folder, empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def page(folder: Path, source: str, **values: object) -> str:
    file = folder / "page.html.j2"
    file.write_text(source)
    return page_template(file, {"twice": lambda text: text * 2}).render(**values)


def test_foreign_text_is_escaped_and_a_missing_value_is_an_error(tmp_path: Path, temporary: Path) -> None:
    assert page(tmp_path, "<p>{{ alt | twice }}</p>", alt="<b>") == "<p>&lt;b&gt;&lt;b&gt;</p>"
    with pytest.raises(jinja2.UndefinedError):
        page(tmp_path, "{{ alt }}")


def test_a_template_is_compiled_once_and_again_when_it_changes(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page(tmp_path, "one {{ n }}", n=1) == "one 1"
    with monkeypatch.context() as patched:
        patched.setattr(jinja2.Environment, "compile", lambda *_, **__: pytest.fail("compiled twice"))
        assert page(tmp_path, "one {{ n }}", n=2) == "one 2"
    assert page(tmp_path, "two {{ n }}", n=3) == "two 3"


def test_a_compiled_template_that_is_damaged_is_made_again(tmp_path: Path, temporary: Path) -> None:
    page(tmp_path, "{{ n }}", n=1)
    (kept,) = temporary.glob("*/*.cache")
    kept.write_bytes(kept.read_bytes()[:40])
    assert page(tmp_path, "{{ n }}", n=2) == "2"


@pytest.mark.parametrize("where", ["a file", "nowhere", "full"])
def test_a_page_needs_no_cache(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "a file":
        (temporary / f"_jinja2-cache-{os.getuid()}").write_text("not a folder")
    elif where == "nowhere":
        temporary.rmdir()
    else:

        def full(*_: object, **__: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert page(tmp_path, "{{ n }}", n=1) == "1"
