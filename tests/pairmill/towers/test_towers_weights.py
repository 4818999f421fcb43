"""Weights in the forms that people have them: each loads the same model, or is refused in one line."""

import argparse
import collections
import json
import os
import pathlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pairmill.errors import InputError, RecipeError
from pairmill.towers.architecture import resolve_architecture
from pairmill.towers.build import build_model
from pairmill.towers.config import ModelConfig
from pairmill.towers.model_folder import load_exported
from pairmill.towers.weights import quick_gelu_of, read_weights

VIT = Path(__file__).parent / "configs" / "vit.json"
State = dict[str, Tensor]


class AttributeDict(dict):  # type: ignore[type-arg]
    """As Lightning's: what a run was started with."""


class LossScaler:
    """As DeepSpeed's: an object with attributes of its own."""

    def __init__(self) -> None:
        self.cur_scale, self.history = 2.0, [1, 2]


class Steps(list):  # type: ignore[type-arg]
    """A class of lists."""


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(1)
    return build_model(ModelConfig(architecture=str(VIT)), temperature_init=0.01, bias_init=None).eval()


def prefixed(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def compiled(state: State) -> State:
    """Only the image tower went through torch.compile."""
    return {name.replace("visual.", "visual._orig_mod."): value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "state_dict": dict,
    "ordered": collections.OrderedDict,
    "open_clip": lambda s: {
        "epoch": 3,
        "name": "run",
        "state_dict": prefixed(s, "module."),
        "optimizer": {"state": {}},
    },
    "torch.compile": lambda s: prefixed(s, "_orig_mod."),
    "compiled tower": compiled,
    "compiled, distributed": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "lightning": lambda s: {
        "state_dict": prefixed(s, "model.") | {"loss.margin": torch.ones(1)},
        "hyper_parameters": AttributeDict(lr=1e-3, folder=pathlib.PurePosixPath("/data"), to=argparse.Namespace(a=1)),
        "pytorch-lightning_version": "2.5.0",
        "callbacks": {"checkpoint": {"best": torch.tensor(0.5), "path": pathlib.PurePosixPath("/x")}},
    },
    "lightning, own name": lambda s: {"state_dict": prefixed(s, "clip._orig_mod.")},
    "deepspeed": lambda s: {
        "module": prefixed(s, "module."),
        "optimizer": {"loss_scaler": LossScaler(), "base_optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}}},
        "param_shapes": [collections.OrderedDict(a=torch.Size([2]))],
        "dp_world_size": 2,
        "ds_config": collections.defaultdict(list, stage=1),
    },
    "numpy scalars": lambda s: {
        "model": s,
        "epoch": np.int64(3),
        "best": np.float32(0.4),
        "history": np.arange(3.0),
        "steps": Steps([1, 2]),
        "random": np.random.default_rng(0).bit_generator.state,
    },
    "numbers among weights": lambda s: {**s, "epoch": 3, "logit_scale": float(s["logit_scale"])},
    "a NumPy number among weights": lambda s: {
        **s,
        "epoch": np.int64(3),
        "mean": np.zeros(3),
        "logit_scale": np.float32(s["logit_scale"]),
    },
    "a NumPy array of one number": lambda s: {**s, "logit_scale": s["logit_scale"].numpy()},
    "NumPy arrays": lambda s: {n: v.numpy() for n, v in s.items()},
    "NumPy arrays of other layouts": lambda s: {
        "epoch": 3,
        "state_dict": {f"module.{n}": np.array(v.numpy().astype(">f4"), order="F") for n, v in s.items()},
    },
    "averaged beside": lambda s: {"ema": {n: v * 0 for n, v in s.items()}, "state_dict": s},
    "parameters": lambda s: {n: nn.Parameter(v) for n, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_this_form_holds_the_model(form: str, model: Any, tmp_path: Path) -> None:
    torch.save(FORMS[form](model.state_dict()), tmp_path / "weights.pt")
    assert_same(read_weights(tmp_path / "weights.pt"), model.state_dict())


def assert_same(found: State, expected: Mapping[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=0, atol=0)


def test_the_old_format_of_torch_is_read(model: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": model.state_dict()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path / "old.pt"), model.state_dict())


def test_a_prefixed_safetensors_file_is_read(model: Any, tmp_path: Path) -> None:
    save_file(prefixed(model.state_dict(), "module."), tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"), model.state_dict())


def archive(file: Path, *, quick_gelu: bool, half: bool, traced: bool) -> tuple[Path, State]:
    """A TorchScript file in the form of OpenAI's, with three integers among the weights; and its weights."""
    torch.manual_seed(2)
    made: Any = open_clip.CLIP(**json.loads(VIT.read_text()), quick_gelu=quick_gelu).eval()
    weights = {name: value.half() if half else value for name, value in made.state_dict().items()}
    for name, number in (("input_resolution", 64), ("context_length", 32), ("vocab_size", 49408)):
        if hasattr(made, name):
            delattr(made, name)
        made.register_buffer(name, torch.tensor(number))
    if traced:
        inputs = torch.zeros(1, 3, 64, 64), torch.ones(1, 32, dtype=torch.int64)
        torch.jit.trace(made, inputs, check_trace=False).save(file)
    else:
        torch.jit.script(made.half() if half else made).save(file)
    return file, weights


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("quick_gelu", "half", "traced"), [(True, False, True), (False, True, False)])
def test_a_torchscript_archive_brings_weights_and_activation(
    quick_gelu: bool, half: bool, traced: bool, tmp_path: Path
) -> None:
    file, weights = archive(tmp_path / "ViT.pt", quick_gelu=quick_gelu, half=half, traced=traced)
    assert quick_gelu_of(file) is quick_gelu
    config = ModelConfig(architecture=str(VIT), pretrained=str(file))
    assert bool(resolve_architecture(config).model_cfg.get("quick_gelu")) is quick_gelu
    built = build_model(config, temperature_init=None, bias_init=None)
    assert_same(built.state_dict(), {name: value.float() for name, value in weights.items()})


def test_another_file_says_nothing_of_its_activation(model: Any, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "w.pt")
    (tmp_path / "text").write_text("no weights")
    assert quick_gelu_of(tmp_path / "w.pt") is None and quick_gelu_of(tmp_path / "text") is None


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.code = f"open({str(file)!r}, 'w')"

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (self.code,)


class Blocked:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def test_nothing_beside_the_weights_runs(model: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": model.state_dict(), "odd": Harmful(tmp_path / "ran")}, tmp_path / "w.pt")
    assert_same(read_weights(tmp_path / "w.pt"), model.state_dict())
    assert not (tmp_path / "ran").exists()


def emptied(state: State) -> dict[str, Any]:
    """A rank's part of a model at ZeRO stage 3: all shapes, no values."""
    return {"module": {name: torch.empty(0) for name in state}}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (lambda s: {"state_dict": s, "odd": Blocked()}, "without running code"),
        (lambda s: {"student": s, "teacher": s}, "one model"),
        (lambda s: {"a": {"state_dict": s}, "b": {"state_dict": s}}, "one model"),
        (lambda s: {"state_dict": prefixed(s, "student.") | prefixed(s, "teacher.")}, "one model"),
        (emptied, "the whole model"),
        (lambda s: {"epoch": 3}, "state dict"),
        (lambda s: [1, 2], "state dict"),
    ],
)
def test_what_is_not_read_is_refused_in_one_line(
    content: Callable[[State], Any], rule: str, model: Any, tmp_path: Path
) -> None:
    torch.save(content(model.state_dict()), tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=rule) as refused:
        read_weights(tmp_path / "w.pt")
    assert str(refused.value).count("\n") == 2 and "weights_only" not in str(refused.value)


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
def test_bytes_that_are_no_weights_are_refused(name: str, model: Any, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    for data in (b"", b"no weights", (tmp_path / "whole.pt").read_bytes()[:5000], pickle.dumps({"a": 1}, protocol=2)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RecipeError):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "pytorch_model.bin", "model.safetensors", "model.pth"])
def test_a_folder_in_another_form_of_open_clips_is_loaded(name: str, model: Any, tmp_path: Path) -> None:
    config = {"model_cfg": json.loads(VIT.read_text())}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        save_file(model.state_dict(), tmp_path / name)
    else:
        torch.save(prefixed(model.state_dict(), "module."), tmp_path / name)
    exported = load_exported(tmp_path)
    assert_same(exported.model.state_dict(), model.state_dict())
    assert tuple(exported.preprocess["mean"]) == open_clip.OPENAI_DATASET_MEAN
    started = build_model(ModelConfig(architecture=f"local-dir:{tmp_path}"), temperature_init=None, bias_init=None)
    assert_same(started.state_dict(), model.state_dict())


def test_a_folder_whose_weights_do_not_fit_is_refused(model: Any, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": json.loads(VIT.read_text())}))
    with pytest.raises(InputError, match="must hold one of"):
        load_exported(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if name != "visual.proj"}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match=r"must fit the architecture\n  got: [^\n]*: it lacks: visual\.proj\n"):
        load_exported(tmp_path)
    state["visual.proj"] = torch.zeros(2, 3)
    torch.save({**state, **{f"more.{n}": torch.ones(1) for n in range(9)}}, tmp_path / "open_clip_pytorch_model.bin")
    said = r"it has besides: more\.0, more\.1, more\.2 and 6 more; of another shape: visual\.proj \(2x3, not 64x48\)\n"
    with pytest.raises(InputError, match=said):
        load_exported(tmp_path)
