"""Stub until merged."""

from typing import Any


class OwnStudent:
    def __init__(self, target: Any, name: str) -> None: ...

    build: Any


class OwnTeacher:
    def __init__(self, target: Any, name: str) -> None: ...
