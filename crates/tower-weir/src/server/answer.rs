use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::{Reason, Rejected, grpc, rejection::Why};
use crate::outcome::Protocol;

/// How a caller is told of a rejection: in its own protocol.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The request's content type, if it is gRPC.
    grpc: Option<HeaderValue>,
    rate_limit: bool,
}

impl Answer {
    pub(super) fn to(headers: &HeaderMap, rate_limit: bool) -> Self {
        let grpc = match Protocol::of(headers) {
            Protocol::Grpc => headers.get(header::CONTENT_TYPE).cloned(),
            Protocol::Http => None,
        };
        Self { grpc, rate_limit }
    }

    pub(super) fn response(&self, rejected: Rejected) -> Response<Full<Bytes>> {
        let mut response = match &self.grpc {
            Some(content_type) => grpc::response(&rejected, content_type.clone()),
            None => http(&rejected),
        };
        if self.rate_limit {
            quota(&rejected, response.headers_mut());
        }
        response.extensions_mut().insert(rejected);
        response
    }
}

/// A problem of RFC 9457, with the reason's code as an extension member.
fn http(rejected: &Rejected) -> Response<Full<Bytes>> {
    let status = match rejected.reason() {
        Reason::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::TOO_MANY_REQUESTS,
    };
    let title = status.canonical_reason().unwrap_or_default();
    let mut body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"#,
        status.as_u16()
    );
    quote(&rejected.to_string(), &mut body);
    body.push_str(r#","code":"#);
    quote(rejected.reason().as_str(), &mut body);
    body.push_str(r#","class":"#);
    quote(rejected.class(), &mut body);
    body.push('}');

    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let problem = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, problem);
    match rejected.retry_after() {
        Some(after) => {
            headers.insert(header::RETRY_AFTER, seconds(after).into());
        }
        // Who may do so safely may come again.
        None if rejected.why == Why::Cut => {}
        None => {
            let never = HeaderValue::from_static("false");
            headers.insert("x-should-retry", never);
        }
    }
    response
}

/// Whole seconds, rounded up and at least 1: a client that is told 0 comes back
/// at once.
fn seconds(time: Duration) -> u64 {
    let up = time
        .as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0));
    up.max(1)
}

/// The limit that was broken as a quota that is used up, in the words of
/// draft-ietf-httpapi-ratelimit-headers.
fn quota(rejected: &Rejected, headers: &mut HeaderMap) {
    let (quota, unit) = match rejected.why {
        Why::Pending { limit, .. } | Why::PendingOfClass { limit, .. } => {
            (limit as u64, "concurrent-requests")
        }
        Why::Bytes { limit, .. } => (limit, "content-bytes"),
        Why::Delayed { .. } | Why::Age { .. } | Why::Storage { .. } | Why::Draining | Why::Cut => {
            return;
        }
    };
    let Some(after) = rejected.retry_after() else {
        return;
    };
    let name = rejected.reason();
    let policy = format!(r#""{name}";q={quota};qu="{unit}""#);
    let state = format!(r#""{name}";r=0;t={}"#, seconds(after));
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// Writes a JSON string.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            // Writing to a string cannot fail.
            char if char < ' ' => drop(write!(out, "\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push('"');
}
