#!/usr/bin/env bash
set -euo pipefail
curl -sS --fail-with-body "$BASE_URL/generate" -H "Authorization: Bearer $API_KEY" -H 'Content-Type: application/json' \
  -d '{"prompt": "Hello", "max_tokens": 16, "temperature": 0.7, "stream": false}'
