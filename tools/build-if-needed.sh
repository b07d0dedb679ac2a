#!/usr/bin/env bash
# Builds the engine and the command line if a source is newer than the last build. Costs some milliseconds when
# nothing changed: one walk over the sources (folders too, whose times tell of removed files), stopped at the first
# newer one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

stamp=$ROOT/.tools/build.stamp
out_of_date() {
  [ -f "$stamp" ] && [ -f packages/lapidary/dist/lapidary.wasm ] && [ -f apps/cli/dist/main.js ] || return 0
  [ -n "$(find engine cmake CMakeLists.txt CMakePresets.json tools/build.mjs package-lock.json tsconfig.base.json \
    packages/lapidary/{src,package.json,tsconfig.json} bench/{src,known-answers,package.json,tsconfig.json} apps/cli/{src,package.json,tsconfig.json} \
    -newer "$stamp" -print -quit)" ]
}

out_of_date || exit 0
mkdir -p .tools
if command -v flock >/dev/null; then
  # Two starts at once: the second waits for the first one's build, and then finds nothing to do.
  exec 9>.tools/build.lock
  flock 9
  out_of_date || exit 0
fi
# The time of the start is what counts: a source saved during the build is newer than this build.
touch .tools/build.started
node tools/build.mjs wasm ts
mv .tools/build.started "$stamp"
