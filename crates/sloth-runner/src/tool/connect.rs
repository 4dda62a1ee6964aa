//! The connection to the master, and what it means when it fails.

use super::{
    address::Address,
    credential::{Bearer, Credential, Mistrust},
    table::printable,
    zone::Zoned,
};
use proto::fleet_client::FleetClient;
use std::{
    error::Error,
    fmt, io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::sync::Mutex;
use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

pub type Client = FleetClient<InterceptedService<Channel, Bearer>>;

/// For the TCP connection alone: a master that is there answers in a fraction of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent network is noticed after twice this: for a person who waits, longer would look like a hang.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A person who waits for an answer so long is told that there is none yet.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How the standard library begins what it says of a name that it could not resolve.
const NO_ADDRESS: &str = "failed to lookup address information";
/// How it is called that nothing comes back.
const SILENT: &str = "no answer";
/// Output in flight for one command: enough to fill a fast network with a few milliseconds of delay.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The master, and at most one connection to it, which all calls share.
pub struct Master {
    address: Address,
    waits: Waits,
    credential: Credential,
    /// Counted, so that of many calls that lose it together only the first closes it.
    connection: Mutex<(u64, Option<Client>)>,
    away: AtomicBool,
    /// It has answered something.
    met: AtomicBool,
    /// That there is no answer yet has been told.
    told: AtomicBool,
}

/// Between attempts to get back to a master that was lost: from the first, doubling, to the longest.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    pub first: Duration,
    pub longest: Duration,
    /// When nothing comes of a command for so long, its agent is looked at.
    pub quiet: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { first: Duration::from_millis(250), longest: Duration::from_secs(5), quiet: Duration::from_secs(5) }
    }
}

impl Waits {
    /// Before the `k`-th attempt, counted from 1.
    pub fn before(self, k: u32) -> Duration {
        self.first.saturating_mul(1 << k.saturating_sub(1).min(16)).min(self.longest)
    }
}

/// Why a call has no answer, or not the wished one.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// No connection: nothing was asked.
    Unreachable { address: Address, why: String },
    /// The connection broke, or the master is going down: what was asked may have been done. `met`: some answer came
    /// from there before.
    Lost { address: Address, why: String, met: bool },
    /// What answers is no master: it breaks the rules of HTTP/2.
    Foreign { address: Address },
    /// TLS does not come about: nothing was asked, and nothing shown.
    Mistrusted { address: Address, why: String },
    /// The master said no.
    Answer { code: Code, message: String },
}

impl Trouble {
    /// Another attempt may help.
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::Answer { .. } | Self::Foreign { .. } | Self::Mistrusted { .. })
    }

    /// The bare cause, without whom it concerns.
    pub fn why(&self) -> &str {
        match self {
            Self::Unreachable { why, .. } | Self::Lost { why, .. } | Self::Mistrusted { why, .. } => why,
            Self::Answer { message, .. } => message,
            Self::Foreign { .. } => "it does not speak gRPC",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, why } if why.starts_with(NO_ADDRESS) => write!(
                f,
                "cannot reach the master at {address}: {why}; check the name (--master, {}, or the context in use)",
                super::address::VARIABLE
            ),
            Self::Unreachable { address, why } => write!(
                f,
                "cannot reach the master at {address}: {why}; is it running there? (--master, {}, or the context in use)",
                super::address::VARIABLE
            ),
            Self::Lost { address, why, met: true } => write!(f, "lost the master at {address}: {why}; try again"),
            Self::Lost { address, why, met: false } if why == SILENT => write!(
                f,
                "the master at {address} takes connections and does not answer: does it hang, or is it another \
                 service's port?"
            ),
            Self::Lost { address, why, met: false } => {
                write!(f, "cannot talk to the master at {address}: {why}, before any answer; is it a master's port?")
            }
            Self::Foreign { address } => write!(
                f,
                "cannot talk to the master at {address}: it does not speak gRPC; is it another service's port, or one \
                 with TLS (then give a token, --ca or a context: `sloth-runner context list`)?"
            ),
            Self::Mistrusted { address, why } => write!(f, "no TLS with the master at {address}: {why}"),
            Self::Answer { message, .. } => f.write_str(message),
        }
    }
}

