"""`python -m wsl.report run=demo`: one self-contained HTML page about a run, written to its folder as `report.html`.

The page shows the zoo, the training, the embedding, the probes and the generated models. For a part that is missing, it names the
command that makes it.
"""

from dataclasses import dataclass

from rich.console import Console

from wsl.reporting.run_report import Results, report
from wsl.run import Run
from zoo_gen.config import command
from zoo_gen.files import saved


@dataclass
class ReportConfig:
    """The values of configs/report.yaml."""

    run: str
    zoo: str | None
    checkpoints: int


@command("report", ReportConfig)
def main(config: ReportConfig) -> None:
    """Reads a run, writes its page and prints its summary."""
    console = Console()
    run = Run.open(config.run, zoo=config.zoo)
    results = Results.of(run)
    with console.status("drawing the report"):
        short = results.summary()
        page = report(run, results, checkpoints=config.checkpoints)
    is_saved = saved(run.path / "report.html", page)
    console.print(short)
    if is_saved:
        console.print(f"\nreport: {run.path / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
