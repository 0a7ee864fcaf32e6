#!/usr/bin/env bash
# Runs docs/edge.md: its own blocks, in their order, on a clean Debian 12 with systemd that stands for the device.
#
#   make test-edge          or: edge/try.sh [FOLDER]; what it made and logged stays in FOLDER
#
# The device is a container without anything but Debian's standard packages, systemd and an ssh server, in 1 GB of memory.
# It is reached as the guide says: files by scp, commands by ssh, the server by its name. Blocks marked `sh device` run
# there, blocks marked `sh server` here in a clone. Needs root, a Docker engine, mmdebstrap, haproxy and an ssh
# client.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
device=flotilla-edge-$$
image=flotilla-device:12
say() { echo "== $*"; }

lacking() { say "skipped: $*"; exit 0; }
docker version >/dev/null 2>&1 || lacking "no Docker engine answers"
for program in mmdebstrap ssh scp curl git haproxy; do command -v "$program" >/dev/null || lacking "no $program here"; done

end() {
  status=$?
  docker exec "$device" journalctl --no-pager -u 'flotilla-*' >"$work/device.log" 2>&1 || true
  docker rm -f "$device" >/dev/null 2>&1 || true
  kill $(jobs -p) 2>/dev/null || true
  wait 2>/dev/null || true
  if [ $status = 0 ]; then say "all of it ran"; else say "failed; logs: $work"; fi
  exit $status
}
trap end EXIT

say "a clean Debian 12"
docker image inspect $image >/dev/null 2>&1 ||
  mmdebstrap --variant=important --include=openssh-server bookworm - 2>"$work/debian.log" | docker import - $image >/dev/null

# Where this host's pip has a folder of CPU wheels because it cannot reach their index, the device gets it as well, with
# the authority that this host trusts: through pip's own environment, so that the commands stay as they are.
given=() environment=
wheels=$(python3 -m pip config list 2>/dev/null | sed -n "s/.*find-links='\([^' ]*\)'.*/\1/p" | head -1)
if ls "$wheels"/torch-*+cpu-*.whl >/dev/null 2>&1; then
  authorities=/etc/ssl/certs/ca-certificates.crt
  given=(-v "$wheels:$wheels:ro" -v "$authorities:/etc/host-ca.crt:ro")
  environment="PIP_FIND_LINKS=$wheels PIP_EXTRA_INDEX_URL=https://pypi.org/simple PIP_RETRIES=0 PIP_CERT=/etc/host-ca.crt"
  say "pip on the device: $environment"
fi

docker run --detach --privileged --name "$device" --hostname pi --memory 1g --memory-swap 1g \
  --tmpfs /run --tmpfs /run/lock --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw \
  --add-host sea.example.org:host-gateway "${given[@]}" $image /sbin/init >/dev/null
address=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' "$device")
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
docker exec -i "$device" sh -c 'install -d -m 700 ~root/.ssh && cat > ~root/.ssh/authorized_keys' <"$work/key.pub"
tr ' ' '\n' <<<"$environment" | docker exec -i "$device" sh -c 'cat >> /etc/environment'
printf 'Host pi\n HostName %s\n IdentityFile %s\n UserKnownHostsFile %s\n StrictHostKeyChecking no\n LogLevel ERROR\n' \
  "$address" "$work/key" "$work/known" >"$work/ssh"
ssh() { command ssh -F "$work/ssh" "$@"; }
scp() { command scp -F "$work/ssh" "$@"; }
until ssh root@pi true 2>/dev/null; do sleep 1; [ $SECONDS -lt 600 ] || exit 1; done
say "the device: $(ssh root@pi 'systemctl is-system-running; . /etc/os-release; echo "$PRETTY_NAME, $(uname -m), $(systemctl --version | head -1)"' | paste -sd' ')"

git clone --quiet "$repository" "$work/flotilla"
ln -s "$repository/.venv" "$work/flotilla/.venv"
cd "$work/flotilla"

# One file a block: 01-server, 02-device, …
awk -v work="$work" '
  /^```sh (server|device)$/ { file = sprintf("%s/%02d-%s", work, ++n, $2); next }
  /^```$/ { file = "" }
  file { print > file }' docs/edge.md

