"""Damage of every file of a training run: found, kept aside, and what the run resumes from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairmill.checkpoint_files import Finding, sealed
from pairmill.errors import InputError, RunDirError
from pairmill.store import Store
from pairmill.towers.architecture import resolve_weights
from training.intact import heal, recipe_digest, verify_training
from training.recipe import TrainRecipe
from training.train import claim

NAME = "train"
LINES = "".join(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in range(1, 7))


def recipe(run_dir: Path, **sections: Any) -> TrainRecipe:
    data = {"path": "somewhere", "batch_size": 2}
    return TrainRecipe.checked(
        {
            "run_dir": str(run_dir),
            "data": data,
            "model": {"architecture": "ViT-B-32"},
            "train": {"steps": 6},
            **sections,
        }
    )


def folder_of(step: int) -> str:
    return f"step-{step:09d}-0123abcd"


def log_at(step: int) -> dict[str, Any]:
    text = "".join(LINES.splitlines(keepends=True)[:step]).encode()
    return {"bytes": len(text), "blake2b": hashlib.blake2b(text, digest_size=16).hexdigest()}


def write_run(run: Path, steps: tuple[int, ...] = (2, 4, 6), scores: tuple[float, ...] = (0.1, 0.3, 0.2)) -> Path:
    """A finished run, as training leaves it."""
    results = []
    for step, score in zip(steps, scores, strict=True):
        folder = run / NAME / folder_of(step)
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "open_clip_model.safetensors").write_bytes(bytes(range(256)) * step)
        (folder / "tokenizer" / "vocab.json").write_text("{}")
        progress = {"step": step, "plan": "plan", "metrics": {"a/x": score}, "evaluated": step}
        whole = {**progress, "recipe": recipe_digest(recipe(run)), "log": log_at(step)}
        (folder / "training.json").write_text(sealed(folder, whole))
        metrics = {"step": step, "evaluated": step, "a/x": score}
        results.append({"version": 0, "checkpoint_dir_name": folder_of(step), "metrics": metrics})
    snapshot = {
        "ray_version": "2.60.0",
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(steps))),
        "latest_checkpoint_result": results[-1],
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(steps),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    (run / NAME / "checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot))
    (run / "metrics.jsonl").write_text(LINES)
    (run / "recipe.yaml").write_text(recipe(run).to_yaml())
    result = {"checkpoint": f"{NAME}/{folder_of(steps[-1])}", "best_checkpoint": None, "step": 6, "steps": 6}
    (run / "result.json").write_text(json.dumps(result | {"finished": True, "metrics": {}, "evaluated": 6}))
    return run


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    file.write_bytes(b"\xff\x00" * 99)


def lose(file: Path) -> None:
    file.unlink()


NEWEST = f"{NAME}/{folder_of(6)}"
SNAPSHOT = f"{NAME}/checkpoint_manager_snapshot.json"
OF_A_CHECKPOINT = ("training.json", "open_clip_model.safetensors", "tokenizer/vocab.json")


def latest(run: Path) -> str:
    """The checkpoint that Ray Train would resume from."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

    state = _CheckpointManagerState.model_validate_json((run / SNAPSHOT).read_text())
    assert len(state.checkpoint_results) == len(state.checkpoint_report_indices)
    found = str(state.latest_checkpoint_result.checkpoint_dir_name)
    assert found in [result.checkpoint_dir_name for result in state.checkpoint_results]
    return found


def names(run: Path) -> list[str]:
    found = json.loads((run / SNAPSHOT).read_text())["checkpoint_results"]
    return [result["checkpoint_dir_name"] for result in found]


def test_nothing_is_found_in_a_whole_run_and_nothing_changes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert verify_training(Store(str(run))) == []
    heal(Store(str(run)), recipe(run))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("damage", [flip, cut, empty, garble, lose])
