"""A list of a few megabytes that unpacks to gigabytes is refused in one line, or left out and counted."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.inputs import InputConfig, extra_fields, find_files, limits, read_rows, sound_files
from pairmill import bounded_tar
from pairmill.errors import InputError

URLS = [f"http://a/{n}" for n in range(20)]
ROWS = [json.dumps({"url": url, "text": "x"}) for url in URLS]


def rows_of(path: Path) -> list[str]:
    config = InputConfig(path=str(path))
    files = find_files(config)
    extra = extra_fields(files, config)
    return [url for file in files for batch in read_rows(file, config, extra) for url in batch["url"].to_pylist()]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that small files exceed."""
    for name, value in {
        "LARGEST_VALUE": 2_000,
        "RATIO_COUNTS_FROM": 50_000,
        "BATCH_BYTES": 8_000,
        "BATCH_ROWS": 8,
        "MOST_COLUMNS": 50,
        "ROWS_COUNT_FROM": 5_000,
        "_LONG_WORD": 500,
    }.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr("curation.inputs.quoting._BLOCK_BYTES", 1_000)
    monkeypatch.setattr(bounded_tar, "LARGEST_HEADERS", 20_000)
    monkeypatch.setattr(bounded_tar.BoundedTar, "largest_member", 2_000)


def text_file(content: bytes, pack: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pack(content)) and None


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def table(*, use_dictionary: bool = True, **columns: object) -> Callable[[Path], None]:
    return lambda path: pq.write_table(
        pa.table(columns), path, compression="zstd", use_dictionary=use_dictionary, data_page_size=2**24
    )


def own_keys(rows: int) -> bytes:
    """Rows of which each has a key of its own."""
    return "\n".join(json.dumps({"url": "u", "text": "x", f"k{n}": 1}) for n in range(rows)).encode()


def tar(*members: tuple[str, bytes], more: Callable[[tarfile.TarFile], None] = lambda tar: None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as out:
        more(out)
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            out.addfile(header, io.BytesIO(content))
    return file.getvalue()


def pax_sparse(out: tarfile.TarFile) -> None:
    """A text of which a sparse map says that it is long."""
    header = tarfile.TarInfo("0.txt")
    header.size = 512
    header.pax_headers = {
        **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "0.txt"},
        "GNU.sparse.realsize": str(10**12),
    }
    out.addfile(header, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))


def sparse_map(out: tarfile.TarFile) -> None:
    """A sparse map of many pieces."""
    header = tarfile.TarInfo("0.jpg")
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    content = b"20000\n" + b"0\n0\n" * 20_000
    header.size = len(content)
    out.addfile(header, io.BytesIO(content))


def long_name(out: tarfile.TarFile) -> None:
    header = tarfile.TarInfo("n" * 40_000 + ".txt")
    out.addfile(header, io.BytesIO())


def many_globals(out: tarfile.TarFile) -> None:
    for n in range(1_100):
        out.fileobj.write(tarfile.TarInfo.create_pax_global_header({f"k{n}": "v"}))  # type: ignore[union-attr]


