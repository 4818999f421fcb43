"""Checkpoints with random weights, a few thousand parameters each, saved as real ones are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

PAD, UNK, BOS, EOS, IMAGE = range(5)
_SPECIAL = ["<pad>", "<unk>", "<bos>", "</s>", "<image>"]
_WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-", *"一只狗在海滩上猫红色的花"]
#: Sizes of translators, and weights so far apart that texts differ.
_SMALL_TRANSLATOR: Mapping[str, Any] = {
    **dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    "max_position_embeddings": 64,
    "init_std": 0.5,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)
TEXT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


def tokenizer(*more: str, end: bool = False, **settings: str) -> PreTrainedTokenizerFast:
    """One token a character; `more` are further tokens, `end` puts end-of-text behind every text."""
    vocabulary = {token: at for at, token in enumerate([*_SPECIAL, *more, *_WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    made.decoder = decoders.Fuse()
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
        **settings,
    )
    fast.add_tokens(list(more), special_tokens=True)
    return fast


def save_llava(folder: Path, *, chat: bool = True) -> Path:
    """An image-text-to-text checkpoint as LLaVA's, with or without a chat template."""
    torch.manual_seed(1)
    words = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        ),
        image_token_index=IMAGE,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    model.half().save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE if chat else None,
    ).save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """An image-text-to-text checkpoint whose prompt is the beginning of its text."""
    torch.manual_seed(2)
    words = tokenizer()
    text = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": BOS,
        "sep_token_id": EOS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "initializer_range": 0.02,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), words).save_pretrained(folder)
    return folder


def save_vision_encoder_decoder(folder: Path) -> Path:
    """A ViT whose patches a GPT-2 reads: no prompt."""
    torch.manual_seed(3)
    words = tokenizer()
    encoder = ViTModel(
        ViTConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )
    decoder = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=64,
            add_cross_attention=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id = BOS
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS
    )
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_marian(folder: Path, *targets: str, **settings: str) -> Path:
    """A Marian checkpoint; `targets` are its `>>…<<` tokens, if it has several."""
    torch.manual_seed(4)
    words = tokenizer(*targets, end=True, **settings)
    config = MarianConfig(
        vocab_size=len(words),
        **_SMALL_TRANSLATOR,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config)
    model.generation_config = GenerationConfig(
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
        bad_words_ids=[[PAD]],
        num_beams=4,
        max_length=64,
    )
    model.half().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_nllb(folder: Path) -> Path:
    """An M2M100 model behind NLLB's tokenizer, with English, French and Chinese."""
    torch.manual_seed(5)
    vocabulary = {token: at for at, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *_WORDS])}
    words = NllbTokenizer(
        vocab=vocabulary, merges=[], extra_special_tokens=["eng_Latn", "fra_Latn", "zho_Hans"], src_lang="eng_Latn"
    )
    config = M2M100Config(
        vocab_size=len(words),
        **_SMALL_TRANSLATOR,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_mbart(folder: Path) -> Path:
    """A model of mBART-50's kind, with English, French and Chinese."""
    torch.manual_seed(6)
    words = tokenizer("en_XX", "fr_XX", "zh_CN", end=True)
    config = MBartConfig(
        vocab_size=len(words),
        **_SMALL_TRANSLATOR,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=EOS,
        scale_embedding=True,
    )
    MBartForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_llama(folder: Path, *, chat: bool = True) -> Path:
    """A causal language model, with or without a chat template."""
    torch.manual_seed(7)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    model.half().save_pretrained(folder)
    words.chat_template = TEXT_CHAT_TEMPLATE if chat else None
    words.save_pretrained(folder)
    return folder
