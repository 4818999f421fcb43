"""The stage in a run's store: planted pictures are listed, little else is, and only what changed is made again."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from run_fixture import make_run
from tiny_encoders import ROOT, VIT, write_open_clip_weights

from curation.decontamination import evaluation_set as sets
from curation.decontamination.item_fingerprints import load_reference
from curation.decontamination.match_kinds import KINDS, Matches, MatchKind, Pictures
from curation.decontamination.stage import MOST_LISTED, Decontaminate
from curation.flow import flow_of
from curation.healing import examine, heal
from curation.images.config import ImageConfig
from curation.images.inspect import inspect_image
from curation.stage import Runtime
from pairmill.damage import damaged
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from pairmill.store import Store

EMOJI = sorted((ROOT / "samples" / "emoji" / "images").glob("*.webp"))
ITEMS, OTHERS = 60, 400


def white(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        layer = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def copies(image: Image.Image, chance: random.Random) -> Iterator[bytes]:
    """The picture smaller, encoded again, and without a strip of 5 % of its width and height."""
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    left, top = (round(chance.random() * 0.05 * length) for length in image.size)
    frame = (left, top, left + round(0.95 * image.width), top + round(0.95 * image.height))
    yield encoded(small, "PNG")
    yield encoded(image, "JPEG", quality=60)
    yield encoded(small, "WEBP", quality=60)
    yield encoded(image.crop(frame), "JPEG", quality=80)


def table(pictures: list[bytes], captions: list[str | None], dropped: int | None = None) -> pa.Table:
    found = [inspect_image(data, ImageConfig(), frozenset()) for data in pictures]
    reasons = ["timeout" if at == dropped else None for at in range(len(found))]
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(len(found))],
            "sha256": [one.sha256 for one in found],
            "phash": pa.array([one.phash for one in found], pa.uint64()),
            "colours": [one.colours for one in found],
            "image": [one.image for one in found],
            "caption": pa.array(captions, pa.string()),
            "drop_stage": pa.array([why and "download" for why in reasons], pa.string()),
            "drop_reason": pa.array(reasons, pa.string()),
        }
    )


def stage_of(path: Path, store: Store, **more: Any) -> Any:
    stage = flow_of({"decontaminate": {"tiny": {"path": str(path), **more}}}).named("decontaminate-tiny")
    assert isinstance(stage, Decontaminate)
    return made(stage, store)


def made(stage: Any, store: Store) -> Any:
    stage.make_pieces(store, stage.outstanding_pieces(store))
    assert stage.outstanding_pieces(store) == []
    stage.setup(Runtime(store))
    return stage


@pytest.fixture
def emoji(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number, file in enumerate(EMOJI[:: len(EMOJI) // ITEMS][:ITEMS]):
        (folder / f"{number:03d}.webp").write_bytes(file.read_bytes())
        (folder / f"{number:03d}.txt").write_text(f"an emoji that a test holds out, number {number}")
    return folder


def test_planted_pictures_and_captions_are_found_and_few_others(emoji: Path, tmp_path: Path) -> None:
    stage, chance = stage_of(emoji, Store(str(tmp_path / "run"))), random.Random(0)
    inside = {file.read_bytes() for file in emoji.glob("*.webp")}
    others = [one for file in EMOJI if (one := file.read_bytes()) not in inside]
    pictures, planted = chance.sample(others, OTHERS), []
    for file in sorted(emoji.glob("*.webp")):
        for data in copies(white(file), chance):
            planted.append((len(pictures), file.name))
            pictures.append(data)
    captions = [f"row {at}" for at in range(len(pictures))]
    taken = {at: f"{at:03d}.webp" for at in range(0, ITEMS, 6)}
    for at in taken:
        captions[at] = f"LOOK: an emoji that a test holds out, number {at}!"
    matches = stage(table(pictures, captions))["matches_tiny"].to_pylist()
    found = [any(one["item"] == item for one in matches[at] or ()) for at, item in planted]
    assert len(found) == 4 * ITEMS and np.mean(found) >= 0.95
    for at, item in taken.items():
        assert [(one["kind"], one["item"]) for one in matches[at]] == [("caption", item)]
    assert sum(bool(matches[at]) for at in range(OTHERS) if at not in taken) <= 0.001 * OTHERS


def test_a_row_lists_its_best_matches_and_a_dropped_row_none(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(MOST_LISTED + 5):
        (folder / f"{number:02d}.webp").write_bytes(EMOJI[0].read_bytes())
    (folder / "other.webp").write_bytes(EMOJI[90].read_bytes())
    stage = stage_of(folder, Store(str(tmp_path / "run")))
    pictures = [
        EMOJI[0].read_bytes(),
        encoded(white(EMOJI[90]), "JPEG"),
        EMOJI[0].read_bytes(),
        EMOJI[200].read_bytes(),
    ]
    rows = stage(table(pictures, [None] * 4, dropped=2))
    first, second, third, fourth = rows["matches_tiny"].to_pylist()
    kinds = [one["kind"] for one in first]
    assert kinds == ["same_image"] * MOST_LISTED + ["near_image"] * MOST_LISTED
    assert [one["item"] for one in first[:3]] == ["00.webp", "01.webp", "02.webp"]
    assert rows["match_count_tiny"].to_pylist() == [2 * (MOST_LISTED + 5), 1, None, 0]
    assert rows["contaminated_tiny"].to_pylist() == ["same_image", "near_image", None, None]
    assert second[0]["item"] == "other.webp" and second[0]["similarity"] > 0.9
    assert third is None and fourth is None
    assert stage.facts(rows) == {"matched": 2, "kinds": {"same_image": 1, "near_image": 1}}


def test_what_cannot_be_read_is_named_and_compared_by_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    whole = EMOJI[0].read_bytes()
    (folder / "whole.webp").write_bytes(whole)
    (folder / "cut.webp").write_bytes(whole[:200])
    (folder / "list.csv").write_text("x")
    store = Store(str(tmp_path / "run"))
    stage = stage_of(folder, store)
    assert "1 of 2 items could not be read" in stage.warning(store) and "cut.webp" in stage.warning(store)
    assert "1 .csv" in stage.warning(store)
    (manifest,) = store.manifests("references/tiny")
    assert manifest["items"] == 2 and sum(manifest["unread"].values()) == 1 and manifest["others"] == {"csv": 1}
    reference = {row["item"]: row for row in load_reference(store, "tiny").to_pylist()}
    assert reference["cut.webp"]["status"] not in (None, "success") and reference["cut.webp"]["thumbnail"] is None
    with Image.open(io.BytesIO(reference["whole.webp"]["thumbnail"])) as shown:
        assert max(shown.size) <= 160 and shown.format == "WEBP"
    digest = pa.table({"sha256": [reference["cut.webp"]["sha256"]]})
    assert len(stage.kinds[0].matches(digest, stage.kinds[0].index(load_reference(store, "tiny")), list).row) == 1
    (folder / "cut.webp").unlink()
    (folder / "list.csv").unlink()
    assert stage_of(folder, store).warning(store) == ""


def test_only_pieces_whose_files_changed_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "_FILES", 3)
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.webp").write_bytes(EMOJI[number].read_bytes())
    store = Store(str(tmp_path / "run"))

    def fresh(**more: Any) -> Any:
        return flow_of({"decontaminate": {"tiny": {"path": str(folder), **more}}}).named("decontaminate-tiny")

    made(fresh(), store)
    before, content = store.index("references/tiny"), fresh().revision()
    assert sorted(before) == [0, 1, 2] and content == fresh().revision()
    (folder / "4.webp").write_bytes(EMOJI[40].read_bytes())
    changed = fresh()
    assert changed.revision() != content and changed.outstanding_pieces(store) == [1]
    made(changed, store)
    after = store.index("references/tiny")
    assert [after[one] == before[one] for one in range(3)] == [True, False, True]
    # Thresholds need no fingerprint again; what is kept of an item does.
    assert fresh(kinds=[{"name": "same_image"}, {"name": "near_image"}, {"name": "caption", "words": 9}]).revision()
    assert not fresh(kinds=["same_image", "near_image", {"name": "caption", "words": 9}]).outstanding_pieces(store)
    assert fresh(kinds=[{"name": "near_image", "crop": 0.1}]).outstanding_pieces(store) == [0, 1, 2]
    (folder / "6.webp").unlink()
    made(fresh(), store)
    assert sorted(store.index("references/tiny")) == [0, 1]
    assert load_reference(store, "tiny")["item"].to_pylist() == [f"{number}.webp" for number in range(6)]


def test_embeddings_are_those_of_the_runs_own_model(tmp_path: Path) -> None:
    weights = write_open_clip_weights(tmp_path / "vit.pt")
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.webp").write_bytes(EMOJI[20 * number].read_bytes())
    flow = flow_of(
        {
            "embed": {"vit": {"model": str(VIT), "pretrained": str(weights)}},
            "decontaminate": {"tiny": {"path": str(folder), "kinds": [{"name": "embedding", "cosine": 0.9999}]}},
        }
    )
    store, embed = Store(str(tmp_path / "run")), flow.named("embed-vit")
    stage: Any = made(flow.named("decontaminate-tiny"), store)
    embed.setup(Runtime(store))
    rows = embed(table([EMOJI[20 * at].read_bytes() for at in (3, 5, 8)], ["a", "b", "c"]))
    found = stage(rows)["matches_tiny"].to_pylist()
    assert [one[0]["item"] for one in found[:2]] == ["3.webp", "5.webp"]
    assert found[0][0]["similarity"] == pytest.approx(1, abs=1e-3)
    with pytest.raises(RecipeError, match="must name an embedding of the section embed"):
        flow_of({"decontaminate": {"t": {"path": str(folder), "kinds": [{"name": "embedding", "embedding": "vti"}]}}})


def test_an_embedding_of_painted_pictures_is_refused(tmp_path: Path) -> None:
    embed = {"vit": {"model": str(VIT), "pretrained": str(VIT), "mask_text": "text"}}
    given = {"path": str(tmp_path), "kinds": ["embedding"]}
    flow = flow_of({"score": {"text": "ocr"}, "embed": embed, "decontaminate": {"t": given}})
    with pytest.raises(RecipeError, match="must name an embedding of whole pictures"):
        flow.named("decontaminate-t").check({})


class SameWidth(MatchKind):
    """A user's own kind."""

    name = "same_width"
    reads = ("width",)

    def index(self, reference: pa.Table) -> Any:
        return reference["original_width"].to_numpy(zero_copy_only=False)

    def matches(self, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        row, item = np.nonzero(rows["width"].to_numpy()[:, None] == index[None])
        return Matches(row, item, np.ones(len(row), np.float32))


def test_a_kind_of_ones_own_needs_its_import_path_alone(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.webp").write_bytes(EMOJI[0].read_bytes())
    stage = stage_of(folder, Store(str(tmp_path / "run")), kinds=[f"{__name__}:SameWidth"])
    rows = table([EMOJI[0].read_bytes(), EMOJI[1].read_bytes()], ["a", "b"])
    with Image.open(EMOJI[0]) as opened:
        rows = rows.append_column("width", pa.array([opened.width, opened.width + 1], pa.int32()))
    assert stage(rows)["contaminated_tiny"].to_pylist() == ["same_width", None]
    with pytest.raises(RecipeError, match="must be a subclass of"):
        stage_of(folder, Store(str(tmp_path / "run")), kinds=[f"{__name__}:ROOT"])
    assert "same_width" not in KINDS.names and issubclass(SameWidth.Config, NamedConfig)


def test_a_kind_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must name each kind once"):
        flow_of({"decontaminate": {"t": {"path": "x", "kinds": ["caption", {"name": "caption", "words": 5}]}}})


def test_a_damaged_file_of_a_set_is_found_and_made_again(tmp_path: Path) -> None:
    store = make_run(tmp_path / "made", upto="filter")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.webp").write_bytes(EMOJI[0].read_bytes())
    stage = stage_of(folder, store)
    assert not examine(store).damaged
    file = Path(store.path("references/tiny/shard-000000.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    (found,) = examine(store).damaged
    assert found.name == "references/tiny/shard-000000.parquet"
    heal(store, damaged(store.path(found.name), found.why), yes=False)
    assert stage.outstanding_pieces(store) == [0]
    assert not examine(store).damaged and made(stage, store).outstanding_pieces(store) == []