impl Master {
    /// In the clear, unless [`Master::with`] says otherwise.
    pub fn new(address: Address, waits: Waits) -> Self {
        Self {
            address,
            waits,
            credential: Credential::default(),
            connection: Mutex::new((0, None)),
            away: AtomicBool::new(false),
            met: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// Whether anything that was asked has been answered.
    pub fn met(&self) -> bool {
        self.met.load(Ordering::Relaxed)
    }

    /// Waits for an answer, and after `patience` without one says so on standard error, once for all calls.
    ///
    /// # Cancel safety
    /// That of `answer`.
    pub async fn patiently<T>(&self, patience: Duration, answer: impl Future<Output = T>) -> T {
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = crate::clock::sleep(patience) => {}
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            super::say(&format!("no answer from the master at {} yet", self.address));
        }
        answer.await
    }

    /// By this, whom to trust and what to show.
    pub fn with(self, credential: Credential) -> Self {
        Self { credential, ..self }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn waits(&self) -> Waits {
        self.waits
    }

    /// The connection, made now if there is none, and its number for [`Master::forget`].
    ///
    /// # Errors
    /// [`Trouble::Unreachable`], after [`CONNECT_TIMEOUT`] at the latest for each address of the host.
    ///
    /// # Cancel safety
    /// Safe: a connection that was being made is dropped.
    pub async fn client(&self) -> Result<(u64, Client), Trouble> {
        let mut connection = self.connection.lock().await;
        if let (number, Some(client)) = &*connection {
            return Ok((*number, client.clone()));
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address.authority()))
            .expect("a checked address makes a URI")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let connected = match (self.credential.dialler(&self.address), Zoned::of(&self.address)) {
            (Some(dialler), _) => endpoint.connect_with_connector(dialler).await,
            (None, Some(zoned)) => endpoint.connect_with_connector(zoned).await,
            (None, None) => endpoint.connect().await,
        };
        let channel =
            connected.map_err(|error| match mistrust(&error).or_else(|| self.credential.refusal(&error)) {
                Some(why) => Trouble::Mistrusted { address: self.address.clone(), why },
                None => Trouble::Unreachable { address: self.address.clone(), why: cause(&error) },
            })?;
        *connection = (connection.0 + 1, Some(FleetClient::with_interceptor(channel, self.credential.bearer())));
        Ok((connection.0, connection.1.clone().expect("it was just made")))
    }

    /// The connection with this number is of no use any more: the next call makes a new one.
    pub async fn forget(&self, number: u64) {
        let mut connection = self.connection.lock().await;
        if connection.0 == number {
            connection.1 = None;
        }
    }

    /// What `status` means.
    pub fn trouble(&self, status: &Status) -> Trouble {
        let (address, answered) = (self.address.clone(), status.source().is_none());
        if !answered && breaks_http2(status) {
            return Trouble::Foreign { address };
        }
        if let Some(why) = self.credential.refusal(status) {
            return Trouble::Mistrusted { address, why };
        }
        if answered {
            self.met.store(true, Ordering::Relaxed);
        }
        let met = self.met.load(Ordering::Relaxed);
        match status.code() {
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Aborted => {
                let why = if answered { printable(status.message()) } else { cause(status) };
                let why = if why.is_empty() { "the connection broke".to_owned() } else { why };
                Trouble::Lost { address, why, met }
            }
            // A connection that breaks under a stream has any code, but always a source; an answer never has one.
            _ if !answered => Trouble::Lost { address, why: cause(status), met },
            Code::Unimplemented => Trouble::Answer {
                code: Code::Unimplemented,
                message: format!("what answers at {address} does not know this call: is it a master of this version?"),
            },
            code if status.message().is_empty() => Trouble::Answer { code, message: code.description().to_owned() },
            // What agents say of themselves is in some answers.
            code => Trouble::Answer { code, message: printable(status.message()) },
        }
    }

    /// The master closed the stream before all was said.
    pub fn hung_up(&self) -> Trouble {
        let met = self.met.load(Ordering::Relaxed);
        Trouble::Lost { address: self.address.clone(), why: "connection closed by master".to_owned(), met }
    }

    /// One call with one answer, on a connection of its own making if there is none. Tried once.
    ///
    /// # Errors
    /// As it came, and nothing is known to have been done but for [`Trouble::Unreachable`].
    pub async fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let answer = async {
            let (number, client) = self.client().await?;
            Ok((number, call(client).await))
        };
        let (number, reply) = self.patiently(PATIENCE, answer).await?;
        match reply {
            Ok(reply) => {
                self.met.store(true, Ordering::Relaxed);
                Ok(reply.into_inner())
            }
            Err(status) => {
                let trouble = self.trouble(&status);
                if trouble.is_passing() {
                    self.forget(number).await;
                }
                Err(trouble)
            }
        }
    }

    /// The line that says so, the first time in an outage.
    pub fn say_lost(&self, trouble: &Trouble) -> Option<String> {
        let first = !self.away.swap(true, Ordering::Relaxed);
        let met = self.met.load(Ordering::Relaxed);
        let what = if met { "lost the master" } else { "no answer from the master" };
        first.then(|| format!("{what} at {} ({}); trying again…", self.address, trouble.why()))
    }

    /// It answers: the line that says so, the first time after an outage.
    pub fn say_back(&self) -> Option<String> {
        self.met.store(true, Ordering::Relaxed);
        self.away.swap(false, Ordering::Relaxed).then(|| "back with the master".to_owned())
    }
}

