"""Every image source reads real files of its format, and says what is missing before anything is trained."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from zoo_gen import Images, InputError
from zoo_gen.sources.folder import folder
from zoo_gen.sources.parquet import parquet
from zoo_gen.sources.pictures import Selection, StreamedPixels
from zoo_gen.sources.torchvision import torchvision

LOOK: dict[str, Any] = {
    "images": [6, 2, 4],
    "num_classes": 2,
    "size": 8,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "seed": 0,
    "memory_gb": 1.0,
    "workers": 2,
}


def shade(label: int, number: int) -> np.ndarray:
    """An image that tells its label and number by its colour."""
    return np.full((8, 8, 3), [label * 200, number * 10, 7], dtype=np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, count: int) -> None:
    cells = [{"bytes": encoded(shade(number % 2, number)), "path": None} for number in range(count)]
    pyarrow.parquet.write_table(pa.table({"img": cells, "fine_label": [number % 2 for number in range(count)]}), path)


def write_folder(path: Path, count: int) -> None:
    for number in range(count):
        place = path / f"class_{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(encoded(shade(number % 2, number)))


def write_cifar(root: Path) -> None:
    """CIFAR-10 in torchvision's own form: pickled batches of its `cifar-10-batches-py`."""
    import hashlib

    from torchvision.datasets import CIFAR10

    place = root / CIFAR10.base_folder
    place.mkdir(parents=True)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        pixels = np.stack(
            [np.kron(shade(n % 2, n), np.ones((4, 4, 1), dtype=np.uint8)).transpose(2, 0, 1).ravel() for n in range(10)]
        )
        (place / name).write_bytes(pickle.dumps({"data": pixels, "labels": [n % 2 for n in range(10)]}))
    (place / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": ["even", "odd"]}))
    for listed in (CIFAR10.train_list, CIFAR10.test_list, [[CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]):
        for entry in listed:
            entry[1] = hashlib.md5((place / entry[0]).read_bytes()).hexdigest()
    CIFAR10.meta["md5"] = hashlib.md5((place / CIFAR10.meta["filename"]).read_bytes()).hexdigest()


def fit(images: Images) -> bool:
    """Whether images are as many as wanted, as red as their labels say, and drawn without replacement."""
    splits = (images.train, images.val, images.test)
    reds = [(split.pixels[:].mean((2, 3))[:, 0] * 0.5 + 0.5) * 255 for split in splits]
    alike = all(bool(((red - split.labels * 200).abs() <= 0.5).all()) for red, split in zip(reds, splits, strict=True))
    seen = {tuple(image.flatten().tolist()) for split in splits[:2] for image in split.pixels[:]}
    return [len(split) for split in splits] == [6, 2, 4] and alike and len(seen) > 4  # torchvision's file repeats its ten images


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "train-0.parquet", 10)
    write_parquet(tmp_path / "test-0.parquet", 6)
    return tmp_path


COLUMNS = {"train": "train-*.parquet", "test": "test-*.parquet", "image": "img", "label": "fine_label"}


def test_local_parquet_files_of_the_hub_are_read(hub: Path) -> None:
    assert fit(parquet(source=str(hub), **COLUMNS, **LOOK))


def test_a_hub_data_set_is_downloaded_by_name_and_read(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, *, repo_type: str, allow_patterns: Sequence[str], local_files_only: bool) -> str:
        assert (name, repo_type, allow_patterns) == ("owner/name", "dataset", ["train-*.parquet", "test-*.parquet"])
        assert not local_files_only
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fit(parquet(source="owner/name", **COLUMNS, **LOOK))


def test_an_image_folder_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 10)
    write_folder(tmp_path / "val", 6)
    assert fit(folder(path=str(tmp_path), train="train", test="val", **LOOK))


