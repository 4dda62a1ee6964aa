//! What `--help` prints.

/// The help, for a program that is called `program`.
pub(super) fn text(program: &str) -> String {
    format!(
        "\
Agent that stays with its master and runs commands for it.

Usage: {program} COMMAND [OPTIONS]

Commands:
  start      Run the agent, in the foreground or with --daemon in the background
  stop       Ask a running agent to end, and wait until it has
  status     Say whether the agent runs and is connected
  reconnect  Have a running agent read its configuration again, and connect now if it waits
  check      Check the configuration and show it; start nothing
  doctor     Try the configuration, from the state directory to a registration; say what is wrong

Who and where:
  --name NAME                 Name, unique in the fleet     [default: the host name]
  --master HOST[:PORT]        A master; repeat for several  [default: localhost:50050]
  --token TOKEN               What lets the agent in; a file named by auth.token_file does not show in `ps`
  --label KEY=VALUE           A label for the master to select by; repeat for several
  --port PORT                 The agent's own port          [default: none]
  --bind-address IP           Address of that port          [default: 0.0.0.0]
  --report-address ADDRESS    Address that the master shows [default: that of the connection]

The connection:
  --connection-timeout TIME       Connecting and registering together  [default: 10s]
  --heartbeat-interval TIME       Between two heartbeats               [default: 5s]
  --heartbeat-timeout TIME        For the answer to one                [default: 5s, at most the interval]
  --max-failures N                Unanswered heartbeats until it is lost [default: 3]
  --initial-reconnect-delay TIME  First wait; it doubles               [default: 5s]
  --max-reconnect-delay TIME      Longest wait                         [default: 60s]

This process:
  --daemon                    start: go into the background, under a parent that restarts it
  --history                   status: what became of the connection, also of an agent that does not run
  -o, --output FORMAT         status, doctor: text or json  [default: text]
  --config FILE               Configuration  [default: ./agent.toml, else /etc/sloth-runner/agent.toml]
  --set KEY=VALUE             Any key of the configuration, such as reconnect.jitter=0; repeat for several
  --state-dir DIR             Id, pid and status  [default: /var/lib/sloth-runner/NAME as root,
                              else $XDG_STATE_HOME/sloth-runner/NAME]
  --log-level LEVEL           off, error, warn, info, debug or trace  [default: info]
  --log-file FILE             [default: standard error; with --daemon ./agent.log,
                              or ./agent-NAME.log where another agent holds that]
  -h, --help                  Print this help
  -V, --version               Print the version

Times are written like 5s, 1m30s or 250ms. Flags override the variables SLOTH_RUNNER_MASTER_ADDR and
SLOTH_RUNNER_TOKEN, these override the configuration file. stop, status and reconnect find the agent by --name,
--config or --state-dir. SIGHUP makes a running agent read its configuration again.

Examples:
  {program} start --name node1 --port 50051 --master 192.168.1.15:50050
  {program} start --name node1 --master 192.168.1.15 --daemon && tail -f agent.log
  {program} check --config agent.toml
  {program} status --name node1
  {program} doctor --name node1 --master 192.168.1.15
  {program} stop --name node1

Exit codes:
  0  done; status: the agent is Active
  1  failed; stop: it is not running; status: it runs, but is not Active; doctor: something is wrong
  2  wrong usage or configuration
  3  status, reconnect: it is not running
"
    )
}
