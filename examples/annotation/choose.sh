#!/usr/bin/env bash
# The posts of a table without a label that are most worth one, as files for Label Studio.
#
#   bash examples/annotation/choose.sh RUN table.csv FOLDER 20
#
# Then, in Label Studio: a project with FOLDER/to_label/label_studio.xml, import FOLDER/to_label/tasks.json (the classes that
# the run would choose are in it), label, export as JSON. take.py fills those labels into the table.
set -euo pipefail
run=$1 table=$2 folder=$3 count=$4
clfa import table "$table" --unlabelled keep --out "$folder/data"
clfa select "$run" --pool "$folder/data" --n "$count" --out "$folder/to_label"
cut -c 1-100 "$folder/to_label/selected.csv"
