"""docs/registries.md: everything that a recipe chooses by name, with its keys.

python -m pipelines.registry_page           writes the page
"""

from __future__ import annotations

from pairmill.registry import load_object
from pairmill.registry_docs import render
from pipelines.doctor import project_root

PAGE = project_root() / "docs" / "registries.md"

#: Title and import path of each registry, in the order of the page.  Stages have a page of their own.
REGISTRIES = (
    ("Kinds of duplicates", "curation.duplicates.kinds:KINDS"),
    ("Kinds of matches with an evaluation set", "curation.decontamination.match_kinds:KINDS"),
    ("Caption engines", "curation.engines:CAPTION_ENGINES"),
    ("Translation engines", "curation.engines:TRANSLATE_ENGINES"),
    ("Gates of texts that models write", "curation.gates.gate:GATES"),
    ("Image heads", "curation.heads:HEADS"),
    ("Image heads of the filter", "curation.heads:NSFW_HEADS"),
    ("Text transforms", "training.data.text_transforms:TEXT_TRANSFORMS"),
    ("Kinds of evaluation dataset", "training.evaluate.dataset_kinds:KINDS"),
    ("Evaluation metrics", "training.evaluate.metrics:METRICS"),
)

_HEAD = """\
# What a recipe chooses by name

Written by `python -m pipelines.registry_page`; do not edit.

An entry is chosen by its name, or by a mapping of `name` and its own keys:

```yaml
recaption:
  engine: vllm                                              # every key at its default
  engine: {name: vllm, arguments: {max_model_len: 4096}}    # with keys
  engine: {name: "mypackage.engines:Mine", beams: 4}        # your own, importable wherever the job runs
```

A new entry is one class in one file, and one line in the registry that its module names.  In a script,
`REGISTRY.add(name, entry)` before the job starts does the same.
"""


def page() -> str:
    """The page.  Imports every entry."""
    sections = [render(load_object(path, key="REGISTRIES"), title) for title, path in REGISTRIES]
    return "\n".join([_HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
