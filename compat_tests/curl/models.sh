#!/usr/bin/env bash
set -euo pipefail
curl -sS --fail-with-body "$BASE_URL/v1/models" -H "Authorization: Bearer $API_KEY"
