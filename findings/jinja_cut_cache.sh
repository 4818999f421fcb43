#!/usr/bin/env bash
# Jinja2 3.1.6: a compiled template that was cut short ends in an error, or is compiled anew, by where it was cut.
#
# source:     jinja2/bccache.py: `Bucket.load_bytecode` catches what marshal raises for the code, but not what pickle
#             raises for the checksum before it.
# behaviour:  with a `FileSystemBytecodeCache`, a cache file that lost its end (a full disk, a copied folder) is made
#             again if the cut is in the code.  If it is in the checksum, `get_template` raises EOFError or
#             UnpicklingError until somebody deletes the file: the template can't be rendered, although its source is there.
# seen:       cut in the code: rendered; cut in the checksum: UnpicklingError      (2026-11-29, Linux, Python 3.11)
# pairmill:   `pairmill/pages.py` takes any error of loading as "not in the cache".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jinja2==3.1.6
seen=$(cd "$folder" && "$folder/env/bin/python" - <<'PYTHON'
import pathlib
import jinja2

pathlib.Path("templates").mkdir()
pathlib.Path("templates/page.html").write_text("{{ n }} rows")
pathlib.Path("cache").mkdir()


def render() -> str:
    cache = jinja2.FileSystemBytecodeCache("cache")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader("templates"), bytecode_cache=cache)
    return environment.get_template("page.html").render(n=3)


def cut(left: int) -> str:
    render()
    (file,) = pathlib.Path("cache").iterdir()
    file.write_bytes(file.read_bytes()[:left])
    try:
        return "rendered" if render() == "3 rows" else "another text"
    except Exception as error:
        return type(error).__name__
    finally:
        file.unlink()


print(f"cut in the code: {cut(-20)}; cut in the checksum: {cut(40)}")
PYTHON
)
echo "$seen"
[ "$seen" = "cut in the code: rendered; cut in the checksum: UnpicklingError" ] || { echo "changed: a cut cache file is handled otherwise"; exit 1; }
echo "as described"
