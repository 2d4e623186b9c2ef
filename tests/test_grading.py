"""Grading: the guard around every answer, the exercises, and nbgrader's own commands from end to end."""

import ast
import csv
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
import torch

from minidistill import schedules
from minidistill.checks import progressive as progressive_checks
from minidistill.checks import schedules as checks
from minidistill.checks import video as video_checks
from minidistill.checks.grading import attempt, grade
from minidistill.progressive import two_step_target
from minidistill.video import history_layout

pytestmark = pytest.mark.usefixtures("unchecked_shapes")  # learners see what the code itself says
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
EXERCISES = sorted((NOTEBOOKS / "exercises").glob("*.ipynb"))
ROOT = NOTEBOOKS.parent


def good(t):
    return torch.sin(torch.pi / 2 * (1 - t)), torch.sin(torch.pi / 2 * t)


def endless(t):
    while True:
        pass


def floods(t):
    for _ in range(10_000):
        print("x" * 1000)
    return good(t)


def mutates(t):
    t += 0.1
    return good(t - 0.1)


def by_heart(seed):
    """Knows the answers at all times that are asked with one seed, and no others."""
    asked = []
    checks.check_cosine(lambda t: asked.append(t.detach().double()) or good(t), seed=seed)
    known = torch.cat(asked)

    def answer(t):
        near = ((t.detach().double()[:, None] - known).abs() < 1e-9).any(1)
        return good(torch.where(near, t, t / 2))

    return answer


