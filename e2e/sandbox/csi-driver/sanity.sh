#!/bin/sh
# Runs the official csi-sanity against the driver, with Filesystem and with Block access, on temporary directories.
# Root only. CSI_SANITY names the tool; without it PATH is searched, then it is built from ../toolchain/csi-sanity.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/hf-csi-sanity.XXXXXX")
driver_pid=

finish() {
	code=$?
	trap - EXIT INT TERM
	if [ -n "$driver_pid" ]; then
		kill "$driver_pid" 2>/dev/null || true
		wait "$driver_pid" 2>/dev/null || true
	fi
	if [ -x "$work/csi-driver" ] && ! "$work/csi-driver" --cleanup --data-dir="$work/data" 2>"$work/cleanup.log"; then
		cat "$work/cleanup.log" >&2
		code=1
	fi
	# The temporary name is unique: whatever still carries it was left behind by the driver.
	if grep -F "$work" /proc/self/mountinfo || grep -F "$work" /sys/block/loop*/loop/backing_file 2>/dev/null; then
		echo "sanity.sh: mounts or loop devices were left behind in $work" >&2
		exit 1
	fi
	if [ "$code" != 0 ]; then
		echo "sanity.sh: failed; the end of the driver's log:" >&2
		tail -n 40 "$work"/*.log >&2 || true
	fi
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

sanity=${CSI_SANITY:-$(command -v csi-sanity || true)}
if [ -z "$sanity" ]; then
	sanity=$work/csi-sanity
	(cd "$here/../toolchain/csi-sanity" && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -o "$sanity" github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity)
fi
(cd "$here" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$work/csi-driver" .)

for access in mount block; do
	"$work/csi-driver" --endpoint="unix://$work/csi.sock" --data-dir="$work/data" --node-id=sanity --pool-size=16Gi 2>"$work/driver-$access.log" &
	driver_pid=$!
	waited=0
	until grep -qs 'msg=ready' "$work/driver-$access.log"; do
		waited=$((waited + 1))
		if [ "$waited" -gt 300 ] || ! kill -0 "$driver_pid" 2>/dev/null; then
			echo "sanity.sh: the driver did not start" >&2
			exit 1
		fi
		sleep 0.1
	done
	echo "== csi-sanity, $access access"
	if ! "$sanity" -ginkgo.no-color -ginkgo.timeout=5m -csi.endpoint="unix://$work/csi.sock" -csi.testvolumeaccesstype="$access" \
		-csi.mountdir="$work/target" -csi.stagingdir="$work/staging" >"$work/sanity-$access.out" 2>&1; then
		cat "$work/sanity-$access.out"
		exit 1
	fi
	grep -E '^Ran [0-9]+ of|^(SUCCESS|FAIL)!' "$work/sanity-$access.out"
	# The tool must have unpublished and deleted everything: only the pool's own device may be left.
	if grep -lF "$work/data/pool/" /sys/block/loop*/loop/backing_file 2>/dev/null; then
		echo "sanity.sh: volumes are still attached" >&2
		exit 1
	fi
	kill "$driver_pid"
	wait "$driver_pid"
	driver_pid=
done
