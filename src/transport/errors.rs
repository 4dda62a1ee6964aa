//! What went wrong on a connection, in the link's words.

use link::LossReason;
use std::{error::Error, io};
use tonic::{Code, Status};

/// Of something else that listens at a master's address.
const NO_MASTER: &str = "it does not serve agents (is this a Sloth Runner master?)";

/// How tonic begins where a web server answered.
const NO_GRPC: &str = "grpc-status header missing";

/// A reason, and what a person reads beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: LossReason,
    /// A fragment that reads after "cannot connect to master: " or "lost connection to master: ".
    pub detail: String,
}

impl Failure {
    pub fn new(reason: LossReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub fn protocol(detail: impl Into<String>) -> Self {
        Self::new(LossReason::Protocol, detail)
    }

    /// Of a peer that has registered this agent: it is a master, whatever came from there since.
    pub fn of_a_master(mut self) -> Self {
        if self.detail == NO_MASTER {
            self.detail = "what came from master is no HTTP/2".to_owned();
        }
        self
    }

    pub fn io(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let (reason, detail) = match error.kind() {
            // h2's own word for an end of file without a farewell.
            Kind::BrokenPipe if error.raw_os_error().is_none() => {
                (LossReason::StreamClosed, "connection closed by master".to_owned())
            }
            // The codec's word for an end in the middle of a frame.
            Kind::Other if error.raw_os_error().is_none() => {
                (LossReason::StreamClosed, "connection closed by master".to_owned())
            }
            Kind::ConnectionRefused => (LossReason::ConnectionRefused, "connection refused".to_owned()),
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
                (LossReason::ConnectionReset, "connection reset by master".to_owned())
            }
            Kind::UnexpectedEof => (LossReason::StreamClosed, "connection closed by master".to_owned()),
            Kind::TimedOut => (LossReason::ConnectionTimeout, "no answer from the network".to_owned()),
            Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
                (LossReason::Unreachable, plain(&error))
            }
            _ => (LossReason::Unreachable, plain(&error)),
        };
        Self { reason, detail }
    }

    /// Finds what happened at the bottom of the chain: the outer layers only say that something did.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut layer = Some(error);
        while let Some(error) = layer {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return super::tls::failure(error, None);
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                // tokio-rustls says by it what TLS found.
                return match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                    Some(error) => super::tls::failure(error, None),
                    None => Self::io(copy(error)),
                };
            }
            if let Some(error) = error.downcast_ref::<h2::Error>() {
                return Self::h2(error);
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && (error.is_closed() || error.is_canceled() || error.is_incomplete_message())
                && error.source().is_none()
            {
                return Self::new(LossReason::StreamClosed, "connection closed by master");
            }
            layer = error.source();
        }
        Self::protocol(error.to_string())
    }

    fn h2(error: &h2::Error) -> Self {
        if let Some(error) = error.get_io() {
            return Self::of(error);
        }
        match error.reason() {
            Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL) if error.is_remote() => {
                Self::new(LossReason::StreamClosed, "stream closed by master")
            }
            // What text makes of a frame: an answer in HTTP/1, a greeting of SSH or SMTP.
            Some(h2::Reason::FRAME_SIZE_ERROR) if error.is_library() => Self::protocol(NO_MASTER),
            _ => Self::protocol(error.to_string()),
        }
    }
}

/// Why a call ended. A connection that is reset under a stream surfaces as `Unknown`, so the code alone says little:
/// what lies beneath is looked at first.
pub fn classify_status(status: &Status) -> Failure {
    if let Some(source) = status.source() {
        return Failure::of(source);
    }
    let text = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Failure::new(LossReason::Unauthorized, text),
        Code::Ok | Code::Cancelled | Code::Unavailable | Code::Aborted | Code::ResourceExhausted => {
            Failure::new(LossReason::StreamClosed, if text.is_empty() { "stream closed by master" } else { text })
        }
        Code::Unimplemented => Failure::protocol(NO_MASTER),
        Code::Internal | Code::Unknown if text.starts_with(NO_GRPC) => Failure::protocol(NO_MASTER),
        code => Failure::protocol(format!("master answered {code:?}: {text}")),
    }
}

/// `io::Error` is not `Clone`; its kind and number are what is looked at.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// Without Rust's " (os error 113)", in lower case.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operating_system_errors_have_their_reasons() {
        for (number, reason, detail) in [
            (libc::ECONNREFUSED, LossReason::ConnectionRefused, "connection refused"),
            (libc::ECONNRESET, LossReason::ConnectionReset, "connection reset by master"),
            (libc::EPIPE, LossReason::ConnectionReset, "connection reset by master"),
            (libc::ENETUNREACH, LossReason::Unreachable, "network is unreachable"),
            (libc::EHOSTUNREACH, LossReason::Unreachable, "no route to host"),
            (libc::ETIMEDOUT, LossReason::ConnectionTimeout, "no answer from the network"),
        ] {
            assert_eq!(Failure::io(io::Error::from_raw_os_error(number)), Failure::new(reason, detail));
        }
    }

    #[test]
    fn a_peer_that_has_registered_an_agent_is_a_master_whatever_it_says_then() {
        let garbage = Failure::protocol(NO_MASTER).of_a_master();
        assert_eq!(garbage, Failure::protocol("what came from master is no HTTP/2"));
        let closed = Failure::new(LossReason::StreamClosed, "connection closed by master");
        assert_eq!(closed.clone().of_a_master(), closed);
    }

    #[test]
    fn an_end_in_the_middle_of_a_frame_is_a_close() {
        let halved = Failure::io(io::Error::other("bytes remaining on stream"));
        assert_eq!(halved, Failure::new(LossReason::StreamClosed, "connection closed by master"));
    }

    #[test]
    fn a_reset_below_a_status_is_found() {
        let reset = io::Error::from_raw_os_error(libc::ECONNRESET);
        assert_eq!(classify_status(&Status::from_error(Box::new(reset))).reason, LossReason::ConnectionReset);
        assert_eq!(classify_status(&Status::unauthenticated("no token")).reason, LossReason::Unauthorized);
        assert_eq!(classify_status(&Status::unavailable("")).reason, LossReason::StreamClosed);
        let later = classify_status(&Status::resource_exhausted("too many ask: come again"));
        assert_eq!(later, Failure::new(LossReason::StreamClosed, "too many ask: come again"));
        let no_master = Failure::protocol(NO_MASTER);
        assert_eq!(classify_status(&Status::unimplemented("")), no_master);
        let web = Status::unknown("grpc-status header missing, mapped from HTTP status code 405");
        assert_eq!(classify_status(&web), no_master);
        assert_eq!(classify_status(&Status::internal("out of ids")).detail, "master answered Internal: out of ids");
    }
}
