"""The rooms of perf/ stand in the order data flows, and a room imports only rooms to its left."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PERF = Path(__file__).parents[1] / "perf"
ROOMS = ("records", "logs", "train", "runner", "measure", "judge", "report", "app")


def imported_rooms(source: str) -> set[str]:
    """Return the rooms that a module's imports name, wherever in the module they stand."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("perf.") and name.split(".")[1] in ROOMS}


@pytest.mark.parametrize("module", sorted(PERF.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_room_imports_only_rooms_to_its_left(module: Path) -> None:
    """No module imports from a room to the right of its own."""
    room = module.parent.name
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_rooms(module.read_text()) <= allowed


def test_an_import_to_the_right_is_seen() -> None:
    """The check above can fail: it sees both forms of import, also inside functions."""
    assert imported_rooms("def f():\n    from perf.report import terminal\nimport perf.judge.stats\n") == {
        "report",
        "judge",
    }
