#!/usr/bin/env bash
# Property prediction by 8, 32, 128 and all labelled models -> docs/results/few_labels.json, .md, .svg; minutes on two cores.
# The runs are those of runs/property_prediction.sh; features come from its cache.
#
#   ZOO=digits-seed1 runs/few_labels.sh selections=10                  # arguments go to wsl.few_labels
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
zoo=${ZOO:-digits-seed1}                # name under checkpoints/zoos, or any path
models=${MODELS:-invariant_encoder hyperrep}  # the first one gives its names to features of several models
runs=${RUNS:-checkpoints/runs/property_prediction/$(basename "$zoo")}  # the folders of runs are <this>_<model>
out=${OUT:-docs/results/few_labels.json}

folders=
for model in $models; do
  folders=${folders:+$folders,}${runs}_$model
done
$python -m wsl.few_labels zoo="$zoo" runs="[$folders]" out="$out" "$@"
