"""docs/objectives.md, made from the registry:

python -m training.objectives.reference > docs/objectives.md
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from pairmill.registry_docs import render
from training.objectives.by_name import BASIC, QUEUES, STAND_INS, TEACHER, WHEN
from training.objectives.config import OBJECTIVES
from training.objectives.declaration import COLUMNS, NEEDS, Objective
from training.objectives.tensor_shapes import shape_of

#: What `benchmarks/losses.py` measured: name -> time and memory of a training step, as multiples of those of clip.
COSTS = Path(__file__).with_name("costs.json")

_TOP = """\
<!-- Made by `python -m training.objectives.reference > docs/objectives.md`; a test compares it with the code. -->

# Objectives

What a training run learns from a batch.  A recipe names one, alone or with keys of its own:

```yaml
loss:
  objective: one_to_k                          # or {name: siglip, bias_init: -10}, or mypackage.module:Mine
  mode: gather                                 # whose texts are the negatives
```

Other objectives can be added to it, each with a weight of its own:

```yaml
loss:
  objective: clip
  terms:
    per_slot: {weight: 0.5, start: 0.1, ramp: 0.2}        # counts from a tenth of the run on, whole after two more
    far: {objective: {name: siglip, bias_init: -10}}      # under a label of its own
    local: {objective: label_smoothing, projector: {hidden: 4096}}        # on projections of its own
```

A term may see some of the text slots only.  Where gradients of the objective and its terms conflict at the embedding
of an image, `harmonise` projects them (Wu et al. 2022), and the log's `conflict_rate` says how many rows that are; with
several datasets, `conflict_rate/0` is of the first of `data.datasets`, and so on.  A high rate says that the texts of a
dataset disagree about its images:

```yaml
data:
  texts: [[{kind: short}], [{kind: long}]]
loss:
  objective: clip                                         # of slot 0
  terms:
    long: {objective: clip, slots: [1]}
  harmonise: {drop_below: [-0.3, 0]}                      # drops rows that conflict more and more, too
```

