import functools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer
from tiny_text import TEXTS, labels, write_bert, write_sentencepiece, write_wordpiece

from pairmill.errors import RecipeError
from pairmill.towers.config import ModelConfig
from pairmill.towers.tokenizer import (
    Tokenizer,
    open_tokenizer,
    tokenizer_description,
    tokenizer_from_description,
)
from pairmill.towers.tokens import OpenClipTokens
from training.data.augment import TrainTransform
from training.data.bundle import Reader

CONFIGS = Path(__file__).parent / "configs"
VIT = CONFIGS / "vit.json"
TRANSLATOR = "samples/models/translator"


def unpadded(padded: Any, pad_id: int) -> list[list[int]]:
    rows = []
    for row in padded.tolist():
        while row and row[-1] == pad_id:
            row.pop()
        rows.append(row)
    return rows


def as_lists(ids: list[Any]) -> list[list[int]]:
    assert all(row.dtype == np.int32 for row in ids)
    return [row.tolist() for row in ids]


def architecture(folder: Path, **text_cfg: Any) -> str:
    data = json.loads(VIT.read_text())
    data["text_cfg"].update(text_cfg)
    (folder / "own.json").write_text(json.dumps(data))
    return str(folder / "own.json")


@functools.cache
def simple() -> Tokenizer:
    return open_tokenizer(ModelConfig(architecture=str(VIT)))


@functools.cache
def open_clips() -> Any:
    return open_clip.get_tokenizer("RN50", context_length=32)


@settings(max_examples=40)
@given(st.lists(st.text(max_size=60) | st.sampled_from(TEXTS), max_size=4))
def test_open_clips_own_tokenizer_without_its_padding(texts: list[str]) -> None:
    ids = simple()(texts)
    assert as_lists(ids) == (unpadded(open_clips()(texts), 0) if texts else [])
    assert all(row[0] == 49406 and row[-1] == 49407 and len(row) <= 32 for row in ids)


def test_what_the_tokenizer_says_of_itself() -> None:
    assert (simple().pad_id, simple().end_id, simple().vocabulary_size, simple().context_length) == (
        0,
        49407,
        49408,
        32,
    )
    assert len(open_tokenizer(ModelConfig(architecture=str(VIT), context_length=5))(["a b c d e f g h"])[0]) == 5


def test_a_hugging_face_tokenizer_of_a_tower_of_its_own(tmp_path: Path) -> None:
    folder = str(write_bert(tmp_path))
    tokenizer = open_tokenizer(ModelConfig(architecture=str(VIT), text_model=folder))
    theirs = HFTokenizer(folder, context_length=32)
    assert as_lists(tokenizer(TEXTS)) == unpadded(theirs(TEXTS), 0)
    assert as_lists(tokenizer([""])) == [[2, 3]]
    assert len(tokenizer(TEXTS)[-1]) == 32 and tokenizer(TEXTS)[-1][-1] == tokenizer.end_id == 3


def test_a_hugging_face_tokenizer_with_open_clips_tower(tmp_path: Path) -> None:
    config = ModelConfig(architecture=architecture(tmp_path, pool_type="eos", eos_id=1), tokenizer=TRANSLATOR)
    tokenizer = open_tokenizer(config)
    theirs = HFTokenizer(TRANSLATOR, context_length=32)
    assert as_lists(tokenizer(TEXTS)) == unpadded(theirs(TEXTS), tokenizer.pad_id)
    assert tokenizer.pad_id == theirs.tokenizer.pad_token_id


def test_separators_are_stripped_and_texts_cleaned_as_open_clip_does(tmp_path: Path) -> None:
    folder = str(write_wordpiece(tmp_path / "words"))
    settings = {"clean": "canonicalize", "strip_sep_token": True}
    text_cfg = {"hf_tokenizer_name": folder, "tokenizer_kwargs": settings, "pool_type": "last"}
    tokenizer = open_tokenizer(ModelConfig(architecture=architecture(tmp_path, **text_cfg)))
    padded = HFTokenizer(folder, context_length=32, **settings)(TEXTS)
    for ids, row in zip(tokenizer(TEXTS), padded.numpy(), strict=True):
        assert (row[: len(ids)] == ids).all() and not row[len(ids) :].any()


def test_a_sentencepiece_file_gives_its_own_pieces(tmp_path: Path) -> None:
    import sentencepiece

    path = write_sentencepiece(tmp_path)
    config = ModelConfig(architecture=architecture(tmp_path, pool_type="eos", eos_id=1), tokenizer=str(path))
    tokenizer = open_tokenizer(config)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [text for text in TEXTS + labels()[:400] if text]
    clean = open_clip.tokenizer.get_clean_fn("canonicalize")
    expected = [[*pieces.encode(clean(text))[:31], 1] for text in texts]
    assert as_lists(tokenizer(texts)) == expected
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.vocabulary_size) == (0, 1, 1200)

    tokenizer.save(tmp_path / "saved")
    saved = HFTokenizer(str(tmp_path / "saved"), context_length=32, clean="canonicalize")
    assert unpadded(saved(texts), 0) == expected


