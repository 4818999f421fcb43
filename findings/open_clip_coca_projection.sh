#!/usr/bin/env bash
# open_clip_torch 3.3.0: a CoCa model from scratch has a vocabulary projection that nobody draws.
#
# source:     open_clip/transformer.py: MultimodalTransformer makes `text_projection` by torch.empty; `init_parameters`
#             would draw it, but neither its constructor nor CoCa's calls that.
# behaviour:  what projects the decoder's states on the vocabulary holds whatever was in memory: other values in each
#             process under one seed, at times NaN.  torch fills what is not initialised with NaN if it is asked to.
# seen:       never drawn: text_decoder.text_projection     (2026-11-30, Linux, Python 3.11)
# pairmill:   draws it as `init_parameters` would (pairmill/towers/build.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet open_clip_torch==3.3.0 torch==2.14.1 torchvision
seen=$("$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from open_clip import CoCa
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
text = {"context_length": 9, "vocab_size": 100, "width": 64, "heads": 2, "layers": 1, "embed_cls": True, "output_tokens": True}
image = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64, "head_width": 32, "attentional_pool": True,
         "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True}
decoder = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 2, "layers": 1}
model = CoCa(embed_dim=64, multimodal_cfg=decoder, text_cfg=text, vision_cfg=image)
odd = [name for name, parameter in model.named_parameters() if parameter.isnan().any()]
print("never drawn:", ", ".join(odd) or "none")
PYTHON
)
echo "$seen"
[ "$seen" = "never drawn: text_decoder.text_projection" ] || { echo "changed: every parameter is drawn"; exit 1; }
echo "as described"
