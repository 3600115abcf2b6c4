"""`make report` and `make compare` as they are typed, and the report that training writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import compare, report
from pipeline.compare import run_folders
from pipeline.run_text import summary_text
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from report_runs import write_run
from runs import train_here

SHORT = {10: {"train/loss": 1.0}, 20: {"train/loss": 0.5}}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs and a sweep of two in runs/, with `latest`, and this the working folder."""
    for name, seed, rate in (("0001", 0, 0.1), ("0002", 1, 0.1), ("0003", 0, 0.3)):
        write_run(tmp_path / "runs" / name, rows=SHORT, seed=seed, rate=rate)
    for name in ("0000", "0001"):
        write_run(tmp_path / "runs" / "sweep-1" / name, rows=SHORT, rate=0.5)
    (tmp_path / "runs" / "latest").symlink_to("0003")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_report_goes_into_the_run_folder_by_default_the_latest(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([]) == 0
    assert capsys.readouterr().out == "runs/latest/report.html\n"
    assert "<h1>0003</h1>" in (runs / "0003" / "report.html").read_text()
    assert report.main(["run=runs/0001", "out=mine.html"]) == 0
    assert "<h1>0001</h1>" in Path("mine.html").read_text()
    assert not (runs / "0001" / "report.html").exists()


def test_a_comparison_goes_beside_the_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["runs=[runs/0001,runs/0002,runs/0003]"]) == 0
    assert capsys.readouterr().out == "3 runs of 2 configurations -> runs/compare.html\n"
    page = (runs / "compare.html").read_text()
    assert "rate=0.1, 2 seeds" in page
    assert "0003: rate=0.3" in page
    assert compare.main(["runs=[runs/sweep-1]", "out=sweep.html"]) == 0
    assert compare.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("5 runs of ")


def test_a_run_that_is_named_twice_counts_once_and_short_names_are_found(runs: Path) -> None:
    assert run_folders(["runs/latest", "runs/0003", "runs/0003/"]) == [runs / "0003"]
    assert run_folders(["0001", "sweep-1"]) == [
        Path(f"runs/{name}") for name in ("0001", "sweep-1/0000", "sweep-1/0001")
    ]
    (runs / ".removed").mkdir()
    (runs / "0001").rename(runs / ".removed" / "0000")
    assert run_folders(["runs/*"]) == run_folders(["0002", "0003", "sweep-1"])
    (runs / ".removed" / "0000").rename(runs / "0001")
    assert run_folders(["runs/000*"]) == [Path(f"runs/000{number}") for number in (1, 2, 3)]
    assert len(run_folders(["runs"])) == 5
    assert [path.name for path in run_folders([f"{runs}/000[12]*"])] == ["0001", "0002"]


@pytest.mark.parametrize(
    ("main", "options", "message"),
    [
        (report.main, ["run=nowhere"], "run=nowhere: no config.yaml, so no run; train one with `make train`"),
        (report.main, ["run=runs/0001", "out=no/such/page.html"], "no/such/page.html: cannot be written"),
        (compare.main, ["runs=[runs/0001,runs/0009]"], "runs=runs/0009: no run there"),
        (compare.main, ["runs=[]"], "at least one folder wanted"),
        (compare.main, ["runs=[runs/none*]"], "no run there"),
        (compare.main, ["runs=[runs/0001]", "out=no/such.html"], "no/such.html: cannot be written"),
        (compare.main, ["run=runs/0001"], "did you mean runs"),
    ],
)
def test_what_makes_no_sense_is_one_line(main: object, options: list[str], message: str, runs: Path) -> None:
    with pytest.raises(UserError) as error:
        main(options)  # type: ignore[operator]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_training_ends_with_a_report_of_what_it_wrote_and_tells_where_to_look(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{100 * summary['val/top1_frac']:.2f} %" in page
    assert "Not finished" not in page
    where = f'make dashboard ARGS="runs=[{tmp_path / "run"}]"'
    assert f"look        open {tmp_path / 'run'}/report.html; {where}\n" in summary_text(summary)
    monkeypatch.chdir(tmp_path)
    without = train_here(synthetic.root, Path("runs/0001"), "trainer.max_epochs=1", "track.report=false")
    assert not Path("runs/0001/report.html").exists()
    assert "look        make dashboard\n" in summary_text(without)


@pytest.mark.slow
def test_a_report_tells_where_a_run_went_on(synthetic: DataSet, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_here(synthetic.root, run_dir, "trainer.max_epochs=1")
    train_here(synthetic.root, run_dir, "trainer.max_epochs=2", "resume=true")
    facts = json.loads((run_dir / "run.json").read_text())
    assert [resume["step"] for resume in facts["resumes"]] == [8]
    assert f"once: after step 8 ({facts['resumes'][0]['started']})" in (run_dir / "report.html").read_text()
    train_here(synthetic.root, run_dir, "trainer.max_epochs=2", "resume=true")
    assert json.loads((run_dir / "run.json").read_text()) == facts, "a finished run does not go on"