A text slot of masked captions is one more text of an image (SNP-S3's masking, without its predictions):

```yaml
data:
  texts: [[{kind: alt}], [{kind: alt, transforms: [{name: mask_words, words: words.tsv}]}]]
loss:
  objective: one_to_k
```

`pairmill count-words RECIPE --to words.tsv` makes that list of words.

A term with a `projector` sees the embeddings through perceptrons that only it has, in place of the model's own
projections, with a temperature of its own (CL2L, Fini et al. 2023).  They learn with the model, are in its checkpoints,
and are left behind when it is evaluated or exported.

A sweep names them the same way, with their keys below them:

```yaml
space:
  loss.objective: {grid: [clip, siglip]}
  loss.objective.bias_init: {choice: [-10, -5], when: {loss.objective: siglip}}
```

`pairmill losses` lists all of them.

An objective of your own is one class: `training/objectives/declaration.py` says what it may declare, and
`tests/training/remembering.py` is one with a queue, a teacher, and parameters of its own.  Installed where the
job runs, it is named by its import path.  To add one here:

1. Write a subclass of `Objective` and its config in a file of its own in `training/objectives/`.  The file must not
   import torch when it is imported: a recipe is checked without it.  An objective that contrasts images with texts
   derives from `Contrastive` and returns its contrasts; it knows nothing of ranks.
2. Add a line to `OBJECTIVES` in `training/objectives/config.py`, and make this page again.
3. Write the equation again, naively and in float64, as an entry of `tests/training/objectives/every_entry.py`: the
   tests of all objectives compare the two in value and gradients, over tiles, ranks and modes, and fail for an
   objective without an entry.  For one with state, teacher or parameters, test what is its own about them, as
   `tests/training/test_own_objective*.py` do.
"""

_BY_NAME = """\
## On plain tensors

`training.objectives.loss_by_name` computes any of them for tools outside a training run, in one process:

```python
from training.objectives import loss_by_name

output = loss_by_name("one_to_k", {"image": image, "text": text, "logit_scale": scale}, {"text_to_image_weight": 0.5})
output.total.backward()  # scalar; output.parts adds up to it
```

It is differentiable in every floating tensor, and float64 tensors give a float64 loss.  `form="released"` gives what an
objective's official code computes, for objectives below that have this form; it is the paper's for others, and a
deviation from released code that an objective describes without naming the form is in both.

A letter is the same size in all tensors: B rows, K text slots, D embedding, V views, N negatives of a row, P patches
and L tokens of width T, M corner tokens.  A teacher is as wide as the model, E = D and U = T, unless it is a frozen
one, and may have other views, W.  A mask may be zeros and ones of any type.  What does not fit is refused.
"""

_KEPT = """\
State is in every checkpoint (`objective.pt`).  *Replicated* state is the same on all workers, and a run resumes with
any number of them; *per worker*, with the number that it was saved with.
"""


def objectives_page() -> str:
    """The page, in Markdown.  Imports every objective's declaration."""
    needs = ["| need | what it is |", "|---|---|"]
    for name, need in NEEDS.items():
        needs.append(f"| `{name}` | {need.what} |")
    asked = "## What an objective can ask for\n\nBeyond the embeddings, masks, kinds, languages and ids of its rows:\n"
    return "\n".join([_TOP, asked, *needs, "", _KEPT, _by_name(), render(OBJECTIVES, "The objectives", _facts)])


def losses() -> list[dict[str, Any]]:
    """Every objective as plain data: name, paper, what it is, equation, needs, modes, forms, keys, measured cost."""
    costs = _costs()
    found = []
    for name in OBJECTIVES.names:
        objective = OBJECTIVES.get(name)
        text = inspect.getdoc(objective) or ""
        found.append(
            {
                "name": name,
                "paper": objective.paper,
                "what": " ".join(text.split("\n\n")[0].split()),
                "equation": "\n".join(line.strip() for line in text.splitlines() if line.startswith("    ")),
                "needs": list(objective.needs),
                "modes": list(objective.modes),
                "forms": list(objective.forms),
                "keys": [key for key in objective.Config.model_fields if key != "name"],
                "cost": costs.get(name),
            }
        )
    return found


def _costs() -> dict[str, dict[str, float]]:
    """By name, multiples of clip's time and memory; nothing where nothing was measured."""
    return json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {}


def _by_name() -> str:
    of_needs = {tensor: f"of the need `{name}`" for name, need in NEEDS.items() for tensor in need.tensors}
    tensors = {
        **BASIC,
        **{name: _of_teacher(name) for name in TEACHER},
        **dict.fromkeys(QUEUES, "of any Q: embeddings of earlier steps, for objectives that keep them"),
        **of_needs,
        **COLUMNS,
        **dict.fromkeys(WHEN, "where the run stands; left out: at the last step of one epoch"),
    }
    lines = [f"| `{name}` | {shape_of(name)} | {what} |" for name, what in tensors.items()]
    own = "State and the parameters of an objective's own are tensors too, by the names that it gives them.\n"
    return "\n".join([_BY_NAME, "| tensor | shape | what it is |", "|---|---|---|", *lines, "", own])


def _of_teacher(name: str) -> str:
    instead = f"; left out: `{STAND_INS[name]}`" if name in STAND_INS else ""
    return f"of the same rows by a teacher, as that without `teacher_`{instead}"


def _facts(objective: type[Objective]) -> str:
    names = {OBJECTIVES.get(name): name for name in OBJECTIVES.names}
    needs = ", ".join(f"`{need}`" for need in objective.needs) or "nothing"
    facts = [f"Paper: {objective.paper}."] if objective.paper else []
    facts += [f"Needs {needs}.", f"Temperature at the start: {objective.temperature_init:g}."]
    facts.append(f"Exact in `loss.mode` {', '.join(objective.modes)}.")
    if cost := _costs().get(names[objective]):
        facts.append(f"A step takes {cost['time']:.2f} of clip's time and {cost['memory']:.2f} of its memory.")
    if "released" in objective.forms:
        facts.append('`form="released"` is what the official code computes.')
    if not objective.keeps:
        return "  ".join([*facts, "Keeps no state."])
    rows = [f"| `{kept.name}` | {kept.where.replace('_', ' ')} | {kept.what} |" for kept in objective.keeps]
    return "\n".join(["  ".join([*facts, "Keeps:"]), "", "| state | where | what it is |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(objectives_page())
