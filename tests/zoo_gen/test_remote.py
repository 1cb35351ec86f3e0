"""Zoos, runs and checkpoints on servers: what arrives is what is there, and no more is read than is needed."""

import functools
import importlib.util
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

import zoo_gen.__main__
from tests.commands import call
from zoo_gen import InputError, Zoo, remote
from zoo_gen.files import write_weights
from zoo_gen.formats.checkpoint import read_checkpoint
from zoo_gen.formats.shapes import shapes_of
from zoo_gen.reader import read_tensors
from zoo_gen.remote import copy_of, upload, zoo_at

needs_http = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp: pip install -e '.[s3]'")
needs_s3 = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None or importlib.util.find_spec("s3fs") is None,
    reason="needs s3fs and moto: pip install -e '.[s3]' 'moto[server]'",
)
quiet = pytest.mark.filterwarnings("ignore")  # of the clients of servers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remote, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


class Served(SimpleHTTPRequestHandler):
    """A server of files that knows ranges, counts what it sends, and can break connections."""

    sent = 0
    cut: Callable[[str], bool] = staticmethod(lambda path: False)

    def do_GET(self) -> None:
        place = Path(self.translate_path(self.path))
        if place.is_dir() or not place.is_file():
            return super().do_GET()
        content, code = place.read_bytes(), 200
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{place.stat().st_mtime_ns}"'}
        if span := self.headers.get("Range"):
            first, last = span.removeprefix("bytes=").split("-")
            stop = int(last or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
            content, code = content[int(first) : stop], 206
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        content = content[: len(content) // 2] if type(self).cut(self.path) else content
        type(self).sent += len(content)
        self.wfile.write(content)
        return None

    def do_HEAD(self) -> None:
        place = Path(self.translate_path(self.path))
        self.send_response(200 if place.is_file() else 404)
        if place.is_file():
            self.send_header("ETag", f'"{place.stat().st_mtime_ns}"')
            self.send_header("Content-Length", str(place.stat().st_size))
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, type[Served]]]:
    """The URL of a server on the loopback, its folder, and its handler."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("Handler", (Served,), {})
    with Server(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder, handler
        server.shutdown()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of moto's S3 server on the loopback."""
    server = importlib.import_module("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    files, _ = fsspec.url_to_fs("s3://zoos")
    files.mkdir("zoos")
    yield "s3://zoos"
    server.stop()
    patch.undo()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@needs_s3
@quiet
def test_a_zoo_in_a_bucket_is_the_zoo_on_disk(short_zoo: Path, bucket: str, cache: Path) -> None:
    here = Zoo.open(short_zoo)
    upload(short_zoo, f"{bucket}/short")
    there = Zoo.open(f"{bucket}/short")
    assert there.content_hash == here.content_hash
    assert not list(there.path.rglob("*.safetensors"))  # nothing but the index is read
    assert all(same(there[n].state_dict(), here[n].state_dict()) for n in (0, len(here) - 1))
    assert len(list(there.path.rglob("*.safetensors"))) == 2
    assert there[0].architecture == here[0].architecture
    assert Zoo.open(f"{bucket}/short").path == there.path


@needs_s3
@quiet
def test_an_upload_goes_on_where_it_was_and_replaces_no_other_zoo(
    short_zoo: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = remote.Store.write

    def dying(store: Any, name: str, path: Path) -> None:
        if len(written) == 20:
            raise InputError("the line is dead")
        written.append(name)
        write(store, name, path)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "WORKERS", 1)
        patch.setattr(remote.Store, "write", dying)
        with pytest.raises(InputError, match="the line is dead"):
            upload(short_zoo, f"{bucket}/resumed")
    with pytest.raises(InputError, match="there is no zoo at"):
        Zoo.open(f"{bucket}/resumed")
    first = list(written)
    monkeypatch.setattr(remote.Store, "write", lambda store, name, path: (written.append(name), write(store, name, path)))
    upload(short_zoo, f"{bucket}/resumed")
    assert len(written) == len(set(written)) > len(first)
    assert written[-2:] == ["index.parquet", "zoo.json"]
    assert Zoo.open(f"{bucket}/resumed").content_hash == Zoo.open(short_zoo).content_hash
    files, root = fsspec.url_to_fs(f"{bucket}/resumed/zoo.json")
    files.pipe_file(root, b"{}")
    with pytest.raises(InputError, match="holds another zoo"):
        upload(short_zoo, f"{bucket}/resumed")


@needs_http
@quiet
def test_one_tensor_costs_its_bytes_and_the_header(served: tuple[str, Path, type[Served]]) -> None:
    url, folder, handler = served
    weights = {f"blocks.{n}.weight": torch.randn(64, 64 + n) for n in range(12)}
    write_weights(folder / "model.safetensors", weights)
    place = zoo_like(url, folder)
    assert not place.exists()
    before = handler.sent
    (name, tensor), *_ = read_tensors(place, ["blocks.7.weight"]).items()
    assert torch.equal(tensor, weights[name])
    size = (folder / "model.safetensors").stat().st_size
    header = size - sum(value.nbytes for value in weights.values())
    assert handler.sent - before == tensor.nbytes + header
    read_tensors(place, ["blocks.7.weight"])
    assert handler.sent - before == tensor.nbytes + header  # it is kept
    with pytest.raises(InputError, match=r"has no tensor 'blocks\.12\.weight'"):
        read_tensors(place, ["blocks.12.weight"])
    assert torch.equal(read_tensors(place, ["blocks.3.weight"])["blocks.3.weight"], weights["blocks.3.weight"])


def zoo_like(url: str, folder: Path) -> Path:
    """The place of model.safetensors in a copy of the folder, of which only the beginning of a zoo is read."""
    (folder / "zoo.json").write_text("{}")
    (folder / "index.parquet").write_bytes(b"")
    place = zoo_at(url) / "model.safetensors"
    (place.parent / "index.parquet").unlink()
    return place


@needs_http
@quiet
def test_shapes_need_the_header_alone_and_a_file_comes_whole(served: tuple[str, Path, type[Served]]) -> None:
    url, folder, handler = served
    weights = {"head.weight": torch.randn(100, 200), "head.bias": torch.randn(100)}
    write_weights(folder / "model.safetensors", weights)
    shapes = shapes_of(f"{url}/model.safetensors")
    assert {name: tensor.shape for name, tensor in shapes.items()} == {name: tensor.shape for name, tensor in weights.items()}
    assert handler.sent < 1000
    assert same(read_checkpoint(f"{url}/model.safetensors"), weights)
    time.sleep(0.01)
    write_weights(folder / "model.safetensors", {name: tensor + 1 for name, tensor in weights.items()})
    assert not same(read_checkpoint(f"{url}/model.safetensors"), weights)  # another ETag: another copy


@needs_http
@quiet
def test_broken_connections_and_other_weights_are_one_error_and_leave_nothing(
    short_zoo: Path, served: tuple[str, Path, type[Served]], cache: Path
) -> None:
    url, folder, handler = served
    (folder / "short").symlink_to(short_zoo)
    zoo = Zoo.open(f"{url}/short")
    handler.cut = staticmethod(lambda path: True)
    for number in range(4):
        with pytest.raises(InputError, match=rf"^{url}/short/models/.* could not be read"):
            zoo[number].state_dict()
        with pytest.raises(InputError, match=r"could not be read"):
            zoo[number].state_dict(["head.weight"])
    with pytest.raises(InputError, match=r"could not be read"):
        Zoo.open(f"{url}/short")
    assert not [path for path in cache.rglob("*") if ".safetensors" in path.name]
    handler.cut = staticmethod(lambda path: False)
    assert same(zoo[0].state_dict(), Zoo.open(short_zoo)[0].state_dict())
    (folder / "short").unlink()
    with pytest.raises(InputError, match=rf"^there is no {url}/short/models/"):
        zoo[1].state_dict()
    with pytest.raises(InputError, match="there is no zoo at"):
        Zoo.open(f"{url}/short")
    other = folder / "short" / zoo[1].path.relative_to(zoo.path.resolve())
    write_weights(other, {"head.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="not the file that the index of its zoo names"):
        zoo[1].state_dict()


@needs_http
@quiet
def test_a_server_that_does_not_answer_is_one_error() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        port = server.server_address[1]
    for read in (Zoo.open, copy_of, shapes_of):
        with pytest.raises(InputError, match=rf"^http://127.0.0.1:{port}/.* could not be read \(Client"):
            read(f"http://127.0.0.1:{port}/zoo")
    with pytest.raises(InputError, match=rf"^http://127.0.0.1:{port}/.* could not be read \(Client"):
        copy_of(f"http://127.0.0.1:{port}/model.safetensors")


def test_a_folder_in_memory_comes_whole(cache: Path) -> None:
    files, root = fsspec.url_to_fs("memory://runs/demo")
    for name in ("config.yaml", "probes/accuracy.json"):
        files.pipe_file(f"{root}/{name}", name.encode())
    copy = copy_of("memory://runs/demo")
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {
        "config.yaml",
        "probes/accuracy.json",
    }
    assert copy.is_relative_to(cache)
    with pytest.raises(InputError, match=r"no protocol|nowhere://"):
        copy_of("nowhere://zoo")
    with pytest.raises(InputError, match="there are no files"):
        copy_of("memory://runs/none")


def test_the_command_makes_a_zoo_here_and_writes_it_to_a_url(
    tmp_path: Path, short_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generated(path: Path, card: Any, **options: Any) -> Zoo:
        shutil.copytree(short_zoo, path)
        return Zoo.open(path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo_gen.__main__, "generate", generated)
    call(zoo_gen.__main__.main, "path=memory://zoos/short")
    assert "written to memory://zoos/short" in capsys.readouterr().out
    assert Zoo.open("memory://zoos/short").content_hash == Zoo.open(short_zoo).content_hash
    assert [path.name for path in (tmp_path / "checkpoints" / "zoos").iterdir()] == ["short"]
