"""Costs of tokens: encoding and decoding ViT-S/16 against cloning the same bytes, and memory for ViT-L/16.

python -m benchmarks.tokens: the last line is JSON. `ratio` is the CPU time of encode + decode over that of one clone of the
state dict (the default tokenizer, of raw weights; `ratio_root` of task vectors), medians of runs in turns on one thread. Memory is
the peak of the resident set above what it is with the weights (and root) loaded, over the bytes of the weights, which are kept:
tokens are one copy of them, decoded weights another. `decode_in_place` is for whoever needs the tokens no more: one copy, first
the tokens, then the weights.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.measure import alone, fine_tuned, last_line, peak, random_weights, seconds
from wsl.tokenizers.residual import Residual

REPEATS = 14
SMALL, LARGE = (
    {"architecture": name, "num_classes": 1000, "model_args": {}} for name in ("vit_small_patch16_224", "vit_large_patch16_224")
)


def check(decoded: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raises `RuntimeError` unless decoded weights are the encoded ones to the bit."""
    if not all(torch.equal(decoded[name].view(torch.int32), weights[name].view(torch.int32)) for name in weights):
        raise RuntimeError("the weights did not come back to the bit")


def memory(reference: str, form: str) -> dict[str, float]:
    """Peaks over the bytes of the weights, of this process, after encoding and after decoding too, by `decode` or in place."""
    root = random_weights(LARGE)
    weights = fine_tuned(root) if reference == "root" else root
    size = sum(weight.nbytes for weight in weights.values())
    tokenizer = Residual(width=64, reference=reference)
    before = peak(reset=True)
    tokens = tokenizer.encode(weights, root=root)
    encoded = peak()
    decoded = {"decode": tokenizer.decode, "decode_in_place": tokenizer.decode_in_place}[form](tokens, root=root)
    both = peak()
    check(decoded, weights)
    return {"encode": (encoded - before) / size, f"encode_and_{form}": (both - before) / size}


def main() -> None:
    """Prints the costs."""
    torch.set_num_threads(1)
    root = random_weights(SMALL)
    weights = fine_tuned(root)
    raw, difference = (Residual(width=64, reference=reference) for reference in ("none", "root"))
    tokens, deltas = raw.encode(weights), difference.encode(weights, root=root)
    check(raw.decode(tokens), weights)
    check(difference.decode(deltas, root=root), weights)
    clone, encode, decode, encode_root, decode_root = seconds(
        lambda: {name: weight.clone() for name, weight in weights.items()},
        lambda: raw.encode(weights),
        lambda: raw.decode(tokens),
        lambda: difference.encode(weights, root=root),
        lambda: difference.decode(deltas, root=root),
        repeats=REPEATS,
    )
    print(f"ViT-S/16: clone {clone * 1e3:.1f} ms; weights: encode {encode * 1e3:.1f} ms, decode {decode * 1e3:.1f} ms")
    print(f"task vectors: encode {encode_root * 1e3:.1f} ms, decode {decode_root * 1e3:.1f} ms")
    figures = {
        "ratio": (encode + decode) / clone,
        "ratio_root": (encode_root + decode_root) / clone,
        "corrected": sum(len(c.bits) for c in deltas.corrections) / deltas.plan.n_weights,
    }
    for reference in ("none", "root"):
        for form in ("decode_in_place", "decode"):
            peaks = alone(memory, reference, form)
            figures |= {f"memory_{key}_{reference}": value for key, value in peaks.items()}
    print(last_line(figures))


if __name__ == "__main__":
    main()
