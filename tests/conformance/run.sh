#!/usr/bin/env bash
# The official conformance suite against ferry, with two servers of our own behind it: one legacy, one modern. At the end
# a table and a line `N passed, N failed`; exit 0 only if nothing failed.
#
#   tests/conformance/run.sh [LEG…]      only these, by their names below
#
# What it needs is installed into a cache directory, in pinned versions, from npm. FERRY names the binary, else
# `target/debug/ferry` is built.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../tools.sh"

# A name, the requirements it runs, the server, what else the server's block says. The era is ferry's to find out.
legs() {
  leg LL 2025-11-25 legacy 'isolation = "session"'
  leg LL-shared 2025-11-25 legacy
  leg LL-interactive 2025-11-25 legacy 'shared_interactive = true'
  leg LM 2025-11-25 modern
  leg MM 2026-07-28 modern
  leg ML 2026-07-28 legacy 'isolation = "user"\nupstream_capabilities = { sampling = {}, elicitation = {}, roots = {} }'
}

leg() {
  [[ -z $only || " $only " == *" $1 "* ]] || return 0
  # Its twin is not for the suite: nothing that was begun there and left is in the way of another look.
  for name in "$1" "$1-twin"; do
    printf '[[mcps]]\nname = "%s"\npath = "/%s"\nargs = ["node", "%s/%s.mjs"]\n%b\n' \
      "$name" "$name" "$work" "$3" "${4:-}" >>"$work/config.toml"
  done
  echo "$1 $2" >>"$work/wanted"
}

only=$*
packages=$(once conformance "$here/package-lock.json" -- install_packages "$here") ||
  die "the npm packages could not be installed"
# Modules are looked for beside the files that import them.
cp "$here"/*.mjs "$here"/fixtures/*.mjs "$work"
ln -s "$packages/node_modules" "$work/node_modules"

printf '[bridge]\nlocal_port = 0\n' >"$work/config.toml"
legs
[[ -f $work/wanted ]] || die "is one of these a leg? $only"
mkfifo "$work/stdout"
FERRY_STATE_DIR=$work/state "$FERRY" run --config "$work/config.toml" >"$work/stdout" 2>"$work/ferry.log" &
ferry=$!
# The URL of each server has a line. The pipe stays open: ferry goes on printing.
exec 3<"$work/stdout"
while read -r name revision; do
  url=
  while [[ -z $url ]] && read -r -t 60 printed at _ <&3; do
    [[ $printed == "$name" ]] && url=$at
  done
  [[ $url == http* ]] || { kill "$ferry"; die "$name has no URL: $(cat "$work/ferry.log")"; }
  echo "$name $revision $url" >>"$work/legs"
done <"$work/wanted"

began=$SECONDS
(cd "$work" && node suite.mjs legs "$here/expected-failures.txt" results)
code=$?
kill -INT "$ferry"
wait "$ferry" || { echo "ferry stopped with $?"; code=1; }
echo "$((SECONDS - began)) s"
if [[ $code == 0 ]]; then rm -rf "$work"; else echo "logs: $work"; fi
exit "$code"
