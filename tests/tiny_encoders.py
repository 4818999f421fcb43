"""Small dual encoders with drawn weights, made on the spot: open_clip's form and that of transformers."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from tiny_text import write_wordpiece

ROOT = Path(__file__).parents[1]
VIT = ROOT / "tests" / "pairmill" / "towers" / "configs" / "vit.json"


def jpegs(count: int, side: int = 96) -> list[bytes]:
    """Pictures of emoji on white, as a run stores them."""
    found = []
    for path in sorted((ROOT / "samples" / "emoji" / "images").glob("*.webp"))[:count]:
        with Image.open(path) as image:
            picture = Image.new("RGB", (side, side + 10), "white")
            small = image.convert("RGBA").resize((side - 8, side - 8))
            picture.paste(small, (4, 9), small)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        found.append(buffer.getvalue())
    return found


def write_open_clip_weights(file: Path, seed: int = 0, architecture: Path = VIT) -> Path:
    """Weights of `architecture`, drawn with a seed."""
    import torch

    from pairmill.towers.build import build_model
    from pairmill.towers.config import ModelConfig

    torch.manual_seed(seed)
    model = build_model(ModelConfig(architecture=str(architecture)), temperature_init=None, bias_init=None)
    torch.save(model.state_dict(), file)
    return file


def write_clip(folder: Path, size: int = 32) -> Path:
    """A CLIP of transformers with its tokenizer and its image processor."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

    write_wordpiece(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": 3, "bos_token_id": 2}
    vision = {**tower, "image_size": size, "patch_size": 8}
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)).save_pretrained(folder)
    edges = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    CLIPImageProcessor(**edges).save_pretrained(folder)
    return folder


def write_siglip(folder: Path, size: int = 32) -> Path:
    """A SigLIP of transformers with its tokenizer and its image processor."""
    import torch
    from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    write_wordpiece(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    torch.manual_seed(2)
    vision = {**tower, "image_size": size, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder
