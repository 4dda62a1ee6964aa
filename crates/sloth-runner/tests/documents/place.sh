# Where the examples of one document run: a network, processes, /etc, /root and /var/lib of their own. What each example
# is called by, and what `first` may call, stands below. Run by main.rs, as root in namespaces of its own.
set -eEu -o functrace
ip link set lo up
# The addresses and names that the documents take for those of a master.
for address in 192.168.1.15 10.0.0.5; do ip address add $address/32 dev lo; done
mkdir -p "$PLACE"/{etc,root,local,bin,work,state}
cp -a /etc/. "$PLACE/etc/"
echo "192.168.1.15 master.example.com" >>"$PLACE/etc/hosts"
mount --bind "$PLACE/etc" /etc
mount --bind "$PLACE/root" /root
mount --bind "$PLACE/local" /usr/local/bin
mount --bind "$PLACE/state" /var/lib
mount -t tmpfs tmpfs /srv
ln -s "$RUNNER" "$PLACE/bin/sloth-runner"
printf '#!/bin/sh\nexec sloth-runner agent "$@"\n' >"$PLACE/bin/sloth-agent"
printf '#!/bin/sh\nexec "$@"\n' >"$PLACE/bin/sudo"
chmod 0755 "$PLACE"/bin/sloth-agent "$PLACE"/bin/sudo
export HOME=/root PATH=$PLACE/bin:$PATH NO_COLOR=1
cd "$PLACE/work"
for part in config cross docs proto; do ln -s "$REPOSITORY/$part" .; done

place='before the first' background=''
# What it says is not a block's.
exec 3>&1
failed() {
  exec >&3
  echo "$place: failed: $BASH_COMMAND"
  tail -n 30 "$PLACE/out.first" "$PLACE/out" 2>/dev/null || :
  for log in "$PLACE"/work/*.log; do [ -f "$log" ] && tail -n 15 "$log"; done
  exit 1
}
trap failed ERR

# Looks until it is so, for half a minute at most.
soon() {
  local left=300
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    if [ $left = 0 ]; then echo "$place: never: $*"; "$@"; return 1; fi
    sleep 0.1
  done
}

# An agent is Active, by what it says itself.
active() { soon sloth-agent status --name "$1"; }

# The processes of an agent that was started with --daemon.
workers() {
  for pid in $(pidof sloth-runner); do
    if grep -qzx -- "$1" "/proc/$pid/cmdline"; then echo "$pid"; fi
  done
}

# A master and agents of these names as the README starts them.
fleet() {
  sloth-runner master start --daemon >/dev/null
  for name in "$@"; do sloth-agent start --name "$name" --daemon >/dev/null; done
  for name in "$@"; do active "$name"; done
}

# Ends what `until` has left to go on, as Ctrl-C does.
ended() {
  [ -n "$background" ] || return 0
  kill -INT -- "-$background"
  wait "$background" || :
  background=''
}

# Each line that is shown must be found in what was said, in their order, by its first word that has no digit in it:
# times, numbers and ids are others each time. `…` stands for anything.
looks_like() {
  awk -v said="$2" '
    function word(line, words, count, at) {
      count = split(line, words, " ")
      for (at = 1; at <= count; at++) if (words[at] ~ /[A-Za-z]/ && words[at] !~ /[0-9…]/) return words[at]
      return ""
    }
    BEGIN { while ((getline line < said) > 0) lines[++count] = line }
    { wanted = word($0); if (wanted == "") next
      while (at < count) if (word(lines[++at]) == wanted) next
      print "not said, or not there: " $0; exit 1 }' "$1" || { echo "in:"; cat "$2"; return 1; }
}

# number, place, language, text to wait for, exit code
example() {
  local code=0
  place=$2
  . "$PLACE/first.$1" >"$PLACE/out.first" 2>&1
  if [ "$3" = toml ]; then
    cp "$PLACE/block.$1" "$PLACE/read.toml"
    sloth-agent check --config "$PLACE/read.toml" >"$PLACE/out" 2>&1 ||
      sloth-runner master check --config "$PLACE/read.toml" >"$PLACE/out.2" 2>&1 ||
      { cat "$PLACE/out.2"; return 1; }
  elif [ -n "$4" ]; then
    set -m
    bash "$PLACE/block.$1" >"$PLACE/out" 2>&1 &
    background=$!
    set +m
    soon grep -F -- "$4" "$PLACE/out"
  elif [ "$5" = 0 ]; then
    . "$PLACE/block.$1" >"$PLACE/out" 2>&1
  else
    trap - ERR
    set +e
    (. "$PLACE/block.$1") >"$PLACE/out" 2>&1
    code=$?
    set -e
    trap failed ERR
    case " $5 " in *" $code "*) ;; *) echo "$2: ends with $code, not $5"; return 1 ;; esac
  fi
  if [ -s "$PLACE/shown.$1" ]; then looks_like "$PLACE/shown.$1" "$PLACE/out"; fi
  echo "ok $2"
}

