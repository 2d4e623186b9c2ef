import argparse
import csv
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from minidistill import __main__ as program
from minidistill import jobs, train
from minidistill.__main__ import main, parse
from minidistill.checkpoints import alone, load
from minidistill.flowmap import shortcut_loss
from minidistill.jobs import contest, ect, flowmap, matching, progressive, pyramid, video
from minidistill.metrics import Classifier, flow_map_error
from minidistill.parameterization import as_velocity
from minidistill.schedules import mix, rectified_flow


@pytest.fixture
def short(monkeypatch):
    """The whole job in two seconds: a teacher of 8 steps, a judge that knows little, a hundred samples."""
    for job in (progressive, contest):
        monkeypatch.setattr(job, "TEACHER_STEPS", 8)
    monkeypatch.setattr(contest, "compare", partial(contest.compare, n=100))
    monkeypatch.setattr(contest, "JUDGE_UPDATES", 20)
    monkeypatch.setattr(video, "videos", partial(video.videos, n=64, n_test=10))
    monkeypatch.setattr(video, "STEPS", {"pyramid": [1, 1], "full size": [2]})


def table(out):
    """Everything in the table but the seconds."""
    with open(out / "table.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def go(out, *more, method="progressive"):
    return main([method, "--updates", "20", "--out", str(out), *more])


def test_the_job(short, tmp_path, capsys):
    assert go(tmp_path) == 0
    rows = table(tmp_path)
    assert [(row["model"], row["steps"]) for row in rows] == [
        ("teacher", "8"), ("teacher guided 1.5", "8"), ("undistilled", "4"), ("student", "4"), ("undistilled", "2"), ("student", "2"),
        ("undistilled", "1"), ("student", "1"), ("real test data", ""),
    ]  # fmt: skip
    assert float(rows[0]["distance"]) == 0 and float(rows[6]["distance"]) > 0
    files = {
        "judge.pt",
        "teacher.pt",
        "student-4.pt",
        "student-2.pt",
        "student-1.pt",
        "teacher-weights.pt",
        "student-1-weights.pt",
        "table.csv",
        "samples.png",
    }
    assert {path.name for path in tmp_path.iterdir()} == files | {"settings.json"}
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 0
    printed = capsys.readouterr().out
    assert "| undistilled | 1 |" in printed and str(tmp_path) in printed
    # the weights are those of the checkpoint in half precision, and say what they were trained on
    net, whole = (contest.network(torch.zeros(1, 1, 8, 8)) for _ in range(2))
    data_std = contest.trained(tmp_path / "teacher-weights.pt", net)
    assert data_std == pytest.approx(contest.images("digits")[0].std().item())
    load(tmp_path / "teacher.pt", {"ema": whole})
    for ours, theirs in zip(net.parameters(), whole.parameters()):
        assert torch.equal(ours, theirs.half().float())
    # a checkpoint is plain weights
    contest.network(torch.zeros(1, 1, 8, 8)).load_state_dict(
        torch.load(tmp_path / "student-1.pt", weights_only=True)["net"]
    )


def test_a_guided_teacher(short, tmp_path):
    """Its students learn the guided answers, and the table says what guidance does to the teacher."""
    assert go(tmp_path / "plain") == go(tmp_path / "guided", "--guidance", "3") == 0
    plain, guided = table(tmp_path / "plain"), table(tmp_path / "guided")
    assert [row["model"] for row in guided[:2]] == ["teacher", "teacher unguided"]
    judged = ("frechet", "accuracy")  # the distance is to another reference
    assert [guided[1][key] for key in judged] == [plain[0][key] for key in judged]
    assert guided[0]["frechet"] != plain[0]["frechet"] and float(guided[1]["distance"]) > 0
    weights = [
        torch.load(tmp_path / name / "student-4.pt", weights_only=True)["net"]["out.weight"]
        for name in ("plain", "guided")
    ]
    assert not torch.equal(*weights)


def test_the_time_is_said_before_it_starts(short, tmp_path, capsys, monkeypatch):
    for job in jobs.methods().values():
        whole, half = (
            argparse.Namespace(
                data="mnist", updates=updates, equal="flops", loss=["lagrangian"], start=["teacher"]
            )
            for updates in (12000, 6000)
        )
        assert job.minutes(whole) == 2 * job.minutes(half) > 2
    assert go(tmp_path / "run") == 0
    assert capsys.readouterr().err.startswith("About 1 min on two processor cores. Ctrl-C saves")


def test_full_size_gets_as_many_flops_or_as_many_updates():
    flops, updates = (video.stages(parse(["video", "--equal", equal])) for equal in ("flops", "updates"))
    assert flops["pyramid"] == updates["pyramid"] == updates["full size"] == 8000
    assert flops["full size"] == round(8000 / 2.772)  # as the help says


def test_as_many_updates_as_the_data_needs():
    assert parse(["ect"]).updates == 1600
    assert parse(["ect", "--data", "mnist"]).updates == 12000
    assert parse(["ect", "--data", "mnist", "--updates", "30"]).updates == 30


CHECKPOINTS = Path(__file__).parents[1] / "notebooks" / "checkpoints"


@torch.no_grad()
def test_the_committed_mnist_models_do_what_their_table_says():
    """From the first noises of the table: the one-step student ends where its guided teacher does."""
    noise = torch.randn(1000, 1, 28, 28, generator=torch.Generator().manual_seed(0))[:50]
    labels = torch.arange(50) % 10
    nets = {name: contest.network(noise) for name in ("teacher", "student-1")}
    data_std = [contest.trained(CHECKPOINTS / f"mnist-{name}.pt", net) for name, net in nets.items()]
    assert data_std[0] == data_std[1] == pytest.approx(0.616, abs=0.001)
    images = contest.by_ddim("teacher", nets["teacher"], data_std[0], 32, 1.5).sample(noise, labels)
    one = contest.by_ddim("student", nets["student-1"], data_std[0], 1).sample(noise, labels)
    with open(CHECKPOINTS / "mnist.csv", newline="") as file:
        rows = {(row["model"], row["steps"]): row for row in csv.DictReader(file)}
    distance = float(rows["student", "1"]["distance"])
    assert flow_map_error(one, images)[0] == pytest.approx(distance, rel=0.15)
    assert distance < float(rows["undistilled", "1"]["distance"]) / 2
    assert float(rows["teacher", "32"]["accuracy"]) >= 0.97  # guided
    assert float(rows["teacher unguided", "32"]["frechet"]) <= 2


def test_the_committed_mnist_models_are_small():
    assert sum(path.stat().st_size for path in CHECKPOINTS.glob("mnist*")) < 3e6


def test_ect(short, tmp_path, capsys):
    assert go(tmp_path, method="ect") == 0
    rows = table(tmp_path)
    assert [(row["model"], row["steps"]) for row in rows] == [
        ("teacher", "8"), ("teacher guided 1.5", "8"), ("undistilled", "8"), ("undistilled", "4"), ("ect", "4"), ("undistilled", "2"), ("ect", "2"),
        ("undistilled", "1"), ("ect", "1"), ("real test data", ""),
    ]  # fmt: skip
    # one jump starts from the teacher's noise and ends at an image of its own; two add noise in between
    assert float(rows[8]["distance"]) > 0 and rows[6]["distance"] == ""
    assert {"judge.pt", "teacher.pt", "ect.pt", "samples.png"} <= {path.name for path in tmp_path.iterdir()}
    assert "| ect | 2 |  |" in capsys.readouterr().out


def test_pyramid(short, tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid, "STEPS", 2)
    assert go(tmp_path, method="pyramid") == 0
    rows = table(tmp_path)
    assert [(row["model"], row["steps"]) for row in rows] == [
        ("teacher", "6"), ("one size", "6"), ("one size", "3"), ("undistilled", "3"), ("student", "3"), ("real test data", ""),
    ]  # fmt: skip
    assert float(rows[1]["mflop"]) > 2.2 * float(rows[0]["mflop"])
    assert rows[1]["distance"] == "" and float(rows[4]["distance"]) > 0 == float(rows[0]["distance"])
    files = {"judge.pt", "teacher.pt", "plain.pt", "student-1.pt", "samples.png", "table.csv"}
    assert files <= {path.name for path in tmp_path.iterdir()}
    plain, pyramidal = (
        torch.load(tmp_path / name, weights_only=True)["step"] for name in ("plain.pt", "teacher.pt")
    )
    assert pyramidal == 20 and 8 <= plain <= 9  # as many training FLOPs


@pytest.mark.parametrize("name", ["ball", "moving_digits"])
def test_video(short, tmp_path, capsys, name):
    assert go(tmp_path, "--data", name, method="video") == 0
    rows = table(tmp_path)
    copies = [("copy of the last", "4"), ("copy of the last", "1")][: 2 if name == "ball" else 1]
    assert [(row["model"], row["given"]) for row in rows] == [
        *copies, ("pyramid", "4"), ("pyramid", "1"), ("pyramid", "0"),
        ("full size", "4"), ("full size", "1"), ("full size", "0"), ("truth", ""),
    ]  # fmt: skip
    pyramid, full = rows[-7:-4], rows[-4:-1]
    assert float(full[0]["mflop"]) > 3 * float(pyramid[0]["mflop"])
    # one frame of a digit does not say where it goes
    assert float(pyramid[0]["next"]) > 0 == len(pyramid[2]["next"]) and (pyramid[1]["next"] == "") == (
        name != "ball"
    )
    assert 0 <= float(pyramid[2]["label"]) <= 1
    models = {"pyramid.pt", "pyramid-weights.pt", "full-size.pt", "full-size-weights.pt"}
    pictures = {"samples.gif", "samples.png", "table.csv", "settings.json"}
    judge = {"judge.pt"} if name == "moving_digits" else set()
    assert {path.name for path in tmp_path.iterdir()} == models | pictures | judge
    film = Image.open(tmp_path / "samples.gif")
    assert film.n_frames == video.FRAMES and film.info["loop"] == 0
    assert "| pyramid | 1 |" in capsys.readouterr().out
    steps = [torch.load(tmp_path / f, weights_only=True)["step"] for f in ("pyramid.pt", "full-size.pt")]
    assert steps == [20, 7]  # as many training FLOPs
    weights = tmp_path / "pyramid-weights.pt"
    assert train.load(weights, {"ema": video.network()}) == 20


def test_phased(short, tmp_path, capsys):
    assert go(tmp_path, "--plan", "10-1", "4-4,10-2", "--guidance", "1.5", method="phased") == 0
    rows = table(tmp_path)
    found = [(row["model"], row["steps"]) for row in rows]
    assert found[:5] == [("teacher", "40"), *(("undistilled", n) for n in "8421")]
    for plan in ("10-1", "4-4,10-2"):
        assert [n for model, n in found if model == f"plan {plan}, Euler"] == ["8", "4", "2", "1"]
        assert [n for model, n in found if model == f"plan {plan}, noise"] == ["8", "4", "2"]
    assert all((row["distance"] == "") == ("noise" in row["model"]) for row in rows[:-1])
    assert {"plan-10-1.pt", "plan-4-4,10-2.pt", "samples.png"} <= {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "settings.json").read_text())["plan"] == ["10-1", "4-4,10-2"]
    capsys.readouterr()
    assert go(tmp_path, "--resume", "--guidance", "1.5", "--plan", "10-2", method="phased") == 2
    assert "--plan ['10-1', '4-4,10-2'], now ['10-2']" in capsys.readouterr().err


