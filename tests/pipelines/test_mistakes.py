"""What people get wrong ends with a rule, what was found and a fix, and exit code 2; never in a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curation.plan import plan
from pairmill.errors import RunDirError, UserError
from pairmill.layout import PLAN_COPY, PLAN_JSON, RECIPE_COPY, RECIPE_FILE
from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from pipelines import output
from pipelines.cli import app
from pipelines.demo import run_demo
from pipelines.doctor import project_root
from pipelines.recipe import load_recipe

TEXT = "run_dir: {0}/new\ninput: {{path: {0}/list.parquet}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A list, a recipe, a planned run, and files that are none of these."""
    pq.write_table(pa.table({"url": ["http://a/1", "http://a/2"], "text": ["x", "y"]}), tmp_path / "list.parquet")
    (tmp_path / "recipe.yaml").write_text(TEXT.format(tmp_path))
    recipe = load_recipe(tmp_path / "recipe.yaml", [f"run_dir={tmp_path / 'run'}"])
    plan(Store(recipe.run_dir), recipe.input, recipe.shards)
    write_recipe(Store(recipe.run_dir), recipe.to_yaml())
    (tmp_path / "junk").write_bytes(bytes(range(128, 256)) * 20)
    (tmp_path / "file").write_text("x")
    (tmp_path / "more.csv").write_text("url,text\nhttp://a/3,z\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


Refused = Callable[..., str]


@pytest.fixture
def refused(folder: Path) -> Refused:
    """Run a command in which FOLDER stands for the folder; what it says."""

    def run(command: str, *more: str) -> str:
        arguments = [part.replace("FOLDER", str(folder)) for part in (*command.split(), *more)]
        done = CliRunner().invoke(app, arguments)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 2, done.output
        text = str(done.stderr)
        assert "must" in text and "\n  got: " in text and "\n  fix: " in text, text
        return text

    return run


#: Name -> text of a recipe, and what the message must have.
RECIPES = {
    "empty": ("", "holds nothing"),
    "comments alone": ("# run_dir: x\n", "holds nothing"),
    "a list": ("- a\n", "holds a list"),
    "a text": ("run_dir\n", "holds a text"),
    "a tab": ("run_dir: x\n\tinput: y\n", "line 2"),
    "a key twice": (TEXT + "run_dir: again\n", "run_dir occurs twice"),
    "an inner key twice": (TEXT + "image: {{size: 1, size: 2}}\n", "size occurs twice"),
    "an unknown alias": ("run_dir: *x\n", "must be YAML"),
    "an endless alias": ("a: &a [*a]\n", "its own anchor"),
    "an endless value": (TEXT + "image: {{size: &s [*s]}}\n", "its own anchor"),
    "aliases without measure": (
        "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
        + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdef", "bcdefg", strict=True))
        + TEXT,
        "aliases written out",
    ),
    "101 levels": (TEXT + "image: {{size: " + "[" * 101 + "]" * 101 + "}}\n", "100 levels"),
    "a merge twice": ("a: &a {{x: 1}}\n" + TEXT + "image: {{<<: *a, <<: *a}}\n", "<< occurs twice"),
    "an object": ("run_dir: !!python/object:os.system x\n", "must be YAML"),
    "no such day": ("run_dir: 2020-13-45\n", "must be YAML"),
    "depth": ("a: " + "[" * 3000 + "]" * 3000, "must be YAML"),
    "a number as key": (TEXT + "1: 2\n", "keys of a recipe must be names"),
    "a list as key": (TEXT + "? [a]\n: b\n", "must be YAML"),
    "two documents": (TEXT + "---\nx: 1\n", "must be YAML"),
    "a NUL in a path": ('run_dir: "a\\0b"\ninput: {{path: {0}/list.parquet}}\n', "NUL"),
    "infinity": (TEXT + "pack: {{recap_p: .inf}}\n", "pack.recap_p"),
}


@pytest.mark.parametrize("command", ["curate", "plan"])
@pytest.mark.parametrize("how", RECIPES)
def test_a_recipe_that_cannot_be_read(folder: Path, refused: Refused, command: str, how: str) -> None:
    text, says = RECIPES[how]
    (folder / "recipe.yaml").write_text(text.format(folder) if "{0}" in text else text)
    assert says in refused(f"{command} FOLDER/recipe.yaml")


@pytest.mark.parametrize("name", ["nowhere", "folder", "junk"])
@pytest.mark.parametrize("command", ["curate", "plan", "train", "sweep"])
def test_a_recipe_that_is_no_file_of_text(refused: Refused, command: str, name: str) -> None:
    assert "readable file" in refused(f"{command} FOLDER/{name}")


@pytest.mark.parametrize(
    ("encoding", "got"),
    [("utf-16", "in UTF-16"), ("utf-16-be", "in UTF-16"), ("utf-32-le", "UTF-32"), ("latin-1", "'utf-8' codec")],
)
def test_a_recipe_in_another_encoding(folder: Path, refused: Refused, encoding: str, got: str) -> None:
    (folder / "recipe.yaml").write_bytes(f"# é\n{TEXT.format(folder)}".encode(encoding))
    message = refused("plan FOLDER/recipe.yaml")
    assert got in message and "UTF-8" in message


@pytest.mark.parametrize("override", ["key", "=1", "", "image.size=[", "image.size=*x", "image.size=2020-13-45"])
def test_an_override_that_cannot_be_read(refused: Refused, override: str) -> None:
    refused("plan FOLDER/recipe.yaml", override)


@pytest.mark.parametrize(
    "where", ["FOLDER/file", "FOLDER/file/run", "/dev/null", "/proc/x/run", "ftp://a/b", "s3://", "gs://"]
)
def test_a_run_dir_that_cannot_be_one(refused: Refused, where: str) -> None:
    refused(f"plan FOLDER/recipe.yaml run_dir={where}")


@pytest.mark.parametrize(
    ("job", "where"),
    [
        *(("train", where) for where in ("FOLDER/file", "FOLDER/file/run", "/dev/full", "ftp://a/b")),
        *((job, "ftp://a/b") for job in ("sweep", "submit curate", "submit train")),
    ],
)
def test_a_run_dir_that_cannot_be_one_for_other_jobs(refused: Refused, job: str, where: str) -> None:
    recipe = project_root() / "pipelines" / "recipes" / f"{job.rpartition(' ')[2]}-demo.yaml"
    text = refused(f"{job} {recipe} run_dir={where}")
    assert "run_dir must be" in text or "a path must be" in text


#: What happened to a file of a run -> file, what is done to it, and the commands that notice.
READS = ("report", "rows", "extend", "retry-failed")
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], tuple[str, ...]]] = {
    "a plan that is no JSON": ("plan/plan.json", lambda old: b"{", READS),
    "a plan that is no text": ("plan/plan.json", lambda old: b"\xff\xfe", READS),
    "an empty plan": ("plan/plan.json", lambda old: b"", READS),
    "a plan of another version": ("plan/plan.json", lambda old: old.replace(b'"cut"', b'"sliced"'), READS),
    "a plan that is a list": ("plan/plan.json", lambda old: b"[1]", READS),
    "a plan without lists": (
        "plan/plan.json",
        lambda old: json.dumps({**json.loads(old), "inputs": []}).encode(),
        READS,
    ),
    "a shard that is no parquet": ("plan/shard-000000.parquet", lambda old: b"junk" * 99, READS[:-1]),
    "a shard that is cut off": ("plan/shard-000000.parquet", lambda old: old[:200], READS[:-1]),
    "an empty shard": ("plan/shard-000000.parquet", lambda old: b"", READS[:-1]),
    "a recipe that is no text": ("recipe.yaml", lambda old: b"\xff\xfe", READS),
    "a recipe that is no YAML": ("recipe.yaml", lambda old: b"a: [", READS),
    "a recipe that is a list": ("recipe.yaml", lambda old: b"- a\n", READS),
    "a recipe with a wrong section": ("recipe.yaml", lambda old: old + b"nope: 3\n", ("extend", "retry-failed")),
    "a recipe with a plain section": ("recipe.yaml", lambda old: b"deduplicate: 3\n", READS),
    "a manifest of another version": (
        "images/_manifest/0000/shard-000000-aa-bb.json",
        lambda old: b"{}",
        ("report", "rows"),
    ),
    "tombstones that are no parquet": ("forgotten.parquet", lambda old: b"junk" * 99, ("extend", "forget")),
    "tombstones of another version": ("forgotten.parquet", lambda old: a_table(), ("extend", "forget")),
    "a recipe that is a list, to forget": ("recipe.yaml", lambda old: b"- a\n", ("forget",)),
}
CALLS = {
    "report": "report FOLDER/run",
    "rows": "rows FOLDER/run --to FOLDER/rows.parquet",
    "extend": "extend FOLDER/run FOLDER/more.csv --plan-only",
    "retry-failed": "retry-failed FOLDER/run",
    "forget": "forget FOLDER/run --url https://a.example/1.jpg",
}


