"""The coverage report counts every weight and has one clear message for what it cannot read."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wsl.tokenize import main
from zoo_gen.config import CONFIGS
from zoo_gen.formats.shapes import shapes_of


def test_the_report_counts_every_weight_of_a_timm_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["vit_tiny_patch16_224"])
    printed = capsys.readouterr().out
    n = sum(tensor.numel() for tensor in shapes_of("vit_tiny_patch16_224").values())
    assert f"100.00% of {n:,} weights" in printed
    assert "padding" in printed


@pytest.mark.parametrize("card", sorted((CONFIGS / "tokenizer").glob("*.yaml")), ids=lambda card: card.stem)
def test_the_report_covers_opaque_tensors_by_every_tokenizer(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: torch.zeros(tensor.shape) for name, tensor in shapes_of("test_vit").items()}
    path = str(tmp_path / "model.safetensors")
    save_file(known | {"adapter.alpha": torch.zeros(()), "adapter.down": torch.zeros(3, 5)}, path)
    main([path, "--tokenizer", card.stem, "--opaque", "adapter.*"])
    assert f"100.00% of {sum(t.numel() for t in known.values()) + 16:,} weights" in capsys.readouterr().out


def test_the_report_reads_a_file_as_it_reads_the_model(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = shapes_of("vit_tiny_patch16_224")
    path = str(tmp_path / "model.safetensors")
    save_file({name: torch.zeros(tensor.shape, dtype=torch.bfloat16) for name, tensor in meta.items()}, path)
    main([path, "--tokenizer", "rows"])
    assert "100.00% of" in capsys.readouterr().out


def test_bad_input_ends_with_one_message(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\xff" * 100)
    for source, message in {
        "vit_tinny_patch16_224": "did you mean vit_tiny_patch16_224",
        "mixer_s16_224": "it has no row for stem.proj.weight",
        str(tmp_path / "absent.safetensors"): "no file at",
        str(damaged): "damaged.safetensors is damaged or no safetensors file (it does",
        "hf-hub:timm/vit_tiny_patch16_224": "download it first",
    }.items():
        with pytest.raises(SystemExit) as exit:
            main([source])
        assert exit.value.code == 1
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
