"""No secret is kept with a run, printed or passed on: a recipe that holds one is refused, all else is masked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from pairmill.environment import resolved
from pairmill.errors import RecipeError, UserError
from pairmill.store import Store
from pipelines.cli import app
from pipelines.invocations import Invocation
from pipelines.recipe import load_recipe, parse_section, read_mapping
from pipelines.submit import environment, prepare
from training.evaluate.config import EvaluateConfig
from training.recipe import TrainRecipe

OPENAI = "recaption: {{model: m, engine: {{name: openai, {}}}}}"
SECRET = "hunter22x"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "urls.csv").write_text("url,text\nhttp://a/1,x\n")
    path = tmp_path / "r.yaml"
    path.write_text(f"run_dir: {tmp_path}/run\ninput: {{path: {tmp_path}/urls.csv}}\n")
    return path


HELD = {
    "a password in a base URL": OPENAI.format(f"base_url: 'https://me:{SECRET}@h/v1'"),
    "a password in one of several": OPENAI.format(f"base_url: ['https://h/v1', 'https://me:{SECRET}@h/v1']"),
    "a key in a query": OPENAI.format(f"base_url: 'https://h/v1?api-version=1&key={SECRET}'"),
    "a key in an extra argument": OPENAI.format(f"extra_body: {{apiKey: {SECRET}}}"),
    "a header": OPENAI.format(f"extra_body: {{headers: {{Authorization: Bearer {SECRET}}}}}"),
    "an argument of an engine": f"recaption: {{model: m, engine: {{name: vllm, arguments: {{hf_token: {SECRET}}}}}}}",
    "a number": OPENAI.format("extra_body: {password: 2200220022}"),
    "a stage": f"stages: [{{name: 'a.b:C', options: ['--password', {SECRET}]}}]",
    "an agent": f"download: {{user_agent: 'x token={SECRET}', hash_blocklist: 's3://K:{SECRET}@b/x'}}",
}


@pytest.mark.parametrize("section", HELD.values(), ids=HELD.keys())
def test_a_recipe_that_holds_a_secret_is_refused_with_the_fix(recipe: Path, section: str) -> None:
    recipe.write_text(f"{recipe.read_text()}{section}\n")
    for command in ("curate", "plan"):
        done = CliRunner().invoke(app, [command, str(recipe), "--json"])
        assert done.exit_code == 2
        assert SECRET not in done.output and "2200220022" not in done.output
        assert "must not hold a secret" in done.output and "environment variable" in done.output
    with pytest.raises(RecipeError, match="must not hold a secret"):
        prepare("curate", str(recipe), [])
    with pytest.raises(UserError, match="must not hold keys"):
        prepare("evaluate", f"s3://K:{SECRET}@b/run", [])
    assert not (recipe.parent / "run").exists()


def test_so_are_overrides_and_the_recipes_of_other_commands(recipe: Path, tmp_path: Path) -> None:
    for override in (f"input.path=s3://KEY:{SECRET}@b/x", f"run_dir=s3://b/x?secret_key={SECRET}"):
        done = CliRunner().invoke(app, ["plan", str(recipe), override])
        assert done.exit_code == 2 and SECRET not in done.output and "AWS_SECRET_ACCESS_KEY" in done.output
    with pytest.raises(RecipeError, match="must not hold a secret"):
        parse_section(EvaluateConfig, "evaluate", {}, [f"evaluate.retrieval=s3://K:{SECRET}@b/x"])
    (tmp_path / "t.yaml").write_text(f"run_dir: {tmp_path}/t\ndata: {{train: 's3://K:{SECRET}@b/x'}}\n")
    with pytest.raises(RecipeError, match="must not hold a secret"):
        load_recipe(tmp_path / "t.yaml", [], TrainRecipe)


@pytest.mark.parametrize(
    "section",
    [
        OPENAI.format("api_key_env: OPENAI_API_KEY, base_url: 'https://me:${PROXY_PASSWORD}@h/v1?key=${KEY}'"),
        OPENAI.format("extra_body: {api_key: '${KEY}', max_tokens: 5}"),
        "filter: {where: \"token != 'x' and is_null(password)\"}",
        "recaption: {texts: [{kind: short, prompt: 'The password: what is it? Authorization: none'}]}",
    ],
)
def test_a_recipe_that_names_where_a_secret_is_passes(recipe: Path, section: str) -> None:
    recipe.write_text(f"{recipe.read_text()}{section}\n")
    assert read_mapping(recipe)["run_dir"]


@pytest.mark.parametrize("command", [["report"], ["rows", "--to", "x.parquet"], ["verify"], ["export", "--to", "x"]])
@pytest.mark.parametrize("uri", [f"s3://KEY:{SECRET}@b/x", f"s3://b/x?access_key=K&secret_key={SECRET}"])
def test_keys_in_an_address_are_refused_and_not_printed(command: list[str], uri: str) -> None:
    done = CliRunner().invoke(app, [command[0], uri, *command[1:]])
    assert done.exit_code == 2
    assert SECRET not in done.output and "must not hold keys" in done.output


def test_the_record_of_a_run_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", dict)
    command = f"pairmill curate r.yaml --token {SECRET} download.user_agent=http://u:{SECRET}@h image.size=64"
    with Invocation(Store(str(tmp_path)), command):
        pass
    [record] = (tmp_path / "runs").glob("*.json")
    assert SECRET not in record.read_text()
    assert "image.size=64" in json.loads(record.read_text())["command"]


def test_what_is_logged_and_an_unforeseen_traceback_are_masked() -> None:
    script = (
        "import logging, pipelines.startup as s; s.prepare_process()\n"
        f"logging.getLogger('pairmill').warning('cannot load %s', 'http://u:{SECRET}@h/')\n"
        f"raise ValueError('no answer from https://h/?sig={SECRET}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr.replace(script, "")
    assert "cannot load http://***@h/" in done.stderr and "ValueError: no answer from https://h/?sig=***" in done.stderr


def test_a_submitted_recipe_leaves_its_comments_here(recipe: Path) -> None:
    recipe.write_text(f"# my key is {SECRET}\n{recipe.read_text()}")
    variables = environment(prepare("curate", str(recipe), []))
    assert SECRET not in json.dumps(variables) and "urls.csv" in json.dumps(variables)


def test_references_are_replaced_by_the_variables_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    data = {"url": "https://u:${A_KEY}@h/$A_KEY", "n": 3, "list": ["${A_KEY}", None]}
    found, values = resolved(data, "x")
    assert found == {"url": f"https://u:{SECRET}@h/$A_KEY", "n": 3, "list": [SECRET, None]}
    assert values == [SECRET, SECRET]
    with pytest.raises(UserError, match="NOT_SET is not set"):
        resolved("${NOT_SET}", "x")
