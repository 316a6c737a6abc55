#!/usr/bin/env bash
set -euo pipefail
curl -sS --fail-with-body "$BASE_URL/health"
