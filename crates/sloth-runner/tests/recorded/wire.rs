//! gRPC without its messages: calls of `agent.AgentRegistry` whose bytes nobody looks into.

use crate::secured::PATIENCE;
use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
    transport::{Channel, Endpoint, Server, server::Connected},
};

const METADATA: [&str; 3] = ["sloth-agent-id", "sloth-epoch", "sloth-command-id"];
const EXPORTER: &[u8] = b"EXPORTER-sloth-runner-join";

/// One side of a call.
pub struct Call {
    pub method: String,
    pub metadata: Vec<(String, String)>,
    /// What TLS exports for this connection, for a proof of possession.
    pub exported: Option<[u8; 32]>,
    /// Dropping it closes this direction; a status ends it (only of the side that was called).
    pub send: Option<mpsc::Sender<Result<Bytes, Status>>>,
    /// `None`: the other side has closed.
    pub receive: mpsc::Receiver<Result<Bytes, Status>>,
    pump: AbortHandle,
}

impl Call {
    /// Breaks it off.
    pub async fn cut(mut self) {
        self.pump.abort();
        if let Some(send) = self.send.take() {
            // One that was called says so; of one that calls the stream is reset.
            let _ = send.send(Err(Status::unavailable("the connection was cut"))).await;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

#[derive(Clone)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn pump(mut from: Streaming<Bytes>) -> (mpsc::Receiver<Result<Bytes, Status>>, AbortHandle) {
    let (to, receive) = mpsc::channel(256);
    let task = tokio::spawn(async move {
        while let Some(message) = from.message().await.transpose() {
            if to.send(message).await.is_err() {
                return;
            }
        }
    });
    (receive, task.abort_handle())
}

// ------------------------------------------------------------------------------------------------- the side that calls

/// A connection to a master.
#[derive(Clone)]
pub struct Line {
    channel: Channel,
    exported: Arc<Mutex<Option<[u8; 32]>>>,
}

impl Line {
    pub async fn open(address: &str, tls: Option<rustls::ClientConfig>) -> Self {
        let exported = Arc::default();
        let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
        let dial = Dial { tls, address: address.to_owned(), exported: Arc::clone(&exported) };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = timeout(PATIENCE, endpoint.connect_with_connector(dial)).await.expect("it connects").unwrap();
        Self { channel, exported }
    }

    pub fn exported(&self) -> Option<[u8; 32]> {
        *self.exported.lock().unwrap()
    }

    pub fn call(&self, method: &str, metadata: &[(String, String)]) -> Call {
        let (send, mut messages) = mpsc::channel(256);
        let (up, ups) = mpsc::channel(256);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.recv().await {
                if up.send(message).await.is_err() {
                    return;
                }
            }
        });
        let (to, receive) = mpsc::channel(256);
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let mut request = Request::new(ReceiverStream::new(ups));
        for (key, value) in metadata {
            let key: tonic::metadata::MetadataKey<_> = key.parse().unwrap();
            request.metadata_mut().insert(key, value.parse().unwrap());
        }
        let path = format!("/agent.AgentRegistry/{method}").parse().unwrap();
        let task = tokio::spawn(async move {
            grpc.ready().await.expect("the connection is there");
            match grpc.streaming(request, path, Raw).await {
                Ok(answer) => {
                    let mut answer = answer.into_inner();
                    while let Some(message) = answer.message().await.transpose() {
                        let _ = to.send(message).await; // the test may be over
                    }
                }
                Err(status) => drop(to.send(Err(status)).await),
            }
        });
        let (method, metadata) = (method.to_owned(), metadata.to_vec());
        Call { method, metadata, exported: self.exported(), send: Some(send), receive, pump: task.abort_handle() }
    }
}

#[derive(Clone)]
struct Dial {
    tls: Option<TlsConnector>,
    address: String,
    exported: Arc<Mutex<Option<[u8; 32]>>>,
}

impl tower_service::Service<http::Uri> for Dial {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { tls, address, exported } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = tls else {
                return Ok(TokioIo::new(Wire { stream: Box::new(stream), exported: None }));
            };
            let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
            *exported.lock().unwrap() = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).ok();
            Ok(TokioIo::new(Wire { stream: Box::new(stream), exported: None }))
        })
    }
}

// --------------------------------------------------------------------------------------------- the side that is called

/// Serves calls to whoever takes them from the channel, until the test ends.
pub async fn serve(tls: Option<rustls::ServerConfig>) -> (SocketAddr, mpsc::Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, connections) = mpsc::channel(16);
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connected) = (acceptor.clone(), connected.clone());
            tokio::spawn(async move {
                let wire = match acceptor {
                    None => Wire { stream: Box::new(stream), exported: None },
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let exported = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).ok();
                        Wire { stream: Box::new(stream), exported }
                    }
                };
                let _ = connected.send(Ok::<_, io::Error>(wire)).await;
            });
        }
    });
    let (calls, arrived) = mpsc::channel(64);
    tokio::spawn(Server::builder().add_service(Registry(calls)).serve_with_incoming(ReceiverStream::new(connections)));
    (address, arrived)
}

#[derive(Clone)]
struct Registry(mpsc::Sender<Call>);

impl NamedService for Registry {
    const NAME: &'static str = "agent.AgentRegistry";
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Registry {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let calls = self.0.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(Method { method, calls }, request).await) })
    }
}

struct Method {
    method: String,
    calls: mpsc::Sender<Call>,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let value = |key: &str| Some((key.to_owned(), request.metadata().get(key)?.to_str().ok()?.to_owned()));
        let metadata = METADATA.iter().filter_map(|key| value(key)).collect();
        let exported = request.extensions().get::<Exported>().and_then(|exported| exported.0);
        let (receive, pump) = pump(request.into_inner());
        let (send, answers) = mpsc::channel(256);
        let call = Call { method: self.method.clone(), metadata, exported, send: Some(send), receive, pump };
        let calls = self.calls.clone();
        Box::pin(async move {
            calls.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
            Ok(Response::new(Box::pin(ReceiverStream::new(answers)) as Self::ResponseStream))
        })
    }
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

struct Wire {
    stream: Box<dyn Both>,
    exported: Option<[u8; 32]>,
}

#[derive(Clone)]
struct Exported(Option<[u8; 32]>);

impl Connected for Wire {
    type ConnectInfo = Exported;

    fn connect_info(&self) -> Exported {
        Exported(self.exported)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
