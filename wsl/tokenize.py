"""The coverage report of a tokenizer: weights, tokens and padding of a checkpoint by role, from names and shapes alone.

    python -m wsl.tokenize vit_small_patch16_224
    python -m wsl.tokenize model.safetensors --tokenizer rows
    python -m wsl.tokenize weights.pth --without "optimizer.*" --opaque "adapter.*"
    python -m wsl.tokenize folder/of/a/lora/adapter --base folder/of/its/base

A tokenizer is named by its card in `configs/tokenizer`; what its tokens refer to does not matter to the report.
`zoo_gen.formats.checkpoint` lists the files that can be read.
"""

import argparse

from rich.console import Console

from wsl.reporting.terminal_tables import coverage_table
from wsl.tokenizers.plan import coverage
from zoo_gen.config import CONFIGS, cards
from zoo_gen.errors import one_clear_error, printable, refuse_bytes
from zoo_gen.formats.shapes import SHARD, shapes_of
from zoo_gen.wording import counted


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line (`zoo_gen.startup` calls it before the imports)."""
    parser = argparse.ArgumentParser(prog="python -m wsl.tokenize", description="Print the tokens of a checkpoint by role.")
    parser.add_argument("source", help="file or folder of weights (safetensors, torch, sharded, LoRA), or name of a timm model")
    names = sorted(path.stem for path in (CONFIGS / "tokenizer").glob("*.yaml"))
    parser.add_argument("--tokenizer", choices=names, default="residual", help="default: residual")
    parser.add_argument("--base", help="checkpoint that the adapter in SOURCE is merged into")
    parser.add_argument("--prefix", help="cover only the tensors below a prefix of their names, such as backbone")
    parser.add_argument("--opaque", action="append", default=[], metavar="PATTERN", help="cover tensors that no layout knows")
    parser.add_argument("--without", action="append", default=[], metavar="PATTERN", help="leave tensors out that are no weights")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Prints the report of the checkpoint named on the command line."""
    options = parser().parse_args(arguments)
    with one_clear_error():
        refuse_bytes(options.source, options.base)
        (tokenizer,) = cards("tokenizer", [options.tokenizer]).values()
        tensors = shapes_of(options.source, base=options.base, prefix=options.prefix, leave_out=options.without)
        plan = tokenizer.plan(tensors, root=tensors, opaque=options.opaque)
        frame = coverage(plan)
        weights = sum(tensor.numel() for tensor in tensors.values())
        console = Console()
        console.print(
            f"{printable(options.source)}: {plan.layout.family}, {frame['weights']['total'] / weights:.2%} of "
            f"{counted(weights, 'weight')} in {counted(plan.n_tokens, 'token')} of {plan.width}",
            soft_wrap=True,
            markup=False,
        )
        console.print(coverage_table(frame))
        if (shard := SHARD.search(options.source)) and int(shard[2]) > 1:
            advice = "name their folder or index for the whole model"
            console.print(f"This is file {shard[1]} of {shard[2]} alone; {advice}.", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
