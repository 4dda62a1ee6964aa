#!/bin/sh
# Puts sloth-agent on a node: the binary, a configuration and a service. Needs a POSIX shell and the usual tools
# (busybox has them), and nothing from a network. Doing it again changes nothing, or upgrades to another binary.
set -eu

usage() {
	cat <<'EOF'
Install sloth-agent on this node, or remove it.

Usage: install.sh [OPTIONS]
       install.sh --uninstall [--purge] [OPTIONS]

  --binary FILE     The agent's binary for this node   [default: sloth-agent beside this script]
  --name NAME       Name of the agent, for a new configuration    [default: the host name]
  --master HOST[:PORT]  Its master, for a new configuration       [default: localhost:50050]
  --no-start        Install and enable the service, but don't start it or restart it
  --init SYSTEM     systemd, procd (OpenWrt) or none   [default: what the node has]
  --bin-dir DIR     Where the binary goes              [default: /usr/local/bin; with procd /usr/bin]
  --root DIR        Work on the system below DIR, such as an image; starts nothing
  --uninstall       Stop the agent, remove service and binary; keep configuration and state
  --purge           With --uninstall: remove these, too. The agent loses its identity
  -h, --help        Print this help

The configuration is /etc/sloth-runner/agent.toml. One that exists is never changed.

Exit codes: 0 done, 1 failed, 2 wrong usage
EOF
}

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'install.sh: %s (--help shows the options)\n' "$*" >&2; exit 2; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
binary='' name='' master='' root='' init='' bin_dir='' start=1 uninstall='' purge=''

while [ $# -gt 0 ]; do
	option=$1
	case $option in
	--binary | --name | --master | --root | --init | --bin-dir)
		[ $# -ge 2 ] || wrong "$option needs a value"
		[ -n "$2" ] || wrong "$option is empty"
		;;
	esac
	case $option in
	--binary) binary=$2 && shift ;;
	--name) name=$2 && shift ;;
	--master) master=$2 && shift ;;
	--root) root=$2 && shift ;;
	--init) init=$2 && shift ;;
	--bin-dir) bin_dir=$2 && shift ;;
	--no-start) start='' ;;
	--uninstall) uninstall=1 ;;
	--purge) purge=1 ;;
	-h | --help) usage && exit 0 ;;
	*) wrong "unknown option $option" ;;
	esac
	shift
done

