#!/usr/bin/env bash
# transformers 5.24.0: CLIPTokenizer.from_pretrained drops the normaliser that is saved in tokenizer.json.
#
# source:     transformers/models/clip/tokenization_clip.py: `__init__` builds tokenizer, normaliser and pre-tokenizer anew
#             from vocabulary and merges; only these two are taken from the file.
# behaviour:  a tokenizer.json whose normaliser also replaces curly quotes gives other ids through CLIPTokenizer, which
#             AutoTokenizer chooses by the class that `save_pretrained` wrote, than through the tokenizers library.
# seen:       in the file: a'b, through CLIPTokenizer: a’b     (2026-11-29, Linux, Python 3.11)
# pairmill:   exports open_clip's tokenizer as a PreTrainedTokenizerFast, which keeps it (training/export_tokenizer.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
seen=$("$folder/env/bin/python" - "$folder/saved" 2>/dev/null <<'PYTHON'
import sys
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, CLIPTokenizer
folder, file = sys.argv[1], sys.argv[1] + "/tokenizer.json"
vocabulary = {token: number for number, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a", "b", "'"])}
CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
saved = Tokenizer.from_file(file)
saved.normalizer = normalizers.Sequence([normalizers.Replace("’", "'"), saved.normalizer])
saved.save(file)
text = "a’b"
print(f"in the file: {Tokenizer.from_file(file).normalizer.normalize_str(text)}, ", end="")
loaded = AutoTokenizer.from_pretrained(folder)
print(f"through {type(loaded).__name__}: {loaded.backend_tokenizer.normalizer.normalize_str(text)}")
PYTHON
)
echo "$seen"
[ "$seen" = "in the file: a'b, through CLIPTokenizer: a’b" ] || { echo "changed: the saved normaliser is used"; exit 1; }
echo "as described"
