//! `/api/events`: what happens, as it happens, one JSON document on each line.

use super::{
    Web,
    guard::{Looker, refuse, status},
};
use crate::{
    clock::sleep,
    master::FleetService,
    tool::json::{event, line},
};
use axum::{
    Extension,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use proto::{EventsReply, EventsRequest, fleet_server::Fleet};
use serde::Deserialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Request;

/// Past ones, at first and after an interruption.
const PAST: u32 = 100;
/// A line comes at least so often: a page that hears nothing for twice as long connects anew. So long, too, somebody
/// who is no longer let in can go on to look.
const TICK: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct From {
    after: u64,
}

type Replies = ReceiverStream<Result<EventsReply, tonic::Status>>;

pub async fn serve(
    State(web): State<Arc<Web>>,
    Extension(looker): Extension<Looker>,
    Query(from): Query<From>,
) -> Response {
    let Ok(place) = web.streams.clone().try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many pages follow the events of this master: close some");
    };
    let service = FleetService { core: web.core.clone() };
    let wanted = EventsRequest { name: String::new(), after_seq: from.after, follow: true, last: PAST };
    let replies = match service.events(Request::new(wanted)).await {
        Ok(replies) => replies.into_inner(),
        Err(error) => return status(&error),
    };
    let (sender, lines) = mpsc::channel(4);
    tokio::spawn(send(web, looker, replies, sender, place));
    let body = Body::from_stream(ReceiverStream::new(lines));
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Ends when nobody reads, when the session is over, or with the master.
async fn send(
    web: Arc<Web>,
    looker: Looker,
    mut replies: Replies,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
    _place: OwnedSemaphorePermit,
) {
    loop {
        let text = tokio::select! {
            reply = replies.next() => match reply {
                Some(Ok(reply)) => reply.events.iter().map(|row| line(&event(row))).collect(),
                Some(Err(_)) | None => return,
            },
            () = sleep(TICK) => "{}\n".to_owned(),
            () = sender.closed() => return,
        };
        if web.session(&looker.hash).is_none() || sender.send(Ok(text.into())).await.is_err() {
            return;
        }
    }
}
