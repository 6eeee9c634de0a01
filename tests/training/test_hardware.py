"""The processor's own words, on machines that have some and in files that a test writes."""

from pathlib import Path

import pytest

from relgraph.training import hardware


@pytest.mark.parametrize(
    ("text", "name", "bf16"),
    [
        ("model name\t: Xeon\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", "Xeon", True),
        ("model name\t: Old Xeon\nflags\t\t: fpu avx2 avx512f\n", "Old Xeon", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", None, True),
        ("", None, False),
    ],
)
def test_what_cpuinfo_says(
    text: str, name: str | None, bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert hardware.native_bf16() == bf16
    assert hardware.processor() == name or (name is None and hardware.processor() != "")


def test_a_system_without_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "nothing")
    assert not hardware.native_bf16()
