"""Small real tokenizers and text towers, made on the spot: WordPiece, SentencePiece, BERT."""

import json
from pathlib import Path

LABELS = Path("samples/emoji/labels.jsonl")
TEXTS = ["", "a dog", "A red  apple, on the table!", "一只狗在海滩上", "dog &amp; 猫 " * 40]


def labels() -> list[str]:
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    return [text for row in rows for text in (row["en"], row["zh"])]


def write_wordpiece(folder: Path) -> Path:
    """A character-level WordPiece tokenizer of the labels, in the form that AutoTokenizer loads."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = sorted({c for text in labels() for c in text.lower() if not c.isspace()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(folder)
    return folder


def write_bert(folder: Path) -> Path:
    """A tiny BERT: configuration, weights and its tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    write_wordpiece(folder)
    BertModel(
        BertConfig(
            vocab_size=len(AutoTokenizer.from_pretrained(folder)),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
        )
    ).save_pretrained(folder)
    return folder


def write_sentencepiece(folder: Path, model_type: str = "unigram") -> Path:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(labels()),
        model_prefix=str(folder / model_type),
        model_type=model_type,
        vocab_size=1200,
        character_coverage=0.98,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    return folder / f"{model_type}.model"
