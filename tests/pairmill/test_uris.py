from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from pairmill.errors import UserError
from pairmill.store import Store
from pairmill.uris import absolute, expand_braces, files_at, filesystem_of, find, local_path


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_of(root: Path, pattern: str) -> list[str]:
    """What is found, relative to `root`."""
    return [os.path.relpath(path, root) for path in find(f"{root}/{pattern}").paths]


FILES = (
    *("a.parquet", "b.parquet", "c.tar", ".d.parquet", "_e.parquet"),
    *("sub/f.parquet", "sub/deep/g.parquet", "sub/.h/i.parquet", "_manifest/j.parquet", "other/k.tar"),
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.parquet", ["a.parquet"]),
        (".d.parquet", [".d.parquet"]),  # named, not hidden
        ("*.parquet", ["a.parquet", "b.parquet"]),  # `*` crosses no `/`
        ("*", ["a.parquet", "b.parquet", "c.tar"]),
        ("?.parquet", ["a.parquet", "b.parquet"]),
        ("[ac].*", ["a.parquet", "c.tar"]),
        ("[!ac].*", ["b.parquet"]),
        ("_*.parquet", ["_e.parquet"]),
        ("*/*.parquet", ["sub/f.parquet"]),
        ("sub/*/g.parquet", ["sub/deep/g.parquet"]),
        ("_manifest/*", ["_manifest/j.parquet"]),
        ("**/*.parquet", ["a.parquet", "b.parquet", "sub/deep/g.parquet", "sub/f.parquet"]),
        ("sub/**", ["sub/deep/g.parquet", "sub/f.parquet"]),
        ("**/deep/*", ["sub/deep/g.parquet"]),
        ("sub", ["sub/deep/g.parquet", "sub/f.parquet"]),
        ("sub/.h", ["sub/.h/i.parquet"]),
        ("{a,c,nowhere}.*", ["a.parquet", "c.tar"]),
        ("{sub,other}", ["other/k.tar", "sub/deep/g.parquet", "sub/f.parquet"]),
        ("{a.parquet,*.parquet}", ["a.parquet", "b.parquet"]),
        ("nowhere", []),
        ("nowhere/*", []),
        ("a.parquet/*", []),
    ],
)
def test_a_pattern_stands_for_what_a_shell_would_say(tmp_path: Path, pattern: str, found: list[str]) -> None:
    fill(tmp_path, *FILES)
    assert names_of(tmp_path, pattern) == found


def test_what_exists_by_its_name_is_no_pattern(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "urls [2024].parquet",
        "urls 2.parquet",
        "{a,b}.tar",
        "a.tar",
        "*.csv",
        "x.csv",
        "[x]/1.csv",
        "x/2.csv",
    )
    assert names_of(tmp_path, "urls [2024].parquet") == ["urls [2024].parquet"]
    assert names_of(tmp_path, "urls [2].parquet") == ["urls 2.parquet"]
    assert names_of(tmp_path, "{a,b}.tar") == ["{a,b}.tar"]
    assert names_of(tmp_path, "*.csv") == ["*.csv"]
    assert names_of(tmp_path, "[x]/*.csv") == ["[x]/1.csv"]


def test_below_chooses_in_folders_only(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "readme.md")

    def found(pattern: str) -> Iterable[str]:
        return find(f"{tmp_path}/{pattern}", below=lambda path: path.endswith(".txt")).names

    assert list(found("")) == ["a.txt"]
    assert list(found("*")) == ["a.txt", "readme.md"] and list(found("readme.md")) == ["readme.md"]


def test_names_are_relative_to_what_holds_all(tmp_path: Path) -> None:
    fill(tmp_path, "d/a/s/f.parquet", "d/b/s/f.parquet", "d/b/s/g.tar")
    found = find(str(tmp_path))
    assert found.names == ("a/s/f.parquet", "b/s/f.parquet", "b/s/g.tar") and found.sizes == (15, 15, 11)
    assert found.ending_in(".tar").names == ("g.tar",) and found.ending_in(".csv").paths == ()
    assert find(f"{tmp_path}/d/a/s/f.parquet").names == ("f.parquet",)


