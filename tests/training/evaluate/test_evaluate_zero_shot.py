import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from pairmill.errors import RecipeError
from training.evaluate.accuracy import accuracy_metrics
from training.evaluate.prompts import CHINESE_TEMPLATES, class_names_of, fill, templates_of
from training.evaluate.zero_shot import Labels, classifier_weights


def unit(rows: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dimension, generator=generator), dim=1)


def test_accuracies_equal_naive_ones() -> None:
    image, weights = unit(300, 6, 0), unit(12, 6, 1)
    label = np.random.default_rng(2).choice([c for c in range(12) if c != 7], 300)  # class 7 has no image
    metrics = accuracy_metrics(image, weights, torch.from_numpy(label), torch.arange(12))
    scores = image.double().numpy() @ weights.double().numpy().T
    order = np.argsort(-scores, axis=1)
    right = order[:, 0] == label
    assert metrics["acc1"] == pytest.approx(right.mean())
    assert metrics["acc5"] == pytest.approx((order[:, :5] == label[:, None]).any(1).mean())
    assert metrics["mean_per_class_recall"] == pytest.approx(np.mean([right[label == c].mean() for c in set(label)]))
    assert metrics["chance"] == pytest.approx(1 / 12)


def test_a_constant_classifier_is_never_right() -> None:
    metrics = accuracy_metrics(unit(9, 4, 0), unit(1, 4, 1).expand(3, -1), torch.arange(9) % 3, torch.arange(3))
    assert metrics["acc1"] == 0
    assert "acc5" not in metrics
    # Of the two classes of one name, one is chosen; a tie with another name is wrong all the same.
    metrics = accuracy_metrics(unit(9, 4, 0), unit(1, 4, 1).expand(3, -1), torch.arange(9) % 3, torch.tensor([0, 1, 0]))
    assert metrics["acc1"] == metrics["mean_per_class_recall"] == 0


def test_weights_equal_open_clips_classifier() -> None:
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
    text = open_clip.CLIPTextCfg(context_length=24, vocab_size=49408, width=32, heads=2, layers=1)
    model = open_clip.CLIP(16, vision, text).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=24)

    def embed(texts: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return model.encode_text(tokenizer(texts), normalize=True)

    names = ["cat", "traffic light", "keycap: #", "dog", "zebra"]
    templates = templates_of("en")[:7]
    ours = classifier_weights(embed, names, templates, batch_size=16)
    theirs = open_clip.build_zero_shot_classifier(model, tokenizer, names, open_clip.OPENAI_IMAGENET_TEMPLATES[:7])
    torch.testing.assert_close(ours, theirs.T, rtol=0, atol=1e-6)


def test_templates_of_each_language() -> None:
    english = templates_of("en")
    assert len(english) == 80
    assert [fill(t, "dog") for t in english] == [t("dog") for t in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert templates_of("zh") == CHINESE_TEMPLATES
    assert len(set(CHINESE_TEMPLATES)) == len(CHINESE_TEMPLATES)
    assert all(fill(t, "狗").count("狗") == 1 for t in CHINESE_TEMPLATES)
    assert templates_of("sw") == ("{c}",)


def test_only_the_place_of_the_class_name_is_special() -> None:
    assert fill("a {c}, {not} {}", "{}") == "a {}, {not} {}"
    assert fill("a {}.", "cat") == "a cat."


def test_files_of_templates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = tmp_path / "templates.txt"
    lines.write_text("{} \n\na photo of {c}\n")
    assert templates_of("fr", str(lines)) == ("{}", "", "a photo of {c}")
    assert "line 2" in caplog.text
    lines.write_text("\n\n")
    with pytest.raises(RecipeError, match="must hold"):
        templates_of("fr", str(lines))
    by_language = tmp_path / "templates.json"
    by_language.write_text(json.dumps({"en": ["x"], "zh": ["{c}"]}))
    assert templates_of("zh", str(by_language)) == ("{c}",)
    with pytest.raises(RecipeError):
        templates_of("en", str(by_language))  # no place for the name
    with pytest.raises(RecipeError):
        templates_of("de", str(by_language))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '["cat", 3]'),
        ("b.json", '{"en": "cat"}'),
        ("c.json", '["cat"'),
        ("d.json", "[]"),
        ("e.txt", "\n"),
        ("f.json", '{"en": ["cat"], "zh": ["猫", "狗"]}'),
        ("g.json", '{"zh": ["猫"]}'),
        ("missing", None),
    ],
)
def test_a_class_name_file_that_cannot_be_right(tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError):
        class_names_of(str(tmp_path / name), ["en"] if name == "g.json" else None)


