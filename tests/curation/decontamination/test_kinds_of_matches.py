"""Every kind of match against brute force."""

from __future__ import annotations

import io
import random
import re
import unicodedata
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.decontamination.caption_overlap import CaptionOverlap, CaptionOverlapConfig
from curation.decontamination.embedding_cosine import EmbeddingCosine, EmbeddingCosineConfig
from curation.decontamination.evaluation_set import Item
from curation.decontamination.match_kinds import MatchKind, Pictured
from curation.decontamination.near_image import NearImage, NearImageConfig, frames
from curation.decontamination.same_image import SameImage
from curation.embedding.vectors import vector_column
from curation.images.config import ImageConfig
from curation.images.inspect import inspect_image
from curation.images.measure import colour_layout, grey_copy, perceptual_hash
from pairmill.errors import RecipeError, RunDirError
from pairmill.registry import NamedConfig


def no_pictures(rows: Any) -> list[bytes | None]:
    raise AssertionError("no picture must be read")


def pairs(kind: MatchKind, rows: pa.Table, reference: pa.Table) -> dict[tuple[int, int], float]:
    """Row, item -> similarity; each pair once."""
    found = kind.matches(rows, kind.index(reference), no_pictures)
    listed = list(zip(found.row.tolist(), found.item.tolist(), found.similarity.tolist(), strict=True))
    assert len({(row, item) for row, item, _ in listed}) == len(listed)
    return {(row, item): similarity for row, item, similarity in listed}


def test_equal_bytes_are_found_and_nothing_else() -> None:
    kind = SameImage(NamedConfig(name="same_image"))
    rows = pa.table({"sha256": pa.array(["a", None, "b", "c", "a"])})
    assert pairs(kind, rows, pa.table({"sha256": ["a", None, "a", "c"]})) == {
        (0, 0): 1,
        (0, 2): 1,
        (3, 3): 1,
        (4, 0): 1,
        (4, 2): 1,
    }
    assert pairs(kind, rows.slice(0, 0), pa.table({"sha256": pa.array(["a"])})) == {}
    assert pairs(kind, rows, pa.table({"sha256": pa.array([], pa.string())})) == {}


def in_quarters(parts: Any) -> bytes:
    """A row's layout of 8 x 8 parts, from one of 4 x 4: [16, 3]."""
    return bytes(parts.reshape(4, 4, 3).repeat(2, 0).repeat(2, 1).tobytes())


@pytest.mark.parametrize("distance", [0, 1, 4, 6, 9])
def test_hashes_and_colours_are_compared_as_by_brute_force(distance: int) -> None:
    rng = np.random.default_rng(distance)
    framed = [rng.integers(0, 2**64, int(rng.integers(1, 5)), dtype=np.uint64) for _ in range(60)]
    framed[7] = np.array([0, 3, 2**64 - 1], np.uint64)  # flat
    layouts = [rng.integers(100, 116, (len(one), 16, 3), dtype=np.uint8) for one in framed]
    bits = [int(rng.integers(0, distance + 3)) for _ in range(300)]
    hashes, colours = [], []
    for n, many in enumerate(bits):
        item = n % 60
        frame = int(rng.integers(len(framed[item])))
        flipped = sum(1 << int(bit) for bit in rng.choice(64, many, replace=False))
        hashes.append(int(framed[item][frame]) ^ flipped)
        most = (3, 5, 7)[n % 3]
        shift = rng.integers(-most, most + 1, (16, 3))
        colours.append(np.clip(layouts[item][frame].astype(int) + shift, 0, 255).astype(np.uint8))
    kind = NearImage(NearImageConfig(name="near_image", max_distance=distance, max_colour=8, max_difference=255))
    reference = pa.table(
        {
            "frame_hashes": pa.array([*(one.tobytes() for one in framed), None], pa.binary()),
            "frame_colours": pa.array([*(one.tobytes() for one in layouts), None], pa.binary()),
            "thumbnail": pa.nulls(61, pa.binary()),
        }
    )
    rows = pa.table(
        {
            "phash": pa.array([*hashes, None, 0], pa.uint64()),
            "colours": pa.array([*(in_quarters(one) for one in colours), None, bytes(192)], pa.binary()),
        }
    )
    expected: dict[tuple[int, int], float] = {}
    for row, (mine, own) in enumerate(zip(hashes, colours, strict=True)):
        for item, theirs in enumerate(framed):
            near = []
            for at, one in enumerate(theirs.tolist()):
                apart = bin(mine ^ one).count("1")
                gap = ((own.astype(int) - layouts[item][at].astype(int)) ** 2).sum(-1).max()
                if apart <= distance and gap <= 64 and all(8 <= bin(x).count("1") <= 56 for x in (mine, one)):
                    near.append(apart)
            if near:
                expected[row, item] = 1 - min(near) / 64
    assert len(expected) > 20
    assert pairs(kind, rows, reference) == expected


