#!/usr/bin/env bash
# Installs what the project needs and the machine lacks; says each step before it is done; does and says nothing when
# all is there.
#   tools/setup.sh run     what building and running needs: clang for WebAssembly, CMake, Ninja, a software Vulkan,
#                          Node.js and the npm packages
#   tools/setup.sh test    and what the tests need: googletest, sanitizers, clang-format, clang-tidy, Chromium
# On Debian and its kin the tools come from the system's packages (root, or sudo). A Node.js that is missing or too
# old is put into .tools/ for this project alone. Elsewhere the tools must be there: see need_by_hand().
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

scope=${1:-run}
case $scope in
  run | test) ;;
  *) die "usage: tools/setup.sh [run|test]" ;;
esac

LLVM=22
RUN_PACKAGES=(cmake ninja-build nlohmann-json3-dev libvulkan1
  clang-$LLVM lld-$LLVM llvm-$LLVM
  libc++-$LLVM-dev-wasm32 libc++abi-$LLVM-dev-wasm32 libclang-rt-$LLVM-dev-wasm32)
TEST_PACKAGES=(googletest libc++-$LLVM-dev libc++abi-$LLVM-dev libclang-rt-$LLVM-dev
  clang-format-$LLVM clang-tidy-$LLVM chromium)
# Needed in at least this version: an older wasi-libc lacks the wasm32-wasip1 folders, and WebGPU (Dawn) refuses
# Mesa 22's Vulkan. Where the system's release is older, they come from its backports.
NEWER_PACKAGES=("wasi-libc 0.0~git20240101" "mesa-vulkan-drivers 24")
NODE_AT_LEAST=20.19

# ---- is everything there? (the quick answer, some 30 ms) ------------------------------------------------------------

node_version() { node --version 2>/dev/null | tr -d v || true; }
# The inputs of set-up: when one changes, set-up looks again.
fingerprint() {
  cat "$ROOT/tools/setup.sh" "$ROOT/tools/node/package-lock.json" "$ROOT/package-lock.json" | sha256sum | cut -c1-64
  node_version
}
present() {
  [ -f "$ROOT/node_modules/.package-lock.json" ] || return 1
  if [ -z "${WASI_SDK_PATH:-}" ]; then
    type clang++-$LLVM wasm-ld-$LLVM cmake ninja >/dev/null 2>&1 || return 1
  fi
  [ "$scope" = run ] || type clang-format-$LLVM clang-tidy-$LLVM >/dev/null 2>&1
}

stamp=$ROOT/.tools/setup-$scope.stamp
now=$(fingerprint)
if [ -f "$stamp" ] && [ "$(<"$stamp")" = "$now" ] && present; then
  exit 0
fi
mkdir -p "$ROOT/.tools"
log=$ROOT/.tools/setup.log
if command -v flock >/dev/null; then
  exec 9>"$ROOT/.tools/setup.lock"
  flock 9
fi

# Runs a command with its output in the log, and shows the log's end if it fails.
logged() {
  printf '\n$ %s\n' "$*" >>"$log"
  if ! "$@" >>"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    die "set-up failed at: $* (all of it: $log)"
  fi
}

# ---- the system's packages ------------------------------------------------------------------------------------------

installed_version() { dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p' | head -n 1; }
candidate_version() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p'; }
at_least() { dpkg --compare-versions "${1:-0}" ge "$2"; }

as_root=()
# as_root becomes the words that make a command run as root; $1 says what they are needed for.
become_root() {
  [ "$(id -u)" = 0 ] && return
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; then
    as_root=(sudo)
  else
    die "set-up has to install Debian packages, and this is neither root nor a user with sudo.
Run this once as root, then start again:
  $1"
  fi
}
apt() { logged "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@"; }
updated=
apt_update() {
  [ -n "$updated" ] && return
  say "set-up: reading the lists of Debian packages (apt-get update)"
  apt update
  updated=1
}

# Adds the release's backports, from the same place as the system's own packages, if they are not listed yet.
add_backports() {
  local suite=$1-backports uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  local list=/etc/apt/sources.list.d/lapidary-backports.sources
  apt-get indextargets --format '$(RELEASE)' 'Identifier: Packages' | grep -qx "$suite" && return
  uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' | sed -n "s/^$1 //p" | head -n 1)
  [ -n "$uri" ] || die "no Debian source for '$1' in /etc/apt: add '$suite' there by hand, then start again"
  say "set-up: adding $suite to the package sources ($list); its packages are used only where named"
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
    [ ! -f $keyring ] || printf 'Signed-By: %s\n' $keyring
  } | "${as_root[@]}" tee $list >/dev/null
  updated=
  apt_update
}

