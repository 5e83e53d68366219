import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.report import Report, Table, markdown_from_reports
from ddpm_export.measuring.timing import Timings, interleaved, spread
from train.pages import BEGIN, END, write_between_marks

ROOT = Path(__file__).parents[1]


def test_contenders_take_turns_and_rest(monkeypatch):
    turns = []
    monkeypatch.setattr("ddpm_export.measuring.timing.TURN_S", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: turns.append(seconds))
    timings = interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3)
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 3, "b": 3}
    rounds = [turns[start : start + 6] for start in range(0, 18, 6)]
    for turn in rounds:  # a rest, a call that is not counted, a counted one; each contender once
        assert turn[0] == turn[3] == 0.15
        assert {turn[1], turn[4]} == {"a", "b"}
        assert (turn[1], turn[4]) == (turn[2], turn[5])


def test_speeds_are_ratios_within_a_round():
    timings = Timings({"ours": [1.0, 10.0, 2.0], "theirs": [2.0, 20.0, 4.0]})
    assert timings.speed_against("ours", "theirs") == [2.0, 2.0, 2.0]
    assert timings.median_ms("ours") == 2000.0
    assert spread([1.0, 2.0, 3.0]) == "2.00 (1.00-3.00)"
    assert spread([1.0]) == "1.00 (1.00-1.00)"


@pytest.mark.parametrize(
    ("busy", "words"), [(0.0, "measured while idle"), (0.75, "**not idle**"), (None, "is not known")]
)
def test_a_report_says_whether_the_machine_was_idle(busy, words):
    machine = {"cpu": "C", "features": [], "cores": 2, "memory_gib": None, "system": "S", "others_busy_share": busy}
    report = Report("python -m x", machine, [Table("T", ["name", "ms"], [["a", "1.00"]])])
    text = markdown_from_reports([report.__dict__ | {"tables": [report.tables[0].__dict__]}])
    assert words in text
    assert "| a    | 1.00 |" in text


def test_numbers_replace_only_what_stands_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_marks(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit):
        write_between_marks(page, "new")
    assert page.read_text() == "no marks"


def test_the_page_has_its_marks():
    page = (ROOT / "docs/benchmarks-step.md").read_text(encoding="utf-8")
    assert page.index(BEGIN) < page.index(END)


@pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="the launcher needs POSIX")
def test_the_launcher_measures_the_child_and_not_whoever_started_it():
    ballast = b"x" * 200_000_000  # stays resident here, and must not be seen there
    launcher = [sys.executable, "-I", "-S", str(ROOT / "ddpm_export/measuring/launcher.py")]
    done = subprocess.run(
        [*launcher, sys.executable, "-I", "-S", "-c", "print('to stderr'); raise SystemExit(3)"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert len(ballast) > result["peak_bytes"] > 1_000_000
    assert result["exit_code"] == 3
    assert done.stderr == "to stderr\n"


@pytest.mark.long
def test_pins_tell_a_checkout_with_other_pictures_from_one_with_the_same(tmp_path):
    for name in ("exported", "emoji", "tests", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    package = Path(shutil.copytree(ROOT / "ddpm_export", tmp_path / "ddpm_export"))
    command = [sys.executable, "-m", "benchmarks.pins", str(tmp_path), "--only", "learned.onnx --n 4 --sampler ddpm"]
    same = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (same.returncode, same.stdout.count("| equal |")) == (0, 2), same
    with (package / "process" / "pixels.py").open("a", encoding="utf-8") as code:
        code.write("\n_pixels = to_uint8\n\n\ndef to_uint8(x):\n    return 255 - _pixels(x)\n")
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (other.returncode, other.stdout.count("| equal |")) == (1, 0), other
