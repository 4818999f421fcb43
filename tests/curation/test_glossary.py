from __future__ import annotations

from pathlib import Path

import pytest

from curation.glossary import Glossary, read_glossary
from pairmill.errors import UserError

FILE = """\
# brands
Pairmill
C++

New York\tzh\t纽约
New York\tzh\t紐約
New York Times\tzh_CN\t纽约时报
ladybird\tde\tMarienkäfer
狗\ten\tdog
"""


@pytest.fixture
def glossary(tmp_path: Path) -> Glossary:
    (tmp_path / "terms.tsv").write_text(FILE, encoding="utf-8")
    return read_glossary(tmp_path / "terms.tsv")


@pytest.mark.parametrize(
    ("source", "text", "target", "lost"),
    [
        ("Pairmill is fast.", "Pairmill很快。", "zh", None),
        ("Pairmill is fast.", "磨坊很快。", "zh", "Pairmill"),
        ("Pairmill is fast.", "pairmill ist schnell.", "de", "Pairmill"),
        ("The Pairmills", "磨坊", "zh", None),
        ("C++ here", "这里是C++", "zh", None),
        ("C++ here", "这里是C", "zh", "C++"),
        ("A street in New York.", "纽约的街道。", "zh", None),
        ("A street in New\nYork.", "紐約的街道。", "zh", None),
        ("A street in New York.", "约克的街道。", "zh", "New York"),
        ("A street in New York.", "Eine Straße.", "de", None),
        ("The New York Times.", "纽约时报。", "zh", None),
        ("The New York Times.", "纽约。", "zh", "New York Times"),
        ("Ladybird on a leaf", "Zwei Marienkäfers", "de", None),
        ("a LADYBIRD", "marienkäfer", "de", "ladybird"),
        ("一只狗和猫", "a cat", "en", "狗"),
        ("一只狗和猫", "Dogs and a cat", "en", None),
    ],
)
def test_terms_are_kept_or_named(glossary: Glossary, source: str, text: str, target: str, lost: str | None) -> None:
    assert glossary.lost(source, text, target) == lost


@pytest.mark.parametrize("line", ["New York\tzh", "a\tb\tc\td", "New York\t\t纽约"])
def test_a_line_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "terms.tsv").write_text(f"# terms\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"terms\.tsv:2"):
        read_glossary(tmp_path / "terms.tsv")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "terms.tsv").write_bytes(content)
    with pytest.raises(UserError, match=r"translate\.glossary must"):
        read_glossary(tmp_path / "terms.tsv")


def test_its_digest_is_of_the_terms(tmp_path: Path, glossary: Glossary) -> None:
    other = tmp_path / "other.tsv"
    other.write_text(FILE.replace("# brands", ""), encoding="utf-8")
    assert read_glossary(other).digest == glossary.digest
    other.write_text(FILE.replace("Pairmill", "Pairmeal"), encoding="utf-8")
    assert read_glossary(other).digest != glossary.digest


def test_no_terms(tmp_path: Path) -> None:
    (tmp_path / "terms.tsv").write_text("", encoding="utf-8")
    assert read_glossary(tmp_path / "terms.tsv").lost("a dog", "狗", "zh") is None