def test_flowmap(short, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(flowmap, "TEACHER_STEPS", 8)
    losses = ["mean_flow", "lagrangian", "shortcut"]
    assert go(tmp_path, "--loss", *losses, "--guidance", "1.5", method="flowmap") == 0
    rows = table(tmp_path)
    names = [("teacher", "8"), *((name, n) for name in ("undistilled", *losses) for n in "8421")]
    assert [(row["model"], row["steps"]) for row in rows[:-1]] == names
    assert all(row["distance"] and row["recall"] for row in rows[:-1])
    distance = {(row["model"], row["steps"]): float(row["distance"]) for row in rows[:-1]}
    assert distance["undistilled", "8"] == distance["teacher", "8"] == 0  # the same steps, so the same images
    # a student is its teacher but for the interval's part, and learns it
    teacher, student = (contest.network(torch.zeros(1, 1, 8, 8), top=16.0, interval=i) for i in (False, True))
    contest.trained(tmp_path / "teacher-weights.pt", teacher)
    contest.trained(tmp_path / "lagrangian-weights.pt", student)
    assert len(student.state_dict()) == len(teacher.state_dict()) + 4
    assert student.interval[-1].weight.abs().max() > 0
    capsys.readouterr()
    assert go(tmp_path / "out", "--loss", "lagrangian", "lagrangian", method="flowmap") == 2
    assert "the same loss was given twice" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_matching(short, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(matching, "TEACHER_STEPS", 8)
    assert go(tmp_path / "both", "--guidance", "1.5", method="matching") == 0
    rows = table(tmp_path / "both")
    names = ["teacher", "undistilled", "flow map", "from teacher", "from flow map"]
    assert [row["model"] for row in rows[:-1]] == names and all(
        0 <= float(row["entropy"]) <= 1 for row in rows
    )
    assert "class entropy" in capsys.readouterr().out
    nets = [contest.network(torch.zeros(1, 1, 8, 8), top=16.0, interval=i) for i in (False, True)]
    for name, net in zip(("from-teacher", "from-flow-map"), nets):
        contest.trained(tmp_path / "both" / f"{name}-weights.pt", net)
    steps = {
        name: load(tmp_path / "both" / f"{name}.pt", {}) for name in ("from-teacher", "from-teacher-fake")
    }
    assert steps == {"from-teacher": 5, "from-teacher-fake": 25}
    assert go(tmp_path / "one", "--start", "teacher", method="matching") == 0
    assert {"flow map", "from flow map"}.isdisjoint(row["model"] for row in table(tmp_path / "one"))
    assert go(tmp_path / "two", "--start", "teacher", "teacher", method="matching") == 2
    assert "the same start was given twice" in capsys.readouterr().err and not (tmp_path / "two").exists()


@torch.no_grad()
def test_a_generator_starts_as_what_it_starts_from():
    """The teacher's denoiser at pure noise, or one jump of the flow map."""
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    teacher, flow_map = (contest.network(x, top=16.0, interval=i) for i in (False, True))
    for p in (*teacher.parameters(), *flow_map.parameters()):
        torch.nn.init.normal_(p, std=0.1)
    one_jump = contest.by_jumps("flow map", flow_map, 0.5, 1).sample(x, labels)
    torch.testing.assert_close(matching.generated("g", flow_map, 0.5).sample(x, labels), one_jump)
    one_step = contest.by_euler("teacher", teacher, 0.5, 1, 1.0).sample(x, labels)
    torch.testing.assert_close(matching.generated("g", teacher, 0.5).sample(x, labels), one_step)


def test_two_checkpoints_of_two_moments(short, tmp_path, capsys):
    """A generator and a fake score that do not belong together are not trained on, and stay as they are."""
    assert go(tmp_path, "--start", "teacher", method="matching") == 0
    (tmp_path / "from-teacher.pt").unlink()
    before = (tmp_path / "from-teacher-fake.pt").read_bytes()
    assert go(tmp_path, "--start", "teacher", "--resume", method="matching") == 2
    assert "go on from two moments: delete what is there" in capsys.readouterr().err
    assert (tmp_path / "from-teacher-fake.pt").read_bytes() == before
    (tmp_path / "from-teacher-fake.pt").unlink()
    assert go(tmp_path, "--start", "teacher", "--resume", method="matching") == 0


@torch.no_grad()
def test_a_flow_map_starts_as_euler():
    """With the teacher's weights, and before any update, a jump is a step of the guided teacher's velocity."""
    x, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    torch.manual_seed(0)
    teacher, student = (contest.network(x, top=16.0, interval=i) for i in (False, True))
    for p in teacher.parameters():
        torch.nn.init.normal_(p, std=0.1)
    student.load_state_dict(teacher.state_dict(), strict=False)
    for n in (1, 3):
        euler = contest.by_euler("teacher", teacher, 0.5, n, 1.0).sample(x, labels)
        jumps = contest.by_jumps("student", student, 0.5, n).sample(x, labels)
        torch.testing.assert_close(jumps, euler, rtol=0, atol=1e-5)
    velocity = contest.teacher_velocity(teacher, 0.5, labels, 2.0)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    denoiser = contest.guided_denoiser(teacher, rectified_flow, 0.5, labels, 2.0)
    torch.testing.assert_close(velocity(x, t), as_velocity(denoiser)(x, t), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_anchor_of_shortcut():
    """On the diagonal the teacher's velocity, elsewhere the mean of the halves."""
    x, eps, t = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0.9, 0.8, 0.6, 0.5])
    u, teacher = lambda z, t, s: torch.tanh(z) * (1 + t - s)[:, None], lambda z, t: torch.cos(z)
    loss = flowmap.anchored_shortcut(u, x, eps, t, t * torch.tensor([0, 0.5, 1, 1]), teacher)
    s = t * torch.tensor([0, 0.5, 1, 1])
    z = mix(x, eps, t, rectified_flow)
    torch.testing.assert_close(loss[:2], shortcut_loss(u, x, eps, t, s)[:2])
    torch.testing.assert_close(loss[2:], (u(z, t, t) - teacher(z, t)).square().mean(1)[2:])


@pytest.mark.parametrize(
    "plan, sentence",
    [("4000", "a plan is a list of limit-phases"), ("9-8,9-4", "never reached"), ("10-3", "3 phases do not divide a grid of 40"), ("20-8,40-4", "starts after update 20, and this student has 20")],
)  # fmt: skip
def test_an_impossible_plan_stops_before_any_work(tmp_path, capsys, plan, sentence):
    assert go(tmp_path / "out", "--plan", plan, method="phased") == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_fresh_noise_is_not_the_start_again(short, monkeypatch):
    """A sampler that draws from the seed of the start draws the start: the noises would be one."""
    seen = []
    monkeypatch.setattr(ect, "renoise", lambda f, z, times, schedule, generator: seen.append(
        (z, torch.randn(z.shape, generator=generator))) or z)  # fmt: skip
    x, _, x_test, y_test = contest.images("digits")
    net = contest.network(x)
    contest.compare([ect.by_renoise("ect", net, 1.0, 2, 0)], Classifier(), x, x_test, y_test)
    start, drawn = seen[0]
    assert abs((start / start.std() * drawn).mean()) < 0.05


@pytest.mark.parametrize(
    "loss, call, method",
    [
        ("diffusion_loss", 7, "progressive"),
        ("progressive_loss", 4, "progressive"),
        ("ect_loss", 5, "ect"),
        ("phased_loss", 9, "phased"),
        ("matching_loss", 3, "matching"),
        ("fake_loss", 7, "matching"),
    ],
)
def test_ctrl_c_then_resume_gives_the_same_table(short, tmp_path, monkeypatch, capsys, loss, call, method):
    more = ["--start", "teacher"] if method == "matching" else []  # the flow map is tested by itself
    assert go(tmp_path / "whole", *more, method=method) == 0
    job = contest if loss == "diffusion_loss" else jobs.methods()[method]
    calls, original = [], getattr(job, loss)

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(job, loss, interrupted)
    assert go(tmp_path / "cut", *more, method=method) == 130
    assert "--resume continues it" in capsys.readouterr().err
    monkeypatch.setattr(job, loss, original)
    assert go(tmp_path / "cut", *more, "--resume", method=method) == 0
    assert table(tmp_path / "cut") == table(tmp_path / "whole")


def test_another_seed_is_another_run(short, tmp_path):
    assert go(tmp_path / "a") == 0 and go(tmp_path / "b", "--seed", "1") == 0
    assert table(tmp_path / "a") != table(tmp_path / "b")


def test_an_earlier_run_is_never_overwritten(short, tmp_path, capsys):
    assert go(tmp_path) == 0
    before = (tmp_path / "teacher.pt").read_bytes()
    assert go(tmp_path) == 2
    assert "add --resume" in capsys.readouterr().err
    assert go(tmp_path, "--resume", "--seed", "5") == 2
    assert "--seed 0, now 5" in capsys.readouterr().err
    assert (tmp_path / "teacher.pt").read_bytes() == before
    assert go(tmp_path, "--resume") == 0  # a finished run is only compared again


def test_damaged_files_are_named(short, tmp_path, capsys):
    assert go(tmp_path) == 0
    (tmp_path / "student-2.pt").write_bytes(b"PK")
    assert go(tmp_path, "--resume") == 2
    assert "student-2.pt is not a whole checkpoint" in capsys.readouterr().err
    (tmp_path / "settings.json").write_text("{")
    assert go(tmp_path, "--resume") == 2
    assert "settings.json is damaged" in capsys.readouterr().err


def test_mnist_without_files(tmp_path, capsys):
    assert go(tmp_path / "out", "--data", "mnist", "--folder", str(tmp_path)) == 2
    assert "there is no train-images-idx3-ubyte" in capsys.readouterr().err


def test_nonsense(capsys):
    for arguments, text in (
        (["--data", "cifar"], "invalid choice"),
        (["--plan", "10-1"], "unrecognized arguments: --plan 10-1 (minidistill progressive --help)"),
        (["video", "--data", "mnist"], "invalid choice: 'mnist'"),
        (["flowmap", "--loss", "mean"], "invalid choice: 'mean'"),
        (["video", "--folder", "x"], "unrecognized arguments: --folder"),
        (["--data", "ball"], "invalid choice: 'ball'"),
        (["progresive"], "invalid choice: 'progresive' (choose from"),
        (["ect", "--method", "phased"], "unrecognized arguments: ect (the method comes first)"),
        (["--seed", "3", "ect"], "unrecognized arguments: ect (the method comes first)"),
        (["--method"], "expected one argument"),
        (["--methods", "ect"], "unrecognized arguments: --methods ect"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and text in capsys.readouterr().err, arguments
    for arguments, text in (
        (["--updates", "5"], "--updates must be at least 20"),
        (["ect", "--updates", "0"], "--updates must be at least 20"),
        (["--device", "nonsense"], "--device nonsense cannot be used"),
        (["phased", "--plan", "10-1", "10-1"], "given twice"),
        (["flowmap", "--guidance", "nan"], "--guidance must be from -1000 to 1000"),
    ):
        assert main(arguments) == 2 and text in capsys.readouterr().err, arguments


def test_help(capsys):
    """The first line can be run, and every method shows its own options and an example that is right."""
    shown = {}
    for arguments in (["--help"], *([name, "--help"] for name in jobs.methods())):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        shown[arguments[0]] = capsys.readouterr().out
    command = shown["--help"].splitlines()[0].split()
    assert command[0] == "minidistill" and program.parse(command[1:]).method == jobs.DEFAULT
    for name, job in jobs.methods().items():
        assert f"  {name} " in shown["--help"]
        assert all(option in shown[name] for option in ("--data", "--device", "--seed", "--out", "--resume"))
        assert ("--plan" in shown[name]) == (name == "phased")
        assert ("--folder" in shown[name]) == (name != "video")
        example = next(line for line in shown[name].splitlines() if line.startswith("    minidistill "))
        args = program.parse(shlex.split(example)[1:])
        assert args.method == name and list(job.stages(args))
        assert len(job.__doc__.splitlines()[0]) <= 80 - 15, "one line of a terminal"


def test_the_default_and_the_old_spelling(capsys):
    same = program.parse(["progressive", "--seed", "3"])
    assert program.parse(["--method", "ect", "--out", "my runs"]).out == Path("my runs")
    assert "now: minidistill ect --out 'my runs'" in capsys.readouterr().err
    assert program.parse(["--seed", "3"]) == same and capsys.readouterr().err == ""
    assert program.parse(["--method", "progressive", "--seed", "3"]) == same
    assert "Note: --method progressive is now: minidistill progressive --seed 3" in capsys.readouterr().err
    old = program.parse(["--seed", "3", "--method=phased", "--plan", "20-8", "40-4", "--resume"])
    assert old == program.parse(["phased", "--seed", "3", "--plan", "20-8", "40-4", "--resume"])


def test_a_method_is_one_file(short, tmp_path, monkeypatch, capsys):
    """A new file in the folder of the methods is a method; nothing else has to know it."""
    text = Path(progressive.__file__).read_text().replace("Halves", "Again halves")
    (tmp_path / "again.py").write_text(
        text.replace("TEACHER_STEPS,", "").replace("\nload,", "\nTEACHER_STEPS = 2\nload,")
    )
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, str(tmp_path)])
    assert go(tmp_path / "out", method="again") == 0
    assert [row["model"] for row in table(tmp_path / "out")][1:3] == ["teacher guided 1.5", "undistilled"]
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "  again        Again halves the steps" in capsys.readouterr().out
    sys.modules.pop("minidistill.jobs.again")
    (tmp_path / "again.py").write_text("import nosuchlibrary")
    with pytest.raises(ModuleNotFoundError, match="No module named 'nosuchlibrary'$"):  # no wrong advice
        jobs.methods()


def test_no_arrow_points_up():
    """Methods stand on concepts and on what they share: not on each other, and no concept on a method."""
    for path in Path(jobs.__file__).parents[1].rglob("*.py"):
        found = re.findall(r"minidistill\.jobs(?:\.(\w+)| import ([\w, ]+))", path.read_text())
        names = {name for pair in found for part in pair for name in part.split(", ") if name}
        if path.parent.name == "jobs":
            assert names <= {"contest"}, path
        else:
            assert not names and (not found or path.name == "__main__.py"), path


def test_without_figures_and_data():
    """The core runs with torch, numpy, einops, jaxtyping and tqdm; the methods say what they lack."""
    code = """
import sys
for name in ("matplotlib", "PIL", "sklearn", "nbformat", "IPython", "pytest", "beartype", "diffusers", "scipy"):
    sys.modules[name] = None
import importlib, pathlib, minidistill
for path in sorted(pathlib.Path(minidistill.__path__[0]).glob("[!_]*.py")):
    if path.stem != "plots":
        importlib.import_module(f"minidistill.{path.stem}")
from minidistill.__main__ import main, parse
sys.exit(main(["ect"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2 and 'pip install ".[figures]"' in run.stderr, run.stderr


@pytest.mark.slow
def test_two_processes(tmp_path):
    """torchrun: one process writes and reports, both train."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "minidistill"]
    run = subprocess.run(
        [*command, "--updates", "20", "--out", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout.count("real test data") == 1, run.stderr[-2000:]
    assert run.stderr.count("Now the comparison") == 1
    assert len(table(tmp_path)) == 13


@pytest.mark.slow
def test_the_claim_of_ect(tmp_path):
    """The defaults: two jumps no worse than eight steps of the undistilled teacher."""
    assert main(["ect", "--out", str(tmp_path)]) == 0
    rows = {(row["model"], row["steps"]): row for row in table(tmp_path)}
    assert float(rows["ect", "2"]["frechet"]) <= float(rows["undistilled", "8"]["frechet"])
    assert float(rows["ect", "1"]["frechet"]) < float(rows["undistilled", "1"]["frechet"]) / 10


@pytest.mark.slow
def test_the_claim_of_flow_maps(tmp_path):
    """The defaults: one step near the teacher's 32, four nearer, with all the variety. With more steps Frechet's
    distance is never worse, and the distance to the teacher falls up to four."""
    assert main(["flowmap", "--out", str(tmp_path)]) == 0
    rows = {
        (row.pop("model"), row["steps"]): {k: float(v or 0) for k, v in row.items()}
        for row in table(tmp_path)
    }
    teacher, few = rows["teacher", "32"], [rows["lagrangian", n] for n in "1248"]
    assert few[0]["frechet"] <= teacher["frechet"] + 0.4 and few[2]["frechet"] <= teacher["frechet"] + 0.2
    assert all(row["recall"] >= 0.95 * teacher["recall"] for row in few)
    for fewer, more in zip(few, few[1:]):
        assert more["frechet"] <= fewer["frechet"] + 2 * math.hypot(fewer["frechet_se"], more["frechet_se"])
    assert few[2]["distance"] < few[1]["distance"] < few[0]["distance"]


@pytest.mark.slow
def test_the_claim(tmp_path):
    """The defaults, about three minutes: a one-step student within a quarter of one-step DDIM's distance."""
    assert main(["--out", str(tmp_path)]) == 0
    rows = {(row["model"], row["steps"]): row for row in table(tmp_path)}
    student, undistilled = rows["student", "1"], rows["undistilled", "1"]
    assert float(student["distance"]) <= float(undistilled["distance"]) / 4
    assert float(student["accuracy"]) >= 0.95
    assert float(student["frechet"]) < float(undistilled["frechet"]) / 10


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = ["--updates", "20", "--out", str(tmp_path / "out")]
    for arguments, sentence in (
        (["--out", str(tmp_path / "file")], "is a file: choose a folder"),
        (["phased", *out, "--guidance", "nan"], "--guidance must be from -1000 to 1000"),
        (["phased", *out, "--guidance", "inf"], "--guidance must be from -1000 to 1000"),
        (["phased", *out, "--guidance", "1e39"], "--guidance must be from -1000 to 1000"),
        ([*out, "--seed", str(2**63)], "--seed must be from 0 to 4294967295"),
        ([*out, "--seed", "-1"], "--seed must be from 0"),
        ([*out, "--device", "meta"], "--device meta cannot be used"),
        (["--updates", "20", "--out", str(tmp_path / "file" / "below")], "Not a directory"),
        (["phased", *out, "--plan", "10-3"], "phases do not divide"),
        ([*out, "--data", "mnist", "--folder", str(tmp_path / "file")], "there is no train-images"),
    ):
        assert main(arguments) == 2 and sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text", ["[]", "null", "7", '"text"', "{", ""])
def test_settings_that_are_none(tmp_path, capsys, text):
    (tmp_path / "settings.json").write_text(text)
    assert go(tmp_path, "--resume") == 2
    assert "settings.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "settings.json").read_text() == text


def test_a_finished_run_is_resumed_though_the_disk_is_full(short, tmp_path, monkeypatch, capsys):
    assert go(tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert go(tmp_path, "--resume") == 2
    assert "minidistill: [Errno 28] No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()


def test_checkpoints_that_were_mixed_up(short, tmp_path, capsys):
    assert go(tmp_path) == 0
    (tmp_path / "student-1.pt").write_bytes((tmp_path / "student-2.pt").read_bytes())
    assert go(tmp_path, "--resume") == 2
    assert (
        "student-1.pt belongs to a run with other settings: stage student 2 (now student 1)"
        in capsys.readouterr().err
    )
    broken = bytearray((tmp_path / "teacher.pt").read_bytes())
    broken[len(broken) // 2] ^= 1
    (tmp_path / "teacher.pt").write_bytes(broken)
    assert go(tmp_path, "--resume") == 2
    assert "teacher.pt is not a whole checkpoint of this program (its checksum" in capsys.readouterr().err


def test_a_loss_that_explodes_ends_in_a_sentence(short, tmp_path, monkeypatch, capsys):
    original = contest.diffusion_loss
    monkeypatch.setattr(contest, "diffusion_loss", lambda *a, **b: original(*a, **b) / 0.0)
    assert go(tmp_path) == 2
    assert "minidistill: the loss or its gradient was not finite" in capsys.readouterr().err
    assert not (tmp_path / "teacher.pt").exists()


def test_another_run_on_the_same_folder_is_refused(short, tmp_path, capsys):
    with alone(tmp_path):
        assert go(tmp_path) == 2
        assert "another run is writing to" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert go(tmp_path) == 0  # and the lock leaves nothing behind


def test_the_number_of_processes_is_a_setting(short, tmp_path, capsys):
    assert go(tmp_path) == 0
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 2}))
    assert go(tmp_path, "--resume") == 2
    assert "processes 2, now 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_says_how_to_go_on(short, tmp_path, monkeypatch, capsys, name):
    number, calls, original = getattr(signal, name), [], contest.diffusion_loss

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(contest, "diffusion_loss", stopped)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    try:
        assert go(tmp_path) == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert "--resume continues it" in capsys.readouterr().err
    assert torch.load(tmp_path / "teacher.pt", weights_only=True)["step"] == 7


def test_the_picture_is_there_though_nobody_reads_the_table(short, tmp_path, monkeypatch, capsys):
    """`| head -1`, or a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, os.fdopen(writer, "w") as nobody:
        patch.setattr(sys, "stdout", nobody)
        assert go(tmp_path) == 141
    assert (tmp_path / "samples.png").exists() and len(table(tmp_path)) == 9
    assert "Traceback" not in capsys.readouterr().err


class Clock:
    """Time for tqdm: a stage's step takes what the stage says."""

    now = 0.0

    def __call__(self):
        return Clock.now


def test_the_promised_time_is_that_of_the_stage(tmp_path, monkeypatch, capsys):
    """Within 30 % of the truth from the tenth second on, though the judge is fifty times as fast."""
    Clock.now = 0.0
    monkeypatch.setattr("tqdm.std.time", Clock())
    promises = []

    def stage_of(seconds):
        def train(steps, **_):
            for step in range(1, steps + 1):
                Clock.now += seconds
                yield step, None

        return train

    args = argparse.Namespace(seed=0, compile=False, bf16=False, out=tmp_path)
    updates = {"judge": 4000, "teacher": 1600, "student": 480}
    stage = program.training(args, updates, True)
    for name, seconds in (("judge", 0.005), ("teacher", 0.25), ("student", 0.4)):
        start = Clock.now
        stage(name, stage_of(seconds))
        printed = capsys.readouterr().err
        assert f"{name} ({list(updates).index(name) + 1} of 3)" in printed
        for minutes, secs, left_minutes, left in re.findall(r"(\d+):(\d+)<(\d+):(\d+)", printed):
            elapsed, promised = 60 * int(minutes) + int(secs), 60 * int(left_minutes) + int(left)
            truth = Clock.now - start - elapsed
            if elapsed >= 10 and truth > 5:
                promises.append(promised / truth)
    assert len(promises) > 50 and 0.7 < min(promises) and max(promises) < 1.3