[ -z "$purge" ] || [ -n "$uninstall" ] || wrong "--purge goes with --uninstall"
[ -z "$uninstall" ] || [ -z "$binary$name$master" ] || wrong "--uninstall takes no --binary, --name or --master"
# They are written into a TOML string: no quotes, no backslashes.
case $name in *[!A-Za-z0-9._-]*) wrong "--name $name: use letters, digits, '.', '_' and '-'" ;; esac
case $master in *[!A-Za-z0-9.:_[\]-]*) wrong "--master $master: use HOST, HOST:PORT or [IPV6]:PORT" ;; esac
case $bin_dir in '' | /*) ;; *) wrong "--bin-dir $bin_dir: begin with /" ;; esac
# It stands in the unit file, where these have a meaning.
case $bin_dir in *[!A-Za-z0-9./_-]*) wrong "--bin-dir $bin_dir: use letters, digits, '.', '_', '-' and '/'" ;; esac
case $init in '' | systemd | procd | none) ;; *) wrong "--init $init: use systemd, procd or none" ;; esac

if [ -n "$root" ]; then
	[ -d "$root" ] || fail "--root $root: no such directory"
	root=$(CDPATH='' cd -- "$root" && pwd)
	[ "$root" != / ] || root=''
fi
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root (sudo), or with --root DIR"

if [ -z "$init" ]; then
	if [ -x "$root/sbin/procd" ]; then
		init=procd
	elif [ -d "$root/run/systemd/system" ] || [ -x "$root/lib/systemd/systemd" ] ||
		[ -x "$root/usr/lib/systemd/systemd" ]; then
		init=systemd
	else
		init=none
	fi
fi

config_dir=$root/etc/sloth-runner
config=$config_dir/agent.toml
unit=$root/etc/systemd/system/sloth-agent.service
wanted=$root/etc/systemd/system/multi-user.target.wants/sloth-agent.service
script=$root/etc/init.d/sloth-agent

# Whether services can be started: not in an image, and not in a container without its init.
running=''
if [ -z "$root" ]; then
	case $init in
	systemd) [ ! -d /run/systemd/system ] || running=1 ;;
	procd) ! pidof procd >/dev/null 2>&1 || running=1 ;;
	esac
fi

# Whether this runs as a command of the agent that it is about to restart.
inside() { [ -n "${SLOTH_RUNNER_COMMAND_ID:-}" ] || grep -q '/sloth-agent\.service' /proc/self/cgroup 2>/dev/null; }

# place MODE FROM TO: at once or not at all, and only if it differs; sets `changed`.
place() {
	if [ -f "$3" ] && cmp -s "$2" "$3"; then
		chmod "$1" "$3" || fail "cannot set the mode of $3"
		return 0
	fi
	mkdir -p "${3%/*}" || fail "cannot make ${3%/*}"
	# A new file: one that runs cannot be written to.
	if cp "$2" "$3.new" && chmod "$1" "$3.new" && mv -f "$3.new" "$3"; then
		changed=1
		say "wrote $3"
	else
		rm -f "$3.new"
		fail "cannot write $3: is there room, and can it be written to?"
	fi
}

# gone FILE…: removes what is there.
gone() {
	for file in "$@"; do
		if [ -e "$file" ] || [ -L "$file" ]; then
			rm -rf "$file" || fail "cannot remove $file"
			say "removed $file"
		fi
	done
}

install_agent() {
	[ -n "$bin_dir" ] || { [ "$init" = procd ] && bin_dir=/usr/bin; } || bin_dir=/usr/local/bin
	agent=$bin_dir/sloth-agent
	[ -n "$binary" ] || binary=$here/sloth-agent
	[ -f "$binary" ] || fail "no binary $binary: name one with --binary FILE"
	for packaged in "$root"/lib/systemd/system/sloth-agent.service "$root"/usr/lib/systemd/system/sloth-agent.service; do
		[ ! -e "$packaged" ] || fail "the package sloth-agent is installed: upgrade that, or remove it first (apt remove)"
	done

	work=$(mktemp -d) || fail "cannot make a temporary directory"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	# Tried as a copy: the file itself may be on a medium without the right to run programs.
	if [ -z "$root" ]; then
		cp "$binary" "$work/sloth-agent" || fail "cannot copy $binary to $work: is there room?"
		chmod 755 "$work/sloth-agent"
		version=$("$work/sloth-agent" --version 2>/dev/null) ||
			fail "$binary does not run here ($(uname -m)): is it for another processor, or is $work mounted noexec?"
		say "installing $version"
	fi
	changed=''
	place 755 "$binary" "$root$agent"
	write_config
	case $init in
	systemd)
		sed "s|/usr/bin/sloth-agent|$agent|" "$here/systemd/sloth-agent.service" >"$work/unit" ||
			fail "no $here/systemd/sloth-agent.service: keep it beside this script"
		place 644 "$work/unit" "$unit"
		;;
	procd)
		sed "s|/usr/bin/sloth-agent|$agent|" "$here/openwrt/sloth-agent.init" >"$work/unit" ||
			fail "no $here/openwrt/sloth-agent.init: keep it beside this script"
		place 755 "$work/unit" "$script"
		;;
	esac
	enable_service
	# A box may lose its power right after this.
	[ -n "$root" ] || sync
	[ -n "$root" ] || "$agent" check --config "$config" >/dev/null 2>"$work/problems" || {
		cat "$work/problems" >&2
		fail "the agent is installed, but $config is not right: mend it, then start the agent"
	}
	start_service
}

write_config() {
	if [ -e "$config" ]; then
		say "kept $config"
		[ -z "$name$master" ] || say "--name and --master have no effect: they are for a new configuration"
		return 0
	fi
	{
		say "# Configuration of sloth-agent. What is not here is at its default; \`sloth-agent check\` shows what is set."
		if [ -n "$name" ]; then say "name = \"$name\""; else say "# name = \"node1\"     # default: the host name"; fi
		say "master = \"${master:-localhost:50050}\""
		if [ "$init" = procd ]; then
			say "# /var is lost with the power on OpenWrt, and with it the agent would lose its identity."
			say "state_dir = \"/etc/sloth-runner/state\""
		fi
	} >"$work/agent.toml"
	place 644 "$work/agent.toml" "$config"
}

enable_service() {
	case $init in
	systemd)
		mkdir -p "${wanted%/*}" || fail "cannot make ${wanted%/*}"
		ln -sf /etc/systemd/system/sloth-agent.service "$wanted" || fail "cannot enable the service: $wanted"
		[ -z "$running" ] || systemctl daemon-reload || fail "systemctl daemon-reload failed"
		;;
	procd)
		mkdir -p "$root/etc/rc.d" || fail "cannot make $root/etc/rc.d"
		for link in S95sloth-agent K10sloth-agent; do
			ln -sf ../init.d/sloth-agent "$root/etc/rc.d/$link" || fail "cannot enable the service in $root/etc/rc.d"
		done
		;;
	esac
}

start_service() {
	if [ "$init" = none ]; then
		say "no systemd and no procd: start it with  $agent start --config /etc/sloth-runner/agent.toml --daemon"
	elif [ -z "$running" ]; then
		say "enabled for $init; it starts with the system"
	elif [ -z "$start" ]; then
		say "enabled for $init, not started (--no-start)"
	elif inside; then
		say "installed from within the agent: it runs as it was until it is started again, e.g. by sloth-runner agent stop"
	else
		verb=start
		[ -z "$changed" ] || verb=restart
		case $init in
		systemd) systemctl "$verb" sloth-agent.service || fail "it did not start: journalctl -u sloth-agent -n 20" ;;
		procd) "$script" "$verb" || fail "it did not start: logread -e sloth-agent" ;;
		esac
		say "started; $agent status --config /etc/sloth-runner/agent.toml says how it is"
	fi
}

uninstall_agent() {
	agent=''
	if [ -n "$bin_dir" ]; then
		agent=$bin_dir/sloth-agent
	elif [ -f "$unit" ]; then
		agent=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$unit")
	elif [ -f "$script" ]; then
		agent=$(sed -n 's/^PROG=//p' "$script")
	fi
	# Without a service: where it would have been put.
	[ -n "$agent" ] || { [ "$init" = procd ] && agent=/usr/bin/sloth-agent; } || agent=/usr/local/bin/sloth-agent
	! inside || [ -z "$running" ] || fail "this is a command of the agent and would end with it: log in to the node"

	if [ -n "$running" ] && [ -f "$unit" ]; then systemctl disable --now sloth-agent.service || true; fi
	if [ -n "$running" ] && [ -f "$script" ]; then "$script" stop || true; fi
	# One that was started by hand.
	if [ -z "$root" ] && [ -x "$agent" ] && [ -f "$config" ]; then
		"$agent" stop --config "$config" >/dev/null 2>&1 || true
	fi
	gone "$wanted" "$unit" "$root/etc/rc.d/S95sloth-agent" "$root/etc/rc.d/K10sloth-agent" "$script" "$root$agent"
	if [ -n "$running" ] && [ "$init" = systemd ]; then systemctl daemon-reload || true; fi
	if [ -n "$purge" ]; then
		gone "$config"
		# Only what is an agent's: a master's state may lie beside it.
		for state in "$root"/var/lib/sloth-runner/* "$config_dir/state"; do
			[ ! -f "$state/agent-id" ] || gone "$state"
		done
		rmdir "$root/var/lib/sloth-runner" "$config_dir" 2>/dev/null || true
	else
		say "kept configuration and state; --uninstall --purge removes them"
	fi
}

if [ -n "$uninstall" ]; then uninstall_agent; else install_agent; fi
