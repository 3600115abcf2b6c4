from __future__ import annotations

import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from data_prep.engines.board import Board, end_left_jobs


@pytest.fixture
def board(tmp_path: Path) -> Board:
    board = Board(tmp_path / "board")
    board.open()
    return board


def test_each_task_goes_to_one_of_many_who_ask_at_once(board: Board) -> None:
    taken: Counter[str] = Counter()
    names = [f"train-{number:06d}" for number in range(200)]

    def take(key: str) -> None:
        mine = Board(board.folder)
        for name in names:
            if mine.claim(name, key=key):
                taken[name] += 1

    threads = [threading.Thread(target=take, args=(f"job-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == dict.fromkeys(names, 1)


def test_what_a_lost_job_claimed_can_be_claimed_again(board: Board) -> None:
    assert [board.claim(name, key="job-0") for name in ("a", "b")] == [True, True]
    assert board.claim("c", key="job-1")
    board.release(board.claims_of("job-0"))
    later = Board(board.folder)
    assert [later.claim(name, key="job-2") for name in ("a", "b", "c")] == [True, True, False]


def test_news_are_told_once_and_whole(board: Board) -> None:
    board.tell("job-0", done="a")
    board.tell("job-1", done="b")
    assert board.news() == [("job-0", {"done": "a"}), ("job-1", {"done": "b"})]
    with (board.folder / "news" / "job-0").open("ab") as stream:
        stream.write(b'{"done": ')
    assert board.news() == []
    with (board.folder / "news" / "job-0").open("ab") as stream:
        stream.write(b'"c"}\n')
    assert board.news() == [("job-0", {"done": "c"})]


def test_a_sign_of_life_is_no_news(board: Board) -> None:
    assert board.pulse("job-0") is None
    board.tell("job-0", start="here")
    before = board.pulse("job-0")
    board.news()
    while board.pulse("job-0") == before:
        board.tell("job-0")
    assert board.news() == []


def test_the_board_is_its_owners_alone(board: Board) -> None:
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in [board.folder, *board.folder.glob("*/")])


def test_left_jobs_see_a_closed_board_and_leave_nothing(tmp_path: Path) -> None:
    board = Board(tmp_path / "plan" / "slurm" / "board")
    board.open()
    assert board.is_open()
    end_left_jobs(tmp_path)
    assert not board.is_open()
    assert not (tmp_path / "plan" / "slurm").exists()
