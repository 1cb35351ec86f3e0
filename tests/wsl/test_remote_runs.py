"""Runs and checkpoints on a server predict and embed as on disk."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

import wsl.tokenize
import wsl.train
from tests.commands import refused
from wsl.run import Run
from zoo_gen import InputError, Zoo, adopt, remote
from zoo_gen.remote import upload


def put(folder: Path, url: str) -> None:
    files, root = fsspec.url_to_fs(url)
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_a_run_and_its_zoo_by_url_are_those_on_disk(
    tiny_encoder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "CACHE", tmp_path / "cache")
    put(tiny_encoder.path, "memory://runs/tiny")
    upload(tiny_encoder.zoo.path, "memory://zoos/tiny")
    run = Run.open("memory://runs/tiny", zoo="memory://zoos/tiny")
    assert run.zoo.path.is_relative_to(tmp_path / "cache")
    assert run.split.test.frame["model"].tolist() == tiny_encoder.split.test.frame["model"].tolist()
    few = run.split.test[:2]
    assert np.array_equal(run.embed(few), tiny_encoder.embed(tiny_encoder.split.test[:2]))
    here = Zoo.open(tiny_encoder.zoo.path)
    one = f"memory://zoos/tiny/{here.frame['path'].iloc[-1]}"
    assert np.array_equal(run.embed(one), tiny_encoder.embed(str(here[len(here) - 1].path)))
    wsl.tokenize.main([one])
    assert "weights in" in capsys.readouterr().out
    for main, *setting in (
        (wsl.train.main, "zoo=memory://zoos/tiny", "run=memory://runs/new"),
        (adopt.main, "folder=s3://a", "path=b"),
    ):
        assert "takes a folder of this machine, not the URL" in refused(main, *setting)
    with pytest.raises(InputError, match="there are no files at memory://runs/none"):
        Run.open("memory://runs/none")
