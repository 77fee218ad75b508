#!/usr/bin/env bash
# The engine beside its peers, on one broker: sets up each peer that can be, carries out experiments/peers.toml and peers-killed.toml with
# those, and ends with a table. What could not be set up is named with its reason, and left out.
#
#   scripts/peers.sh [ARGUMENTS OF tidemill bench run]     e.g. --repetitions 1, --only model=mlp-16
#
# PEERS         the peers, by their folders below benches/peers; all of them by default
# PEER_HOME     where they are set up, ~/.cache/tidemill/peers by default
# TARGET        where the figures go, target/peers by default: peers.jsonl, killed.jsonl, peers.html, and peers.json with the medians
# TIDEMILL      the binary, target/release/tidemill by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${TIDEMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill}
export PEER_HOME=${PEER_HOME:-$cache/peers}
target=${TARGET:-target/peers}
tidemill=${TIDEMILL:-${CARGO_TARGET_DIR:-target}/release/tidemill}
mkdir -p "$target" "$PEER_HOME"

systems=tidemill
skipped=()
for setup in benches/peers/*/setup; do
    folder=${setup%/setup}
    name=${folder##*/}
    [[ -z ${PEERS:-} || " $PEERS " == *" $name "* ]] || continue
    echo "setting up $name" >&2
    if "$setup" >"$target/$name.setup.log" 2>&1; then
        systems+=,$folder
    else
        skipped+=("$name: $(tail -n 1 "$target/$name.setup.log")")
    fi
done

if [[ -z ${TIDEMILL_BOOTSTRAP:-} ]]; then
    echo "peers.sh: there is no broker: \`scripts/kafka.sh run -- scripts/peers.sh\`, or \`make peers\`" >&2
    exit 1
fi
failed=0
# A point that fails is in the table with its reason; the others count all the same.
"$tidemill" bench run experiments/peers.toml --only "system=$systems" --out "$target/peers.jsonl" --html "$target/peers.html" "$@" || failed=1
"$tidemill" bench run experiments/peers-killed.toml --only "system=$systems" --out "$target/killed.jsonl" || failed=1

echo
"$tidemill" bench summary "$target/peers.jsonl"
echo
"$tidemill" bench summary "$target/killed.jsonl"
"$tidemill" bench summary --json "$target/peers.jsonl" "$target/killed.jsonl" >"$target/peers.json"
((${#skipped[@]} == 0)) || printf 'not set up: %s\n' "${skipped[@]}"
echo "figures: $target/peers.json, plots: $target/peers.html"
exit "$failed"
