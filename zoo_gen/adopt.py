"""Adopts models that you have as a zoo: `python -m zoo_gen.adopt folder=my_models path=checkpoints/zoos/mine`.

Weights stay where they are: the zoo holds small files that name their place, unless copy=true. Read are folders of timm and
transformers, safetensors and files of torch.save, LoRA adapters with their base, and the cache of the Hugging Face hub. Folders
may be nested. Zoos that others have published are read as their makers wrote them (`zoo_gen.field_zoos`). Roots come from the table
(columns `root`, `parent`), from `base_model` of model cards, or from root=. What cannot be read is a row of the report, which is
printed, and in left_out.json of the zoo.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from zoo_gen.adoption.adopt import Adoption, adopt
from zoo_gen.adoption.scan import LeftOut
from zoo_gen.config import command
from zoo_gen.errors import printable
from zoo_gen.index import own_columns
from zoo_gen.remote import refuse_remote
from zoo_gen.wording import as_wide_as_needed, counted
from zoo_gen.zoo import Zoo

SHOWN = 40
"""Rows of the report that are printed."""
CHEAP = 1000
"""Checkpoints that are searched for duplicates in minutes."""


@dataclass
class AdoptConfig:
    """Everything the command takes."""

    folder: str = MISSING
    kind: str | None = MISSING
    path: str = MISSING
    root: str | None = MISSING
    metrics: str | None = MISSING
    architecture: str | None = MISSING
    images: str | None = MISSING
    classes: list[str] = MISSING
    copy: bool = MISSING
    prefix: str | None = MISSING
    leave_out: list[str] = MISSING


@command("adopt", AdoptConfig)
def main(config: AdoptConfig) -> None:
    """Adopts the models of a folder, and prints what the zoo holds and what was left out."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for setting, value in {"folder=": config.folder, "path=": config.path, "metrics=": config.metrics}.items():
        refuse_remote(setting, value)
    wanted = Adoption(
        folder=Path(config.folder),
        kind=config.kind,
        path=Path(config.path),
        root=config.root,
        metrics=None if config.metrics is None else Path(config.metrics),
        architecture=config.architecture,
        images=config.images,
        classes=config.classes,
        copy=config.copy,
        prefix=config.prefix,
        leave_out=config.leave_out,
    )

    def shown(items: Sequence[Any], what: str) -> Iterable[Any]:
        return track(items, what, console=Console(stderr=True), transient=True, disable=not console.is_terminal)

    zoo, left_out = adopt(wanted, shown)
    _print(console, zoo, left_out)


def _images(card: Mapping[str, Any]) -> str:
    """What the models were measured on: which label is which class, as a wrong order makes accuracies worthless."""
    names = card.get("label_names") or []
    labels = ", ".join(f"{label} {name}" for label, name in enumerate(names))
    size = f"{card['size']} x {card['size']} pixels" if "size" in card else ""
    told = "; ".join(filter(None, [size, labels and f"labels {labels}"]))
    return f"measured on {card.get('path') or card.get('source') or card['_target_']}{told and f': {told}'}"


def _print(console: Console, zoo: Zoo, left_out: Sequence[LeftOut]) -> None:
    finals = zoo.select(final=True).frame
    roots = finals[finals["stage"] == "pretrain"]
    children = finals[finals["stage"] == "finetune"]
    known = int(children["root"].notna().sum())
    where = "copied" if any(zoo.path.glob("models/*/model.safetensors")) else "left where they are"
    console.print(f"{zoo.name}: {counted(len(finals), 'model')}, {counted(len(zoo), 'checkpoint')}, in {zoo.path}; weights {where}")
    console.print(f"roots: {len(roots)} known; of {counted(len(children), 'other model')}, {known} descend from one of them")
    if (card := zoo.config["config"].get("finetune_images")) is not None:
        console.print(printable(_images(card), limit=400))
    told = [name for name in ("test_accuracy", "test_loss", "learning_rate", "optimizer") if zoo.frame[name].notna().any()]
    own = own_columns(zoo.frame)
    console.print(printable(f"known of the models: {', '.join(told) or 'weights alone'}; own columns: {', '.join(own) or 'none'}"))
    console.print(f"content hash {zoo.content_hash}")
    if len(zoo) <= CHEAP:
        console.print(f"copies in disguise are not looked for: python -m wsl.duplicates {shlex.quote(str(zoo.path))} finds them")
    if not left_out:
        return
    table = Table("left out", Column("why", max_width=80))
    for row in left_out[:SHOWN]:
        table.add_row(Text(printable(row.file, limit=200)), Text(printable(row.reason, limit=400)))
    console.print(as_wide_as_needed(table), crop=False)
    more = f", {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
    console.print(f"{counted(len(left_out), 'row')}{more}; all are in {zoo.path / 'left_out.json'}")


if __name__ == "__main__":
    main()
