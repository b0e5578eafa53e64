#!/usr/bin/env bash
# Each table of a folder, predicted by the workers of a Ray cluster: that of RAY_ADDRESS, or the cores of this machine.
#
#   bash examples/ray/predict_folder.sh RUN days predicted [--image-dir IMAGES …]
#
# Given again it goes on: tables that are done stay, those that have come since are predicted. cluster.yaml starts a cluster.
set -euo pipefail
run=$1 tables=$2 predicted=$3
shift 3
clfa predict "$run" --input "$tables" --output "$predicted" --engine ray "$@"
head -n 2 "$predicted"/*
