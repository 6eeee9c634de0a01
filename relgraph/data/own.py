"""Stub until merged."""

from typing import Any


class OwnData:
    def __init__(self, target: Any, name: str) -> None: ...
