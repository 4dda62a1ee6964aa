use super::*;
use proto::{
    OutputAck, OutputMessage,
    agent_registry_server::{AgentRegistry, AgentRegistryServer},
};
use std::time::Duration;
use tokio::{net::TcpListener, time::timeout};
use tonic::{Request, Response, async_trait, transport::server::TcpIncoming};

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends every call with this error, and leaves the connection up.
struct Refuses;

/// A stream that brings nothing.
struct Nothing<T>(std::marker::PhantomData<T>);

impl<T> Stream for Nothing<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

#[async_trait]
impl AgentRegistry for Refuses {
    type ConnectStream = Nothing<MasterMessage>;
    type SendOutputStream = Nothing<OutputAck>;

    async fn connect(&self, _: Request<Streaming<AgentMessage>>) -> Result<Response<Self::ConnectStream>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn check(&self, _: Request<proto::CheckRequest>) -> Result<Response<proto::CheckReply>, Status> {
        Err(Status::unimplemented("not today"))
    }

    async fn send_output(
        &self,
        _: Request<Streaming<OutputMessage>>,
    ) -> Result<Response<Self::SendOutputStream>, Status> {
        Err(Status::unavailable("not today"))
    }
}

async fn dialled() -> Session {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let server = tonic::transport::Server::builder().add_service(AgentRegistryServer::new(Refuses));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let master = MasterAddress { host: "127.0.0.1".into(), port };
    let credentials = Arc::new(Credentials::new(None, [1; 16], "lady"));
    let means = Means { tls: None, token: None, credentials };
    let mut session = Session::dial(link::Session(1), master, Arc::default(), PATIENCE, means);
    let event = timeout(PATIENCE, session.next()).await.expect("it is dialled");
    assert!(matches!(event, Event::Reply(Reply::Dialled)));
    session
}

#[tokio::test]
async fn an_end_is_told_although_the_wait_for_its_cause_was_dropped() {
    let mut session = dialled().await;
    session.register(proto::Register::default());
    // Whatever happens elsewhere drops the future that waits for the next event, again and again.
    let told = timeout(PATIENCE, async {
        loop {
            if let Ok(event) = timeout(VERDICT_GRACE / 10, session.next()).await {
                return event;
            }
        }
    });
    match told.await.expect("the end is told") {
        Event::Reply(Reply::Failed { reason, detail }) => {
            assert_eq!((reason, detail.as_str()), (link::LossReason::StreamClosed, "not today"));
        }
        _ => panic!("the session was refused"),
    }
}