/// What TLS found, if that is why there is no connection.
fn mistrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(Mistrust(why)) = io.and_then(|inner| inner.downcast_ref()) {
            return Some(why.clone());
        }
        next = error.source();
    }
    None
}

/// What was received is no HTTP/2. The library shows this in its text alone; "received" instead of "detected" would be
/// the other side's complaint.
fn breaks_http2(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("connection error detected: ") {
            return true;
        }
        next = error.source();
    }
    false
}

/// The innermost cause, in few words.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return "connection refused".to_owned(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return "connection reset".to_owned(),
                io::ErrorKind::TimedOut => return SILENT.to_owned(),
                io::ErrorKind::HostUnreachable => return "host unreachable".to_owned(),
                io::ErrorKind::NetworkUnreachable => return "network unreachable".to_owned(),
                // As of a master that was killed, in the words of the TLS library otherwise.
                io::ErrorKind::UnexpectedEof => return "the master closed the connection".to_owned(),
                _ => {}
            }
        }
        innermost = error;
        next = error.source();
    }
    let text = innermost.to_string();
    // What HTTP/2 says of pings that nobody answers.
    if text.ends_with("operation timed out") {
        return SILENT.to_owned();
    }
    if text.contains("without sending TLS close_notify") {
        return "the master closed the connection".to_owned();
    }
    // HTTP/2 keeps the cause of a broken stream to itself, but for its text.
    if text.contains("broken pipe") || text.contains("reset") { "connection reset".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<u128> = (1..=8).map(|k| Waits::default().before(k).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        assert_eq!(Waits::default().before(u32::MAX), Duration::from_secs(5));
    }

    #[test]
    fn an_answer_is_told_from_a_broken_connection() {
        let master = Master::new(Address::parse("a:1").unwrap(), Waits::default());
        let answer = master.trouble(&Status::not_found("no agent x"));
        assert!(!answer.is_passing());
        assert_eq!(answer.to_string(), "no agent x");
        assert!(master.trouble(&Status::unavailable("shutting down")).is_passing());
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(master.trouble(&broken).why(), "connection reset");
        assert!(master.trouble(&broken).is_passing());
    }

    #[test]
    fn an_outage_is_told_once() {
        let master = Master::new(Address::parse("a:1").unwrap(), Waits::default());
        assert!(master.say_lost(&master.hung_up()).unwrap().starts_with("no answer from the master at a:1 ("));
        assert!(master.say_back().is_some());
        assert_eq!(master.say_back(), None);
        assert!(master.say_lost(&master.hung_up()).unwrap().contains("a:1 (connection closed by master)"));
        assert_eq!(master.say_lost(&master.hung_up()), None);
        assert!(master.say_back().is_some());
        assert_eq!(master.say_back(), None);
    }

    /// Reads a little of what comes, answers, and closes.
    fn server(answer: &'static [u8]) -> Master {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 16 << 10]);
                let _ = stream.write_all(answer);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        Master::new(Address::parse(&address).unwrap(), Waits::default())
    }

    #[tokio::test]
    async fn what_is_no_master_is_not_called_a_lost_one() {
        let asked = async |master: &Master| {
            let request = proto::GetRequest::default();
            master.call(async move |mut client| client.get(request).await).await.unwrap_err()
        };
        for answer in
            [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\x15\x03\x03\x00\x02\x02\x46", b"SSH-2.0-OpenSSH\r\n"]
        {
            let master = server(answer);
            let trouble = asked(&master).await;
            let expected = format!("cannot talk to the master at {}: it does not speak gRPC;", master.address);
            assert!(trouble.to_string().starts_with(&expected) && !trouble.is_passing(), "{trouble}");
        }
        let trouble = asked(&server(b"")).await;
        assert!(trouble.to_string().ends_with(", before any answer; is it a master's port?"), "{trouble}");
        assert!(trouble.is_passing());
    }

    #[tokio::test]
    async fn a_name_that_has_no_address_is_to_be_checked() {
        // No system resolves this name (RFC 6761).
        let master = Master::new(Address::parse("nohost.invalid").unwrap(), Waits::default());
        let said = master.client().await.unwrap_err().to_string();
        assert!(said.starts_with("cannot reach the master at nohost.invalid:50050: failed to lookup"), "{said}");
        assert!(
            said.ends_with("; check the name (--master, SLOTH_RUNNER_MASTER_ADDR, or the context in use)"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_refused_connection_says_where_and_what_to_try() {
        // Held, so that no other test is given it, and without a listener.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = held.local_addr().unwrap().port();
        let master = Master::new(Address::parse(&format!("127.0.0.1:{port}")).unwrap(), Waits::default());
        assert_eq!(
            master.client().await.unwrap_err().to_string(),
            format!(
                "cannot reach the master at 127.0.0.1:{port}: connection refused; is it running there? (--master, \
                 SLOTH_RUNNER_MASTER_ADDR, or the context in use)"
            )
        );
    }
}