HOSTILE = {
    "an endless loop": (endless, "still ran after 2 seconds"),
    "a huge tensor": (lambda t: torch.zeros(10**11), "more than 4 GB"),
    "a huge list": (lambda t: [0] * 10**11, "more than 4 GB"),
    "exit": (lambda t: sys.exit(), "stops with SystemExit"),
    "an exception": (lambda t: t / [], "stops with TypeError"),
    "nothing": (lambda t: None, "returns nothing"),
    "not yet": (lambda t: (_ for _ in ()).throw(NotImplementedError()), "Nothing here yet"),
    "a changed input": (mutates, "changes its input"),
    "another dtype": (lambda t: tuple(a.double() for a in good(t)), "returns torch.float64"),
    "another shape": (lambda t: tuple(a[:, None] for a in good(t)), "each of t's shape"),
    "the reference": (schedules.cosine, "package's own function"),
    "the reference by another name": (lambda t, f=schedules.cosine: f(t), "calls the package's own"),
    "the reference's module": (lambda t: schedules.cosine(t), "calls the package's own"),
    "no function": (torch.ones(3), "Expected a function"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_get_a_sentence(name):
    answer, sentence = HOSTILE[name]
    with pytest.raises(AssertionError, match=sentence):
        grade(checks.check_cosine, answer, seconds=2.0)
    grade(checks.check_cosine, good)  # and nothing is left behind


def test_a_flood_of_output_is_dropped(capfd):
    grade(checks.check_cosine, floods)
    assert capfd.readouterr().out == ""


def test_numbers_learned_by_heart_fail_with_another_seed(monkeypatch):
    answer = by_heart(0)
    grade(checks.check_cosine, answer)
    monkeypatch.setenv("MINIDISTILL_SEED", "7")
    with pytest.raises(AssertionError):
        grade(checks.check_cosine, answer)


def test_an_assert_is_no_refusal():
    def asserts(layers, stage, n_stages):
        if layers < 1:
            raise AssertionError("layers")  # what `assert layers > 0, "layers"` does; pytest would add words
        return history_layout(layers, stage, n_stages)

    with pytest.raises(AssertionError, match="0 frames at stage 0 of 2.*ValueError, not an assert"):
        video_checks.check_history_layout(asserts)


def test_a_mask_is_bool():
    grade(video_checks.check_block_causal_mask, lambda ids: ids[:, None] >= ids)


def test_decorated_references_are_out_of_reach():
    with pytest.raises(AssertionError, match="calls the package's own"):
        grade(progressive_checks.check_two_step_target, lambda *args: two_step_target(*args))


def test_a_target_with_a_graph():
    def attached(teacher, z, t, n, schedule):
        with torch.enable_grad():
            return progressive_checks.teacher(teacher(z, t), t)

    with pytest.raises(AssertionError):
        grade(progressive_checks.check_two_step_target, attached)


def test_a_picture_of_nonsense_is_a_sentence(capsys):
    attempt(lambda: 1 / 0)
    assert "No picture yet. ZeroDivisionError" in capsys.readouterr().out


def test_a_refused_input_is_told(capsys):
    """An error of the answer says what it was given; a write into shared memory is no lack of memory."""

    def strict(t):
        if (t <= 0).any():
            raise ValueError("no data")
        return good(t)

    def writes(schedule, shift):
        def shifted(t):
            base = t[:1].expand(len(t))
            base -= t[0]

        return shifted

    with pytest.raises(
        AssertionError, match=r"(?s)ValueError: no data.*This input is valid: t = \[0.0, 1.0\]"
    ):
        grade(checks.check_cosine, strict)
    with pytest.raises(AssertionError, match=r"share their memory, as those of `expand`.*a = a - b"):
        grade(lambda f=schedules.shifted, seed=0: f(None, 2.0)(torch.ones(3)), writes)


def test_a_failed_cell_shows_its_sentence_and_nothing_else():
    from nbclient import NotebookClient

    source = (
        "from minidistill.checks import schedules as checks\nfrom minidistill.checks.grading import grade\n"
        "grade(checks.check_cosine, lambda t: (t, 1 - t))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, allow_errors=True).execute()
    (error,) = notebook.cells[0].outputs
    assert error.traceback[0].startswith("t = 0 is data") and len(error.traceback) < 8


# the exercises as files


def notes(notebook, **wanted):
    """The cells with these nbgrader notes, by grade_id."""
    found = {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}
    return {i: c for i, c in found.items() if all(c.metadata.nbgrader.get(k) == v for k, v in wanted.items())}


def holes():
    """(check, the package's own function) of each hole."""
    found = {}
    for path in EXERCISES:
        notebook = nbformat.read(path, as_version=4)
        for cell in notes(notebook, grade=True).values():
            scope = {}
            module, name = re.search(
                r"checks import (\w+) as checks(?s:.*)grade\(checks.check_(\w+),", cell.source
            ).groups()
            exec(f"from minidistill.checks.{module} import check_{name} as check", scope)
            found[name] = scope["check"]
    return found


def renamed(source):
    """The source with an underscore behind the name of each of its variables."""
    tree = ast.parse(source)
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(tree):
        field = {ast.arg: "arg", ast.Name: "id"}.get(type(node))
        if field and getattr(node, field) in own:
            setattr(node, field, getattr(node, field) + "_")
    return ast.unparse(tree)


@pytest.mark.parametrize("name", HOLES := holes())
def test_a_copy_of_the_source_earns_nothing(name, tmp_path):
    """The package's source, with all that it needs, as it is and under other names of variables."""
    check = HOLES[name]
    reference = inspect.unwrap(next(iter(inspect.signature(check).parameters.values())).default)
    source = textwrap.dedent(inspect.getsource(reference))
    for number, text in enumerate((source, renamed(source))):
        file, scope = tmp_path / f"copy_{name}_{number}.py", {**vars(sys.modules[reference.__module__])}
        file.write_text(text)
        scope["__name__"] = file.stem
        exec(compile(text, str(file), "exec"), scope)
        with pytest.raises(AssertionError, match="This is the package's source"):
            grade(check, scope[name])


@pytest.mark.parametrize("path", EXERCISES, ids=lambda p: p.stem)
def test_every_hole_has_what_a_learner_needs(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    holes, graded = notes(notebook, solution=True), notes(notebook, grade=True)
    assert 2 <= len(holes) <= 5 and set(graded) == {f"{name}_test" for name in holes}
    assert len(re.findall(r"Difficulty \d/5 - Importance \d/5 - \d+ minutes", text)) == len(holes)
    assert text.count("<summary>Hint</summary>") == len(holes)
    for name, cell in holes.items():
        assert cell.source.startswith(f"def {name}(") and "### BEGIN SOLUTION" in cell.source
        assert f"grade(checks.check_{name}, {name})" in graded[f"{name}_test"].source
        assert graded[f"{name}_test"].metadata.nbgrader.locked
    assert not any(c.get("outputs") for c in notebook.cells)
    assert "](" not in text, "a released copy lies in another folder: no links"


def test_no_function_is_asked_for_twice():
    asked = [name for path in EXERCISES for name in notes(nbformat.read(path, as_version=4), solution=True)]
    assert len(set(asked)) == len(asked)


def test_the_command_without_nbgrader_refuses_to_overwrite(tmp_path):
    folder = tmp_path / "notebooks"
    shutil.copytree(NOTEBOOKS, folder, ignore=shutil.ignore_patterns("release"))
    for expected in (str(folder / "release"), "kept "):
        run = subprocess.run(
            [sys.executable, "release.py"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert run.stdout.startswith(expected)


def impl(path, **environment):
    """What pytest --impl=path says."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--impl={path}"],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | environment,
    )  # fmt: skip
    return run.stdout


def test_impl_grades_a_file_with_a_statement_that_fails(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nimport there_is_no_such_module\nx = 1 / 0\n"
        "from minidistill.schedules import edm\n"  # imported, not answered
        "def cosine(t):\n    return torch.sin(torch.pi / 2 * (1 - t)), torch.sin(torch.pi / 2 * t)\n"
        "def rectified_flow(t):\n    return t, 1 - t\n"
    )
    said = impl(path)
    assert "1 failed, 1 passed" in said and "t = 0 is data" in said and "edm" not in said


# nbgrader, from end to end

pytest.importorskip("nbgrader", reason="the course needs nbgrader")


def nbgrader(folder, *arguments, **environment):
    command = [sys.executable, "-m", "nbgrader", *arguments]
    # as in an activated environment: nbgrader looks for alembic on the path
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | path | environment
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", EXERCISES, ids=lambda p: p.stem)
def test_every_exercise_by_both_doors(path, tmp_path):
    """The solutions get full marks and the released stubs none, for each notebook."""
    shutil.copy(NOTEBOOKS / "nbgrader_config.py", tmp_path)
    (tmp_path / "exercises").mkdir()
    shutil.copy(path, tmp_path / "exercises")
    assert nbgrader(tmp_path, "generate_assignment", "exercises").returncode == 0
    released = tmp_path / "release" / "exercises" / path.name
    for command, said in (
        (["validate", f"exercises/{path.name}"], "Success"),
        (["validate", "--invert", str(released)], "does not pass any tests"),
    ):
        run = nbgrader(tmp_path, *command)
        assert said in run.stdout + run.stderr
    for student, source in (("right", path), ("blank", released)):
        (tmp_path / "submitted" / student / "exercises").mkdir(parents=True)
        shutil.copy(source, tmp_path / "submitted" / student / "exercises")
    nbgrader(tmp_path, "autograde", "exercises", "--create", MINIDISTILL_SEED="5")
    nbgrader(tmp_path, "export")
    with open(tmp_path / "grades.csv", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    graded = notes(nbformat.read(path, as_version=4), grade=True).values()
    assert scores == {"right": sum(c.metadata.nbgrader.points for c in graded), "blank": 0}
    assert f"{len(graded)} passed" in impl(path) and f"{len(graded)} failed" in impl(released)
