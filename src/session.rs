//! One attempt and the session that comes of it: dial, register, then messages both ways. Everything that happens is
//! an [`Event`]; nothing is decided here.

use crate::{
    config::MasterAddress,
    credentials::{Credentials, Means},
    transport::{self, Client, Dialled, Failure, Resolver},
};
use futures_core::Stream;
use link::{LossReason, Reply, Session as Number};
use proto::{AgentMessage, MasterMessage, agent_message, master_message::Kind as Down};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tonic::{Status, Streaming};

/// Messages that may wait for the connection. Few: a heartbeat stands behind them, on a slow link for as long as they
/// take. What is said of commands waits in a queue of its own for more room.
const OUTBOX: usize = 64;

/// Of these, what is kept free for heartbeats, answers to probes and the goodbye.
const RESERVED: usize = OUTBOX / 4;

/// After a stream ended, so long for the connection itself to say why.
const VERDICT_GRACE: Duration = Duration::from_millis(50);

/// Of what a master says to people so much is kept, characters: it goes into the log and the status file.
const SAID_MAX: usize = 300;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a session brings.
pub enum Event {
    /// For the link.
    Reply(Reply),
    /// Registered, with the master's word: before the link hears of it.
    Registered(proto::Registered),
    Run(proto::RunCommand),
    Cancel(String),
    FinishedAck(String),
    /// An operator wants the agent to shut down.
    Shutdown(String),
    /// The master wants to hear that this process lives.
    Probe,
}

/// An attempt or a session. Dropping it cuts the connection.
pub struct Session {
    pub number: Number,
    stage: Stage,
    outbox: mpsc::Sender<AgentMessage>,
    /// The receiving half, until the call takes it.
    outgoing: Option<Outgoing>,
    dialled: Option<Dialled>,
    renewal: Option<AbortHandle>,
    registered: bool,
}

enum Stage {
    Dialling(Boxed<Result<Dialled, Failure>>),
    /// Connected; the call begins with the registration.
    Dialled,
    Calling(Boxed<Result<Streaming<MasterMessage>, Status>>),
    Open(Streaming<MasterMessage>),
    /// The stream is over. The connection may tell the cause until then.
    Ending {
        said: Failure,
        until: Instant,
    },
    Ended,
}

impl Session {
    /// Begins to dial.
    pub fn dial(
        number: Number,
        master: MasterAddress,
        resolver: Arc<Mutex<Resolver>>,
        user_timeout: Duration,
        means: Means,
    ) -> Self {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let dialling = async move {
            let mut resolver = resolver.lock().await;
            let mut joined = None;
            let joining = async |connector| {
                let dialled = transport::connect(&master, &mut resolver, user_timeout, Some(&connector)).await?;
                joined = Some(dialled.peer);
                Ok(dialled)
            };
            let connector = means.connector(joining).await?;
            // A master answered there: else this address would be the last to be tried now.
            joined.into_iter().for_each(|peer| resolver.served(peer));
            transport::connect(&master, &mut resolver, user_timeout, connector.as_ref()).await
        };
        Self {
            number,
            stage: Stage::Dialling(Box::pin(dialling)),
            outbox,
            outgoing: Some(Outgoing(outgoing)),
            dialled: None,
            renewal: None,
            registered: false,
        }
    }

    /// Renews the agent's certificate over this connection, for as long as the session lasts.
    pub fn renew(&mut self, credentials: Arc<Credentials>, after: Duration) {
        let Some((client, exported)) =
            self.dialled.as_ref().and_then(|dialled| Some((dialled.client.clone(), dialled.exported?)))
        else {
            return;
        };
        let renewal = tokio::spawn(credentials.renew(client, exported, after)).abort_handle();
        if let Some(earlier) = self.renewal.replace(renewal) {
            earlier.abort();
        }
    }

    /// When the certificate ends that the master has shown; see [`Dialled::master_ends`].
    pub fn master_ends(&self) -> Option<u64> {
        self.dialled.as_ref()?.master_ends
    }

