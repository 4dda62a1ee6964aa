//! The master's binary with scripted agents and tools: what it does when there is too much, too little or nobody.

#[path = "../../../tests/common/place.rs"]
mod place;

use proto::{
    AgentMessage, CommandSpec, HeldCommand, ListRequest, MasterMessage, OutputMessage, Register, RunReply, RunRequest,
    RunStart, agent_message::Kind as Up, agent_registry_client::AgentRegistryClient, fleet_client::FleetClient,
    master_message::Kind as Down, run_request,
};
use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

struct Master {
    process: Child,
    address: String,
    state: tempfile::TempDir,
}

impl Master {
    fn start(open_files: u64) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &place::own().to_string(), open_files)
    }

    fn start_in(state: tempfile::TempDir, listen: &str, open_files: u64) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-runner"));
        command
            .args(["master", "start", "--set", "http.listen=\"\"", "--set", "connections.max_per_address=1000"])
            .args(["--listen", listen, "--state-dir"])
            .arg(state.path());
        command.current_dir(state.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: setrlimit is a system call that only reads a local, allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let limit = libc::rlimit { rlim_cur: open_files / 2, rlim_max: open_files };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
                Ok(())
            });
        }
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split(" listening on ").nth(1).unwrap_or_else(|| panic!("{line}"));
        let address = address.split(' ').next().unwrap().to_owned();
        Self { process, address, state }
    }

    /// With SIGKILL; what it leaves.
    fn kill(mut self) -> (tempfile::TempDir, String) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        (std::mem::replace(&mut self.state, tempfile::tempdir().unwrap()), self.address.clone())
    }

    async fn channel(&self) -> Channel {
        soon(Channel::from_shared(format!("http://{}", self.address)).unwrap().connect()).await.unwrap()
    }

    async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel().await)
    }

    /// The answer to a `Register`.
    async fn register(&self, n: u16, spool: u8) -> (Agent, Down) {
        self.register_holding(n, spool, Vec::new()).await
    }

    async fn register_holding(&self, n: u16, spool: u8, held: Vec<HeldCommand>) -> (Agent, Down) {
        let mut client = AgentRegistryClient::new(self.channel().await);
        let (up, messages) = mpsc::channel(16);
        let mut id = [7; 16];
        id[..2].copy_from_slice(&n.to_le_bytes());
        let register = Register {
            agent_id: id.to_vec(),
            instance_id: vec![1; 16],
            spool_id: vec![spool; 16],
            name: format!("n{n}"),
            held,
            // Without it the silent are lost after 20 s.
            interval_ms: 3_600_000,
            timeout_ms: 3_600_000,
            ..Register::default()
        };
        up.send(AgentMessage { kind: Some(Up::Register(register)) }).await.unwrap();
        let down = soon(client.connect(ReceiverStream::new(messages))).await.unwrap().into_inner();
        let mut agent = Agent { client, up, down, id, epoch: 0 };
        let answer = agent.next().await;
        if let Down::Registered(registered) = &answer {
            agent.epoch = registered.epoch;
        }
        (agent, answer)
    }

    async fn agent(&self, n: u16, spool: u8) -> Agent {
        let (agent, answer) = self.register(n, spool).await;
        assert!(matches!(answer, Down::Registered(_)), "{answer:?}");
        agent
    }

    fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.state.path().join("sloth.db")).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
    }

    /// Descriptors that lead into its directory of outputs.
    fn open_outputs(&self) -> usize {
        let directory = self.state.path().join("output");
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap();
        links
            .flatten()
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .filter(|to| to.starts_with(&directory))
            .count()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Agent {
    client: AgentRegistryClient<Channel>,
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<MasterMessage>,
    id: [u8; 16],
    epoch: u64,
}

impl Agent {
    async fn next(&mut self) -> Down {
        soon(self.down.message()).await.unwrap().expect("a message").kind.expect("a known message")
    }

    async fn finish(&self, id: &str, total_bytes: u64) {
        let outcome = Some((&link::Outcome::Exited(0)).into());
        let finished = proto::CommandFinished { id: id.to_owned(), outcome, total_bytes, ..Default::default() };
        self.up.send(AgentMessage { kind: Some(Up::CommandFinished(finished)) }).await.unwrap();
    }

    /// Sends output until all of it is durable.
    async fn deliver(&mut self, id: &str, data: &'static [u8]) {
        let (up, messages) = mpsc::channel(4);
        up.send(OutputMessage { data: data.into(), ..OutputMessage::default() }).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(messages));
        let hex: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        for (key, value) in
            [("sloth-agent-id", hex), ("sloth-epoch", self.epoch.to_string()), ("sloth-command-id", id.to_owned())]
        {
            request.metadata_mut().insert(key, value.parse().unwrap());
        }
        let mut acks = soon(self.client.send_output(request)).await.unwrap().into_inner();
        while soon(acks.message()).await.unwrap().expect("an acknowledgement").durable < data.len() as u64 {}
    }
}