def means_of_four(layout: bytes) -> bytes:
    """4 x 4 parts from 8 x 8, with halves rounded up."""
    parts = [layout[at : at + 3] for at in range(0, 192, 3)]
    return bytes(
        (sum(parts[at + step][channel] for step in (0, 1, 8, 9)) + 2) // 4
        for at in (16 * y + 2 * x for y in range(4) for x in range(4))
        for channel in range(3)
    )


def test_a_layout_is_within_a_level_of_the_means_of_its_quarters() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    quarters = cv2.resize(pixels, (4, 4), interpolation=cv2.INTER_AREA).astype(float)
    luma, blue = quarters @ [0.299, 0.587, 0.114], quarters[..., 2]
    expected = np.stack([luma / 2, 128 + (blue - luma) / 1.772, 128 + (quarters[..., 0] - luma) / 1.402], -1)
    found = np.frombuffer(means_of_four(colour_layout(pixels)), np.uint8).reshape(4, 4, 3)
    assert np.abs(found - expected).max() <= 1.5


def test_rows_whose_colours_other_code_measured_are_refused() -> None:
    phash = 0x0F0F_3333_5555_A5A5
    reference = pa.table(
        {
            "frame_hashes": pa.array([np.array([phash], np.uint64).tobytes()], pa.binary()),
            "frame_colours": pa.array([bytes(48)], pa.binary()),
            "thumbnail": pa.nulls(1, pa.binary()),
        }
    )
    rows = pa.table({"phash": pa.array([phash] * 2, pa.uint64()), "colours": [bytes(48), bytes(192)]})
    with pytest.raises(RunDirError) as refused:
        pairs(NearImage(NearImageConfig(name="near_image", max_difference=255)), rows, reference)
    assert refused.value.value == "colours of 48 bytes, which are of 192 now"
    assert pairs(NearImage(NearImageConfig(name="near_image", max_difference=255)), rows[1:], reference) == {(0, 0): 1}


