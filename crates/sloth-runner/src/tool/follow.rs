//! One command, followed to its end over as many connections as that takes.

use super::{
    agents, commands,
    connect::{Client, Master, PATIENCE, Trouble},
    ending::Ending,
    output::Output,
    resume::{Piece, Position, STDIN_CHUNKS, StdinWindow},
    table::printable,
    writer::Gone,
};
use crate::clock::sleep;
use bytes::Bytes;
use proto::{
    CancelRequest, CommandRow, GetCommandRequest, GetRequest, ListCommandsRequest, LogsRequest, RunReply, RunRequest,
    RunStart, run_reply, run_request,
};
use std::{io, pin::Pin, time::Duration};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};

/// Attachments that break before the master has said anything: it may be no master at all.
pub const UNANSWERED_MAX: u32 = 5;
/// A connection that held so long was good: after it, waits begin anew.
pub const GOOD: Duration = Duration::from_secs(5);

/// The state of a command that waits with the master.
pub const QUEUED: &str = "queued";
/// … that its agent holds: it runs, or waits for its turn there.
const ACCEPTED: &str = "accepted";

/// What to follow.
#[derive(Clone, Debug)]
pub enum Call {
    /// Starts the command, or attaches to it. `from_offset` is where to begin; `u64::MAX`: only started.
    Run(Box<RunStart>),
    Logs {
        id: String,
        follow: bool,
    },
}

/// What was read from standard input: at most [`super::resume::STDIN_CHUNK`]; empty at its end.
pub type Input = io::Result<Bytes>;

/// Follows `call` until it has its [`Ending`]. Before the master's first reply a refused connection is the end; from
/// then on lost connections are made again for ever, and no byte of output or standard input is lost or repeated.
/// `cancel` becoming true asks the master to cancel the command; its outcome is waited for.
///
/// # Cancel safety
/// Dropping it leaves the command to itself; a command with unfinished standard input is cancelled by the master.
pub async fn follow(
    master: &Master,
    call: Call,
    stdin: Option<mpsc::Receiver<Input>>,
    cancel: watch::Receiver<bool>,
    output: &mut impl Output,
) -> Ending {
    let position = Position::default();
    let stdin = stdin.map(|reader| Stdin { window: StdinWindow::default(), reader, may_send: false });
    let mut follow = Follow {
        master,
        call,
        position,
        stdin,
        output,
        row: None,
        answered: false,
        end_seen_at: None,
        gap: None,
        agent_away: false,
        stall_told: false,
        turn_told: false,
    };
    follow.run(cancel).await
}

struct Follow<'a, O> {
    master: &'a Master,
    call: Call,
    position: Position,
    stdin: Option<Stdin>,
    output: &'a mut O,
    row: Option<Box<CommandRow>>,
    /// The master has replied at least once: it knows the command.
    answered: bool,
    /// Where the output stood when the master ended it too early.
    end_seen_at: Option<Position>,
    /// A gap that may still grow: a long one comes in many pieces, and is told once.
    gap: Option<(u64, u64)>,
    /// That the command's agent is away has been told.
    agent_away: bool,
    /// That the master cannot keep the output has been told, since some came last.
    stall_told: bool,
    /// That the command waits for its turn has been told.
    turn_told: bool,
}

struct Stdin {
    window: StdinWindow,
    reader: mpsc::Receiver<Input>,
    /// On the present connection the master has said where to go on from.
    may_send: bool,
}

enum Step {
    Ended(Ending),
    /// The id is that of another command, so that ours was never taken, whatever went before.
    Anothers(String),
    Lost(Trouble),
    /// Attach once more, at once.
    Again,
}

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<RunReply>>, Status>> + Send>>;

