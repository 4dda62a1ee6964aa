//! A TCP wire that can go dead, be cut or be closed.

use socket2::SockRef;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Through,
    /// Bytes are taken and go nowhere; the connections stay.
    Dead,
    /// Only what the agent sends goes nowhere.
    DeadUp,
    /// Only what the master sends goes nowhere.
    DeadDown,
    /// Connections are reset, new ones, too.
    Reset,
    /// Connections are closed, new ones, too.
    Closed,
    /// The agent is told what no master says.
    Nonsense,
}

pub struct Proxy {
    pub address: SocketAddr,
    wire: watch::Sender<Wire>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (wire, state) = watch::channel(Wire::Through);
        let task = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                tokio::spawn(forward(agent, target, state.clone()));
            }
        });
        Self { address, wire, task }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut agent: TcpStream, target: SocketAddr, mut wire: watch::Receiver<Wire>) {
    let Ok(mut master) = TcpStream::connect(target).await else { return };
    // A wire holds nothing back until more comes.
    if agent.set_nodelay(true).and(master.set_nodelay(true)).is_err() {
        return;
    }
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let state = *wire.borrow_and_update();
        match state {
            Wire::Reset => {
                for stream in [&agent, &master] {
                    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                }
                return;
            }
            Wire::Closed => return,
            Wire::Nonsense => {
                let _ = agent.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                // Closed at once, the connection would as well be reset.
                while let Ok(1..) = agent.read(&mut up).await {}
                return;
            }
            _ => {}
        }
        tokio::select! {
            changed = wire.changed() => if changed.is_err() { return },
            read = agent.read(&mut up) => match read {
                Ok(n) if n > 0 => {
                    let passes = !matches!(state, Wire::Dead | Wire::DeadUp);
                    if passes && master.write_all(&up[..n]).await.is_err() { return }
                }
                _ => return,
            },
            read = master.read(&mut down) => match read {
                Ok(n) if n > 0 => {
                    let passes = !matches!(state, Wire::Dead | Wire::DeadDown);
                    if passes && agent.write_all(&down[..n]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}
