#!/bin/sh
# What the Debian package of sloth-runner has beside the program: manual pages, and completions for three shells. They
# are made by the program itself, built for this machine whatever the package is for. Run before `cargo deb`.
set -eu
cd "$(dirname "$0")/../.."
extras=target/deb-extras
rm -rf "$extras"
mkdir -p "$extras/bash" "$extras/zsh" "$extras/fish"
made() { cargo run --release --quiet --locked -p sloth-runner -- "$@"; }
made man --dir "$extras/man"
made completions bash >"$extras/bash/sloth-runner"
made completions zsh >"$extras/zsh/_sloth-runner"
made completions fish >"$extras/fish/sloth-runner.fish"
