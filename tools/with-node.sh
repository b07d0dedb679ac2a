#!/usr/bin/env bash
# Runs a script of this repository with the project's Node.js, after checking that set-up is complete:
#   tools/with-node.sh tools/build.mjs wasm
# npm's scripts go through it, so that an npm (and node) older than the project needs still does.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
bash "$ROOT/tools/setup.sh" test
cd "$ROOT"
exec node "$@"
