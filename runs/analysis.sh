#!/usr/bin/env bash
# Analyses of a population: diversity, soups and means over epochs -> docs/results/analysis.json, analysis.md and figures beside them.
# Minutes on two cores for a digits zoo of 250 models.
#
#   ZOO=digits-seed1 runs/analysis.sh                     # all analyses
#   ZOO=digits-seed1 runs/analysis.sh analysis=diversity  # arguments go to wsl.analyze
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits-seed1}  # name under checkpoints/zoos, or any path
out=${OUT:-docs/results}

$python -m wsl.analyze zoo="$zoo" out="$out" "$@"
