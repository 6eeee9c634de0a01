"""Properties of the machine: the processor's name and its bfloat16 support."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Flags of processors that multiply bfloat16 matrices themselves: x86 from Cooper Lake and Zen 4 on, and 64-bit Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def processor() -> str:
    """Return the processor's name, as reported by the system."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def native_bf16() -> bool:
    """Return whether the processor has instructions for bfloat16 products; False if Linux does not report it.

    Without them autocast to bfloat16 is slower than float32.
    """
    return bool(BF16_FLAGS & set((_cpuinfo("flags") or _cpuinfo("Features")).split()))


def _cpuinfo(key: str) -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