def test_a_torchvision_set_is_read_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [list(entry) for entry in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", dict(CIFAR10.meta))
    write_cifar(tmp_path)
    assert fit(torchvision(dataset="CIFAR10", root=str(tmp_path), train={"train": True}, test={"train": False}, **LOOK))


def test_images_that_do_not_fit_in_memory_are_streamed_to_the_same_pixels(hub: Path) -> None:
    kept = parquet(source=str(hub), **COLUMNS, **LOOK)
    streamed = parquet(source=str(hub), **COLUMNS, **{**LOOK, "memory_gb": 1e-6})
    assert isinstance(streamed.train.pixels, StreamedPixels)
    assert torch.is_tensor(kept.train.pixels)
    index = torch.tensor([[3, 0], [3, 5]])
    assert torch.equal(streamed.train.pixels[index], kept.train.pixels[index])
    assert torch.equal(streamed.test.pixels[1:3], kept.test.pixels[1:3])


def test_streamed_batches_are_decoded_ahead_and_in_order(hub: Path) -> None:
    whole, streamed = (parquet(source=str(hub), **COLUMNS, **{**LOOK, "memory_gb": memory}) for memory in (1.0, 1e-6))
    chosen = [torch.tensor([[3, 1], [0, 2]]), torch.tensor([[1, 1], [0, 0]]), torch.tensor([[2, 2], [1, 1]])]
    assert isinstance(streamed.train.pixels, StreamedPixels)
    for got, expected in zip(streamed.train.batches(chosen), whole.train.batches(chosen), strict=True):
        assert torch.equal(got, expected)
    assert list(streamed.train.batches([])) == []


def test_pictures_are_resized_by_the_shorter_side_and_cropped_to_the_centre() -> None:
    wide = np.zeros((4, 8, 3), dtype=np.uint8)
    wide[:, 2:6] = 255
    pixels = Selection(**{**LOOK, "size": 4}).decode(wide)
    assert pixels.shape == (3, 4, 4)
    assert bool((pixels == 255).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "nothing-*.parquet"}, "nothing-.*not found"),
        ({"label": "coarse"}, r"not 'img' and 'coarse'"),
        ({"images": [60, 2, 4]}, "10 training images, the card asks for 62"),
        ({"num_classes": 1}, "labels .1."),
        ({"num_classes": 4}, r"2 classes with training images, .* labels 0 to 3: there is no image of .2, 3.; check num_classes"),
        ({"source": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_data_that_does_not_fit_its_card_is_one_clear_error(hub: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parquet(**({"source": str(hub), **COLUMNS, **LOOK} | change))


def test_a_folder_with_fewer_class_folders_than_classes_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_folder(tmp_path / part, 12)
    assert folder(path=str(tmp_path), train="train", test="test", **LOOK).num_classes == 2
    with pytest.raises(InputError, match=r"has 2 class folders, and the card says num_classes: 3; set num_classes=2"):
        folder(path=str(tmp_path), train="train", test="test", **{**LOOK, "num_classes": 3})


def test_damaged_files_and_images_are_named(hub: Path, tmp_path: Path) -> None:
    (hub / "train-0.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"train-0\.parquet"):
        parquet(source=str(hub), **COLUMNS, **LOOK)
    write_folder(tmp_path / "set" / "train", 10)
    write_folder(tmp_path / "set" / "val", 6)
    for file in (tmp_path / "set" / "train" / "class_0").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"class_0.*cannot be read"):
        folder(path=str(tmp_path / "set"), train="train", test="val", **LOOK)
    with pytest.raises(InputError, match="image folder"):
        folder(path=str(tmp_path / "nowhere"), train="train", test="val", **LOOK)
    with pytest.raises(InputError, match="no data set 'CIFAR11'"):
        torchvision(dataset="CIFAR11", root=str(tmp_path), train={}, test={}, **LOOK)


def picture(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_pixels_of_sixteen_bits_keep_their_upper_eight(suffix: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    file = picture(tmp_path / f"ramp.{suffix}", ramp)
    decoded = Selection(**LOOK).decode(file)
    assert decoded.tolist() == [(ramp >> 8).tolist()] * 3
    assert torch.equal(Selection(**LOOK).decode(ramp), decoded)


@pytest.mark.parametrize(("dtype", "kind"), [(np.int32, "32-bit integers"), (np.float32, "floats")])
def test_pixels_without_an_agreed_white_are_refused_by_name(dtype: type, kind: str, tmp_path: Path) -> None:
    file = picture(tmp_path / "odd.tif", np.ones((8, 8), dtype))
    with pytest.raises(InputError, match=rf"odd\.tif cannot be read .*{kind}"):
        Selection(**LOOK).decode(file)


def test_only_the_formats_we_mean_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "called"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Image.fromarray(shade(0, 1)).save(tmp_path / "eps.png", "EPS")
    Image.fromarray(shade(0, 1)).save(tmp_path / "gif.png", "GIF")
    for name in ("eps.png", "gif.png"):
        with pytest.raises(InputError, match=rf"{name} cannot be read"):
            Selection(**LOOK).decode(tmp_path / name)
    assert not called.exists()
    with pytest.raises(OSError), Image.open(tmp_path / "eps.png") as opened:  # noqa: PT011
        opened.load()  # the control: Pillow alone hands it on
    assert called.exists()


def test_bombs_strips_and_broken_chunks_are_one_clear_error(tmp_path: Path) -> None:
    bomb, strip, broken = tmp_path / "bomb.png", tmp_path / "strip.png", tmp_path / "broken.png"
    Image.new("1", (14000, 13000)).save(bomb)
    Image.new("1", (2**23, 1)).save(strip)
    picture(broken, np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8))
    content = bytearray(broken.read_bytes())
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[second : second + 4] = b"\x81\x02\x97\xa5"
    broken.write_bytes(content)
    for file in (bomb, strip, broken):
        with pytest.raises(InputError, match=rf"{file.name} cannot be read"):
            Selection(**LOOK).decode(file)


def test_a_damaged_picture_of_a_table_is_named_by_file_and_row(hub: Path) -> None:
    cells = [{"bytes": encoded(shade(number % 2, number)), "path": None} for number in range(10)]
    for content, message in (
        (b"no picture", r"in row 7 of .*train-0\.parquet cannot be read"),
        (None, r"row 7 of .*does not hold"),
    ):
        cells[7] = {"bytes": content, "path": None}
        pyarrow.parquet.write_table(pa.table({"img": cells, "fine_label": [n % 2 for n in range(10)]}), hub / "train-0.parquet")
        with pytest.raises(InputError, match=message):
            parquet(source=str(hub), **COLUMNS, **{**LOOK, "images": [8, 2, 4]})


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 10)
    write_folder(tmp_path / "val", 6)
    for place in (".ipynb_checkpoints", "__MACOSX", "class_0/.ipynb_checkpoints"):
        (tmp_path / "train" / place).mkdir()
        (tmp_path / "train" / place / "0.png").write_bytes(encoded(shade(1, 25)))
    (tmp_path / "train" / "class_0" / "._0.png").write_bytes(b"of a Mac")
    card = {"path": str(tmp_path), "train": "train", "test": "val"}
    assert fit(folder(**card, **LOOK))
    with pytest.raises(InputError, match="has 10 training images"):
        folder(**card, **{**LOOK, "images": [9, 2, 4]})
    (tmp_path / "train" / "class_2").mkdir()
    with pytest.raises(InputError, match="without images: class_2"):
        folder(**card, **LOOK)
    (tmp_path / "train" / "class_2").rmdir()
    (tmp_path / "val" / "class_9").mkdir()
    with pytest.raises(InputError, match="class folders class_9"):
        folder(**card, **LOOK)


def test_hidden_tables_are_no_part_of_a_data_set(hub: Path) -> None:
    (hub / "._train-0.parquet").write_bytes(b"of a Mac")
    assert fit(parquet(source=str(hub), **{**COLUMNS, "train": "*train-*.parquet"}, **LOOK))


def test_classes_to_keep_are_numbered_anew(hub: Path, tmp_path: Path) -> None:
    kept = {**LOOK, "classes": [1, 0]}
    found = parquet(source=str(hub), **COLUMNS, **kept)
    every = parquet(source=str(hub), **COLUMNS, **LOOK)
    assert torch.equal(found.train.pixels[:], every.train.pixels[:])
    assert torch.equal(found.train.labels, 1 - every.train.labels)
    three = {**LOOK, "num_classes": 3}
    for number in range(12):
        for part in ("train", "val"):
            place = tmp_path / part / f"class_{number % 3}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(encoded(shade(number % 3 // 2, number)))
    found = folder(path=str(tmp_path), train="train", test="val", **{**three, "classes": [0, 2]})
    assert found.num_classes == 2
    assert fit(found)
    with pytest.raises(InputError, match=r"8 training images of the classes \[0, 2\]"):
        folder(path=str(tmp_path), train="train", test="val", **{**three, "classes": [0, 2], "images": [8, 2, 4]})
    for wrong in ([0], [0, 0], [0, 3]):
        with pytest.raises(InputError, match="classes must be two or more different labels"):
            Selection(**{**three, "classes": wrong})
