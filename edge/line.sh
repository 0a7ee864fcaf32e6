#!/usr/bin/env bash
# What `flotilla profile --server` says of lines of known rates, as root: a SuperLink over TLS on this side, a network
# namespace on the other, and queues between them that tc limits (headers count there, and 16 kB pass at once).
#
#   edge/line.sh                                  rates alone, of five lines
#   edge/line.sh UP DOWN [PROFILE'S OPTIONS …]    the profile through a line of UP and DOWN Mbit/s
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d) name=flotilla$$ here=10.77.0.1
end() {
  kill "$server" 2>/dev/null || true
  ip link del $name 2>/dev/null || true
  ip netns del $name 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT
export FLWR_HOME=$work/flwr FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 OMP_NUM_THREADS=1

ip netns add $name
ip link add $name type veth peer name line netns $name
ip addr add $here/24 dev $name && ip link set $name up
ip -n $name addr add 10.77.0.2/24 dev line && ip -n $name link set line up
limit() {  # Mbit/s up, down
  tc qdisc replace dev $name root tbf rate "$2mbit" burst 16kb latency 500ms
  ip netns exec $name tc qdisc replace dev line root tbf rate "$1mbit" burst 16kb latency 500ms
}

.venv/bin/flotilla tls-keys "$work/keys" --nodes 1 --host $here >/dev/null
own=$work/keys/proxy  # the certificate that is for the names devices use
.venv/bin/flower-superlink --host $here --port 18000 --isolation process --enable-supernode-auth \
  --ssl-ca-certfile "$work/keys/ca.crt" --ssl-certfile "$own/tls.crt" --ssl-keyfile "$own/tls.key" >"$work/log" 2>&1 &
server=$!
until curl --silent --cacert "$work/keys/ca.crt" https://$here:18000/health; do sleep 1; done

if [ $# -ge 2 ]; then
  limit "$1" "$2"
  shift 2
  ip netns exec $name .venv/bin/flotilla profile --server $here:18000 --root-certificates "$work/keys/ca.crt" "$@"
  exit
fi
while read -r up down; do
  limit "$up" "$down"
  echo -n "set $up up, $down down: "
  ip netns exec $name .venv/bin/python - "$work/keys/ca.crt" <<python
import sys; from pathlib import Path; from flotilla.device.bandwidth import measure_line
found = measure_line("$here:18000", Path(sys.argv[1]))
print(f"measured {found.up.text()} up, {found.down.text()} down, round trip {1e3 * found.round_trip:.1f} ms")
python
done <<<$'100 100\n10 50\n2 10\n0.5 4\n0.064 1'