def test_a_picture_is_hashed_whole_and_as_it_would_look_cut() -> None:
    rng = np.random.default_rng(1)
    grid = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(grid).resize((400, 300), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    config = ImageConfig(size=300, format="png")
    whole = Pictured(Item("a", stream.getvalue()), inspect_image(stream.getvalue(), config, frozenset()))
    broken = Pictured(Item("b", b"x"), inspect_image(b"x", config, frozenset()))
    for crop, count in ((0.0, 1), (0.05, 35)):
        kind = NearImage(NearImageConfig(name="near_image", crop=crop))
        made = kind.fingerprints([whole, broken], {})
        hashes = np.frombuffer(made["frame_hashes"][0].as_py(), np.uint64)
        assert len(hashes) == len(frames(crop)) == count and made["frame_hashes"][1].as_py() is None
        assert hashes[0] == whole.inspected.phash
        assert made["frame_colours"][0].as_py()[:48] == means_of_four(whole.inspected.colours)
    cut = np.asarray(image)[15:300, 0:380]  # all of the strips at the top and at the right
    assert perceptual_hash(grey_copy(np.ascontiguousarray(cut))) in hashes.tolist()
    assert means_of_four(colour_layout(np.ascontiguousarray(cut))) in made["frame_colours"][0].as_py()
    assert NearImage(NearImageConfig(name="near_image")).fingerprints([], {})["frame_hashes"].type == pa.binary()


WORDS = ["red", "dog", "on", "a", "hill", "Ünder", "blue", "sky"]
DENSE = "犬猫山川สีの"


def read(text: str) -> list[tuple[str, bool]]:
    """Words and characters of a caption of these two alphabets, and whether each is a character."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [(one, one[0] in DENSE) for one in re.findall(rf"[{DENSE}ี]|[^\W{DENSE}]+", plain)]


def naive(caption: str, row: str, words: int, characters: int, least: float) -> float:
    """The share of the caption's n-grams that stand in the row; 0: it is not compared or none does."""
    theirs, mine = read(caption), read(row)
    if not theirs:
        return 0.0
    if len(theirs) < (characters if theirs[0][1] else words):
        weight = sum(words / characters if dense else 1 for _, dense in theirs)
        grams = {tuple(theirs)} if weight >= least - 1e-9 else set()
    else:
        sizes = [(at, characters if dense else words) for at, (_, dense) in enumerate(theirs)]
        grams = {tuple(theirs[at : at + size]) for at, size in sizes if at + size <= len(theirs)}
    held = [gram for gram in grams if any(tuple(mine[at : at + len(gram)]) == gram for at in range(len(mine)))]
    return len(held) / len(grams) if grams else 0.0


captions = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
    st.lists(st.sampled_from("犬猫山川の"), max_size=9).map("".join),
    st.lists(st.sampled_from([*WORDS, *"犬猫"]), max_size=9).map("; ".join),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(captions, max_size=2), min_size=1, max_size=5),
    st.lists(captions, min_size=1, max_size=6),
    st.data(),
)
def test_captions_are_compared_as_by_brute_force(lists: list[list[str]], rows: list[str], data: st.DataObject) -> None:
    words, characters = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 6))
    least = data.draw(st.sampled_from([1.0, 2.0, 3.0]))
    kind = CaptionOverlap(CaptionOverlapConfig(name="caption", words=words, characters=characters, least=least))
    flat = [text for some in lists for text in some]
    rows = [*rows, *(f"{rows[0]}, {text}!" for text in flat[:2]), *(text.upper() for text in flat[:2])]
    expected = {}
    for row, text in enumerate(rows):
        for item, some in enumerate(lists):
            share = max((naive(one, text, words, characters, least) for one in some), default=0.0)
            if share:
                expected[row, item] = pytest.approx(share)
    reference = pa.table({"captions": pa.array(lists, pa.list_(pa.string()))})
    assert pairs(kind, pa.table({"caption": pa.array([*rows, None], pa.string())}), reference) == expected


@pytest.mark.parametrize(
    ("caption", "row", "found"),
    [
        ("A black dog runs over green grass", "buy now: a BLACK dog, runs over green grass - free", True),
        ("A black dog runs over green grass", "a black dog runs over the green grass", False),
        ("a dog", "a dog", False),  # says too little
        ("一只黑色的狗跑过绿色的草地上去", "图片：一只黑色的狗跑过绿色的草地上去。", True),
        ("一只狗", "一只狗", False),
        ("สุนัขสีดำวิ่งบนหญ้าสีเขียว", "ภาพสุนัขสีดำวิ่งบนหญ้าสีเขียวสวย", True),
        ("검은 개가 푸른 풀밭 위를 달린다", "사진 검은 개가 푸른 풀밭 위를 달린다 무료", True),
        (" ".join(f"w{n}" for n in range(30)), "x " + " ".join(f"w{n}" for n in range(9, 22)) + " y", True),
        (" ".join(f"w{n}" for n in range(30)), "x " + " ".join(f"w{n}" for n in range(9, 21)) + " y", False),
    ],
)
def test_captions_of_scripts_with_and_without_spaces(caption: str, row: str, found: bool) -> None:
    kind = CaptionOverlap(CaptionOverlapConfig(name="caption"))
    reference = pa.table({"captions": pa.array([[caption]], pa.list_(pa.string()))})
    assert bool(pairs(kind, pa.table({"caption": [row]}), reference)) == found