impl<O: Output> Follow<'_, O> {
    async fn run(&mut self, mut cancel: watch::Receiver<bool>) -> Ending {
        let (mut failures, mut unanswered) = (0, 0);
        loop {
            let (began, before) = (Instant::now(), self.progress());
            let trouble = match self.attach(cancel.clone()).await {
                // What an earlier connection carried may have been taken all the same.
                Step::Ended(Ending::Never(why)) if unanswered > 0 => return Ending::Failed(why),
                Step::Ended(ending) => {
                    let _ = self.tell_gap().await; // the ending says more
                    return ending;
                }
                Step::Anothers(why) => return Ending::Never(why),
                Step::Lost(trouble) => trouble,
                Step::Again => continue,
            };
            if !self.answered {
                let refused = matches!(trouble, Trouble::Unreachable { .. });
                if refused && unanswered == 0 {
                    return Ending::Never(trouble.to_string());
                }
                unanswered += 1;
                if refused || unanswered == UNANSWERED_MAX || *cancel.borrow() {
                    let id = self.id();
                    return Ending::Failed(format!(
                        "{trouble}; the command may have been started: `sloth-runner command get {id}` will tell"
                    ));
                }
            }
            if self.progress() != before || began.elapsed() >= GOOD {
                failures = 0;
            }
            failures += 1;
            if let Some(line) = self.master.say_lost(&trouble) {
                self.output.notice(line).await;
            }
            // A cancellation that comes while waiting is worth an attempt at once.
            let waiting_to_cancel = *cancel.borrow_and_update();
            select! {
                () = sleep(self.master.waits().before(failures)) => {}
                () = cancelled(&mut cancel), if !waiting_to_cancel => {}
            }
        }
    }

    fn progress(&self) -> (Position, Option<u64>) {
        (self.position, self.stdin.as_ref().map(|stdin| stdin.window.acknowledged()))
    }

    fn id(&self) -> &str {
        match &self.call {
            Call::Run(start) => &start.id,
            Call::Logs { id, .. } => id,
        }
    }

    /// One connection's worth.
    async fn attach(&mut self, mut cancel: watch::Receiver<bool>) -> Step {
        let connected = select! {
            connected = self.master.patiently(PATIENCE, self.master.client()) => connected,
            () = cancelled(&mut cancel), if !self.answered => {
                return Step::Ended(Ending::Never("cancelled before the master was asked".to_owned()));
            }
        };
        let (number, client) = match connected {
            Ok(connected) => connected,
            Err(trouble) => return Step::Lost(trouble),
        };
        let (requests, receiver) = mpsc::channel(STDIN_CHUNKS + 4);
        // The master may hold its answer until the agent is there.
        let wait = if let Call::Run(start) = &self.call { start.wait_ms } else { 0 };
        let patience = PATIENCE.saturating_add(Duration::from_millis(wait));
        let opening = self.open(client, &requests, receiver);
        let opened = select! {
            opened = self.master.patiently(patience, opening) => opened,
            () = cancelled(&mut cancel), if !self.answered => return self.withdraw().await,
        };
        let talk = self.talk(opened, requests.clone());
        // Beside everything else, so that it is sent even while our own reader takes nothing.
        let ask_to_cancel = async {
            cancelled(&mut cancel).await;
            let _ = requests.try_send(request(run_request::Kind::Cancel(true)));
            std::future::pending().await
        };
        let step = select! {
            step = talk => step,
            step = ask_to_cancel => step,
        };
        if matches!(step, Step::Lost(_)) {
            self.master.forget(number).await;
        }
        step
    }

    fn open(
        &mut self,
        mut client: Client,
        requests: &mpsc::Sender<RunRequest>,
        receiver: mpsc::Receiver<RunRequest>,
    ) -> Opening {
        if let Some(stdin) = &mut self.stdin {
            stdin.may_send = false;
            stdin.window.rewind();
        }
        match &self.call {
            Call::Run(start) => {
                let mut start = start.clone();
                start.from_offset = start.from_offset.max(self.position.offset());
                requests.try_send(request(run_request::Kind::Start(*start))).expect("the queue is new");
                Box::pin(async move { client.run(ReceiverStream::new(receiver)).await })
            }
            Call::Logs { id, follow } => {
                let request = LogsRequest { id: id.clone(), from_offset: self.position.offset(), follow: *follow };
                Box::pin(async move { client.logs(request).await })
            }
        }
    }

    /// Cancelled before the master has answered: the call is dropped, and what may have come of it is cancelled.
    async fn withdraw(&mut self) -> Step {
        let id = self.id().to_owned();
        let cancel = self.master.call(async |mut client: Client| client.cancel(CancelRequest { id }).await);
        match timeout(GOOD, cancel).await {
            Ok(Ok(_)) => {
                self.answered = true;
                Step::Again
            }
            Ok(Err(Trouble::Answer { code: Code::NotFound, .. })) => {
                Step::Ended(Ending::Never("cancelled before the command was started".to_owned()))
            }
            _ => Step::Ended(Ending::Failed(format!(
                "cancelled, but the command may have been started: `sloth-runner command get {}` will tell",
                self.id()
            ))),
        }
    }

    async fn talk(
        &mut self,
        opened: Result<Response<Streaming<RunReply>>, Status>,
        requests: mpsc::Sender<RunRequest>,
    ) -> Step {
        let mut replies = match opened {
            Ok(replies) => replies.into_inner(),
            Err(status) => return self.failed(&status),
        };
        loop {
            if let Some(stdin) = &mut self.stdin
                && stdin.may_send
            {
                while let Some(chunk) = stdin.window.next_chunk() {
                    // Where it fails the call is over, and its replies say why.
                    let _ = requests.try_send(request(run_request::Kind::Stdin(chunk)));
                }
            }
            select! {
                reply = replies.message() => {
                    let step = match reply {
                        Ok(Some(RunReply { kind: Some(kind) })) => self.reply(kind).await,
                        Ok(Some(RunReply { kind: None })) => None,
                        Ok(None) => Some(self.hung_up().await),
                        Err(status) => Some(self.failed(&status)),
                    };
                    if let Some(step) = step {
                        return step;
                    }
                }
                input = next_input(&mut self.stdin) => {
                    if let Err(error) = self.input(input) {
                        return Step::Ended(Ending::Failed(format!(
                            "cannot read standard input: {error}; the master cancels the command"
                        )));
                    }
                }
                () = sleep(self.master.waits().quiet) => self.look_after_agent().await,
            }
        }
    }

    async fn reply(&mut self, kind: run_reply::Kind) -> Option<Step> {
        self.answered = true;
        if let Some(line) = self.master.say_back() {
            self.output.notice(line).await;
        }
        match kind {
            run_reply::Kind::Command(row) => {
                let left = |start: &RunStart| {
                    start.from_offset == u64::MAX || start.queue && row.state == QUEUED && row.outcome.is_none()
                };
                if matches!(&self.call, Call::Run(start) if left(start)) {
                    return Some(Step::Ended(Ending::Detached(Box::new(row))));
                }
                self.row = Some(Box::new(row));
            }
            run_reply::Kind::Output(chunk) => {
                if self.agent_away
                    && let Some(row) = &self.row
                {
                    self.tell_back(row.agent.clone()).await;
                }
                self.stall_told = false;
                for piece in self.position.take(chunk) {
                    if self.show(piece).await.is_err() {
                        let stdin_unfinished = self.stdin.as_ref().is_some_and(|stdin| !stdin.window.is_finished());
                        return Some(Step::Ended(Ending::OutputGone { stdin_unfinished }));
                    }
                }
            }
            run_reply::Kind::StdinReceived(received) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.window.acknowledge(received);
                    stdin.may_send = true;
                }
            }
        }
        let row = self.row.as_ref()?;
        (row.outcome.is_some() && self.position.offset() >= row.output_bytes).then(|| self.finished())
    }

    /// Nothing has come for a while. Whoever waits is told when that is because the agent is lost, and when it is back.
    async fn look_after_agent(&mut self) {
        let Some(row) = &self.row else { return };
        let name = row.agent.clone();
        let call = self.master.call(async |mut client: Client| client.get(GetRequest { name }).await);
        // What goes wrong here goes wrong for what is followed as well, which says so.
        let Ok(Ok(agent)) = timeout(GOOD, call).await else { return };
        match agents::away(&agent) {
            Some(away) if !self.agent_away => {
                self.agent_away = true;
                self.output.notice(format!("{away}: waiting for its return")).await;
            }
            None if self.agent_away => self.tell_back(agent.name).await,
            Some(_) => {}
            None => self.look_after_output().await,
        }
    }

    /// The agent is there: it may be the master that cannot take the output.
    async fn look_after_output(&mut self) {
        let Some(row) = self.row.as_ref().filter(|_| !self.stall_told) else { return };
        let request = GetCommandRequest { id: row.id.clone() };
        let call = self.master.call(async |mut client: Client| client.get_command(request).await);
        let Ok(Ok(row)) = timeout(GOOD, call).await else { return };
        if !row.output_stalls.is_empty() {
            self.stall_told = true;
            let why = printable(&row.output_stalls);
            self.output.notice(format!("the master cannot keep the output, which waits with the agent: {why}")).await;
        } else if !self.turn_told && row.state == ACCEPTED && row.started_unix_ms == 0 {
            self.look_after_turn(row).await;
        }
    }

    /// It is not known to have started. That others are says that its agent tells when it starts one.
    async fn look_after_turn(&mut self, row: CommandRow) {
        let request =
            ListCommandsRequest { agent: row.agent.clone(), state: ACCEPTED.into(), ..ListCommandsRequest::default() };
        let Ok(Ok(held)) = timeout(GOOD, commands::all(self.master, request)).await else { return };
        let running = held.iter().filter(|other| other.id != row.id && other.started_unix_ms > 0).count();
        if running > 0 {
            self.turn_told = true;
            let others = if running == 1 { "another command runs".to_owned() } else { format!("{running} others run") };
            self.output.notice(format!("waiting for its turn on {}, where {others}", printable(&row.agent))).await;
        }
    }

    async fn tell_back(&mut self, agent: String) {
        self.agent_away = false;
        self.output.notice(format!("agent {} is back", printable(&agent))).await;
    }

    async fn show(&mut self, piece: Piece) -> Result<(), Gone> {
        match (piece, &mut self.gap) {
            (Piece::Gap { bytes: more, .. }, Some((_, bytes))) => *bytes += more,
            (Piece::Gap { offset, bytes }, gap) => *gap = Some((offset, bytes)),
            (piece, _) => {
                self.tell_gap().await?;
                self.output.piece(piece).await?;
            }
        }
        Ok(())
    }

    async fn tell_gap(&mut self) -> Result<(), Gone> {
        match self.gap.take() {
            Some((offset, bytes)) => self.output.piece(Piece::Gap { offset, bytes }).await,
            None => Ok(()),
        }
    }

    fn finished(&mut self) -> Step {
        Step::Ended(Ending::Finished(self.row.take().expect("called with a row")))
    }

    /// The master has no more to say.
    async fn hung_up(&mut self) -> Step {
        match &self.row {
            Some(row) if row.outcome.is_some() => {
                // Asked again once; a master that then has no more has lost it.
                if self.end_seen_at != Some(self.position) {
                    self.end_seen_at = Some(self.position);
                    return Step::Lost(self.master.hung_up());
                }
                let missing = row.output_bytes.saturating_sub(self.position.offset());
                self.output.notice(format!("the last {missing} bytes of output are missing on the master")).await;
                self.finished()
            }
            Some(_) if matches!(self.call, Call::Logs { follow: false, .. }) => {
                Step::Ended(Ending::Detached(self.row.take().expect("just seen")))
            }
            _ => Step::Lost(self.master.hung_up()),
        }
    }

    fn failed(&self, status: &Status) -> Step {
        match self.master.trouble(status) {
            Trouble::Answer { code: Code::NotFound, message } if self.answered => {
                Step::Ended(Ending::Failed(format!("the master does not know this command any more: {message}")))
            }
            Trouble::Answer { code: Code::AlreadyExists, message } if !self.answered => Step::Anothers(message),
            Trouble::Answer { message, .. } if !self.answered => Step::Ended(Ending::Never(message)),
            // Who is let in no more: the command is not his.
            Trouble::Answer { code: Code::Unauthenticated | Code::PermissionDenied, message } if self.answered => {
                let id = self.id();
                Step::Ended(Ending::Failed(format!(
                    "{message}; the command goes on: `sloth-runner command get {id}`, by somebody who is let in"
                )))
            }
            Trouble::Answer { message, .. } => Step::Ended(Ending::Failed(message)),
            // What has answered before is a master, and will be one again.
            foreign @ Trouble::Foreign { .. } if !self.answered => Step::Ended(Ending::Never(foreign.to_string())),
            trouble => Step::Lost(trouble),
        }
    }

    fn input(&mut self, input: Option<Input>) -> io::Result<()> {
        let stdin = self.stdin.as_mut().expect("only there is input");
        match input {
            Some(Ok(data)) if !data.is_empty() => stdin.window.push(data),
            Some(Ok(_)) => stdin.window.finish(),
            Some(Err(error)) => return Err(error),
            None => return Err(io::Error::other("its reader has ended")),
        }
        Ok(())
    }
}

/// # Cancel safety
/// Safe: nothing is taken when the future is dropped.
async fn next_input(stdin: &mut Option<Stdin>) -> Option<Input> {
    match stdin {
        Some(stdin) if stdin.window.has_room() => stdin.reader.recv().await,
        _ => std::future::pending().await,
    }
}

/// Until a cancellation is asked for; for ever when nobody can ask any more.
async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|asked| *asked).await.is_err() {
        std::future::pending().await
    }
}

fn request(kind: run_request::Kind) -> RunRequest {
    RunRequest { kind: Some(kind) }
}
