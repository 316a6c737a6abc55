#!/usr/bin/env bash
set -euo pipefail
curl -sSN --fail-with-body "$BASE_URL/generate_stream" -H "Authorization: Bearer $API_KEY" -H 'Content-Type: application/json' \
  -d '{"prompt": "AI 的未来是", "max_tokens": 16, "temperature": 0.7, "stream": true}'
