"""docs/objectives.md, made from the registry:

python -m training.objectives.reference > docs/objectives.md
"""

from __future__ import annotations

import sys

from pairmill.registry_docs import render
from training.objectives.config import OBJECTIVES
from training.objectives.declaration import NEEDS, Objective

_TOP = """\
<!-- Made by `python -m training.objectives.reference > docs/objectives.md`; a test compares it with the code. -->

# Objectives

What a training run learns from a batch.  A recipe names one, alone or with keys of its own:

```yaml
loss:
  objective: one_to_k                          # or {name: siglip, bias_init: -10}, or mypackage.module:Mine
  mode: gather                                 # whose texts are the negatives
```

A sweep names it the same way, with its keys below it:

```yaml
space:
  loss.objective: {grid: [clip, siglip]}
  loss.objective.bias_init: {choice: [-10, -5], when: {loss.objective: siglip}}
```

An objective of your own is one class: `training/objectives/declaration.py` says what it may declare, and
`tests/training/remembering.py` is one with a queue, a teacher, and parameters of its own.  Installed where the
job runs, it is named by its import path.  To add one here:

1. Write a subclass of `Objective` and its config in a file of its own in `training/objectives/`.  The file must not
   import torch when it is imported: a recipe is checked without it.  An objective that contrasts images with texts
   derives from `Contrastive` and returns its contrasts; it knows nothing of ranks.
2. Add a line to `OBJECTIVES` in `training/objectives/config.py`, and make this page again.
3. For a contrastive objective, write the equation again, naively, in `tests/training/losses/naive.py`; its tests
   compare the two over ranks, modes and tiles.  For one with state, teacher or parameters, test its gradients over
   ranks, micro-batches and ZeRO stages, and kill and resume its run, as `tests/training/test_own_objective*.py` do.
"""

_KEPT = """\
State is in every checkpoint (`objective.pt`).  *Replicated* state is the same on all workers, and a run resumes with
any number of them; *per worker*, with the number that it was saved with.
"""


def objectives_page() -> str:
    """The page, in Markdown.  Imports every objective's declaration."""
    needs = ["| need | what it is | delivered by the training loop |", "|---|---|---|"]
    for name, need in NEEDS.items():
        needs.append(f"| `{name}` | {need.what} | {'yes' if need.delivered else 'not yet'} |")
    asked = "## What an objective can ask for\n\nBeyond the embeddings, masks, kinds, languages and ids of its rows:\n"
    return "\n".join([_TOP, asked, *needs, "", _KEPT, render(OBJECTIVES, "The objectives", _facts)])


def _facts(objective: type[Objective]) -> str:
    needs = ", ".join(f"`{need}`" for need in objective.needs) or "nothing"
    facts = f"Needs {needs}.  Temperature at the start: {objective.temperature_init:g}."
    if not objective.keeps:
        return f"{facts}  Keeps no state."
    rows = [f"| `{kept.name}` | {kept.where.replace('_', ' ')} | {kept.what} |" for kept in objective.keeps]
    return "\n".join([f"{facts}  Keeps:", "", "| state | where | what it is |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(objectives_page())
