#!/usr/bin/env bash
set -euo pipefail
curl -sSN --fail-with-body "$BASE_URL/v1/completions" \
  -H "Authorization: Bearer $API_KEY" -H 'Content-Type: application/json' \
  -d "{\"model\": \"$MODEL\", \"prompt\": \"Once upon a time\", \"max_tokens\": 16, \"stream\": true}"
