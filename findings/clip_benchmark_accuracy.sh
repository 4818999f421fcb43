#!/usr/bin/env bash
# CLIP_benchmark 1.6.2 with NumPy 2.4: its zero-shot accuracy raises TypeError for every model and dataset.
#
# source:     clip_benchmark/metrics/zeroshot_classification.py, `accuracy`: float() of an array of one dimension and one
#             number (a sum with keepdim=True), which NumPy allowed with a warning since 1.25 and refuses since 2.4.
# behaviour:  `accuracy(logits, target)` raises, so `evaluate` of zero-shot classification ends after all images are
#             embedded; the package asks for no upper bound of NumPy.  With NumPy 2.3 it answers.
# seen:       numpy 2.3.5: [0.5]; numpy 2.4.6: TypeError     (2026-11-29, Linux, Python 3.11, torch 2.13.0)
# pairmill:   compares its own figures with CLIP_benchmark's functions in a test, with this one line replaced.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 scikit-learn==1.9.0 tqdm==4.67.1
"$folder/env/bin/pip" install --quiet --no-deps clip-benchmark==1.6.2
seen=""
for numpy in 2.3.5 2.4.6; do
  "$folder/env/bin/pip" install --quiet "numpy==$numpy"
  answer=$("$folder/env/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import torch
from clip_benchmark.metrics.zeroshot_classification import accuracy
logits, target = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
try:
    print(accuracy(logits, target, topk=(1,)))
except TypeError as error:
    print(type(error).__name__)
PYTHON
)
  seen="$seen${seen:+; }numpy $numpy: $answer"
done
echo "$seen"
[ "$seen" = "numpy 2.3.5: [0.5]; numpy 2.4.6: TypeError" ] || { echo "changed"; exit 1; }
echo "as described"