def test_a_file_system_that_is_not_local() -> None:
    filesystem = pafs._MockFileSystem()
    for name in ("b/x-1.tar", "b/x-2.tar", "b/sub/x-3.tar"):
        filesystem.create_dir(name.rpartition("/")[0])
        filesystem.open_output_stream(name).close()

    def found(pattern: str) -> list[str]:
        return sorted(info.path for info in files_at(filesystem, pattern, lambda path: True))

    assert found("b/*.tar") == found("b/x-{1..2}.tar") == ["b/x-1.tar", "b/x-2.tar"]
    assert found("b") == found("b/**") == ["b/sub/x-3.tar", "b/x-1.tar", "b/x-2.tar"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("s3://b/{008..011}-{x,y}.tar", [f"s3://b/{n}-{c}.tar" for n in ("008", "009", "010", "011") for c in "xy"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{8..011}", ["008", "009", "010", "011"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{,x}y", ["y", "xy"]),
        ("plain.tar", ["plain.tar"]),
        ("{a}-{}.tar", ["{a}-{}.tar"]),  # as bash leaves them
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "kind", ["file://{}/a b/é%.csv", "file://{}/a%20b/%C3%A9%.csv", "file://localhost{}/a b/é%.csv"]
)
def test_file_addresses(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "a b/é%.csv")
    filesystem, path = filesystem_of(kind.format(tmp_path))
    assert isinstance(filesystem, pafs.LocalFileSystem) and path == f"{tmp_path}/a b/é%.csv"
    assert find(kind.format(tmp_path)).paths == (path,)
    assert find(f"file://{tmp_path}/a b/*.csv").paths == (path,)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://b/a b/{0..9}[1]*.tar?region=us-east-1", "b/a b/{0..9}[1]*.tar"),
        ("s3://b/a%20b/100%/é?region=us-east-1", "b/a b/100%/é"),
        ("s3://b/x?.tar?region=us-east-1", "b/x?.tar"),
        ("gs://anonymous@b/{a,b}", "b/{a,b}"),
    ],
)
def test_addresses_of_object_stores(uri: str, path: str) -> None:
    filesystem, found = filesystem_of(uri)
    assert found == path and not isinstance(filesystem, pafs.LocalFileSystem)


@pytest.mark.parametrize(
    "uri",
    [
        *("https://x.example/list.csv", "az://c/list.csv", "ftp://x/y", "file://x/y", "s3:///x"),
        # pyarrow opens these: of another library, and of its own tests.
        *("hf://datasets/x/a.parquet", "HF://a/b", "mock://x", "github://a/b", "memory://x", "data://x"),
    ],
)
@pytest.mark.parametrize("opened", [filesystem_of, find, absolute, Store])
def test_an_address_of_no_known_kind_says_what_there_is(uri: str, opened: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match="must") as error:
        opened(uri)
    assert uri in str(error.value) and "traceback" not in str(error.value).lower()


def test_a_scheme_may_be_in_capital_letters() -> None:
    assert absolute("S3://Bucket/Run/") == "s3://Bucket/Run" and filesystem_of("GS://anonymous@b/x")[1] == "b/x"


@pytest.mark.parametrize("uri", ["hf:/a/b", "mock:/x", "s3:bucket/x"])
def test_an_address_that_lost_a_slash_makes_no_folder(uri: str) -> None:
    with pytest.raises(UserError, match="two slashes"):
        absolute(uri)
    assert absolute(f"./{uri}") == os.path.abspath(uri)


def test_an_error_holds_no_secret() -> None:
    for uri in ("az://name:hunter2@c/x", "s4://b/x?secret_key=hunter2"):
        with pytest.raises(UserError) as error:
            filesystem_of(uri)
        assert ":hunter2" not in str(error.value) and "=hunter2" not in str(error.value)


def test_a_bucket_out_of_reach_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        @staticmethod
        def from_uri(uri: str) -> None:
            raise OSError("Could not resolve host")

    monkeypatch.setattr("pairmill.uris.pafs.FileSystem", Unreachable)
    with pytest.raises(UserError, match=r"that this machine reaches\n.*s3://b/x \(Could not resolve host\)"):
        filesystem_of("s3://b/x")


def test_home_and_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, "lists/a.csv")
    assert find("~/lists/*.csv").paths == (f"{tmp_path}/lists/a.csv",)
    monkeypatch.chdir(tmp_path / "lists")
    assert find("a.csv").paths == find("./*.csv").paths == find("../lists").paths == (f"{tmp_path}/lists/a.csv",)
    assert absolute("~/run/") == Store("~/run").uri == absolute("../run") == f"{tmp_path}/run"
    assert absolute(f"file://{tmp_path}/run") == f"{tmp_path}/run" and absolute("s3://b/run/") == "s3://b/run"
    Store("~/run").write_json("x.json", {})
    assert (tmp_path / "run" / "x.json").exists() and not Path("~").exists()


def test_the_home_of_nobody_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("~nosuchuser/x", "~nosuchuser"):
        for opened in (absolute, Store, find, lambda path: local_path(path, "--to")):
            with pytest.raises(UserError, match=f"user of this machine\n.*{given}\n"):
                opened(given)
    assert absolute("./~nosuchuser/x") == f"{tmp_path}/~nosuchuser/x"
    fill(tmp_path, "~list.csv")  # as in a shell
    assert find("~list.csv").paths == (f"{tmp_path}/~list.csv",)


@pytest.mark.parametrize("given", ["s3://bucket/x", "s3:/bucket/x", "gs://bucket/x", "https://a/x", "az://a/x"])
def test_what_is_written_here_must_be_a_path_of_this_machine(given: str) -> None:
    for form in (given, Path(given)):
        with pytest.raises(UserError, match="--to must be a path on this machine") as error:
            local_path(form, "--to")
        assert given.replace("s3:/b", "s3://b").split("/")[2] in str(error.value.value)


def test_a_target_is_where_the_user_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in ("~/x", "x", f"file://{tmp_path}/x", Path("~/x"), Path(f"file://{tmp_path}/x")):
        assert local_path(given, "--to") == tmp_path / "x"
