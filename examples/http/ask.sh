#!/usr/bin/env bash
# `clfa serve` asked with curl: one post as JSON, two of them, and one as a form with its image as a file.
#
#   bash examples/http/ask.sh http://127.0.0.1:8000 storm.jpg "what a lovely day"
#
# Where the service has keys, one of them is in the environment: KEY=… bash examples/http/ask.sh …
set -euo pipefail
service=$1 image=$2 text=$3

ask() { # each answer on a line
    curl --silent --show-error --fail-with-body ${KEY:+-H "X-API-Key: $KEY"} "$@"
    echo
}

json='Content-Type: application/json'
coded=$(base64 < "$image" | tr -d '\n')
printf '{"text": "so happy with this", "image": "%s"}' "$coded" | ask "$service/predict/one" -H "$json" --data @-
ask "$service/predict" -H "$json" --data '{"posts": [{"text": "so happy with this"}, {"text": "never again"}]}'
ask "$service/predict/form" --form-string text="$text" --form image=@"$image"