def chained_names(out: tarfile.TarFile) -> None:
    """Long names of long names, which tarfile reads by recursion."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 0
    out.fileobj.write(header.tobuf() * 2_000)  # type: ignore[union-attr]


SAMPLE = ("1.json", ROWS[0].encode())
ZEROS = bytes(200_000)
BOMBS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "line.txt": ("a line must have at most", text_file(ZEROS)),
    "line.jsonl": ("a line must have at most", text_file(b"\n".join(r.encode() for r in ROWS) + b"\n" + ZEROS)),
    "line.csv.gz": ("a line must have at most", text_file(b"url,text\n" + b"x" * 200_000, gzip.compress)),
    "line.tsv.bz2": ("a line must have at most", text_file(ZEROS, bz2.compress)),
    "line.jsonl.zst": ("a line must have at most", text_file(ZEROS, zstd)),
    "lines.txt.gz": ("at most 200 times", text_file(b"\n" * 300_000, gzip.compress)),
    "rows.csv.gz": ("at most 200 times", text_file(b"url,text\n" + b"http://a/1,x\n" * 60_000, gzip.compress)),
    "rows.jsonl.zst": ("at most 200 times", text_file(f"{ROWS[0]}\n".encode() * 20_000, zstd)),
    "columns.csv": ("at most 50 columns", text_file(b"url,text" + b",a" * 60 + b"\n")),
    "keys.jsonl": (
        "at most 50 columns",
        text_file("\n".join(json.dumps({"url": "u", "text": "x", f"k{n}": 1}) for n in range(60)).encode()),
    ),
    "deep.jsonl": ("recursion", text_file(b'{"url": "u", "text": ' + b"[" * 990 + b"]" * 990 + b"}")),
    "value.parquet": ("row 1, column 'text'", table(url=URLS, text=["x" * 9_000] * 20)),
    "late.parquet": ("row 20, column 'text'", table(url=URLS, text=[*["x"] * 19, "y" * 9_000])),
    "plain.parquet": ("row 3, column 'b'", table(url=URLS, text=URLS, b=[b"", b"", b"y" * 9_000, *[b""] * 17])),
    "nested.parquet": ("column 'l'", table(url=URLS, text=URLS, l=[["z" * 900] * 9] * 20)),
    "page.parquet": ("must unpack to at most", table(url=URLS, text=["x" * 9_000] * 20, use_dictionary=False)),
    "rows.parquet": ("rows a byte", table(url=pa.nulls(9_000_000, pa.string()), text=pa.nulls(9_000_000, pa.string()))),
    "words.parquet": ("times as large as the file", table(url=["u" * 1_500] * 4_000, text=["x"] * 4_000)),
    "columns.parquet": ("at most 50 columns", table(url=URLS, text=URLS, **{f"c{n}": URLS for n in range(60)})),
    "text.tar": ("at most 2,000 bytes", text_file(tar(SAMPLE, ("2.txt", b"x" * 3_000)))),
    "map.tar": ("headers", text_file(tar(SAMPLE, more=sparse_map))),
    "name.tar": ("headers", text_file(tar(SAMPLE, more=long_name))),
    "globals.tar": ("headers", text_file(tar(SAMPLE, more=many_globals))),
    "chain.tar": ("header", text_file(tar(SAMPLE, more=chained_names))),
    "zeros.tar.gz": ("at most 200 times", text_file(tar(("1.bin", bytes(20_000_000)), SAMPLE), gzip.compress)),
    "packed.tar": ("at most 200 times", text_file(tar(("1.bin", bytes(20_000_000)), SAMPLE), zstd)),
    "damaged.tar": ("damaged header", text_file(tar(SAMPLE)[:1024] + b"\xff" * 1024 + tar(SAMPLE))),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.usefixtures("small")
def test_a_bomb_is_refused_in_one_line_and_counted_where_it_is_skipped(tmp_path: Path, name: str) -> None:
    why, write = BOMBS[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match="must be readable") as error:
        rows_of(tmp_path / name)
    assert why in str(error.value.value) and name in str(error.value.value)
    assert len(str(error.value.value)) < 600
    (tmp_path / "good.jsonl").write_text("\n".join(ROWS))
    config = InputConfig(path=str(tmp_path), bad_files="skip")
    sound, bad = sound_files(find_files(config), config)
    assert [Path(file.path).name for file in sound] == ["good.jsonl"]
    assert [Path(file.path).name for file in bad] == [name]


@pytest.mark.usefixtures("small")
def test_a_sparse_file_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    text_file(tar(SAMPLE, more=pax_sparse))(path)
    config = InputConfig(path=str(path))
    [file] = find_files(config)
    assert sum(len(batch) for batch in read_rows(file, config, extra_fields([file], config))) == 1
    assert file.left_out["no_content"] == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv.zst", "parquet", "tar", "tar.bz2"])
def test_within_the_limits_every_row_is_read(tmp_path: Path, ending: str) -> None:
    texts = ["word " * 300 for _ in URLS]
    packs: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd, "bz2": bz2.compress}
    pack = packs.get(ending.rpartition(".")[2], bytes)
    path = tmp_path / f"list.{ending}"
    rows = [{"url": url, "text": text} for url, text in zip(URLS, texts, strict=True)]
    if ending == "parquet":
        pq.write_table(pa.table({"url": URLS, "text": texts, "tags": [[text, None] for text in texts]}), path)
    elif ending.startswith("jsonl"):
        path.write_bytes(pack("\n".join(map(json.dumps, rows)).encode()))
    elif ending.startswith("csv"):
        path.write_bytes(pack("\n".join(["url,text", *(f"{r['url']},{r['text']}" for r in rows)]).encode()))
    else:
        path.write_bytes(pack(tar(*((f"{n}.json", json.dumps(row).encode()) for n, row in enumerate(rows)))))
    assert rows_of(path) == URLS


def test_a_word_that_every_row_has_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(limits, "_LONG_WORD", 500)
    for first in ("x" * 900, None):
        pq.write_table(pa.table({"url": URLS * 50, "text": [first, *["x" * 900] * 999]}), tmp_path / "a.parquet")
        config = InputConfig(path=str(tmp_path / "a.parquet"))
        [file] = find_files(config)
        batches = list(read_rows(file, config, extra_fields([file], config)))
        assert sum(map(len, batches)) == 1_000 and max(batch.nbytes for batch in batches) < 12_000
        assert batches[-1]["alt"][-1].as_py() == "x" * 900


MEASURE = """
import resource, sys
from curation.inputs import InputConfig, extra_fields, find_files, read_rows
from pairmill.errors import InputError
import pyarrow.parquet, pyarrow.csv

config = InputConfig(path=sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    files = find_files(config)
    for batch in read_rows(files[0], config, extra_fields(files, config)):
        pass
    print("read", end=" ")
except InputError:
    print("refused", end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zeros.jsonl.gz", "dictionary.parquet", "keys.jsonl.gz"])
def test_the_memory_that_a_bomb_takes_is_bounded(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    expected = "refused"
    if name == "zeros.jsonl.gz":
        path.write_bytes(gzip.compress(bytes(2**26), 1) * 32)  # 2 GiB in 9 MB
    elif name == "dictionary.parquet":
        words = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), ["x" * (10 * 2**20)])
        table(url=[f"http://a/{n}" for n in range(5_000)], text=words)(path)  # 50 GB in 60 kB
    else:  # a table of them has 1,900 columns
        path.write_bytes(gzip.compress(own_keys(1_900)))
        expected = "read"
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    outcome, megabytes = done.stdout.split()
    assert outcome == expected
    assert int(megabytes) < 300