def test_class_names_by_language(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"en": ["cat", "dog"], "zh": ["猫", "狗"], "de": ["x", "y"]}))
    assert class_names_of(str(tmp_path / "names.json"), ["zh", "en"]) == {"zh": ["猫", "狗"], "en": ["cat", "dog"]}
    (tmp_path / "names.txt").write_text("猫\n狗\n")
    assert class_names_of(str(tmp_path / "names.txt"), ["zh"]) == {"zh": ["猫", "狗"]}
    (tmp_path / "marked.json").write_text('\ufeff["cat", "dog"]', encoding="utf-8")
    (tmp_path / "marked.txt").write_text("\ufeffcat\r\ndog\r\n", encoding="utf-8")
    for name in ("marked.json", "marked.txt"):
        assert class_names_of(str(tmp_path / name), None) == {"en": ["cat", "dog"]}
    assert len(class_names_of("imagenet", None)["en"]) == 1000


def test_an_empty_line_is_a_class_without_a_name_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "names.txt").write_text("\ncat\n \ndog\n\n")
    found = class_names_of(str(tmp_path / "names.txt"), None)
    assert found == {"en": ["", "cat", "", "dog", ""]}
    assert "line 1, 3, 5" in caplog.text
    by_name = Labels(found, "name")
    assert [by_name([text]) for text in ("", " ", "cat", "dog")] == [None, None, 1, 3]


def test_class_names_in_any_spelling_of_their_language(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"zh_CN": ["猫"], "EN": ["cat"], "pt_BR": ["gato"], "zh-TW": ["貓"]}))
    assert list(class_names_of(str(path), None)) == ["zh", "en", "pt", "zh-hant"]
    assert class_names_of(str(path), ["ZH", "eng_Latn", "pt"]) == {"zh": ["猫"], "en": ["cat"], "pt": ["gato"]}
    assert templates_of("zh-hant") == CHINESE_TEMPLATES and len(templates_of("EN")) == 80
    path.write_text(json.dumps({"zh": ["猫"], "zh_CN": ["猫"]}))
    with pytest.raises(RecipeError, match="one list per language"):
        class_names_of(str(path), None)
    path.write_text(json.dumps({"zh_CN": ["{c}"]}))
    assert templates_of("zh", str(path)) == ("{c}",)


def test_the_class_of_a_row() -> None:
    by_name = Labels({"en": ["Cat", "dog"], "zh": ["猫", "狗"]}, "name")
    assert by_name(["a photo", " 狗 ", "cat"]) == 1
    assert by_name(["CAT"]) == 0
    assert by_name(["a cat", ""]) is None
    by_index = Labels({"en": ["crane", "crane"]}, "index")
    assert [by_index([text]) for text in ("1", " 0", "2", "crane", "-1")] == [1, 0, None, None, None]
    assert [by_index(["1"], number) for number in (0, 2, -1, None)] == [0, None, None, 1]
    assert by_name(["dog"], 0) == 1


def test_a_name_of_two_classes_is_no_label() -> None:
    with pytest.raises(RecipeError):
        Labels({"en": ["crane", "cat", "Crane"]}, "name")
    Labels({"en": ["orange", "cat"], "fr": ["orange", "chat"]}, "name")