def test_embeddings_are_compared_as_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(50, 24))
    rows = items[rng.integers(0, 50, 400)] + rng.normal(size=(400, 24)) * rng.uniform(0, 0.6, (400, 1))
    units = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float16) for one in (items, rows)]
    kind = EmbeddingCosine(EmbeddingCosineConfig(name="embedding", embedding="x", cosine=0.9))
    mask = np.ones(401, bool)
    mask[13] = False
    given = pa.table({"image_embedding_x": vector_column(units[1], mask)})
    column = pa.array([*units[0].tolist(), None], pa.list_(pa.float16()))
    wide = [one.astype(np.float64) for one in units]
    wide = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in wide]
    cosine = wide[1] @ wide[0].T
    places = np.flatnonzero(mask)
    expected = {
        (int(places[row]), int(item)): pytest.approx(float(cosine[row, item]), abs=1e-6)
        for row, item in zip(*np.nonzero(cosine >= 0.9), strict=True)
    }
    assert 50 < len(expected) < 1000
    assert pairs(kind, given, pa.table({"image_embedding_x": column})) == expected
    nothing = pa.table({"image_embedding_x": pa.nulls(3, pa.list_(pa.float16()))})
    assert pairs(kind, given, nothing) == {}


def test_the_only_embedding_there_is_is_taken() -> None:
    config = EmbeddingCosineConfig(name="embedding")
    found: Any = EmbeddingCosine.resolved(config, ["caption", "image_embedding_b32"])
    assert found.embedding == "b32" and EmbeddingCosine(found).models == ("embed-b32",)
    for columns in (["caption"], ["image_embedding_a", "image_embedding_b"]):
        with pytest.raises(RecipeError, match="must know by which model pictures are embedded"):
            EmbeddingCosine.resolved(config, columns)


def test_a_long_list_of_captions_takes_little_time_each() -> None:
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(5000)}" for _ in range(12)) for _ in range(3000)]
    kind = CaptionOverlap(CaptionOverlapConfig(name="caption"))
    reference = pa.table({"captions": pa.array([[text] for text in texts], pa.list_(pa.string()))})
    rows = pa.table({"caption": [*texts[::-1], "nothing of them"]})
    assert pairs(kind, rows, reference) == {(row, 2999 - row): 1.0 for row in range(3000)}


@pytest.mark.parametrize("items", [7, 8, 300, 1900])
def test_an_index_of_frames_is_small_and_finds_each_item_of_a_set_of_any_size(items: int) -> None:
    """35 frames an item: 245 frames and 280, beyond a byte; 10,500; 66,500, beyond two bytes."""
    rng = np.random.default_rng(items)
    framed = rng.integers(0, 2**64, (items, len(frames(0.05))), dtype=np.uint64)
    reference = pa.table(
        {
            "frame_hashes": pa.array([one.tobytes() for one in framed], pa.binary()),
            "frame_colours": pa.array([bytes(48 * framed.shape[1])] * items, pa.binary()),
            "thumbnail": pa.nulls(items, pa.binary()),
        }
    )
    kind = NearImage(NearImageConfig(name="near_image", max_difference=255))
    at = np.unique([*rng.integers(0, items, 60).tolist(), 0, items - 1])
    hashes = [int(framed[item][rng.integers(framed.shape[1])]) ^ 0b1011 for item in at]
    rows = pa.table({"phash": pa.array(hashes, pa.uint64()), "colours": pa.array([bytes(192)] * len(at), pa.binary())})
    found = pairs(kind, rows, reference)
    assert {(row, int(item)) for row, item in enumerate(at)} <= found.keys()
    for (row, item), similarity in found.items():
        closest = min(int(hashes[row] ^ int(one)).bit_count() for one in framed[item])
        assert closest <= 8 and similarity == pytest.approx(1 - closest / 64)
    index = kind.index(reference)
    arrays = [index.hash, index.item, index.colours, *index.order, *index.values]
    assert sum(one.nbytes for one in arrays) <= framed.size * (8 + 48 + 4 + 9 * (4 + 1))
