# Sourced by the launcher and the tools: the project's root, its version of set-up, and the Node.js to use.
# After it, `node` and `npm` are the project's own (.tools/node) if set-up had to install them.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
NODE_HOME=$ROOT/.tools/node/bin
if [ -x "$NODE_HOME/node" ]; then
  PATH=$NODE_HOME:$PATH
fi
export PATH

# Says one line about what is happening; standard output stays free for the program's own answer.
say() { printf 'lapidary: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}
