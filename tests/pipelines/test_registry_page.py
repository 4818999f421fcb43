import re

from pipelines.doctor import OUR_PACKAGES, project_root
from pipelines.registry_page import PAGE, REGISTRIES, page

#: Registries with a page of their own, or without entries of ours.
ELSEWHERE = {
    "curation.stages:STAGES",
    "curation.stages:CHOSEN_STAGES",
    "curation.stages:SECTIONS",
    "training.objectives.config:OBJECTIVES",
}


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m pipelines.registry_page"


def test_every_registry_is_in_the_page() -> None:
    root = project_root()
    found = {
        f"{'.'.join(path.relative_to(root).with_suffix('').parts).removesuffix('.__init__')}:{name}"
        for package in OUR_PACKAGES
        for path in (root / package).rglob("*.py")
        for name in re.findall(r"^(\w+)(?:: [^=\n]*)? = Registry\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found >= ELSEWHERE, "a registry that no longer exists"
    assert found - ELSEWHERE == {path for _, path in REGISTRIES}, "add a line to pipelines/registry_page.py"


def test_entries_say_what_they_are_and_keys_say_what_they_mean() -> None:
    text = page()
    # A heading that is followed by another one has no docstring; a key without a description has an empty last cell.
    assert not re.findall(r"### `\w+`\n\n##+ ", text)
    assert not re.findall(r"^\| `\w+` \|.*\|  \|$", text, re.MULTILINE)