install_debian_packages() {
  local wanted=("${RUN_PACKAGES[@]}") missing=() old=() backports=() entry name least codename
  [ "$scope" = run ] || wanted+=("${TEST_PACKAGES[@]}")
  for name in "${wanted[@]}"; do
    [ -n "$(installed_version "$name")" ] || missing+=("$name")
  done
  for entry in "${NEWER_PACKAGES[@]}"; do
    read -r name least <<<"$entry"
    at_least "$(installed_version "$name")" "$least" || old+=("$entry")
  done
  [ ${#missing[@]} -gt 0 ] || [ ${#old[@]} -gt 0 ] || return 0

  become_root "tools/setup.sh $scope"
  apt_update
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  for entry in "${old[@]}"; do
    read -r name least <<<"$entry"
    if at_least "$(candidate_version "$name")" "$least"; then missing+=("$name"); else backports+=("$name"); fi
  done
  for name in "${missing[@]}"; do
    case $(candidate_version "$name") in
      '' | '(none)') die "this system has no package '$name' (Debian 12 has). $(need_by_hand)" ;;
    esac
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "set-up: installing ${#missing[@]} Debian packages: ${missing[*]}"
    apt install --no-install-recommends "${missing[@]}"
  fi
  if [ ${#backports[@]} -gt 0 ]; then
    add_backports "$codename"
    say "set-up: installing from $codename-backports: ${backports[*]}"
    apt install --no-install-recommends -t "$codename-backports" "${backports[@]}"
  fi
}

need_by_hand() {
  cat <<END
What this project needs on a system that is not Debian 12 or later:
  wasi-sdk (clang 22 or later), its folder named in WASI_SDK_PATH; cmake 3.25 or later; ninja; nlohmann-json's headers;
  Node.js $NODE_AT_LEAST or later with npm; a Vulkan, Metal or Direct3D 12 driver.
  For the tests also clang-$LLVM with libc++, clang-format-$LLVM, clang-tidy-$LLVM, googletest's sources in
  /usr/src/googletest, and Chromium.
END
}

# ---- Node.js and the npm packages -----------------------------------------------------------------------------------

node_is_new_enough() {
  local version
  version=$(node_version)
  [ -n "$version" ] && command -v npm >/dev/null || return 1
  [ "$(printf '%s\n' $NODE_AT_LEAST "$version" | sort -V | head -n 1)" = $NODE_AT_LEAST ]
}

# Some npm must fetch the npm package of Node.js: the machine's own, however old, or Debian's.
install_node() {
  local found
  found=$(node_version)
  if ! command -v npm >/dev/null; then
    command -v apt-get >/dev/null || die "Node.js $NODE_AT_LEAST or later with npm is needed (found: ${found:-none})"
    become_root "apt-get install --no-install-recommends npm"
    apt_update
    say "set-up: installing Debian's npm, to fetch a newer Node.js with"
    apt install --no-install-recommends npm
  fi
  say "set-up: Node.js $NODE_AT_LEAST or later is needed (found: ${found:-none}); putting one into .tools/node"
  mkdir -p "$ROOT/.tools/node"
  cp "$ROOT/tools/node/package.json" "$ROOT/tools/node/package-lock.json" "$ROOT/.tools/node/"
  logged npm ci --prefix "$ROOT/.tools/node" --ignore-scripts --no-audit --no-fund
  # Links of our own: npm 9 drops the one to node, since the package for another processor has the same.
  mkdir -p "$ROOT/.tools/node/bin"
  (
    cd "$ROOT/.tools/node/bin"
    ln -sf ../node_modules/node-*/bin/node node
    ln -sf ../node_modules/npm/bin/npm-cli.js npm
    ln -sf ../node_modules/npm/bin/npx-cli.js npx
  )
  source "$ROOT/tools/env.sh"
  hash -r
  node_is_new_enough || die "the Node.js in .tools/node does not run here; install $NODE_AT_LEAST or later by hand"
}

install_npm_packages() {
  local lock_sum=$ROOT/node_modules/.lapidary-lock sum
  sum=$(sha256sum <"$ROOT/package-lock.json")
  [ -f "$lock_sum" ] && [ "$(<"$lock_sum")" = "$sum" ] && [ -f "$ROOT/node_modules/.package-lock.json" ] && return 0
  say "set-up: installing the npm packages of package-lock.json into node_modules"
  logged npm ci --prefix "$ROOT" --ignore-scripts --no-audit --no-fund
  echo "$sum" >"$lock_sum"
}

# ---- the order of things --------------------------------------------------------------------------------------------

started=$SECONDS
: >"$log"
if command -v apt-get >/dev/null && [ -z "${WASI_SDK_PATH:-}" ]; then
  install_debian_packages
elif ! { [ -n "${WASI_SDK_PATH:-}" ] && command -v cmake >/dev/null && command -v ninja >/dev/null; }; then
  die "$(need_by_hand)"
fi
node_is_new_enough || install_node
install_npm_packages
present || die "set-up ended, but something is still missing. $(need_by_hand)"
fingerprint >"$stamp"
# What tests need includes what running needs.
[ "$scope" = run ] || cp "$stamp" "$ROOT/.tools/setup-run.stamp"
[ $((SECONDS - started)) -lt 2 ] || say "set-up: done in $((SECONDS - started)) s"
