"""What the live page is told: rows once, runs as they come and go, and nothing that lies outside of run folders."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from dashboard_runs import COCKPIT, live_page, png_of, row_of, start_run, strict_json, write_run
from pipeline.run_lock import hold_run
from pipeline.shards.errors import UserError
from pipeline.track.live import overview as overview_module
from pipeline.track.live.answers import answer, page_files
from pipeline.track.live.overview import RunIndex, State, differing, state_of, total_steps
from pipeline.track.live.server import serving
from pipeline.track.live.updates import MOST_POINTS, read_update
from pipeline.track.metric_log import MetricLog
from pipeline.track.run_reading import Series, read_run


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview_module, "LOOK_AGAIN_S", 0.0)


def asked(runs: RunIndex, address: str) -> dict[str, object]:
    answered = answer(runs, address)
    assert answered.status == 200, answered.content
    content: dict[str, object] = strict_json(answered.content)
    return content


def joined(parts: list[dict[str, Series]]) -> dict[str, tuple[list[int], list[float | None]]]:
    keys = {key for part in parts for key in part}
    return {
        key: (
            [step for part in parts if key in part for step in part[key].steps],
            [value for part in parts if key in part for value in part[key].values],
        )
        for key in keys
    }


def test_read_at_any_moment_the_parts_make_the_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=range(10, 61, 10))
    content = (folder / "metrics.jsonl").read_bytes()
    grown = tmp_path / "grown.jsonl"
    grown.touch()
    cursor, parts = read_update(grown, cursor="").cursor, []
    with grown.open("ab") as stream:
        for start in range(0, len(content), 97):
            stream.write(content[start : start + 97])
            stream.flush()
            update = read_update(grown, cursor=cursor)
            assert not update.is_whole
            cursor = update.cursor
            parts.append(update.series)
    whole = {key: (series.steps, series.values) for key, series in read_run(folder).series.items()}
    assert joined(parts) == whole
    assert None in whole["grad/norm"][1]


def test_a_run_that_was_cut_is_read_from_its_start(tmp_path: Path) -> None:
    """The file of a resumed run is as long as before, or longer, when the page asks next."""
    folder = write_run(tmp_path / "run", steps=range(1, 11))
    path = folder / "metrics.jsonl"
    before = read_update(path, cursor="")
    log = MetricLog(folder, resume_step=6)
    for step in range(7, 13):
        log.write(step=step, row=row_of(step, rate=0.2))
    log.close()
    update = read_update(path, cursor=before.cursor)
    assert update.is_whole
    assert update.series == read_run(folder).series
    assert update.series["train/loss"].steps == list(range(1, 13))
    assert read_update(path, cursor=update.cursor).series == {}


@pytest.mark.parametrize("cursor", ["x", "1-2", "1-2-3-4", "-5-1-1", "0-99999999999999999999-0", "7-é-1"])
def test_a_cursor_that_nobody_gave_out_means_all(tmp_path: Path, cursor: str) -> None:
    folder = write_run(tmp_path / "run", steps=range(1, 4))
    update = read_update(folder / "metrics.jsonl", cursor=cursor)
    assert update.is_whole
    assert update.series["epoch"].steps == [1, 2, 3]


def test_a_long_run_is_thinned_and_keeps_its_extremes(tmp_path: Path) -> None:
    folder = start_run(tmp_path / "run")
    values = [1.0] * 20_000
    values[7_777], values[12_345] = -50.0, 90.0
    rows = [json.dumps({"step": step, "x/y": value}) for step, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    series = read_update(folder / "metrics.jsonl", cursor="").series["x/y"]
    assert len(series.steps) <= MOST_POINTS
    assert series.values[series.steps.index(7_777)] == -50.0
    assert series.values[series.steps.index(12_345)] == 90.0


def test_runs_appear_and_vanish(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    runs = RunIndex([root])
    assert runs.overviews() == []
    write_run(root / "0001", steps=range(10, 101, 10))
    write_run(root / "sweep" / "0000", steps=range(10, 51, 10), is_finished=False)
    inside = root / "0001" / "wandb" / "run" / "files"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("a: 1\n")
    found = {run.name: run for run in runs.overviews()}
    assert {name: (run.state, run.step, run.total_steps) for name, run in found.items()} == {
        "0001": (State.finished, 100, 100),
        "sweep/0000": (State.stopped, 50, 100),
    }
    assert found["0001"].last["val/top1_frac"] == row_of(100, rate=0.1)["val/top1_frac"]
    shutil.rmtree(root / "0001")
    assert [run.name for run in runs.overviews()] == ["sweep/0000"]
    assert asked(runs, f"/api/run?id={quote(str(root / '0001'))}") == {"is_gone": True}


def test_a_folder_that_cannot_be_read_as_a_run_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "good", steps=range(1, 3))
    for name, config in {"list": "[1, 2]", "torn": "a: [1,", "binary": "\x00\x01"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
    (tmp_path / "empty" / "config.yaml").mkdir(parents=True)
    assert [run.name for run in RunIndex([tmp_path]).overviews()] == ["good"]


def test_a_run_that_a_process_holds_is_at_work(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=range(1, 3), is_finished=False)
    runs = RunIndex([tmp_path])
    with hold_run(folder):
        assert [run.state for run in runs.overviews()] == [State.running]
    assert [run.state for run in runs.overviews()] == [State.stopped]


def test_of_a_run_on_another_machine_the_age_of_its_last_row_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", steps=range(1, 3), is_finished=False)
    (folder / "run.lock").write_text("process 1 on a-far-machine\n")
    assert state_of(folder, locked=set()) is State.running
    monkeypatch.setattr(overview_module, "AT_WORK_S", -1.0)
    assert state_of(folder, locked=set()) is State.stopped


@pytest.mark.parametrize(
    ("config", "step", "epoch", "wanted"),
    [
        ({"trainer.max_steps": 70, "trainer.max_epochs": 3}, 10, 0.5, 70),
        ({"trainer.max_steps": None, "trainer.max_epochs": 3}, 10, 0.5, 60),
        ({"trainer.max_epochs": 3}, 0, None, None),
        ({}, 10, 0.5, None),
    ],
)
def test_the_whole_of_a_run_follows_from_its_options(
    config: dict[str, object], step: int, epoch: float | None, wanted: int | None
) -> None:
    assert total_steps(config, step=step, epoch=epoch) == wanted


def test_only_options_in_which_runs_differ_are_told(tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path / name, steps=range(1, 3), rate=rate)
    overviews = RunIndex([tmp_path]).overviews()
    told = {run.name: differing(overviews)[run.id] for run in overviews}
    assert told == {"a": {"optimizer.rate": 0.1}, "b": {"optimizer.rate": 0.2}}
    assert differing(overviews[:1]) == {overviews[0].id: {}}


def test_the_list_is_told_again_only_when_it_changed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=range(1, 3))
    runs = RunIndex([tmp_path])
    first = asked(runs, "/api/runs?known=")
    assert asked(runs, f"/api/runs?known={first['version']}") == {"version": first["version"]}
    log = MetricLog(folder, resume_step=2)
    log.write(step=3, row=row_of(3, rate=0.1))
    log.close()
    again = asked(runs, f"/api/runs?known={first['version']}")
    assert [run["step"] for run in again["runs"]] == [3]  # type: ignore[attr-defined]


def test_numbers_that_json_has_no_word_for_are_told_as_null(tmp_path: Path) -> None:
    folder = start_run(tmp_path / "run")
    (folder / "config.yaml").write_text("a: .nan\nb: [.inf, 1]\nwhen: 2020-01-01\n")
    (folder / "summary.json").write_text('{"x": NaN, "y": {"z": Infinity}}')
    (folder / "metrics.jsonl").write_text('{"step": 1, "a": NaN, "b": 1e999, "c": 2, "d": true, "e": "x"}\n')
    run = asked(RunIndex([tmp_path]), f"/api/run?id={quote(str(folder))}")
    assert run["config"] == {"a": None, "b": [None, 1], "when": "2020-01-01"}
    assert run["summary"] == {"x": None, "y": {"z": None}}
    assert run["series"] == {"a": [[1], [None]], "b": [[1], [None]], "c": [[1], [2]]}
    asked(RunIndex([tmp_path]), "/api/runs")


def test_media_are_told_as_they_lie_in_the_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=range(10, 31, 10))
    runs = RunIndex([tmp_path])
    run_id = quote(str(folder))
    listed = asked(runs, f"/api/run?id={run_id}")["media"]
    names = [(medium["name"], medium["step"]) for medium in listed]  # type: ignore[attr-defined]
    assert names == [("data/augmented", 10), ("data/augmented", 30), ("val/per_class", 30), ("batch/cockpit", 30)]
    picture = answer(runs, f"/media?id={run_id}&file=data-augmented-00000030.png")
    assert (picture.content, picture.content_type) == (png_of(30), "image/png")
    table = asked(runs, f"/media?id={run_id}&file=batch-cockpit-00000030.json")
    assert table == {"columns": ["what", "images", "from"], "rows": COCKPIT}


@pytest.mark.parametrize(
    "address",
    [
        "/config.yaml",
        "/../../../etc/passwd",
        "/page/../server.py",
        "/media?id=RUN&file=../config.yaml",
        "/media?id=RUN&file=config.yaml",
        "/media?id=RUN&file=unlisted.png",
        "/media?id=RUN&file=torn.json",
        "/media?id=RUN/media&file=unlisted.png",
        "/media?id=RUN/../other&file=secret.png",
        "/media",
    ],
)
def test_nothing_but_the_page_and_what_runs_list_can_be_had(tmp_path: Path, address: str) -> None:
    folder = write_run(tmp_path / "runs" / "run", steps=range(1, 3))
    (folder / "media" / "unlisted.png").write_bytes(png_of(1))
    (folder / "media" / "torn.json").write_text('{"columns"')
    with (folder / "media.jsonl").open("a") as stream:
        stream.write('{"step": 2, "kind": "table", "name": "a/b", "file": "torn.json", "caption": ""}\n')
    write_run(tmp_path / "other", steps=range(1, 3))
    runs = RunIndex([tmp_path / "runs"])
    assert answer(runs, address.replace("RUN", quote(str(folder)))).status == 404


def test_whatever_the_page_loads_is_served() -> None:
    files = page_files()
    page = files["/page.html"].content.decode()
    loaded = [part.split('"')[0] for sign in ('href="', 'src="') for part in page.split(sign)[1:]]
    for path, file in files.items():
        if path.endswith(".js") and "uPlot" not in path:
            loaded += [part.split('"')[0].removeprefix("./") for part in file.content.decode().split(' from "')[1:]]
    names = {name for name in loaded if not name.startswith("data:")}
    assert "chart.js" in names
    assert all(f"/{name}" in files for name in names), names


def test_a_page_of_another_site_is_not_answered(tmp_path: Path) -> None:
    """Its name can be made to point at this machine, so that its scripts would count as ours."""
    write_run(tmp_path / "run", steps=range(1, 3))
    with live_page(tmp_path) as address:
        statuses = {}
        for host in ("127.0.0.1:1", "localhost:1", "evil.example:1", "evil.example", ""):
            connection = http.client.HTTPConnection(urlsplit(address).netloc)
            connection.request("GET", "/api/runs", headers={"Host": host})
            response = connection.getresponse()
            statuses[host] = response.status
            assert (b'"step": 2' in response.read()) == (response.status == 200)
            policy = response.headers["Content-Security-Policy"]
            connection.close()
    assert statuses == {"127.0.0.1:1": 200, "localhost:1": 200, "evil.example:1": 403, "evil.example": 403, "": 403}
    assert policy.startswith("default-src 'none'; script-src 'self'; ")


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    with live_page(tmp_path) as address:
        for method in ("POST", "PUT", "DELETE"):
            connection = http.client.HTTPConnection(urlsplit(address).netloc)
            connection.request(method, "/api/runs", headers={"Content-Length": "0"})
            with connection.getresponse() as response:
                assert response.status == 501
            connection.close()


def test_where_a_port_is_taken_the_next_free_one_is_used(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving([tmp_path], host="127.0.0.1", port=port) as server:
            assert port < server.server_port < port + 50
            assert server.address == f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("host", "message"),
    [("no-such-host.invalid", "no such address here"), ("192.0.2.1", "127.0.0.1 wanted")],
)
def test_an_address_that_is_not_ours_is_refused(tmp_path: Path, host: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        serving([tmp_path], host=host, port=0)