def test_a_sentencepiece_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "not.model").write_bytes(b"\xff\xffnothing")
    for path in (write_sentencepiece(tmp_path, "bpe"), tmp_path / "not.model", tmp_path / "missing.model"):
        with pytest.raises(RecipeError):
            open_tokenizer(ModelConfig(architecture=str(VIT), tokenizer=str(path)))


def test_tokenizers_survive_pickling_and_the_loss_of_their_files(tmp_path: Path) -> None:
    path = write_wordpiece(tmp_path / "words")
    config = ModelConfig(
        architecture=architecture(tmp_path, pool_type="eos", eos_id=3, vocab_size=5000), tokenizer=str(path)
    )
    for tokenizer in (open_tokenizer(config), simple()):
        expected, data = as_lists(tokenizer(TEXTS)), pickle.dumps(tokenizer)
        for file in path.glob("*"):
            file.unlink()
        again = pickle.loads(data)
        assert as_lists(again(TEXTS)) == expected
        assert pickle.loads(pickle.dumps(again)).pad_id == tokenizer.pad_id
    assert len(pickle.dumps(simple())) < 1000


def test_a_saved_tokenizer_is_preferred_to_its_source(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(
        ModelConfig(architecture=architecture(tmp_path, pool_type="eos", eos_id=1), tokenizer=TRANSLATOR)
    )
    expected = as_lists(tokenizer(TEXTS))
    tokenizer.save(tmp_path / "saved")
    gone = {**tokenizer.description, "source": "no/longer/there"}
    assert as_lists(tokenizer_from_description(gone, tmp_path / "saved")(TEXTS)) == expected
    with pytest.raises(RecipeError):
        tokenizer_from_description(gone)
    assert as_lists(tokenizer_from_description(tokenizer_description({}))(["a"])) == [[49406, 320, 49407]]


@pytest.mark.parametrize(
    ("text_cfg", "says"),
    [
        ({"vocab_size": 100, "pool_type": "eos", "eos_id": 3}, "no more ids"),
        ({"pool_type": "argmax"}, "pool_type"),
        ({"pool_type": "eos", "eos_id": 2}, "eos_id"),
    ],
)
def test_a_tokenizer_that_the_tower_cannot_read_is_refused(tmp_path: Path, text_cfg: dict[str, Any], says: str) -> None:
    path = write_wordpiece(tmp_path / "words")
    with pytest.raises(RecipeError, match=says):
        open_tokenizer(ModelConfig(architecture=architecture(tmp_path, **text_cfg), tokenizer=str(path)))


def test_a_hugging_face_tower_is_given_what_it_can_read(tmp_path: Path) -> None:
    bert = str(write_bert(tmp_path / "bert"))
    with pytest.raises(RecipeError, match="must fit the text tower"):
        open_tokenizer(ModelConfig(architecture=str(VIT), text_model=bert, context_length=41))
    with pytest.raises(RecipeError):  # other ids, another padding
        open_tokenizer(ModelConfig(architecture=str(VIT), text_model=bert, tokenizer=TRANSLATOR))
    with pytest.raises(RecipeError, match="must be one that can be loaded"):
        open_tokenizer(ModelConfig(architecture=str(VIT), tokenizer=str(tmp_path)))


MARKS = st.sampled_from(
    ["<start_of_text>", "<END_OF_TEXT>", "!<end_of_text>", "'ſ don't", "&amp;amp;", "a_b", "ﬁne １２"]
)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.sampled_from(["lower", "whitespace", "canonicalize"]), st.lists(st.text(max_size=9) | MARKS, max_size=6))
def test_every_way_of_cleaning_cuts_the_same_words(clean: str, parts: list[str]) -> None:
    texts = [" ".join(parts), "".join(parts)]
    theirs = open_clip.SimpleTokenizer(context_length=16, clean=clean)
    ours = pickle.loads(pickle.dumps(OpenClipTokens(16, clean)))
    assert as_lists(ours(texts)) == unpadded(theirs(texts), 0)


def test_a_tokenizer_that_draws_tokens_is_open_clips() -> None:
    description = {**tokenizer_description({"context_length": 6}), "settings": {"reduction_mask": "simple"}}
    [ids] = pickle.loads(pickle.dumps(tokenizer_from_description(description).tokens))(["a b c d e f g h"])
    assert ids[0] == 49406 and ids[-1] == 49407 and len(ids) == 6 and (np.diff(ids[1:-1]) == 1).all()


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    """A reader is a process a core: importing torch and open_clip there costs 10 s and a gigabyte."""
    config = ModelConfig(architecture=architecture(tmp_path, pool_type="eos", eos_id=1), tokenizer=TRANSLATOR)
    readers = [
        Reader([], TrainTransform(32), (), tokenizer.tokens, 0) for tokenizer in (open_tokenizer(config), simple())
    ]
    (tmp_path / "readers").write_bytes(pickle.dumps(readers))
    program = (
        "import pickle, sys, training.data.stream; from pathlib import Path\n"
        "readers = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print([[ids.tolist() for ids in reader.tokenize(['a cat'])] for reader in readers])\n"
        "assert not {'torch', 'open_clip', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "readers"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [as_lists(reader.tokenize(["a cat"])) for reader in readers]