@pytest.mark.parametrize("command", [CALLS["report"], CALLS["rows"], "plan FOLDER/recipe.yaml"])
def test_a_full_disk_is_named_with_the_file(refused: Refused, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    text = refused(command)
    assert "No space left on device: '/" in text and ".partial" not in text


def a_table() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(("how", "command"), [(how, command) for how in DAMAGES for command in DAMAGES[how][2]])
def test_a_run_that_is_damaged_or_of_another_version(folder: Path, refused: Refused, how: str, command: str) -> None:
    name, change, _ = DAMAGES[how]
    path = folder / "run" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = change(path.read_bytes() if path.exists() else b"")
    path.write_bytes(changed)
    if (copy := {PLAN_JSON: PLAN_COPY, RECIPE_FILE: RECIPE_COPY}.get(name)) is not None:  # it would do
        (folder / "run" / copy).write_bytes(changed)
    refused(CALLS[command])


@pytest.mark.parametrize("run", ["file", "nowhere", "folder"])
@pytest.mark.parametrize("command", CALLS)
def test_a_run_that_is_none(refused: Refused, command: str, run: str) -> None:
    refused(CALLS[command].replace("FOLDER/run", f"FOLDER/{run}", 1))


def test_a_lost_shard(folder: Path, refused: Refused) -> None:
    (folder / "run" / "plan" / "shard-000000.parquet").unlink()
    for command in ("report", "rows"):  # a job plans it again
        assert "shard-000000.parquet" in refused(CALLS[command])


@pytest.mark.parametrize("to", ["file/x", "folder", ".", "run/plan/plan.json", "run/rows.parquet"])
def test_a_place_to_write_that_is_none(folder: Path, refused: Refused, to: str) -> None:
    before = (folder / "run" / "plan" / "plan.json").read_bytes()
    refused(f"rows FOLDER/run --to FOLDER/{to}")
    assert (folder / "run" / "plan" / "plan.json").read_bytes() == before
    assert not (folder / "run" / "rows.parquet").exists()


@pytest.mark.parametrize("to", ["file", "file/x", "run", "run/export"])
def test_an_export_to_a_place_that_is_none(refused: Refused, to: str) -> None:
    refused(f"export FOLDER/run --to FOLDER/{to}")


@pytest.mark.parametrize("recipe", ["nowhere", "folder", "junk"])
def test_a_model_is_measured_by_a_recipe_that_can_be_read(refused: Refused, recipe: str) -> None:
    assert "readable file" in refused(f"evaluate FOLDER/folder --recipe FOLDER/{recipe}")


@pytest.mark.parametrize("text", ["- a\n", "a: [", "3\n", "evaluate: 3\n"])
def test_a_model_is_measured_by_a_recipe_with_sections(folder: Path, refused: Refused, text: str) -> None:
    (folder / "recipe.yaml").write_text(text)
    refused("evaluate FOLDER/folder --recipe FOLDER/recipe.yaml")


def test_a_training_run_whose_result_names_no_checkpoint(folder: Path, refused: Refused) -> None:
    (folder / "folder" / "result.json").write_text("{}")
    assert "names no checkpoint" in refused("evaluate FOLDER/folder evaluate.datasets.a.path=FOLDER")


@pytest.mark.parametrize("address", ["nope", "http://", "http://a:b", "http://[::1", "http://a:99999999", "ray://a"])
@pytest.mark.parametrize("command", ["jobs", "logs x", "stop x", "dashboard", "submit curate FOLDER/recipe.yaml"])
def test_an_address_that_is_none(refused: Refused, command: str, address: str) -> None:
    assert "--address must be" in refused(f"{command} --address {address}")


def test_doctor_reports_a_run_dir_that_is_none() -> None:
    done = CliRunner().invoke(app, ["doctor", "--run-dir", "ftp://a/b"])
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("name", ["run", "folder", "file"])
def test_the_demo_removes_nothing_but_a_demo(folder: Path, name: str) -> None:
    (folder / "folder" / "mine").write_text("x")
    before = sorted(folder.rglob("*"))
    with pytest.raises(RunDirError, match="new or hold an earlier demo"):
        run_demo(str(folder / name))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("theirs", ["new-train/checkpoint", "new-train/recipe.yaml", "new-input/urls.parquet"])
def test_the_demo_removes_nothing_beside_it_either(folder: Path, theirs: str) -> None:
    (folder / theirs).parent.mkdir()
    (folder / theirs).write_bytes(a_table() if theirs.endswith(".parquet") else b"mine: 1")
    before = sorted(folder.rglob("*"))
    with pytest.raises(RunDirError, match="beside the demo's --run-dir must be new"):
        run_demo(str(folder / "new"))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["report FOLDER/run", "rows FOLDER/run --to FOLDER/rows.parquet"])
