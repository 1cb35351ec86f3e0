#!/usr/bin/env bash
# The whole road: zoo -> hyper-representation -> probes -> new ViTs -> report. Each step reuses what is complete.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
run=checkpoints/runs/demo

$python -m zoo_gen zoo=digits_mini
$python -m wsl.train zoo=digits_mini model=hyperrep run=demo
[ $run/probe.json -nt $run/model.safetensors ] || $python -m wsl.probe run=demo
[ $run/generate.json -nt $run/model.safetensors ] || $python -m wsl.generate run=demo generator=kde n=200
$python -m wsl.report run=demo
