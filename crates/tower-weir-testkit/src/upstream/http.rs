use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;
use tonic::body::Body;

use super::{
    LARGEST_BODY,
    engine::{Engine, Order},
    ids,
    phase::Answer,
    throttle,
};

/// What is read of a body that nobody wants before the connection is closed
/// instead, as servers do: HTTP/1 can keep the connection only at its end.
const DISCARDED: usize = 1 << 20;

/// Stores the records of a request. Its body is read while it waits for a slot,
/// so that a caller who goes away meanwhile is noticed.
pub(super) async fn upsert(
    engine: &Arc<Engine>,
    order: &Order,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let read = async { Ok(Limited::new(&mut body, LARGEST_BODY).collect().await) };
    let (place, read) = match tokio::try_join!(engine.admit(&head.headers), read) {
        Ok(both) => both,
        Err(rejected) => {
            let refused = throttle::worded(rejected, order.refusal());
            return turn_away(head.version, body, refused).await;
        }
    };
    let Ok(body) = read else {
        return error(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let body = body.to_bytes();
    let ids = match body.is_empty() {
        true => Vec::new(),
        false => match ids::of_json(&body) {
            Ok(ids) => ids,
            Err(_) => return error(StatusCode::BAD_REQUEST),
        },
    };
    let accepted = ids.len();
    place.serve(order, ids).await;
    json(&json!({ "accepted": accepted }))
}

/// Answers a request as its trouble says.
pub(super) async fn answer(answer: &Answer, request: Request<Incoming>) -> Response<Body> {
    let mut response = error(answer.http);
    if let Some(after) = answer.retry_after {
        retry_after(response.headers_mut(), after);
    }
    turn_away(request.version(), request.into_body(), response).await
}

/// Gives a request that will not be served its answer.
async fn turn_away(
    version: Version,
    body: Incoming,
    mut response: Response<Body>,
) -> Response<Body> {
    let whole = discard(body).await;
    if version < Version::HTTP_2 && !whole {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

async fn discard(mut body: Incoming) -> bool {
    let mut left = DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

/// Says how long to stay away, in whole seconds, rounded up.
pub(super) fn retry_after(headers: &mut HeaderMap, after: Duration) {
    headers.insert(RETRY_AFTER, whole_seconds(after).into());
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn error(status: StatusCode) -> Response<Body> {
    let mut response = json(&json!({ "error": status.canonical_reason() }));
    *response.status_mut() = status;
    response
}

pub(super) fn json<T: Serialize>(value: &T) -> Response<Body> {
    // only a map whose keys are no strings could fail, and none comes here
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::new(Full::from(text)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