def test_a_run_that_is_only_planned_says_what_comes_next(folder: Path, refused: Refused, command: str) -> None:
    for name in (RECIPE_FILE, RECIPE_COPY):
        (folder / "run" / name).unlink()  # `curate` writes them, `plan` does not
    assert "run `pairmill curate` with its recipe first" in refused(command)


@pytest.mark.parametrize("name", ["rows.csv", "rows"])
def test_rows_are_written_to_a_file_that_is_named_as_one(folder: Path, refused: Refused, name: str) -> None:
    assert "rows.parquet" in refused(f"rows FOLDER/run --to FOLDER/{name}")
    assert not (folder / name).exists()


def test_a_model_that_is_not_there_is_reported_before_its_datasets(refused: Refused) -> None:
    assert "a model must be" in refused("evaluate FOLDER/nosuch")


def test_an_export_names_the_formats_of_what_it_is_given(folder: Path, refused: Refused) -> None:
    assert "webdataset, img2dataset" in refused("export FOLDER/run --to FOLDER/x --format open_clip")
    (folder / "folder" / "open_clip_config.json").write_text("{}")
    assert "open_clip, huggingface" in refused("export FOLDER/folder --to FOLDER/x")


def test_a_problem_of_several_lines_is_printed_on_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_stdout", said := io.StringIO())
    output.show_machine({"cores": 2, "problems": ["a\n  got: b", "c"]})
    lines = [line.strip() for line in said.getvalue().splitlines()]
    assert lines == ["cores  2", "problems  2", "- a", "got: b", "- c"]