@pytest.mark.parametrize("name", OF_A_CHECKPOINT)
def test_a_damaged_newest_checkpoint_is_left_for_the_one_before(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    run = write_run(tmp_path / "run")
    damage(run / NEWEST / name)
    assert [found.path for found in verify_training(Store(str(run)))] == [f"{NEWEST}/{name}"]
    assert claim(Store(str(run)), recipe(run), None) is None  # finished, but not whole
    heal(Store(str(run)), recipe(run))
    assert latest(run) == folder_of(4)
    assert not (run / NEWEST).exists() and not (run / "result.json").exists()
    assert (run / "damaged" / f"{NAME}.{folder_of(6)}").is_dir()
    assert (run / "metrics.jsonl").read_text() == LINES  # training cuts what comes after the checkpoint


def test_a_run_without_a_whole_checkpoint_starts_anew(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for step in (2, 4, 6):
        flip(run / NAME / folder_of(step) / "open_clip_model.safetensors")
    heal(Store(str(run)), recipe(run))
    assert not (run / SNAPSHOT).exists()
    assert len(list((run / "damaged").iterdir())) == 3 + 1  # and the result, which names one


@pytest.mark.parametrize("damage", [cut, empty, garble, lose])
def test_the_list_of_checkpoints_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    run = write_run(tmp_path / "run")
    damage(run / SNAPSHOT)
    assert [found.path for found in verify_training(Store(str(run)))] == ([] if damage is lose else [SNAPSHOT])
    heal(Store(str(run)), recipe(run))
    assert latest(run) == folder_of(6)
    assert names(run) == [folder_of(step) for step in (2, 4, 6)]


def test_the_list_made_again_is_in_the_order_of_the_best(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", scores=(0.1, 0.3, float("nan")))
    flip(run / SNAPSHOT)
    empty(run / SNAPSHOT)
    best = {"keep_best": "a/x", "every_steps": 2}
    evaluated = {"every_steps": 2, "datasets": {"a": {"path": "there"}}}
    heal(Store(str(run)), recipe(run, checkpoint=best, evaluate=evaluated))
    assert names(run) == [folder_of(step) for step in (6, 2, 4)]
    assert latest(run) == folder_of(6)


def test_a_checkpoint_that_is_gone_is_not_resumed_from(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / NEWEST)
    heal(Store(str(run)), recipe(run))
    assert latest(run) == folder_of(4)


def test_a_checkpoint_that_was_written_in_part_does_not_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    shutil.copytree(run / NEWEST, run / NAME / "step-000000008-00000000")
    (run / NAME / "step-000000008-00000000" / "training.json").unlink()
    assert verify_training(Store(str(run))) == []
    heal(Store(str(run)), recipe(run))
    assert latest(run) == folder_of(6)
    empty(run / SNAPSHOT)
    heal(Store(str(run)), recipe(run))
    assert latest(run) == folder_of(6)


@pytest.mark.parametrize("damage", [cut, empty, garble])
def test_a_damaged_result_is_no_result(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    run, store = write_run(tmp_path / "run"), Store(str(tmp_path / "run"))
    finished = claim(store, recipe(run), None)
    assert finished is not None and finished["checkpoint"] == str(run / NEWEST)
    damage(run / "result.json")
    assert [found.path for found in verify_training(store)] == ["result.json"]
    assert claim(store, recipe(run), None) is None
    heal(store, recipe(run))
    assert not (run / "result.json").exists() and (run / "damaged" / "result.json").exists()


@pytest.mark.parametrize("damage", [cut, empty, garble])
def test_a_damaged_recipe_is_known_by_the_checkpoints(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    run, store = write_run(tmp_path / "run"), Store(str(tmp_path / "run"))
    damage(run / "recipe.yaml")
    assert claim(store, recipe(run), None) is None
    with pytest.raises(RunDirError, match=r"recipe\.yaml|train\.|optim\."):
        claim(store, recipe(run, optim={"lr": 0.5}), None)
    heal(store, recipe(run))
    assert (run / "damaged" / "recipe.yaml").exists()


def test_a_recipe_that_is_sound_and_another_is_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    store = Store(str(run))
    assert verify_training(store) == []
    (run / "recipe.yaml").write_text(recipe(run, optim={"lr": 0.5}).to_yaml())
    assert [finding.path for finding in verify_training(store)] == ["recipe.yaml"]


@pytest.mark.parametrize("damage", [cut, empty, garble])
def test_without_a_checkpoint_a_damaged_recipe_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe(run).to_yaml())
    damage(run / "recipe.yaml")
    with pytest.raises(RunDirError) as error:
        claim(Store(str(run)), recipe(run), None)
    assert str(run / "recipe.yaml") in str(error.value)


def second_line(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join([lines[0], b'{"step": \n', *lines[2:]])


@pytest.mark.parametrize(
    ("damaged", "kept"),
    [
        (second_line(LINES.encode()), second_line(LINES.encode()).replace(b'{"step": \n', b"")),
        (b"", b""),
        (LINES.encode().replace(b"0.5}", b"0.6}"), LINES.encode().replace(b"0.5}", b"0.6}")),
        (LINES.encode()[:60], b"".join(LINES.encode().splitlines(keepends=True)[:2])),
        (b"\xff\n" + LINES.encode(), LINES.encode()),
    ],
)
def test_damaged_metrics_keep_their_whole_lines(tmp_path: Path, damaged: bytes, kept: bytes) -> None:
    run, store = write_run(tmp_path / "run"), Store(str(tmp_path / "run"))
    (run / "metrics.jsonl").write_bytes(damaged)
    assert [found.path for found in verify_training(store)] == ["metrics.jsonl"]
    heal(store, recipe(run))
    assert (run / "metrics.jsonl").read_bytes() == kept
    assert (run / "damaged" / "metrics.jsonl").read_bytes() == damaged


def test_a_line_that_a_killed_run_did_not_finish_is_no_damage(tmp_path: Path) -> None:
    run, store = write_run(tmp_path / "run"), Store(str(tmp_path / "run"))
    (run / "metrics.jsonl").write_text(LINES + '{"step": 7, "lo')
    assert verify_training(store) == []
    heal(store, recipe(run))
    assert not (run / "damaged").exists()


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_another_run_does_not_begin_from_damaged_weights(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    run = write_run(tmp_path / "run")
    used = recipe(run, model={"architecture": "ViT-B-32", "pretrained": str(run / NEWEST)}).model
    assert resolve_weights(used) == run / NEWEST / "open_clip_model.safetensors"
    flip(run / NEWEST / "tokenizer" / "vocab.json")  # is not read
    assert resolve_weights(used) is not None
    damage(run / NEWEST / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"open_clip_model\.safetensors"):
        resolve_weights(used)


def test_a_finding_names_the_file_and_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    cut(run / NEWEST / "open_clip_model.safetensors")
    why = "it has 768 bytes of 1,536"
    assert verify_training(Store(str(run))) == [Finding(f"{NEWEST}/open_clip_model.safetensors", why)]
