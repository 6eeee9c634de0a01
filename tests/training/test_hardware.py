"""The processor's own words, on machines that have some and in files that a test writes."""

from pathlib import Path

import pytest

from relgraph.training import hardware


def test_what_cpuinfo_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert not hardware.native_bf16(), "a system without it"
    for text, name, bf16 in (
        ("model name\t: Xeon\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", "Xeon", True),
        ("model name\t: Old Xeon\nflags\t\t: fpu avx2 avx512f\n", "Old Xeon", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", None, True),
        ("", None, False),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        assert hardware.native_bf16() == bf16
        assert hardware.processor() == name or (name is None and hardware.processor() != "")
