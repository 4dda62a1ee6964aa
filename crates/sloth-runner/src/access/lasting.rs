//! A call lasts no longer than the token or certificate with which it was made, in either direction.

use hyper::body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Status, body::Body};

/// Why it ends, when it does.
type Ended = Pin<Box<dyn Future<Output = Status> + Send>>;

/// What is sent in a call, until the right to it ends.
pub struct Lasting {
    inner: Body,
    /// None: it has ended.
    ended: Option<Ended>,
    side: Side,
}

#[derive(Clone, Copy)]
enum Side {
    /// Of the caller: nothing more of it is read.
    Request,
    /// The caller is told why nothing more comes.
    Response,
}

/// What the caller sends.
pub fn request(inner: Body, ended: impl Future<Output = Status> + Send + 'static) -> Body {
    Body::new(Lasting { inner, ended: Some(Box::pin(ended)), side: Side::Request })
}

/// What he is answered.
pub fn response(inner: Body, ended: impl Future<Output = Status> + Send + 'static) -> Body {
    Body::new(Lasting { inner, ended: Some(Box::pin(ended)), side: Side::Response })
}

impl hyper::body::Body for Lasting {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        if let Poll::Ready(status) = ended.as_mut().poll(context) {
            self.ended = None;
            // What the call holds is let go of now, and not when the peer has read the end.
            self.inner = Body::default();
            let end = match self.side {
                Side::Request => Err(status),
                Side::Response => Ok(Frame::trailers(trailers(status))),
            };
            return Poll::Ready(Some(end));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It may end early.
        SizeHint::default()
    }
}

fn trailers(status: Status) -> http::HeaderMap {
    let mut trailers = status.into_http::<()>().into_parts().0.headers;
    trailers.remove(http::header::CONTENT_TYPE);
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Empty, StreamBody};
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

    fn open() -> (mpsc::UnboundedSender<&'static str>, Body) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let frames = UnboundedReceiverStream::new(receiver).map(|text: &str| Ok::<_, Status>(Frame::data(text.into())));
        (sender, Body::new(StreamBody::new(frames)))
    }

    async fn until(end: oneshot::Receiver<()>) -> Status {
        let _ = end.await;
        Status::unauthenticated("the token is revoked")
    }

    #[tokio::test]
    async fn an_answer_ends_with_the_reason_and_what_gave_it_is_let_go() {
        let (end, ended) = oneshot::channel();
        let (sender, body) = open();
        let mut body = response(body, until(ended));
        sender.send("one").unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        end.send(()).unwrap();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "16", "unauthenticated");
        assert_eq!(trailers["grpc-message"], "the%20token%20is%20revoked");
        assert!(sender.is_closed());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn nothing_more_is_read_of_what_a_caller_sends() {
        let (end, ended) = oneshot::channel();
        let (sender, body) = open();
        let mut body = request(body, until(ended));
        sender.send("one").unwrap();
        end.send(()).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), tonic::Code::Unauthenticated);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_call_that_is_over_before_is_as_it_was() {
        let (_end, ended) = oneshot::channel();
        let mut body = response(Body::new(Empty::<bytes::Bytes>::new()), until(ended));
        assert!(hyper::body::Body::is_end_stream(&body));
        assert!(body.frame().await.is_none());
    }
}
