from __future__ import annotations

import io
import tarfile

import pytest

from pairmill.bounded_tar import BoundedTar, forward_tar

MODES = ["r|", "r:"]


def tar(names: list[str], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as out:
        for name in names:
            header = tarfile.TarInfo(name)
            header.size = len(name.encode())
            out.addfile(header, io.BytesIO(name.encode()))
    return file.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_read_as_tarfile_does_and_not_kept(mode: str, form: int) -> None:
    names = [*(f"{n}.txt" for n in range(50)), "é" * 200 + ".txt", "n" * 5_000 + ".txt", "last.txt"]
    found = {}
    with BoundedTar.open(fileobj=io.BytesIO(tar(names, form)), mode=mode) as bounded:  # type: ignore[call-overload]
        for member in bounded:
            found[member.name] = bounded.extractfile(member).read().decode()
            assert len(bounded.members) <= 1
    assert found == {name: name for name in names}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [1, 100, 511])
def test_a_tar_that_ends_within_a_header_is_damaged(mode: str, cut: int) -> None:
    data = tar(["1.txt", "2.txt"])[: 1024 + cut]
    with pytest.raises(tarfile.ReadError, match="damaged header"):
        list(BoundedTar.open(fileobj=io.BytesIO(data), mode=mode))  # type: ignore[call-overload]


def test_a_flipped_bit_in_a_header_is_not_the_end() -> None:
    data = bytearray(tar(["1.txt", "2.txt", "3.txt"]))
    data[1024 + 3] ^= 1
    with pytest.raises(tarfile.ReadError, match="damaged header at byte 1,024"):
        list(forward_tar(io.BytesIO(bytes(data))))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", [bytes(512), bytes(1024), bytes(10240), bytes(700)])
def test_an_end_of_any_length_is_an_end(mode: str, end: bytes) -> None:
    data = io.BytesIO(tar(["1.txt"])[:1024] + end)
    with BoundedTar.open(fileobj=data, mode=mode) as bounded:  # type: ignore[call-overload]
        assert [member.name for member in bounded] == ["1.txt"]
        assert bounded.next() is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("members", [1, 2])
def test_a_tar_without_an_end_was_cut_off(mode: str, members: int) -> None:
    data = io.BytesIO(tar(["1.txt", "2.txt", "3.txt"])[: members * 1024])
    with pytest.raises(tarfile.ReadError, match="end mark"):
        list(BoundedTar.open(fileobj=data, mode=mode))  # type: ignore[call-overload]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(
    "parts", [[["1.txt"], ["2.txt", "3.txt"]], [[], ["1.txt"]], [["1.txt"], []], [["a"], [], ["b"]]]
)
def test_tars_in_one_file_are_read_one_after_the_other(mode: str, form: int, parts: list[list[str]]) -> None:
    parts = [[name if form == tarfile.USTAR_FORMAT else name * 60 for name in names] for names in parts]
    found = {}
    data = io.BytesIO(b"".join(tar(names, form) for names in parts))
    with BoundedTar.open(fileobj=data, mode=mode) as bounded:  # type: ignore[call-overload]
        for member in bounded:
            found[member.name] = bounded.extractfile(member).read().decode()
            # Training reads the contents by their place.
            place = slice(member.offset_data, member.offset_data + member.size)
            assert data.getvalue()[place].decode() == member.name
    assert found == {name: name for names in parts for name in names}


@pytest.mark.parametrize("mode", MODES)
def test_global_headers_hold_for_their_own_tar(mode: str) -> None:
    first = io.BytesIO()
    with tarfile.open(fileobj=first, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uname": "her"}) as out:
        out.addfile(tarfile.TarInfo("1.txt"))
    data = io.BytesIO(first.getvalue() + tar(["2.txt"]))
    names = [(m.name, m.uname) for m in BoundedTar.open(fileobj=data, mode=mode)]  # type: ignore[call-overload]
    assert names == [("1.txt", "her"), ("2.txt", "")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [1, 511, 1024])
def test_the_second_tar_may_be_damaged_too(mode: str, cut: int) -> None:
    data = io.BytesIO(tar(["1.txt"]) + tar(["2.txt"])[:cut])
    with pytest.raises(tarfile.ReadError, match="end mark" if cut == 1024 else "damaged header at byte 10,240"):
        list(BoundedTar.open(fileobj=data, mode=mode))  # type: ignore[call-overload]
