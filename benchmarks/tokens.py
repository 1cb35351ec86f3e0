"""Costs of tokens: encoding and decoding ViT-S/16 against cloning the same bytes, and memory for ViT-L/16.

python -m benchmarks.tokens: the last line is JSON. `ratio` is the CPU time of encode + decode over that of one clone of the
state dict (the default tokenizer, of raw weights; `ratio_root` of differences to a root), medians of runs in turns on one
thread. Memory is the peak of the resident set above what it is with the weights (and root) loaded, over the bytes of the
weights, which are kept: tokens are one copy of them, decoded weights another. `in_place` is the peak of who decodes what was
encoded and needs the tokens no more (`decode_in_place`): one copy, first the tokens, then the weights.
"""

import json
import subprocess
import sys
from pathlib import Path

import timm
import torch
from torch import Tensor

from benchmarks.clock import last_line, seconds
from wsl.tokenizers.residual import Residual

REPEATS = 14


def model(name: str) -> dict[str, Tensor]:
    """Random weights of a timm model."""
    with torch.device("meta"):
        shapes = timm.create_model(name, pretrained=False).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {key: torch.empty(tensor.shape).normal_(std=0.02, generator=generator) for key, tensor in shapes.items()}


def fine_tuned(root: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each weight moved by about a twentieth of its size, in two roundings, as in many steps."""
    generator = torch.Generator().manual_seed(1)
    moved = {}
    for name, weight in root.items():
        moved[name] = torch.empty_like(weight).normal_(std=1e-3, generator=generator).add_(weight).mul_(0.999)
    return moved


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equality of bits."""
    return all(torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a)


def memory(name: str, reference: str, form: str) -> dict[str, float]:
    """Peaks over the bytes of the weights, of this process, after encoding and after decoding too, by `decode` or in place."""
    root = model(name)
    child = fine_tuned(root) if reference == "root" else root
    size = sum(weight.nbytes for weight in child.values())
    tokenizer = Residual(width=64, reference=reference)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmHWM")
    tokens = tokenizer.encode(child, root=root)
    encoded = _resident("VmHWM")
    decoded = {"decode": tokenizer.decode, "decode_in_place": tokenizer.decode_in_place}[form](tokens, root=root)
    both = _resident("VmHWM")
    if not identical(decoded, child):
        raise RuntimeError(f"{name} did not come back to the bit")
    return {"encode": (encoded - before) / size, f"encode_and_{form}": (both - before) / size}


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def main() -> None:
    """Prints the costs."""
    torch.set_num_threads(1)
    root = model("vit_small_patch16_224")
    child = fine_tuned(root)
    raw, difference = (Residual(width=64, reference=reference) for reference in ("none", "root"))
    tokens, deltas = raw.encode(child), difference.encode(child, root=root)
    if not (identical(raw.decode(tokens), child) and identical(difference.decode(deltas, root=root), child)):
        raise RuntimeError("ViT-S did not come back to the bit")
    clone, encode, decode, encode_root, decode_root = seconds(
        lambda: {name: weight.clone() for name, weight in child.items()},
        lambda: raw.encode(child),
        lambda: raw.decode(tokens),
        lambda: difference.encode(child, root=root),
        lambda: difference.decode(deltas, root=root),
        repeats=REPEATS,
    )
    corrected = sum(len(c.bits) for c in deltas.corrections) / deltas.plan.n_weights
    print(f"ViT-S/16: clone {clone * 1e3:.1f} ms")
    print(f"raw: encode {encode * 1e3:.1f} ms, decode {decode * 1e3:.1f} ms: {(encode + decode) / clone:.2f} of a clone")
    print(
        f"differences to the root: encode {encode_root * 1e3:.1f} ms, decode {decode_root * 1e3:.1f} ms: "
        f"{(encode_root + decode_root) / clone:.2f} of a clone, {corrected:.1%} of the weights corrected"
    )
    figures: dict[str, float] = {
        "ratio": (encode + decode) / clone,
        "ratio_root": (encode_root + decode_root) / clone,
        "clone_ms": clone * 1e3,
        "corrected": corrected,
    }
    for reference in ("none", "root"):
        peaks: dict[str, float] = {}
        for form in ("decode_in_place", "decode"):
            command = [sys.executable, "-m", "benchmarks.tokens", "vit_large_patch16_224", reference, form]
            peaks |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"ViT-L/16, reference {reference}: {peaks['encode']:.3f} of its bytes to encode, {peaks['encode_and_decode']:.3f} to "
            f"encode and decode, tokens kept, {peaks['encode_and_decode_in_place']:.3f} with the weights in the tokens' place"
        )
        figures |= {f"memory_{key}_{reference}": value for key, value in peaks.items()}
    print(last_line(figures))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(memory(*sys.argv[1:])))
    else:
        main()
