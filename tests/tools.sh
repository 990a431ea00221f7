# For bash scripts to source: tools of other languages in pinned versions, installed once into a cache directory, and the
# ferry to test: FERRY names the binary, else `target/debug/ferry` is built. Sets `root`, `work` and FERRY.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${FERRY_CLIENTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mcp-ferry-clients}
work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-tools.XXXXXX")
# What the Inspector wants; the SDKs and the conformance suite are content with less.
node_needed=22.19.0
node_pinned=22.23.3

# macOS has no `timeout`; what is run with it has limits of its own, which are shorter.
limit() {
  if [[ -n $(command -v timeout) ]]; then timeout "$@"; else shift; "$@"; fi
}

die() {
  echo "error: $*" >&2
  exit 1
}

# once NAME FILE… -- COMMAND…: the directory that COMMAND has filled with what FILEs ask for, now or on an earlier run.
once() {
  local name=$1 files=() place building
  shift
  while [[ $1 != -- ]]; do files+=("$1"); shift; done
  shift
  place=$cache/$name-$(cat /dev/null ${files[@]+"${files[@]}"} | cksum | cut -d' ' -f1)
  if [[ ! -d $place ]]; then
    building=$place.$$
    mkdir -p "$building" || return
    echo "installing $name in $place" >&2
    # A place that is half full never gets the name that is looked for.
    (cd "$building" && "$@") >"$work/install-$name.log" 2>&1 && mv "$building" "$place" ||
      { cat "$work/install-$name.log" >&2; rm -rf "$building"; return 1; }
  fi
  echo "$place"
}

install_node() {
  local platform
  platform=$(uname -sm | tr '[:upper:] ' '[:lower:]-' | sed 's/x86_64/x64/; s/aarch64/arm64/')
  # Without the prefix it would go to a directory above that has a package.json.
  npm install --prefix . --no-save --no-audit --no-fund "node-$platform@$node_pinned" &&
    ln -s "node_modules/node-$platform/bin" bin && bin/node --version
}

# What the package.json and package-lock.json of DIRECTORY ask for.
install_packages() {
  cp "$1/package.json" "$1/package-lock.json" .
  npm ci --ignore-scripts --no-audit --no-fund
}

[[ -n $(command -v npm) ]] || die "\`npm\` is missing"
have=$(node --version 2>/dev/null | tr -d v)
if [[ $(printf '%s\n' "$node_needed" "${have:-0}" | sort -V | head -1) != "$node_needed" ]]; then
  node=$(once "node-$node_pinned" -- install_node) || die "node $node_pinned could not be installed"
  PATH=$node/bin:$PATH
fi

if [[ -z ${FERRY:-} ]]; then
  (cd "$root" && cargo build --locked --quiet) || die "ferry could not be built"
  FERRY=$root/target/debug/ferry
fi
FERRY=$(cd "$(dirname "$FERRY")" && pwd)/$(basename "$FERRY")
[[ -x $FERRY ]] || die "$FERRY is not there"