def test_one_file_is_not_files() -> None:
    assert [output.counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_stdout", said := io.StringIO())
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, said.getvalue()) == (0, f"pairmill {version('pairmill')}\n")


def test_an_error_that_is_no_path_is_not_called_one() -> None:
    with pytest.raises(ConnectionResetError):
        output._result(lambda: (_ for _ in ()).throw(ConnectionResetError(104, "reset")))
    with pytest.raises(UserError, match="No space left"):
        output._result(lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))


@pytest.mark.parametrize(
    "override",
    ["input.path=zz", "run_dir=/tmp/zz", "image.size=32", "shards.seed=3", "filter.min_side=3", "stages=[]", "nope=1"],
)
def test_a_retry_changes_only_what_is_fetched(folder: Path, refused: Refused, override: str) -> None:
    before = (folder / "run" / "recipe.yaml").read_text()
    assert "overrides of `retry-failed`" in refused("retry-failed FOLDER/run", override)
    assert "download.retries" in refused("retry-failed FOLDER/run download.retries=x")
    assert (folder / "run" / "recipe.yaml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("FOLDER/nowhere.csv", "the argument INPUTS must lead to at least one input file"),
        ("input.path=FOLDER/more.csv", "the argument INPUTS must lead to at least one input file"),
        ("FOLDER/file", "at least one input file|--format must name"),
        ("FOLDER/more.csv --url-column link", "--url-column must name a column"),
        ("FOLDER/more.csv --text-column link", "--text-column must name a column"),
        ("FOLDER/more.csv --format nope", "--format must be"),
    ],
)
def test_an_extension_names_its_arguments(refused: Refused, arguments: str, says: str) -> None:
    text = refused(f"extend FOLDER/run {arguments} --plan-only")
    assert re.search(says, text)
    assert "input." not in text.replace("got: input.path=", "")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train pipelines/recipes/curate.yaml", "must be one of `pairmill train`.*with keys of `pairmill curate`"),
        ("plan pipelines/recipes/train-demo.yaml", "must be one of `pairmill curate`.*with keys of `pairmill train`"),
        (
            "curate pipelines/recipes/sweep-demo.yaml x=1",
            "must be one of `pairmill curate`.*run `pairmill sweep` with it",
        ),
    ],
)
def test_a_recipe_of_another_command_is_named(refused: Refused, command: str, says: str) -> None:
    assert re.search(says, refused(command), re.DOTALL)


def test_a_mistake_in_a_recipe_of_the_right_kind_stays_one(refused: Refused, folder: Path) -> None:
    (folder / "wrong.yaml").write_text(TEXT.format(folder) + "fliter: {}\n")
    assert "perhaps you mean: filter" in refused("plan FOLDER/wrong.yaml")
