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


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(10240)])
def test_an_end_of_any_length_is_an_end(end: bytes) -> None:
    assert [member.name for member in forward_tar(io.BytesIO(tar(["1.txt"])[:1024] + end))] == ["1.txt"]
