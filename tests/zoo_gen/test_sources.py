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
        ({"source": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_data_that_does_not_fit_its_card_is_one_clear_error(hub: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parquet(**({"source": str(hub), **COLUMNS, **LOOK} | change))


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
