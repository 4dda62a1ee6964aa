#!/usr/bin/env python3
"""Records a session in a terminal with the real programs, and draws it as an animated SVG.

    cargo build -p sloth-runner
    sudo python3 docs/img/session.py target/debug/sloth-runner > docs/img/session.svg

It runs in a network, folders and processes of its own, as the examples of the documents do (place.sh of
crates/sloth-runner/tests/documents), so as root. What is typed stands in SESSION; everything else is what the programs said,
when they said it; only pauses are made shorter. A line with @ is done and not shown. Without animation, as where a reader wants none, the end is shown.
"""

import fcntl
import html
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
import time

SESSION = [
    "# A master with TLS: its authority, its certificate, a token to begin with.",
    "sloth-runner master init --dir sloth --name localhost",
    "sloth-runner master start --config sloth/master.toml --daemon",
    "sloth-runner context add home --master localhost:50050 --token-file sloth/operator.token",
    "# Three agents, each let in by a token that is good once.",
    "for node in lady keite mari; do sloth-agent start --daemon --name $node"
    " --token $(sloth-runner token create --uses 1); done",
    "@sleep 2",
    "sloth-runner agent list",
    "sloth-runner agent run --all --shell 'echo $SLOTH_RUNNER_AGENT runs $(uname -sm)'",
    "# One of them falls silent, as a machine that hangs.",
    "pkill -STOP -f '[n]ame keite'; sleep 21",
    "sloth-runner agent list",
    "sloth-runner agent explain keite",
    "# The machine is itself again: its agent comes back alone.",
    "pkill -CONT -f '[n]ame keite'; sleep 6",
    "sloth-runner agent list",
    "sloth-runner agent events keite --last 3",
]

COLUMNS, ROWS = 112, 30
# Seconds: what is typed stands before it is run, no pause is longer, what was said can be read.
TYPED, PAUSE_MAX, READ, READ_LINE = 0.7, 1.2, 0.8, 0.22
WIDTH, HEIGHT = 8.43, 19
COLOURS = {30: "#484f58", 31: "#ff7b72", 32: "#3fb950", 33: "#d29922", 34: "#58a6ff", 35: "#bc8cff", 36: "#39c5cf",
           90: "#8b949e", 91: "#ffa198", 92: "#56d364", 93: "#e3b341", 94: "#79c0ff", 95: "#d2a8ff", 96: "#56d4dd"}


def record(line):
    """What a shell says to a line in a terminal: pieces with the seconds since it was run."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.environ.pop("NO_COLOR", None)
        os.execvp("bash", ["bash", "-c", line])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    begun, pieces = time.monotonic(), []
    while True:
        # What it has left in the background holds the terminal open: the line's own end counts.
        ready, _, _ = select.select([terminal], [], [], 0.05)
        if ready:
            try:
                read = os.read(terminal, 65536)
            except OSError:
                read = b""
            if read:
                pieces.append((time.monotonic() - begun, read))
                continue
            break
        if os.waitpid(pid, os.WNOHANG)[0]:
            return pieces
    os.waitpid(pid, 0)
    return pieces


def spans(text):
    """Pieces of one colour of a line, with what colour that is."""
    style, made = "", []
    for part in re.split(r"(\x1b\[[0-9;]*m)", text):
        codes = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
        if not codes:
            part = re.sub(r"\x1b[\[\]][^A-Za-z\x07]*[A-Za-z\x07]|[\x00-\x08\x0b-\x1f]", "", part)
            if part:
                made.append((part, style))
            continue
        for code in (int(code or 0) for code in codes[1].split(";")):
            if code == 0 or code == 39:
                style = ""
            elif code == 1:
                style += "font-weight:bold;"
            elif code in COLOURS:
                style = f"fill:{COLOURS[code]};"
    return made


def wrapped(text):
    """Lines of the terminal's width; of what was written over, the last."""
    text = text.rstrip("\r").rsplit("\r", 1)[-1]
    lines, line, at = [], [], 0
    for part, style in spans(text):
        while part:
            taken, part = part[:COLUMNS - at], part[COLUMNS - at:]
            line.append((taken, style))
            at += len(taken)
            if part:
                lines.append(line)
                line, at = [], 0
    return lines + [line]


