from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tiny checkpoints, one of each family."""
    import tiny_models  # needs transformers, which most tests do not

    root = tmp_path_factory.mktemp("models")
    tiny_models.save_llava(root / "llava")
    tiny_models.save_llava(root / "llava-plain", chat=False)
    tiny_models.save_blip(root / "blip")
    tiny_models.save_vision_encoder_decoder(root / "vit-gpt2")
    tiny_models.save_marian(root / "marian", source_lang="eng", target_lang="zho")
    tiny_models.save_marian(root / "opus-mt-en-mul", ">>cmn_Hans<<", ">>cmn<<", ">>fra<<")
    tiny_models.save_marian(root / "unnamed")
    tiny_models.save_nllb(root / "nllb")
    tiny_models.save_mbart(root / "mbart")
    return root
