"""The file of commands: what it may say, and one clear line for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perf.commands import Command, find_command, load_commands
from perf.errors import UsageError
from perf.finding import find

RUN = "run = 'train {global_batch_size}'\nglobal_batch_sizes = [8, 16]\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, name: str = "stepmark.toml") -> dict[str, Command]:
    """Return the commands of a file with such a text."""
    Path(name).write_text(text)
    return load_commands(Path(name))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (RUN + "steps = 3", ": has 'steps', and what it may have is run, global_batch_sizes, world_sizes, num_steps, "),
        ("run = 'train'", ": Object missing required field `global_batch_sizes`"),
        ("run = 3\nglobal_batch_sizes = [8]", " run: Expected `str`, got `int`"),
        ("run = 'train'\nglobal_batch_sizes = [8, '16']", " global_batch_sizes[1]: Expected `int`, got `str`"),
        ("run = 'train'\nglobal_batch_sizes = []", " global_batch_sizes: Expected `array` of length >= 1"),
        ("run = 'train'\nglobal_batch_sizes = [0]", " global_batch_sizes[0]: Expected `int` >= 1"),
        (RUN + "num_steps = 100000000", " num_steps: Expected `int` <= 99999999"),
        (RUN + "timeout_s = 0", " timeout_s: Expected `float` > 0.0"),
        (RUN + "silence_s = nan", " silence_s: Expected `float` > 0.0"),
        (RUN + "threshold = 1.5", " threshold: Expected `float` < 1.0"),
        (RUN + "sample = 'a\\nb'".replace("'", '"'), " sample: Expected `str` matching regex"),
        (RUN + "environ = {A = 1}", " environ[...]: Expected `str`, got `int`"),
        (RUN + "environ = {'A=B' = '1'}", ": environ: 'A=B': a name without = is needed, and no zero character"),
        (RUN + 'environ = {A = "\\u0000"}', ": environ: 'A': a name without = is needed, and no zero character"),
        ("run = ' '\nglobal_batch_sizes = [8]", ": run: is empty or has a zero character, and a command is needed"),
        ('run = "a\\u0000"\nglobal_batch_sizes = [8]', ": run: is empty or has a zero character, and a command is"),
        ("run = 'a \"b'\nglobal_batch_sizes = [8]", ": run: No closing quotation"),
        ("run = '{nproc}'\nglobal_batch_sizes = [8]", ": run: has {nproc}, and what is filled in is {global_batch"),
        ("run = '{python:{x}}'\nglobal_batch_sizes = [8]", "; a brace itself is {{ or }}"),
        ("run = '{python:9}'\nglobal_batch_sizes = [8]", ": run: has {python:9}, and"),
        ("run = '{python!r}'\nglobal_batch_sizes = [8]", ": run: has {python!r}, and"),
        ("run = 'a {\"x\":1}'\nglobal_batch_sizes = [8]", ": run: has {x:1}, and"),
        ("run = 'a }'\nglobal_batch_sizes = [8]", ": run: has }, and"),
        ("run = 'a {'\nglobal_batch_sizes = [8]", ": run: has {, and"),
        ("run = 'a'\nglobal_batch_sizes = [8, 16]", ": global_batch_sizes: [8, 16]: each once, and {global_batch"),
        ("run = 'a {global_batch_size}'\nglobal_batch_sizes = [8, 8]", ": global_batch_sizes: [8, 8]: each once, and"),
        (RUN + "world_sizes = [1, 2]", ": world_sizes: [1, 2]: one for each of 2 batch sizes, and {world_size} in"),
        ("run = 'a {world_size}'\nglobal_batch_sizes = [8]\nworld_sizes = [1, 2]", ": world_sizes: [1, 2]: one for"),
        (RUN + "format = 'loss'", ": format 'loss': has no group; cerebras, cerebras-tensorflow, "),
        (RUN + "format = '('", ": format '(': is no regular expression (missing ), unterminated subpattern"),
        (RUN + "format = '(?P<loss>a{99999999999999999999})'", "the repetition number is too large"),
        (RUN + "format = '(?P<lossy>a)'", ": format '(?P<lossy>a)': has the groups lossy; cerebras, "),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("name", "table"), [("stepmark.toml", ""), ("pyproject.toml", "tool.stepmark.")])
def test_a_wrong_field_is_told(name: str, table: str, entry: str, problem: str) -> None:
    """With its file, its entry, what was found and what is needed, once."""
    with pytest.raises(UsageError) as error:
        load(f"[{table}command.good]\n{RUN}[{table}command.bert]\n{entry}", name)
    text = str(error.value)
    assert text.startswith(f"{name}: [{table}command.bert]")
    assert problem in text
    assert text.count(problem[:20]) == 1
    assert text.isprintable()


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("stepmark.toml", "[", "stepmark.toml: Invalid initial character for a key part (at end of document)"),
        ("stepmark.toml", "[workload.bert]", "stepmark.toml: has 'workload', and what it may have is command"),
        ("stepmark.toml", "command = 3", "stepmark.toml: command: Expected `object`, got `int`"),
        ("stepmark.toml", "[command]\nbert = 3", "stepmark.toml: [command.bert]: Expected `object`, got `int`"),
        ("stepmark.toml", f"[command.'a:b']\n{RUN}", "stepmark.toml: [command.a:b]: its name needs at most 50 letters"),
        ("stepmark.toml", f'[command."\\n"]\n{RUN}', "stepmark.toml: [command.\\n]: its name needs at most 50 letters"),
        ("stepmark.toml", f"[command.'']\n{RUN}", "stepmark.toml: [command.]: its name needs at most 50 letters"),
        ("stepmark.toml", "a = " + "[" * 10**5, "stepmark.toml: maximum recursion depth exceeded"),
        ("pyproject.toml", "tool = 3", "pyproject.toml: tool: Expected `object`, got `int`"),
        ("pyproject.toml", "tool.stepmark = 3", "pyproject.toml: tool.stepmark: Expected `object`, got `int`"),
        ("pyproject.toml", "[tool.stepmark.x]", "pyproject.toml: tool.stepmark: has 'x', and what it may have is"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told(name: str, text: str, problem: str) -> None:
    """With the table in which it is wrong."""
    with pytest.raises(UsageError) as error:
        load(text, name)
    assert str(error.value).startswith(problem)


def test_a_file_that_cannot_be_read_is_told() -> None:
    """It is not there, is a folder, or is not UTF-8."""
    Path("stepmark.toml").mkdir()
    Path("latin.toml").write_bytes(b"# \xff")
    found = []
    for name in ("none.toml", "stepmark.toml", "latin.toml"):
        with pytest.raises(UsageError) as error:
            load_commands(Path(name))
        found.append(str(error.value))
    assert found == [
        "none.toml: No such file or directory",
        "stepmark.toml: Is a directory",
        "latin.toml: 'utf-8' codec can't decode byte 0xff in position 2: invalid start byte",
    ]


@pytest.mark.parametrize("text", ["", "[project]\nname = 'a'", "[tool.other]\nx = 1", "[tool.stepmark.command]"])
def test_a_project_need_not_have_commands(text: str) -> None:
    """It then has none."""
    assert load(text, "pyproject.toml") == {}


def test_places_are_filled_in_after_the_command_is_split() -> None:
    """So a path with spaces is one argument; what is no place stays as it is."""
    run = "{python} 'a b' {run_dir}/x --json={{{global_batch_size}}} $HOME #1 {{python}}"
    command = Command(run=run, global_batch_sizes=(8,))
    places = {"python": "/my python", "run_dir": "/tmp/a {python} b", "global_batch_size": 8}
    found = command.argv({**dict.fromkeys(("num_steps", "world_size"), 1), **places})
    assert found == ["/my python", "a b", "/tmp/a {python} b/x", "--json={8}", "$HOME", "#1", "{python}"]


def test_a_batch_has_its_world_size() -> None:
    """One rank where nothing is said."""
    both = {"run": "train {global_batch_size} {world_size}", "global_batch_sizes": (8, 16)}
    ranks = [Command(**both, world_sizes=sizes).world_size_of(16) for sizes in ((1, 2), ())]
    assert ranks == [2, 1]


def test_a_command_is_found_where_it_is_first() -> None:
    """In the first folder that has it; what is not there is told with what is."""
    for folder, names in (("one", "a"), ("two", "ab")):
        Path(folder).mkdir()
        load("".join(f"[command.{name}]\n{RUN}sample = '{folder}'\n" for name in names), f"{folder}/stepmark.toml")
    folders = [Path("none"), Path("one"), Path("two")]
    assert [find_command(f"stepmark.toml:{name}", folders)[0].sample for name in "ab"] == ["one", "two"]
    assert find_command("stepmark.toml:b", folders)[1] == Path("two/stepmark.toml").resolve()
    with pytest.raises(
        UsageError, match=r"^workload 'stepmark.toml:c': stepmark.toml has no command c \(there are a, b\)"
    ):
        find_command("stepmark.toml:c", folders)
    with pytest.raises(
        UsageError, match=r"^command file x.toml: is not in none; write one with a table \[command.c\]$"
    ):
        find_command("x.toml:c", folders)


KEYS = st.sampled_from(["run", "global_batch_sizes", "world_sizes", "format", "environ", "threshold", "sample", "x"])
SCALARS = st.one_of(
    st.text(max_size=9).map(lambda text: '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'),
    st.sampled_from(
        ["'{global_batch_size}'", "'{world_size}'", "'{{}}'", "'{'", "'(?P<loss>a)'", "1979-05-27", "true"]
    ),
    st.integers().map(str),
    st.floats().map(str),
)
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        st.lists(values, max_size=3).map(lambda some: f"[{', '.join(some)}]"),
        st.dictionaries(KEYS, values, max_size=3).map(
            lambda some: "{" + ", ".join(f"{key} = {value}" for key, value in some.items()) + "}"
        ),
    ),
    max_leaves=5,
)
ENTRIES = st.dictionaries(KEYS, VALUES, max_size=5).map(lambda some: "".join(f"{k} = {v}\n" for k, v in some.items()))
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8")),
    ENTRIES.map("[command.x]\n".__add__),
    ENTRIES.map(f"[command.x]\n{RUN}".__add__),
    ENTRIES.map(f"[tool.stepmark.command.x]\n{RUN}".__add__),
    ENTRIES,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.sampled_from(["stepmark.toml", "pyproject.toml"]))
def test_every_file_is_read_or_refused(text: str, name: str) -> None:
    """Nothing but commands or one printable line comes of it."""
    problem = ""
    try:
        commands = load(text, name)
    except UsageError as error:
        problem, commands = str(error), {}
    assert all(type(command) is Command for command in commands.values())
    assert not problem or problem.startswith(f"{name}: ")
    assert problem.isprintable()


def test_a_command_is_known_by_its_place_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was named: each side looks for that place in its own checkout. A file elsewhere is refused."""
    (tmp_path / "project" / "sub").mkdir(parents=True)
    file = tmp_path / "project" / "sub" / "stepmark.toml"
    file.write_text('[command.net]\nrun = "train"\nglobal_batch_sizes = [8]\n')
    monkeypatch.chdir(file.parent)
    root = tmp_path / "project"
    for name in (f"{file}:net", "stepmark.toml:net", "sub/stepmark.toml:net"):
        assert find(name, root).id == "sub/stepmark.toml:net"
    with pytest.raises(UsageError, match="is not in the project"):
        find(f"{file}:net", tmp_path / "other")
