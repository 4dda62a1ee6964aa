#!/bin/sh
# Puts another sloth-agent in the place of the one that runs, on a node that nobody can walk to: if the new one is not
# connected within a time, the old one is put back. Made to be run by the agent itself, as one of its commands; what
# swaps the binaries is a process of its own, which the restart of the agent does not end. Needs a POSIX shell and the
# usual tools (busybox has them).
set -eu

usage() {
	cat <<'EOT'
Replace the agent's binary, and put the old one back if the new one does not connect.

Usage: upgrade.sh --binary FILE [OPTIONS]

  --binary FILE     The new binary, on the file system of the old one
  --target FILE     The one to replace                        [default: /usr/local/bin/sloth-agent]
  --which OPTIONS   What tells the agent from others, as for `sloth-agent status`
                    [default: --config /etc/sloth-runner/agent.toml]
  --restart COMMAND What restarts it  [default: systemctl restart sloth-agent, or with procd its init script]
  --wait SECONDS    How long the new one may take to connect  [default: 120]
  --log FILE        What happened                             [default: FILE of --target with .upgrade behind it]
  -h, --help        Print this help

It returns at once. The old binary stays as FILE.old until the next upgrade.
Exit codes: 0 begun, 1 the new binary is of no use here, 2 wrong usage
EOT
}

say() { printf '%s\n' "$*"; }
fail() { printf 'upgrade.sh: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'upgrade.sh: %s (--help shows the options)\n' "$*" >&2; exit 2; }

binary='' target=/usr/local/bin/sloth-agent which='--config /etc/sloth-runner/agent.toml' restart='' seconds=120 log='' swap=''
while [ $# -gt 0 ]; do
	option=$1
	case $option in
	--binary | --target | --which | --restart | --wait | --log) [ $# -ge 2 ] || wrong "$option needs a value" ;;
	esac
	case $option in
	--binary) binary=$2 && shift ;;
	--target) target=$2 && shift ;;
	--which) which=$2 && shift ;;
	--restart) restart=$2 && shift ;;
	--wait) seconds=$2 && shift ;;
	--log) log=$2 && shift ;;
	--swap) swap=1 ;;
	-h | --help) usage && exit 0 ;;
	*) wrong "unknown option $option" ;;
	esac
	shift
done
[ -n "$binary" ] || wrong "--binary is missing"
case $seconds in '' | *[!0-9]*) wrong "--wait $seconds: use a number of seconds" ;; esac
[ -n "$log" ] || log=$target.upgrade
if [ -z "$restart" ]; then
	if [ -d /run/systemd/system ]; then restart='systemctl restart sloth-agent'; else restart='/etc/init.d/sloth-agent restart'; fi
fi

# shellcheck disable=SC2086 # several words
is_connected() { "$target" agent status $which >/dev/null 2>&1; }

# Looks once a second. The process must be another one than before: the old one may be Active to its end.
connects() {
	left=$seconds
	while [ "$left" -gt 0 ]; do
		if is_connected; then return 0; fi
		sleep 1
		left=$((left - 1))
	done
	return 1
}

if [ -n "$swap" ]; then
	exec >>"$log" 2>&1 </dev/null
	# The command that began this is over, and told.
	sleep 2
	say "$(date -u +%FT%TZ) replaces $target"
	cp -p "$target" "$target.old"
	mv -f "$binary" "$target"
	if sh -c "$restart" && connects; then
		say "$(date -u +%FT%TZ) the new one is connected"
		exit 0
	fi
	say "$(date -u +%FT%TZ) the new one is not connected after ${seconds} s: the old one is put back"
	cp -p "$target.old" "$target.back"
	mv -f "$target.back" "$target"
	sh -c "$restart" || say "$(date -u +%FT%TZ) $restart failed"
	if connects; then say "$(date -u +%FT%TZ) the old one is connected"; fi
	exit 1
fi

[ -f "$binary" ] || fail "$binary is not there"
[ -f "$target" ] || fail "$target is not there"
chmod 0755 "$binary"
version=$("$binary" --version) || fail "$binary does not run here"
# shellcheck disable=SC2086 # several words
case $which in --config*) "$binary" agent check $which >/dev/null || fail "the new one does not take this configuration" ;; esac

# Out of the agent's process group, session and control group.
set -- --swap --binary "$binary" --target "$target" --which "$which" --restart "$restart" --wait "$seconds" --log "$log"
if [ -d /run/systemd/system ]; then
	copy=$target.upgrade.sh
	cp "$0" "$copy"
	systemd-run --quiet --collect --unit=sloth-agent-upgrade sh "$copy" "$@"
else
	cp "$0" "$target.upgrade.sh"
	setsid sh "$target.upgrade.sh" "$@" >/dev/null 2>&1 </dev/null &
fi
say "$version takes over in a moment; $log tells how it went"
