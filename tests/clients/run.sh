#!/usr/bin/env bash
# Real clients against real servers, with ferry between them: the official SDKs of both lines, the reference servers,
# the MCP Inspector. At the end a line `N passed, N failed`; exit 0 only if nothing failed.
#
#   tests/clients/run.sh [SERVER…]      only these, by their names in the table below
#
# What it needs is installed into a cache directory, in pinned versions: from npm, and from PyPI for `python3`. Nothing
# is skipped: a tool that is missing is a failure. FERRY names the binary, else `target/debug/ferry` is built.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../tools.sh"
[[ -n $(command -v python3) ]] || die "\`python3\` is missing"

# A virtual environment does not like to be moved.
install_python() {
  python3 -m pip install --quiet --target packages -r "$here/python/line-$1.txt"
}

packages=$(once npm "$here/node/package-lock.json" -- install_packages "$here/node") || die "the npm packages could not be installed"
python_1=$(once "python-1" "$here/python/line-1.txt" -- install_python 1) || die "the old Python line could not be installed"
python_2=$(once "python-2" "$here/python/line-2.txt" -- install_python 2) || die "the new Python line could not be installed"

# Modules are looked for beside the files that import them.
cp "$here"/node/*.mjs "$here"/python/*.py "$here"/servers/*.mjs "$here/servers.json" "$work"
ln -s "$packages/node_modules" "$work/node_modules"
mkdir "$work/files"
for word in a a1 b1 c1 a2 b2 c2; do
  echo "the file $word" >"$work/files/$word.txt"
  echo "{\"type\":\"entity\",\"name\":\"$word\",\"entityType\":\"word\",\"observations\":[\"the thing $word\"]}" >>"$work/memory.jsonl"
done
export NO_COLOR=1 PYTHONDONTWRITEBYTECODE=1 MCP_STORAGE_PATH=$work/inspector
old_python=(env "PYTHONPATH=$python_1/packages" python3)
new_python=(env "PYTHONPATH=$python_2/packages" python3)
bin=$packages/node_modules/.bin

# The servers: a name, the facts about it in servers.json, the era to open it in, the one that clients see, the command.
servers() {
  server demo demo legacy legacy
  server demo-modern demo modern modern
  server everything everything auto legacy "$bin/mcp-server-everything" stdio
  server filesystem filesystem auto legacy "$bin/mcp-server-filesystem" "$work/files"
  server memory memory auto legacy env "MEMORY_FILE_PATH=$work/memory.jsonl" "$bin/mcp-server-memory"
  server python-1 python-1 auto legacy "${old_python[@]}" "$here/servers/old_line.py"
  server python-2 python-2 auto legacy "${new_python[@]}" "$here/servers/new_line.py"
  server python-2-modern python-2 modern modern "${new_python[@]}" "$here/servers/new_line.py"
  server typescript-2 typescript-2 auto legacy node "$work/new_line.mjs"
  server typescript-2-modern typescript-2 modern modern node "$work/new_line.mjs"
}

# client CLIENT COMMAND…: its cases, each as `PASS|FAIL CLIENT SERVER CASE why`.
client() {
  local name=$1 ended=
  shift
  while read -r verdict case why; do
    if [[ $verdict == end ]]; then ended=1; continue; fi
    echo "$verdict $name $server_name $case $why"
  done < <(limit 150 "$@" 2>"$work/$server_name.$name.log")
  [[ -n $ended ]] || echo "FAIL $name $server_name end it did not get to its end: $(tail -3 "$work/$server_name.$name.log" | tr '\n' '|')"
}

# inspector CASE WANTED ARGUMENT…: what its command line prints must hold WANTED.
inspector() {
  local case=$1 wanted=$2
  shift 2
  shows "$case" "$wanted" "$bin/mcp-inspector" --cli "$url" --transport http --protocol-era "$seen" "$@"
}

shows() {
  local case=$1 wanted=$2 printed
  shift 2
  printed=$(limit 60 "$@" 2>&1)
  if [[ $printed == *"$wanted"* ]]; then
    echo "PASS inspector $server_name $case"
  else
    echo "FAIL inspector $server_name $case $(tr '\n' '|' <<<"${printed:0:600}")"
  fi
}

inspect() {
  local call
  case $facts in
    demo | python-* | typescript-2) call=(echo message=hi '"hi"') ;;
    everything) call=(echo message=hi 'Echo: hi') ;;
    filesystem) call=(read_text_file path="$work/files/a.txt" 'the file a') ;;
    memory) call=(open_nodes names='["a"]' 'the thing a') ;;
  esac
  inspector tools "\"${call[0]}\"" --method tools/list
  inspector call "${call[2]}" --method tools/call --tool-name "${call[0]}" --tool-arg "${call[1]}"
  if [[ $facts == demo ]]; then
    inspector resources note:///1 --method resources/list
    inspector read 'Welcome to ferry' --method resources/read --uri note:///1
    inspector prompt 'about tea' --method prompts/get --prompt-name draft_note --prompt-args topic=tea
  fi
  if [[ $server_name == demo ]]; then
    # The line that ferry prints, as it stands there; npx finds the package beside the working directory.
    shows printed '"echo"' sh -c "cd '$work' && $offered"
    # The transport of 2024-11-05.
    shows sse '"echo"' "$bin/mcp-inspector" --cli "$url/sse" --transport sse --method tools/list
  fi
}

# server NAME FACTS ERA SEEN COMMAND…: ferry before it, and every client after another.
server() {
  server_name=$1 facts=$2 era=$3 seen=$4
  local began=$SECONDS state log ferry url offered line
  shift 4
  [[ -z $only || " $only " == *" $server_name "* ]] || return 0
  mkdir "$work/taken-$server_name" 2>/dev/null || return 0 # the other worker has it
  state=$work/$server_name.state log=$work/$server_name.ferry.log
  mkdir "$state"
  mkfifo "$state/stdout"
  (cd "$work/files" && FERRY_STATE_DIR=$state exec "$FERRY" try --port 0 --era "$era" -- ${@+"$@"}) >"$state/stdout" 2>"$log" &
  ferry=$!
  # Its URL has a line of its own. The pipe stays open: ferry goes on printing.
  exec 3<"$state/stdout"
  url= offered=
  while [[ -z $offered ]] && read -r -t 60 line <&3; do
    [[ $line =~ ^http://[^[:space:]]+$ ]] && url=$line
    [[ $line =~ ^Inspector\ +(.*)$ ]] && offered=${BASH_REMATCH[1]}
  done
  if [[ -z $url ]]; then
    echo "FAIL ferry $server_name start $(tr '\n' '|' <"$log")"
  else
    # Each client speaks its own era, whatever that of the server is.
    client typescript-1 node "$work/client.mjs" typescript-1 "$facts" legacy "$url" "$log"
    client typescript-2 node "$work/client.mjs" typescript-2 "$facts" modern "$url" "$log"
    [[ $facts == demo ]] && client typescript-2-default node "$work/client.mjs" typescript-2-default demo legacy "$url" "$log"
    client python-1 "${old_python[@]}" "$work/client.py" "$facts" legacy "$url" "$log"
    client python-2 "${new_python[@]}" "$work/client.py" "$facts" modern "$url" "$log"
    inspect
  fi
  kill -INT "$ferry" 2>/dev/null
  wait "$ferry"
  local code=$?
  exec 3<&-
  # 130 is what Ctrl-C is in a shell; ferry ends its server and goes by itself.
  [[ $code == 0 ]] && echo "PASS ferry $server_name stop" || echo "FAIL ferry $server_name stop exit $code: $(tail -5 "$log" | tr '\n' '|')"
  echo "note $server_name took $((SECONDS - began)) s" >&2
}

only=$*
began=$SECONDS
# Two workers, for two processors: each takes the next server that nobody has taken. Clients come one after another,
# because a case kills the server that they share.
servers >"$work/results.1" &
servers >"$work/results.2" &
wait

# What is expected to fail, with the reason beside it: its failure is no failure, its passing is one.
passed=0 failed=0 expected=0
while read -r verdict name server case why; do
  reason=$(sed -n "s/^$name $server $case: //p" "$here/expected-failures.txt")
  case $verdict${reason:+, expected} in
    PASS) passed=$((passed + 1)) ;;
    "FAIL, expected") expected=$((expected + 1)) verdict=expected why="$reason: $why" ;;
    "PASS, expected") failed=$((failed + 1)) verdict=FAIL why="it passed; expected-failures.txt says: $reason" ;;
    *) failed=$((failed + 1)) why="${why:-$verdict}" verdict=FAIL ;;
  esac
  echo "$name $server $case $verdict $why"
done < <(sort -k3,3 -k2,2 -s "$work"/results.*) >"$work/report"

awk '{ pairs[$1 " " $2]; count[$1 " " $2 " " $4]++ }
  END {
    for (pair in pairs) {
      split(pair, name)
      printf "%-20s %-22s %3d passed", name[2], name[1], count[pair " PASS"]
      if (count[pair " expected"]) printf ", %d failed as expected", count[pair " expected"]
      if (count[pair " FAIL"]) printf ", %d FAILED", count[pair " FAIL"]
      print ""
    }
  }' "$work/report" | sort
# What an expectation is about has to happen.
while read -r name server case _; do
  [[ $name == "#" || (-n $only && " $only " != *" $server "*) ]] && continue
  grep -q "^$name $server ${case%:} " "$work/report" && continue
  failed=$((failed + 1))
  echo "$name $server ${case%:} FAIL is in expected-failures.txt and was not tried" >>"$work/report"
done <"$here/expected-failures.txt"
grep ' FAIL ' "$work/report" | cut -c 1-2000
[[ $((passed + failed)) -gt 0 ]] || { failed=1; echo "nothing was tried: is one of these a server? $only"; }
echo "$((SECONDS - began)) s; $expected failed as expected"
if [[ $failed == 0 ]]; then rm -rf "$work"; else echo "logs: $work"; fi
echo "$passed passed, $failed failed"
[[ $failed == 0 ]]
