"""Writes docs/reference/: every command with its settings, and every card, from `configs/` and the commands' docstrings.

    python docs/write_reference.py

The pages are made anew by each `make docs` and are not committed: the settings on the site are those of the code.
"""

import ast
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CONFIGS, OUT = ROOT / "configs", ROOT / "docs" / "reference"
PLAIN = {"zoo_gen.verify": "zoo_gen/verify.py", "wsl.tokenize": "wsl/tokenize.py", "wsl.compression": "wsl/compression.py"}
"""Commands whose settings are arguments (`--help` lists them), and where they are."""
IN_ZOO_GEN = {"zoo_gen": "zoo_gen/__main__.py", "adopt": "zoo_gen/adopt.py"}
ORDER = (
    "zoo_gen",
    "adopt",
    "train",
    "probe",
    "generate",
    "report",
    "predict",
    "property_prediction",
    "few_labels",
    "transfer",
    "analyze",
)


def main() -> None:
    """Writes both pages."""
    OUT.mkdir(exist_ok=True)
    (OUT / "commands.md").write_text(commands(), encoding="utf-8")
    (OUT / "cards.md").write_text(cards(), encoding="utf-8")


def commands() -> str:
    """The page of commands: a section for each, with a table of its settings and one of its groups of cards."""
    found = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "\n  - quiet" in path.read_text(encoding="utf-8"))
    found = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    lines = [
        "# Commands",
        "",
        "Each command takes `key=value`, prints its settings by `--help`, and runs every combination of values by `-m key=a,b`.",
        "`???` marks a setting that has no default. This page is made from `configs/` by `docs/write_reference.py`.",
        "",
    ]
    for name in found:
        module = name if name == "zoo_gen" else f"zoo_gen.{name}" if name in IN_ZOO_GEN else f"wsl.{name}"
        source = ROOT / IN_ZOO_GEN.get(name, f"wsl/{name}.py")
        lines += [f"## python -m {module}", "", docstring(source), "", *settings(CONFIGS / f"{name}.yaml"), ""]
    for module, source in PLAIN.items():
        if (ROOT / source).exists():
            lines += [f"## python -m {module}", "", docstring(ROOT / source), ""]
    return "\n".join(lines)


def settings(path: Path) -> list[str]:
    """Tables of a command's settings and of the groups of cards that it chooses from."""
    text = path.read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    groups = {group: card for entry in values.pop("defaults") if isinstance(entry, dict) for group, card in entry.items()}
    comments = dict(re.findall(r"(?m)^(\w+):.*?\s#\s*(.*)$", text))
    shown = {key: value for key, value in values.items() if key != "swept" and not str(value).startswith("${")}  # no filled-in ones
    rows = [f"| `{key}` | {cell(value)} | {escaped(comments.get(key, ''))} |" for key, value in shown.items()]
    lines = ["| setting | default | meaning |", "|---|---|---|", *rows, ""]
    rows = [
        f"| `{group}=` | {default} | {', '.join(f'`{card.stem}`' for card in sorted((CONFIGS / group).glob('*.yaml')))} |"
        for group, default in {**{group: f"`{card}`" for group, card in groups.items()}, **followed(groups)}.items()
        if (CONFIGS / group).is_dir()
    ]
    return lines + (["| cards | default | choices ([values](cards.md)) |", "|---|---|---|", *rows] if rows else [])


def followed(groups: dict[str, str]) -> dict[str, str]:
    """Groups whose card follows from that of another group, and what it is: `training: ${model}`, and what its cards choose."""
    found: dict[str, str] = {}
    for group, card in groups.items():
        if not str(card).startswith("${"):
            continue
        found[group] = f"follows `{card[2:-1]}=`"
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            entries = yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", [])
            for inner, name in (pair for entry in entries if isinstance(entry, dict) for pair in entry.items()):
                key = inner.lstrip("/")
                found[key] = f"{found[key]}, " if key in found else ""
                found[key] += f"`{name}` ({path.stem})"
    return found


def cards() -> str:
    """The page of cards: a section for each group, with the comment, the constructor and the values of each card."""
    lines = [
        "# Cards",
        "",
        "A card is a constructor call: `_target_` and keyword values.",
        "`group=card` chooses one, `group.key=value` changes a value of it.",
        "This page is made from `configs/` by `docs/write_reference.py`.",
        "",
    ]
    for group in sorted(path for path in CONFIGS.iterdir() if path.is_dir()):
        lines += [f"## {group.name}", "", "| card | what | constructor |", "|---|---|---|"]
        paths = sorted(group.glob("*.yaml"))
        for path in paths:
            text = path.read_text(encoding="utf-8")
            comment = " ".join(re.findall(r"(?m)\A(?:# ?.*\n)+", text)).replace("\n#", " ").strip("# \n")
            target = re.search(r"(?m)^_target_: *([\w.]+)", text)
            comment = "" if comment.startswith("@package") else comment
            lines.append(f"| `{path.stem}` | {escaped(comment)} | {f'`{target[1]}`' if target else ''} |")
        for path in paths:
            body = path.read_text(encoding="utf-8").rstrip().replace("\n", "\n    ")
            lines += ["", f'??? note "{group.name}={path.stem}"', "    ```yaml", f"    {body}", "    ```"]
        lines.append("")
    return "\n".join(lines)


def docstring(path: Path) -> str:
    """A module's docstring; indented lines (commands) as code."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.sub(r"(?m)^\.\. math::$", "", re.sub(r"(?m)^(?=python )", "    ", text))


def cell(value: Any) -> str:
    """A default as it is written on the command line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return "`" + text.replace("|", "\\|") + "`"


def escaped(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