def play():
    """Lines with the second at which each appears, and how long all of it is."""
    shown, now = [], 0.5
    for typed in SESSION:
        if typed.startswith("@"):
            record(typed[1:])
            continue
        note = typed.startswith("#")
        style = "fill:#8b949e;" if note else "font-weight:bold;"
        prompt = [] if note else [("$ ", "fill:#3fb950;font-weight:bold;")]
        parts = textwrap.wrap(typed, COLUMNS - 4, break_on_hyphens=False)
        for number, part in enumerate(parts):
            more = "" if part is parts[-1] else " \\"
            shown.append((now, (prompt if number == 0 else [("  ", "")]) + [(part + more, style)]))
        now += TYPED
        if note:
            continue
        before, count, rest = 0.0, 0, ""
        for when, piece in record(typed):
            now += min(when - before, PAUSE_MAX)
            before = when
            *whole, rest = (rest + piece.decode("utf-8", "replace")).split("\n")
            for line in whole:
                for part in wrapped(line):
                    shown.append((now, part))
                    count += 1
        if rest.strip():
            shown.append((now, wrapped(rest)[0]))
        now += READ + READ_LINE * count
    return shown, now + 4


def draw(shown, length):
    width, height = COLUMNS * WIDTH + 32, ROWS * HEIGHT + 32
    css, body = [], []
    share = lambda second: f"{100 * second / length:.2f}%"
    for number, (when, parts) in enumerate(shown):
        css.append(f"@keyframes l{number}{{0%,{share(when)}{{opacity:0}}{share(when + 0.01)},100%{{opacity:1}}}}"
                   f"#l{number}{{animation-name:l{number}}}")
        text = "".join(f'<tspan{f" style={chr(34)}{style}{chr(34)}" if style else ""}>{html.escape(part)}</tspan>'
                       for part, style in parts)
        body.append(f'<text id="l{number}" y="{(number + 1) * HEIGHT - 5}">{text}</text>')
    # The screen goes up as it fills.
    steps, up = ["0%{transform:translateY(0)}"], 0
    for number, (when, _) in enumerate(shown):
        over = max(0, number + 1 - ROWS) * HEIGHT
        if over != up:
            steps.append(f"{share(when)}{{transform:translateY(-{up}px)}}{share(when + 0.01)}{{transform:translateY(-{over}px)}}")
            up = over
    steps.append(f"100%{{transform:translateY(-{up}px)}}")
    return f"""<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width:.0f} {height}" role="img" aria-labelledby="t">
<title id="t">A session in a terminal: a master with TLS and three agents from nothing, an outage, and why it was one</title>
<style>
text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#e6edf3;white-space:pre;animation:{length:.1f}s step-end infinite}}
#all{{transform:translateY(-{up}px);animation:all {length:.1f}s step-end infinite}}
@keyframes all{{{"".join(steps)}}}
{"".join(css)}
@media (prefers-reduced-motion:reduce){{text,#all{{animation:none!important}}}}
</style>
<rect width="{width:.0f}" height="{height}" rx="8" fill="#0d1117" stroke="#6e7681"/>
<svg x="16" y="16" width="{width - 32:.0f}" height="{height - 32}"><g id="all">
{chr(10).join(body)}
</g></svg>
</svg>
"""


def main():
    if "PLACE" in os.environ:
        sys.stdout.write(draw(*play()))
        return
    here = os.path.dirname(os.path.abspath(__file__))
    repository = os.path.dirname(os.path.dirname(here))
    place = open(f"{repository}/crates/sloth-runner/tests/documents/place.sh").read()
    with tempfile.TemporaryDirectory() as folder:
        script = f"{folder}/script"
        with open(script, "w") as file:
            file.write(place.replace("exec 3>&1", "exec 3>&2") + f'\ntrap - ERR\ncd\n/usr/bin/python3 "{os.path.abspath(__file__)}"\n')
        environment = {"PATH": os.environ["PATH"], "PLACE": folder, "REPOSITORY": repository,
                       "RUNNER": os.path.abspath(sys.argv[1]), "LANG": "C.UTF-8"}
        subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
                        "bash", "-c", f'hostname sloth; exec bash {script}'], env=environment, check=True)


if __name__ == "__main__":
    main()