    /// The connection's own address and the master's, once dialled.
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.dialled.as_ref().map(|dialled| (dialled.local, dialled.peer))
    }

    /// For output calls on the same connection.
    pub fn client(&self) -> Option<Client> {
        self.dialled.as_ref().map(|dialled| dialled.client.clone())
    }

    /// Opens the session's stream with the registration. Does nothing before the dial has succeeded.
    pub fn register(&mut self, register: proto::Register) {
        self.send(agent_message::Kind::Register(register));
        let (Some(dialled), Some(outgoing)) = (&self.dialled, self.outgoing.take()) else { return };
        let mut client = dialled.client.clone();
        self.stage =
            Stage::Calling(Box::pin(async move { client.connect(outgoing).await.map(tonic::Response::into_inner) }));
    }

    /// Queues a message; `false` if the queue is full or the session is over, and then the message is not sent.
    pub fn send(&mut self, kind: agent_message::Kind) -> bool {
        self.outbox.try_send(AgentMessage { kind: Some(kind) }).is_ok()
    }

    /// Room for one more message beside the heartbeats.
    pub fn has_room(&self) -> bool {
        self.outbox.capacity() > RESERVED
    }

    /// Returns when there is room again; never once the session is over.
    ///
    /// # Cancel safety
    /// Safe: it holds nothing.
    pub fn room(&self) -> impl Future<Output = ()> + Send + use<> {
        let outbox = self.outbox.clone();
        async move {
            if outbox.reserve_many(RESERVED + 1).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// What happens next. After a failure it never returns again.
    ///
    /// # Cancel safety
    /// Safe: what was begun is kept and goes on with the next call.
    pub async fn next(&mut self) -> Event {
        loop {
            match &mut self.stage {
                Stage::Dialling(dialling) => {
                    let event = match dialling.await {
                        Ok(dialled) => {
                            self.dialled = Some(dialled);
                            self.stage = Stage::Dialled;
                            Reply::Dialled
                        }
                        Err(failure) => self.failed(failure),
                    };
                    return Event::Reply(event);
                }
                Stage::Calling(calling) => match calling.await {
                    Ok(stream) => self.stage = Stage::Open(stream),
                    Err(status) => self.ends(transport::classify_status(&status)),
                },
                Stage::Open(stream) => match stream.message().await {
                    Ok(Some(MasterMessage { kind: Some(kind) })) => return self.event(kind),
                    // Of a newer protocol: not for us.
                    Ok(Some(MasterMessage { kind: None })) => {}
                    Ok(None) => self.ends(Failure::new(LossReason::StreamClosed, "stream closed by master")),
                    Err(status) => self.ends(transport::classify_status(&status)),
                },
                Stage::Ending { said, until } => {
                    // An error on the connection is the cause of what the stream says.
                    let beneath = match &mut self.dialled {
                        Some(dialled) => timeout_at(*until, dialled.ended()).await.ok().flatten(),
                        None => None,
                    };
                    let failure = beneath.unwrap_or_else(|| said.clone());
                    return Event::Reply(self.failed(failure));
                }
                Stage::Dialled | Stage::Ended => std::future::pending().await,
            }
        }
    }

    /// Sends what is queued, closes the stream and the connection, within two seconds.
    pub async fn close_gracefully(mut self) {
        // It holds the connection open.
        self.end_renewal();
        let outbox = std::mem::replace(&mut self.outbox, mpsc::channel(1).0);
        let (stage, dialled) = (std::mem::replace(&mut self.stage, Stage::Ended), self.dialled.take());
        drop(outbox);
        if let Stage::Open(mut stream) = stage {
            // The master ends its side when it has read the goodbye.
            let _ = tokio::time::timeout(Duration::from_secs(2), async {
                while let Ok(Some(_)) = stream.message().await {}
            })
            .await;
        }
        if let Some(dialled) = dialled {
            dialled.close_gracefully().await;
        }
    }

    fn end_renewal(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
    }

    fn event(&mut self, kind: Down) -> Event {
        let interval = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        Event::Reply(match kind {
            Down::Registered(registered) => {
                self.registered = true;
                return Event::Registered(registered);
            }
            Down::RunCommand(run) => return Event::Run(run),
            Down::CancelCommand(cancel) => return Event::Cancel(cancel.id),
            Down::FinishedAck(ack) => return Event::FinishedAck(ack.id),
            Down::Shutdown(shutdown) => return Event::Shutdown(said(shutdown.reason)),
            Down::HeartbeatAck(ack) => Reply::Ack { seq: ack.seq, interval: interval(ack.interval_ms) },
            Down::RetryLater(later) => {
                Reply::RetryLater { after: Duration::from_millis(later.retry_after_ms), reason: said(later.reason) }
            }
            Down::Goodbye(goodbye) => {
                Reply::Goodbye { after: Duration::from_millis(goodbye.retry_after_ms), reason: said(goodbye.reason) }
            }
            Down::Probe(_) => return Event::Probe,
            Down::Rejected(rejected) => {
                let reason = proto::loss_reason_from(rejected.reason());
                self.failed(Failure::new(reason, rejected.message))
            }
        })
    }

    fn ends(&mut self, said: Failure) {
        self.stage = Stage::Ending { said, until: Instant::now() + VERDICT_GRACE };
    }

    fn failed(&mut self, failure: Failure) -> Reply {
        self.stage = Stage::Ended;
        let failure = if self.registered { failure.of_a_master() } else { failure };
        Reply::Failed { reason: failure.reason, detail: said(failure.detail) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_renewal();
    }
}

fn said(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(SAID_MAX) {
        text.replace_range(end.., "…");
        text.shrink_to_fit();
    }
    text
}

/// The stream that the call reads its messages from.
struct Outgoing(mpsc::Receiver<AgentMessage>);

impl Stream for Outgoing {
    type Item = AgentMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AgentMessage>> {
        self.0.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests;