fn start(id: &str, agent: &str) -> RunStart {
    let spec = CommandSpec { argv: vec![b"true".to_vec()], ..CommandSpec::default() };
    RunStart { id: id.to_owned(), agent: agent.to_owned(), spec: Some(spec), ..RunStart::default() }
}

/// The sender keeps the call's own side open.
type Tool = (mpsc::Sender<RunRequest>, Streaming<RunReply>);

async fn run(fleet: &mut FleetClient<Channel>, start: RunStart) -> Result<Tool, Status> {
    let (up, requests) = mpsc::channel(4);
    up.send(RunRequest { kind: Some(run_request::Kind::Start(start)) }).await.unwrap();
    Ok((up, fleet.run(ReceiverStream::new(requests)).await?.into_inner()))
}

async fn agents(fleet: &mut FleetClient<Channel>) -> usize {
    let mut list = soon(fleet.list(ListRequest::default())).await.unwrap().into_inner();
    let mut agents = 0;
    while let Some(reply) = soon(list.message()).await.unwrap() {
        agents += reply.agents.len();
    }
    agents
}

#[tokio::test]
async fn at_the_limit_of_open_files_agents_are_sent_away_and_operators_are_not() {
    // Half of it is the soft limit: it takes what it may have.
    let master = Master::start(170);
    let mut held = Vec::new();
    let refused = loop {
        let (agent, answer) = master.register(held.len() as u16, 1).await;
        match answer {
            Down::Registered(_) => held.push(agent),
            Down::RetryLater(later) => break later,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((held.len(), refused.reason.as_str()), (42, "too many open files"));
    assert!((10_000..20_000).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    let mut operators = Vec::new();
    for _ in 0..90 {
        operators.push(master.fleet().await);
        assert_eq!(agents(operators.last_mut().unwrap()).await, 42);
    }
    held.pop();
    let given = async { while !matches!(master.register(41, 1).await.1, Down::Registered(_)) {} };
    timeout(PATIENCE, given).await.expect("the free place is given");
}

#[tokio::test]
async fn a_thousand_commands_run_at_once_over_one_connection() {
    let master = Master::start(400);
    let mut agent = master.agent(1, 1).await;
    let mut fleet = master.fleet().await;
    let mut tools = Vec::new();
    for n in 0..1_000 {
        tools.push(soon(run(&mut fleet, start(&format!("c{n}"), "n1"))).await.unwrap());
        assert!(matches!(agent.next().await, Down::RunCommand(_)));
    }
    assert_eq!(agents(&mut fleet).await, 1);
}

#[tokio::test]
async fn the_id_of_a_forgotten_command_is_answered() {
    let master = Master::start(400);
    let mut agent = master.agent(1, 1).await;
    let mut fleet = master.fleet().await;
    let (_up, mut replies) = soon(run(&mut fleet, start("c", "n1"))).await.unwrap();
    assert!(matches!(agent.next().await, Down::RunCommand(_)));
    agent.finish("c", 0).await;
    while soon(replies.message()).await.unwrap().is_some() {}
    // What is old is forgotten once a minute: sooner, here.
    let database = master.database();
    assert_eq!(database.execute("DELETE FROM commands", []).unwrap(), 1);
    let answer = soon(run(&mut fleet, start("c", "n1"))).await.map(drop).unwrap_err();
    assert_eq!((answer.code(), answer.message()), (Code::NotFound, "command c has finished, and is forgotten"));
}

#[tokio::test]
async fn commands_that_nobody_deals_with_hold_no_file() {
    let mut master = Master::start(400);
    let mut agent = master.agent(1, 1).await;
    let mut fleet = master.fleet().await;
    for n in 0..20 {
        let id = format!("c{n}");
        drop(soon(run(&mut fleet, start(&id, "n1"))).await.unwrap());
        assert!(matches!(agent.next().await, Down::RunCommand(_)));
        agent.deliver(&id, b"something").await;
    }
    drop(agent);
    closed(&master).await;
    let (state, address) = master.kill();
    master = Master::start_in(state, &address, 400);
    let mut fleet = master.fleet().await;
    let get = proto::GetCommandRequest { id: "c19".to_owned() };
    // They are looked at in order, and this is the last one.
    while soon(fleet.get_command(get.clone())).await.unwrap().into_inner().output_bytes == 0 {}
    closed(&master).await;
}

#[tokio::test]
async fn a_finished_command_gets_no_second_outcome_while_the_database_cannot_be_read() {
    let mut master = Master::start(400);
    let mut agent = master.agent(1, 1).await;
    let mut fleet = master.fleet().await;
    let (_up, mut replies) = soon(run(&mut fleet, start("c", "n1"))).await.unwrap();
    assert!(matches!(agent.next().await, Down::RunCommand(_)));
    agent.finish("c", 0).await;
    while soon(replies.message()).await.unwrap().is_some() {}
    drop(agent);
    // A new master has to look it up.
    let (state, address) = master.kill();
    master = Master::start_in(state, &address, 400);
    let held = || {
        let state = proto::held_command::State::Running.into();
        let spec = Some(CommandSpec { argv: vec![b"true".to_vec()], ..CommandSpec::default() });
        vec![HeldCommand { id: "c".to_owned(), state, spooled_bytes: 0, spec, started_unix_ms: 0 }]
    };
    let database = master.database();
    database.execute_batch("ALTER TABLE commands RENAME TO away").unwrap();
    let (_agent, answer) = master.register_holding(1, 1, held()).await;
    let Down::RetryLater(later) = answer else { panic!("{answer:?}") };
    assert!(later.reason.starts_with("the master cannot look up its commands: "), "{}", later.reason);
    database.execute_batch("ALTER TABLE away RENAME TO commands").unwrap();
    let (_agent, answer) = master.register_holding(1, 1, held()).await;
    assert!(matches!(answer, Down::Registered(_)), "{answer:?}");
    let get = proto::GetCommandRequest { id: "c".to_owned() };
    let row = soon(master.fleet().await.get_command(get)).await.unwrap().into_inner();
    assert_eq!(row.outcome, Some((&link::Outcome::Exited(0)).into()));
}

#[tokio::test]
async fn long_lists_of_commands_come_whole_and_in_order() {
    let master = Master::start(400);
    let _agent = master.agent(1, 1).await;
    let mut fleet = master.fleet().await;
    for n in 0..50 {
        drop(soon(run(&mut fleet, start(&format!("c{n}"), "n1"))).await.unwrap());
    }
    for (limit, before, expected) in [(0, "", 50), (45, "", 45), (40, "c20", 20), (u32::MAX, "", 50)] {
        let request = proto::ListCommandsRequest { limit, before_id: before.to_owned(), ..Default::default() };
        let mut list = soon(fleet.list_commands(request)).await.unwrap().into_inner();
        let mut ids = Vec::new();
        while let Some(reply) = soon(list.message()).await.unwrap() {
            ids.extend(reply.commands.into_iter().map(|row| row.id));
        }
        let newest = if before.is_empty() { 50 } else { 20 };
        let all: Vec<String> = (0..newest).rev().take(expected).map(|n| format!("c{n}")).collect();
        assert_eq!(ids, all);
    }
}

async fn closed(master: &Master) {
    let all_closed = async {
        while master.open_outputs() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_closed).await.unwrap_or_else(|_| panic!("{} are open", master.open_outputs()));
}

#[tokio::test]
async fn a_tool_that_waits_for_an_agent_does_not_hold_up_the_end() {
    let mut master = Master::start(400);
    drop(master.agent(1, 1).await);
    let mut fleet = master.fleet().await;
    let get = proto::GetRequest { name: "n1".to_owned() };
    while soon(fleet.get(get.clone())).await.unwrap().into_inner().status == "Active" {}
    let (up, requests) = mpsc::channel(4);
    let waiting = RunStart { wait_ms: 60_000, ..start("c", "n1") };
    up.send(RunRequest { kind: Some(run_request::Kind::Start(waiting)) }).await.unwrap();
    let mut asking = fleet.clone();
    let waiting = tokio::spawn(async move { asking.run(ReceiverStream::new(requests)).await.map(drop) });
    // On the same connection: once this is answered, the other is there.
    while !up.is_closed() && up.capacity() < up.max_capacity() {
        tokio::task::yield_now().await;
    }
    agents(&mut fleet).await;
    // SAFETY: a signal to an own child that has not been waited for.
    unsafe { libc::kill(master.process.id() as i32, libc::SIGTERM) };
    let answer = timeout(PATIENCE, waiting).await.expect("it is answered").unwrap().unwrap_err();
    // For that reason, not because its time was over.
    assert_eq!((answer.code(), answer.message()), (Code::Unavailable, "the master is shutting down"));
    assert!(master.process.wait().unwrap().success());
}
