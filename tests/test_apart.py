"""Answers in processes of their own, and a class of twelve by both doors: `pytest --impl` and nbgrader."""

import copy
import csv
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from minidistill import schedules
from minidistill.checks import apart

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
PS1 = NOTEBOOKS / "exercises" / "ps1_schedules.ipynb"
RIGHT = {
    cell.metadata.nbgrader.grade_id: cell.source
    for cell in nbformat.read(PS1, as_version=4).cells
    if cell.metadata.get("nbgrader", {}).get("solution")
}
COSINE = "    return torch.sin(torch.pi / 2 * (1 - t)), torch.sin(torch.pi / 2 * t)\n"


@pytest.fixture(autouse=True)
def few_seconds(monkeypatch):
    monkeypatch.setenv("MINIDISTILL_SECONDS", "2")


def judged(text, tmp_path, name="cosine"):
    """What is said about one answer of a .py file."""
    path = tmp_path / "mine.py"
    path.write_text("import torch\n" + text)
    cells = apart.read(path)
    return apart.judge(cells, name, apart.tests(cells)[name])


HOSTILE = {
    "catches all, for ever": (
        "def cosine(t):\n    while True:\n        try:\n            while True: pass\n        except: pass\n",
        "still ran after",
    ),
    "a loop in C": ("def cosine(t):\n    import itertools\n    sum(itertools.repeat(1))\n", "or one in C"),
    "sleeps": ("def cosine(t):\n    import time\n    time.sleep(1000)\n", "still ran after 2 seconds"),
    "leaves": ("import os\ndef cosine(t):\n    os._exit(0)\n", "ended the process.*exit status 0"),
    "kills itself": ("import os\ndef cosine(t):\n    os.kill(os.getpid(), 9)\n", "ended the process.*SIGKILL"),
    "kills its parent": (
        "import os\ndef cosine(t):\n    os.kill(os.getppid(), 9)\n    os.kill(os.getpid(), 9)\n", "SIGKILL",
    ),
    "ignores the alarm": (
        "import signal\ndef cosine(t):\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "    while True: pass\n",
        "did not stop for an exception",
    ),
    "raises what nobody expects": ("def cosine(t):\n    raise BaseException('!')\n", "BaseException: !"),
    "overflows the stack": ("def cosine(t):\n    return cosine(t)\n", "RecursionError"),
    "fills the memory, bit by bit": (
        "def cosine(t):\n    a = []\n    while True: a.append(torch.empty(10**8))\n", "needs more than 4 GB",
    ),
    "is not read to its end": ("def cosine(t):\n    pass\nx = [i for i in iter(int, 1)]\n", "returns nothing"),
    "replaces the check": (
        "from minidistill.checks import schedules as checks, grading\n"
        "checks.check_cosine = grading.grade = lambda *a, **k: None\n"
        "checks.close = torch.testing.assert_close = torch.equal = lambda *a, **k: None\n"
        "def cosine(t):\n    return t, 1 - t\n",
        "t = 0 is data",
    ),
    "takes the reference's code": (
        "from minidistill.schedules import cosine as theirs\n"
        "def cosine(t):\n    return t\ncosine.__code__ = theirs.__wrapped__.__code__\n",
        "package's",
    ),
    "runs the reference's source": (
        "import inspect, minidistill.schedules as s\nscope = {**vars(s)}\n"
        "ran = exec(inspect.getsource(s.cosine).partition('\\n')[2], scope)\n"
        "def cosine(t):\n    return scope['cosine'](t)\n",
        "package's",
    ),
    "no such function": ("cosine = None\n", "Expected a function"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_answer_gets_a_sentence(name, tmp_path):
    text, sentence = HOSTILE[name]
    said = judged(text, tmp_path)
    assert re.search(sentence, said), said


def test_what_breaks_the_reading_costs_its_own_points(tmp_path):
    """A statement that ends the process while the file is read: the others are read without it."""
    text = "import os\nx = os._exit(0)\ndef edm(t, stop=os._exit(0)):\n    return t\n"
    assert judged(text + "def cosine(t):\n" + COSINE, tmp_path) == ""
    said = judged(text, tmp_path, "edm")
    assert said == "Your file, while it is read, ended the process that grades it, with exit status 0."


def test_a_replaced_function_of_torch_is_put_back(tmp_path):
    text = "torch.sin = torch.Tensor.sin = None\nfrom minidistill import schedules\nschedules.cosine = None\n"
    assert judged(text + "def cosine(t):\n" + COSINE, tmp_path) == ""


def test_what_an_answer_starts_ends_with_it(tmp_path):
    mark = tmp_path / "alive"
    text = (
        "import os, threading, time\ndef cosine(t):\n"
        "    if os.fork() == 0:\n        while True:\n            time.sleep(0.1)\n"
        f"            open({str(mark)!r}, 'a').write('x')\n"
        "    threading.Thread(target=time.sleep, args=(1000,)).start()\n"
    )
    start = time.perf_counter()
    assert judged(text + COSINE, tmp_path) == "" and time.perf_counter() - start < 30
    size = mark.stat().st_size if mark.exists() else 0
    time.sleep(1)
    assert (mark.stat().st_size if mark.exists() else 0) == size


def test_files_that_cannot_be_read(tmp_path):
    for name, text, sentence in (
        ("none.py", None, "No such file"),
        ("broken.py", "x = (", "line 1"),
        ("text.ipynb", "hello", "no notebook"),
        ("bytes.py", "\0", "no notebook or Python file|null bytes"),
        ("deep.py", "(" * 10_000, "."),
        ("other.py", "def nobody_asked(): pass", "no function in this file has a check"),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            apart.tests(apart.read(path))


# a class of twelve


def notes(notebook, **wanted):
    """The cells with these nbgrader notes, by grade_id."""
    found = {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}
    return {i: c for i, c in found.items() if all(c.metadata.nbgrader.get(k) == v for k, v in wanted.items())}


def pasted(function, renamed=()):
    """The package's source of a function, with everything that it needs, and with other names."""
    source = (
        f"from {function.__module__} import *\nfrom minidistill import need\n{inspect.getsource(function)}"
    )
    for old, new in renamed:
        source = re.sub(rf"\b{old}\b", new, source)
    return source


ANSWERS = {  # what each student writes into the holes; what is missing stays as it was released
    "right": RIGHT,
    "blank": {},
    "partial": {"shifted": RIGHT["shifted"], "cosine": "def cosine(t):\n    return t, 1 - t"},
    "imports": {
        "cosine": "from minidistill.schedules import cosine",
        "shifted": "def shifted(f, shift):\n    import minidistill.schedules as s\n    return s.shifted(f, shift)",
        "zero_terminal_snr": "from minidistill.schedules import zero_terminal_snr",
        "as_denoiser": "from minidistill.parameterization import as_denoiser as reference\n"
        "def as_denoiser(*args, **kwargs):\n    return reference(*args, **kwargs)",
    },
    "copies": {
        "cosine": pasted(schedules.cosine),
        "shifted": pasted(schedules.shifted, [("schedule", "f"), ("shift", "by"), ("t", "time")]),
        "zero_terminal_snr": pasted(schedules.zero_terminal_snr, [("zero_terminal_snr", "theirs")])
        + "\ndef zero_terminal_snr(table):\n    return theirs(table)",
        "as_denoiser": "import inspect\nfrom minidistill import parameterization as p\nscope = {**vars(p)}\n"
        "ran = exec(inspect.getsource(p.as_denoiser), scope)\nas_denoiser = scope['as_denoiser']",
    },
    "loops": {
        "cosine": HOSTILE["catches all, for ever"][0],
        "zero_terminal_snr": "import itertools\ndef zero_terminal_snr(a):\n    sum(itertools.repeat(1))",
        "shifted": RIGHT["shifted"],
        "as_denoiser": RIGHT["as_denoiser"],
    },
    "leaves": {
        "cosine": "import os\nx = os._exit(0)\n" + RIGHT["cosine"],
        "shifted": "import os\ndef shifted(schedule, shift):\n    os._exit(0)",
        "zero_terminal_snr": RIGHT["zero_terminal_snr"],
        "as_denoiser": RIGHT["as_denoiser"],
    },
    "floods": {
        "cosine": "def cosine(t):\n    while True:\n        print('x' * 10**6)",
        "shifted": "def shifted(schedule, shift):\n    return lambda t: torch.zeros(10**11)",
        "zero_terminal_snr": "def zero_terminal_snr(a):\n    import os\n    os.kill(os.getppid(), 9)\n    os.kill(os.getpid(), 9)",
        "as_denoiser": RIGHT["as_denoiser"],
    },
    "starts": {
        "cosine": "import os, threading, time\ndef cosine(t):\n    if os.fork() == 0:\n        time.sleep(1000)\n"
        "    threading.Thread(target=time.sleep, args=(1000,)).start()\n" + COSINE,
        "as_denoiser": RIGHT["as_denoiser"],
    },
    "patches": {
        "cosine": HOSTILE["replaces the check"][0] + "torch.sin = None",
        "shifted": RIGHT["shifted"],
        "zero_terminal_snr": RIGHT["zero_terminal_snr"],
        "as_denoiser": RIGHT["as_denoiser"],
    },
    "edits the tests": {},
    "has a cell that fails": RIGHT,
}
POINTS = {
    "right": 10, "blank": 0, "partial": 2, "imports": 0, "copies": 0, "loops": 6, "leaves": 6, "floods": 4, "starts": 6,
    "patches": 8, "edits the tests": 0, "has a cell that fails": 10,
}  # fmt: skip


SENTENCES = {  # found in the feedback
    "blank": "Nothing here yet",
    "imports": "calls the package",
    "copies": "This is the package",
    "loops": "or one in C",
    "leaves": "ended the process that grades it, with exit status 0",
    "floods": "SIGKILL",
    "patches": "t = 0 is data",
}


def handed_in(released, answers, name):
    """The released notebook with somebody's answers in its holes."""
    notebook = copy.deepcopy(released)
    for hole, cell in notes(notebook, solution=True).items():
        cell.source = answers.get(hole, cell.source)
    if name == "edits the tests":
        for cell in notes(notebook, grade=True).values():
            cell.source = "pass"
    if name == "has a cell that fails":
        notebook.cells.insert(1, nbformat.v4.new_code_cell("import there_is_no_such_module"))
    return notebook


def course(folder):
    """An nbgrader course with one notebook, released; and what it released."""
    (folder / "exercises").mkdir()
    for file in ("nbgrader_config.py", "receive.py"):
        shutil.copy(NOTEBOOKS / file, folder)
    shutil.copy(PS1, folder / "exercises")
    said = run(folder, "-m", "nbgrader", "generate_assignment", "exercises")
    assert (folder / "release").exists(), said
    return nbformat.read(folder / "release" / "exercises" / PS1.name, as_version=4)


def run(folder, *arguments, **environment):
    """Python with these arguments in the folder, as in an activated environment; what it printed."""
    paths = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader looks for alembic there
    )
    environment = os.environ | {"PATH": paths, "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )
    return done.stdout + done.stderr


def hand_in(folder, student, text, name=PS1.name):
    path = folder / "submitted" / student / "exercises" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def released_by_ours(folder):
    """What our own command releases."""
    sys.path.insert(0, str(NOTEBOOKS))
    from release import release

    release(PS1, folder / PS1.name)
    return nbformat.read(folder / PS1.name, as_version=4)


def test_nbgrader_is_given_our_verdicts(tmp_path):
    """The step of nbgrader's that nbgrader_config.py replaces, without nbgrader's commands."""
    pytest.importorskip("nbgrader", reason="the course needs nbgrader")
    from traitlets.config import Config

    config = Config()
    exec((NOTEBOOKS / "nbgrader_config.py").read_text(), {"get_config": lambda: config, "__name__": "config"})
    answers = {"cosine": RIGHT["cosine"], "shifted": ANSWERS["leaves"]["shifted"]}
    notebook = handed_in(released_by_ours(tmp_path), answers, "")
    graded, _ = config.Autograde.autograde_preprocessors[0]().preprocess(notebook, {})
    outputs = {name: [o.evalue for o in cell.outputs] for name, cell in notes(graded, grade=True).items()}
    assert outputs["cosine_test"] == []
    assert outputs["shifted_test"] == ["Your function ended the process that grades it, with exit status 0."]
    assert outputs["as_denoiser_test"] == [
        "Nothing here yet: replace `raise NotImplementedError()` by your code."
    ]


def faulty(released):
    """Student -> (what is handed in, its name, a part of the sentence) for files that nbgrader cannot grade."""
    twice, old, bare = (copy.deepcopy(released) for _ in range(3))
    twice.cells.insert(5, copy.deepcopy(notes(twice)["cosine"]))
    twice.cells[5].id = "another"
    for cell in notes(old).values():
        cell.metadata.nbgrader.schema_version = 1
    for cell in notes(bare).values():
        del cell.metadata["nbgrader"]
    return {
        "duplicates": (nbformat.writes(twice), PS1.name, "Two cells are called cosine"),
        "is old": (nbformat.writes(old), PS1.name, "are not those that were released"),
        "has lost its notes": (nbformat.writes(bare), PS1.name, "graded cells are missing"),
        "is no notebook": ("hello", PS1.name, "no notebook that can be read"),
        "has another name": (nbformat.writes(released), "mine.ipynb", "No exercise has this name"),
    }


def test_what_nbgrader_cannot_read_is_set_aside(tmp_path):
    pytest.importorskip("nbgrader", reason="the course needs nbgrader")
    released = released_by_ours(tmp_path / "exercises")
    kept = hand_in(tmp_path, "right", nbformat.writes(released))
    for student, (text, name, _) in faulty(released).items():
        hand_in(tmp_path, student, text, name)
    from receive import receive

    said = {path.parts[-3]: sentence for path, sentence in receive(tmp_path, "exercises").items()}
    assert set(said) == set(faulty(released)) and kept.exists()
    for student, (_, name, sentence) in faulty(released).items():
        note = (tmp_path / "returned" / student / "exercises" / name).with_suffix(".txt").read_text()
        assert sentence in said[student] and sentence in note


@pytest.mark.slow
def test_a_class_by_both_doors(tmp_path):
    """Honest and hostile students, and five whose files nbgrader cannot read."""
    pytest.importorskip("nbgrader", reason="the course needs nbgrader")
    released = course(tmp_path)
    ours = released_by_ours(tmp_path / "ours")
    assert [c.source for c in ours.cells] == [c.source for c in released.cells]
    for name in ANSWERS:
        hand_in(tmp_path, name, nbformat.writes(handed_in(released, ANSWERS[name], name)))
    for student, (text, name, _) in faulty(released).items():
        hand_in(tmp_path, student, text, name)

    said = run(tmp_path, "receive.py", "exercises")
    for student, (_, name, sentence) in faulty(released).items():
        assert re.search(rf"{student}: {name}: .*{sentence}", said)
    assert "5 set aside" in said

    start = time.perf_counter()
    log = run(tmp_path, "-m", "nbgrader", "autograde", "exercises", "--create", MINIDISTILL_SEED="11")
    print(f"nbgrader: {time.perf_counter() - start:.0f} s for {len(ANSWERS)} students")
    run(tmp_path, "-m", "nbgrader", "generate_feedback", "exercises")
    run(tmp_path, "-m", "nbgrader", "export")
    with open(tmp_path / "grades.csv", newline="") as file:
        scores = {row["student_id"]: float(row["score"] or 0) for row in csv.DictReader(file)}
    assert {name: scores.get(name) for name in POINTS} == POINTS, log[-3000:]
    for name in SENTENCES:
        page = tmp_path / "feedback" / name / "exercises" / "ps1_schedules.html"
        assert SENTENCES[name] in page.read_text()

    points = {name: c.metadata.nbgrader.points for name, c in notes(released, grade=True).items()}
    for name in ANSWERS:
        start = time.perf_counter()
        path = tmp_path / "submitted" / name / "exercises" / PS1.name
        said = run(ROOT, "-m", "pytest", "-q", "-rA", f"--impl={path}", MINIDISTILL_SEED="11")
        passed = re.findall(r"^PASSED .*\[(\w+)\]", said, flags=re.M)
        print(f"pytest --impl: {name}, {time.perf_counter() - start:.0f} s, {passed}")
        assert sum(points[f"{hole}_test"] for hole in passed) == POINTS[name], said
