"""Training commands as workloads: the entries of ``[command.NAME]`` in stepmark.toml, or pyproject.toml's tool table.

Whatever stack they use, they print lines. A run is a fresh process of the command, and what is known of it is its log.
"""

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct

from perf.errors import UsageError
from perf.logs.parsing import find_format
from perf.printable import printable, shown

FILES = ("stepmark.toml", "pyproject.toml")  # where commands are looked for, in a project's root

Size = Annotated[int, Meta(ge=1, le=99_999_999)]
Seconds = Annotated[float, Meta(gt=0, le=1e6)]

_PLACES = ("global_batch_size", "num_steps", "run_dir", "world_size", "python")


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is run, and how its log is read; the fields are those of its entry."""

    # The command, split as a shell would and run without one; {global_batch_size}, {num_steps}, {run_dir} (an empty
    # folder, removed afterwards), {world_size} and {python} are filled in.
    run: str
    global_batch_sizes: Annotated[tuple[Size, ...], Meta(min_length=1)]  # one case each
    world_sizes: tuple[Size, ...] = ()  # how many ranks train each of these; without it, one
    num_steps: Size = 20  # optimizer steps of a run
    format: str = "cerebras"  # of its log: a name or a pattern, as `perf.logs.parsing.find_format` takes it
    tokens_per_sample: Size | None = None  # where the log tells tokens/sec, to compare them with our clock
    environ: Mapping[str, str] = {}  # environment variables to set
    timeout_s: Seconds = 3600.0  # how long a run may take
    silence_s: Seconds = 600.0  # how long it may print nothing
    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None  # smallest change that matters; None: the session's
    sample: Annotated[str, Meta(pattern=r"^[ -~]{1,200}\Z")] = "samples"  # what one sample is called
    precision: ClassVar[str] = ""  # what it computes in, which nobody but the command knows

    def __post_init__(self) -> None:
        sizes, worlds = self.global_batch_sizes, self.world_sizes
        find_format(self.format)
        if not self.argv(dict.fromkeys(_PLACES, "")) or "\0" in self.run:
            raise ValueError("run: is empty or has a zero character, and a command is needed")
        if odd := [name for name, value in self.environ.items() if not name or "=" in name or "\0" in name + value]:
            raise ValueError(f"environ: {odd[0]!r}: a name without = is needed, and no zero character")
        if len(set(sizes)) < len(sizes) or (len(sizes) > 1 and "{global_batch_size}" not in self.run):
            raise ValueError(f"global_batch_sizes: {[*sizes]}: each once, and {{global_batch_size}} in run, are needed")
        if worlds and (len(worlds) != len(sizes) or "{world_size}" not in self.run):
            needed = f"one for each of {len(sizes)} batch sizes, and {{world_size}} in run, are needed"
            raise ValueError(f"world_sizes: {[*worlds]}: {needed}")

    @property
    def why(self) -> str:
        """What it runs, for a list of workloads."""
        return " ".join(self.run.split())

    @property
    def about(self) -> Mapping[str, str]:
        """What decides what a run does; compared between two sides, and named where it differs."""
        return {"run": self.why, "format": self.format, **{f"${name}": v for name, v in self.environ.items()}}

    def world_size_of(self, global_batch_size: int) -> int:
        """Return how many ranks train a batch."""
        return dict(zip(self.global_batch_sizes, self.world_sizes, strict=False)).get(global_batch_size, 1)

    def argv(self, places: Mapping[str, object]) -> list[str]:
        """Return the program and its arguments, with places filled in. Raises ValueError: `run` cannot be read so."""

        def filled(match: re.Match[str]) -> str:
            if match[0] in ("{{", "}}"):
                return match[0][0]
            if (name := match[0][1:-1]) in places:
                return str(places[name])
            known = ", ".join(f"{{{name}}}" for name in places)
            raise ValueError(f"has {match[0]}, and what is filled in is {known}; a brace itself is {{{{ or }}}}")

        try:
            return [re.sub(r"\{\{|\}\}|\{[^{}]*\}?|\}", filled, part) for part in shlex.split(self.run)]
        except ValueError as error:
            raise ValueError(f"run: {error}") from None


def load_commands(path: Path) -> dict[str, Command]:
    """Return the commands in a file, by name; none where it has no table of them.

    Raises:
        UsageError: it is not there, no TOML, or an entry is not what it should be.
    """
    keys = ["tool", "stepmark", "command"] if path.name == "pyproject.toml" else ["command"]
    at, commands = "", dict[str, Command]()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for number, key in enumerate(keys, 1):
            table = _table(table, keys[-1:] if number == len(keys) else ()).get(key, {})
            at = ".".join(keys[:number])
        for name, entry in _table(table).items():
            at = f"[{'.'.join([*keys, name])}]"
            if not re.fullmatch(r"[\w-]{1,50}", name, re.ASCII):
                raise ValueError("its name needs at most 50 letters, digits, _ and -; rename it")
            commands[name] = msgspec.convert(_table(entry, Command.__struct_fields__), Command)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        problem, _, field = (error.strerror or "" if isinstance(error, OSError) else str(error)).partition(" - at `$")
        place = " ".join(filter(None, [at, field.strip("`.")]))
        raise UsageError(printable(": ".join(filter(None, [str(shown(path)), place, problem])))) from None
    return commands


def _table(value: Any, known: Sequence[str] = ()) -> dict[str, Any]:
    """Return a table, which has no other keys than known ones. Raises ValueError: it is none, or has others."""
    table = msgspec.convert(value, dict[str, Any])
    if known and (odd := sorted(table.keys() - known)):
        raise ValueError(f"has {odd[0]!r}, and what it may have is {', '.join(known)}")
    return table


def find_command(name: str, folders: Sequence[Path]) -> tuple[Command, Path]:
    """Return the command of an id such as "stepmark.toml:bert", from the first folder that has it, and its file.

    Raises:
        UsageError: none has it, or a file is not what it should be.
    """
    place, _, entry = name.rpartition(":")
    files = [folder / place for folder in folders if (folder / place).is_file()]
    for file in files:
        if entry in (found := load_commands(file)):
            return found[entry], file.resolve()
    if not files:
        raise UsageError(f"command file {place}: is not in {folders[0]}; write one with a table [command.{entry}]")
    raise UsageError(f"workload {name!r}: {place} has no command {entry} (there are {', '.join(found) or 'none'})")