# The most that a ClientApp does not share with the executor, and the most that each part has resident.
cat >"$work/watch" <<'watch'
while sleep 0.1; do
  main=$(systemctl show --property MainPID --value flotilla-clientapp 2>/dev/null)
  [ "${main:-0}" = 0 ] && continue
  for pid in $(pgrep -P "$main"); do
    awk -v pid="$pid" '/^(Rss|Private_Clean|Private_Dirty):/ { s[$1] += $2 } END { print "clientapp", pid, s["Rss:"], s["Private_Clean:"] + s["Private_Dirty:"] }' "/proc/$pid/smaps_rollup" 2>/dev/null
  done
  echo "executor $main $(awk '/^VmRSS/ { print $2 }' "/proc/$main/status") 0"
  main=$(systemctl show --property MainPID --value flotilla-supernode)
  echo "supernode $main $(awk '/^VmRSS/ { print $2 }' "/proc/$main/status" 2>/dev/null) 0"
done
watch

check() {  # of a run: whenever this device was asked its reply counted, in the last round for sure
  flwr ls sea --format json | grep -q 'finished:completed'
  python - "$@" <<'python'
import json, sys
from pathlib import Path
rows = [json.loads(line) for line in (Path(sys.argv[1]) / "metrics.jsonl").read_text().splitlines()]
rows = [row for row in rows if row.get("selected")]
for row in rows:
    print({key: row[key] for key in ("round", "selected", "selected_tiers", "accepted", "rejected", "client_seconds")})
assert rows[-1]["round"] == int(sys.argv[2]) and all(row["selected"] == [2] and row["accepted"] == 1 for row in rows), rows
python
}

closed() {  # HOST:PORT of the server; the ClientApp's own unit, with edge/attempts.py in the executor's place
  ssh root@pi bash -s "$1" <<'device'
sed -e "/^ExecStart=/,/[^\\\\]\$/c ExecStart=/opt/flotilla/.venv/bin/python -P /opt/flotilla/edge/attempts.py $1" \
  -e 's/^Restart=.*/Type=oneshot/' -e '/^RestartSec=/d' \
  /etc/systemd/system/flotilla-clientapp.service >/run/systemd/system/flotilla-attempts.service
systemctl daemon-reload
systemctl start flotilla-attempts
status=$?
journalctl --no-pager --output=cat -u flotilla-attempts
exit $status
device
}

online() { until flwr supernode list sea --format json | grep -q '"online"'; do sleep 1; done; }

for block in "$work"/[0-9][0-9]-*; do
  if grep -q 'supernode unregister' "$block"; then
    say "a power cut: both services killed; systemd starts them, flwr refuses the key until the old session is over"
    online
    ssh root@pi systemctl kill --signal=KILL flotilla-supernode flotilla-clientapp
    while flwr supernode list sea --format json | grep -q '"online"'; do sleep 1; done
    online
    ssh root@pi systemctl show --property=Id,NRestarts flotilla-supernode flotilla-clientapp
    say "after that and the updates: one more round"
    flwr run . sea --stream --run-config \
      'num-clients=5 min-nodes=1 tier-assignment="node" deadline=60.0 num-server-rounds=1 run-dir="runs/after"' | grep '^round'
    check runs/after 1
    NODE_ID=$(flwr supernode list sea --format json | grep -B9 '"online"' | sed -n 's/.*"node-id": "\([0-9]*\)".*/\1/p' | tail -1)
  fi
  began=$SECONDS
  say "$(basename "$block")"
  sed 's/^/  $ /' "$block"
  case $block in
  *-server) . "$block" ;;
  *)
    scp "$block" root@pi:/tmp/block
    ssh root@pi 'bash -e /tmp/block </dev/null' >"$block.log" 2>&1 || { tail -20 "$block.log"; exit 1; }
    tail -25 "$block.log" | cut -c1-200
    ;;
  esac
  say "took $((SECONDS - began)) s"
  if grep -q 'enable --now' "$block"; then
    scp "$work/watch" root@pi:/tmp/watch
    ssh root@pi 'bash /tmp/watch' >"$work/memory" 2>/dev/null &
  fi
  if grep -q 'flwr run' "$block"; then
    check runs/edge 3
    ssh root@pi systemctl is-active flotilla-supernode flotilla-clientapp
    say "what code of a run could reach on the device, tried"
    closed sea.example.org:8443
    ssh root@pi 'pkill -f /tmp/watch' || true
  fi
done
! flwr supernode list sea --format json | grep -q '"online"' || { say "the lost device is still there"; exit 1; }
say "most resident memory, MiB (of a ClientApp: all, and what it does not share)"
awk '{ if ($3 > most[$1]) most[$1] = $3; if ($4 > own[$1]) own[$1] = $4 }
  END { for (part in most) printf "%-10s %4d %4d\n", part, most[part] / 1024, own[part] / 1024 }' "$work/memory"
