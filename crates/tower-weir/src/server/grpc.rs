use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;

use super::{Reason, Rejected};
use crate::outcome::GrpcCode;

/// A rejection as gRPC says it, Trailers-Only: a head that is also the end, with
/// the pushback of gRFC A6 and a `google.rpc.Status` with the details.
pub(super) fn response(rejected: &Rejected, content_type: HeaderValue) -> Response<Full<Bytes>> {
    let code = match rejected.reason() {
        Reason::ShuttingDown => GrpcCode::Unavailable,
        _ => GrpcCode::ResourceExhausted,
    } as u8;
    let message = rejected.to_string();
    let status = STANDARD_NO_PAD.encode(status(code, &message, rejected));

    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert("grpc-status", u16::from(code).into());
    let pushback = match rejected.retry_after() {
        Some(after) => HeaderValue::from(millis(after)),
        None => HeaderValue::from_static("-1"),
    };
    headers.insert("grpc-retry-pushback-ms", pushback);
    let values = [
        ("grpc-message", percent_encoded(&message)),
        ("grpc-status-details-bin", status),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// Whole milliseconds, rounded up, in the 32 bits that gRFC A6 has for them.
fn millis(time: Duration) -> i32 {
    let millis = time.as_nanos().div_ceil(1_000_000);
    i32::try_from(millis.max(1)).unwrap_or(i32::MAX)
}

/// The encoding of `grpc-message` (gRPC over HTTP/2, "Responses").
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `google.rpc.Status`, with an `ErrorInfo` for the reason and a `RetryInfo`
/// where waiting is of use.
fn status(code: u8, message: &str, rejected: &Rejected) -> Vec<u8> {
    let mut status = Vec::new();
    varint(1, u64::from(code), &mut status);
    bytes(2, message.as_bytes(), &mut status);

    // ErrorInfo's reasons are UPPER_SNAKE_CASE.
    let reason = rejected.reason().as_str();
    let reason = reason.to_ascii_uppercase().replace('-', "_");
    let mut info = Vec::new();
    bytes(1, reason.as_bytes(), &mut info);
    bytes(2, b"tower-weir", &mut info);
    bytes(3, &any("ErrorInfo", &info), &mut status);

    if let Some(after) = rejected.retry_after() {
        let after = Duration::from_millis(u64::from(millis(after).cast_unsigned()));
        let mut delay = Vec::new();
        varint(1, after.as_secs(), &mut delay);
        varint(2, u64::from(after.subsec_nanos()), &mut delay);
        let mut info = Vec::new();
        bytes(1, &delay, &mut info);
        bytes(3, &any("RetryInfo", &info), &mut status);
    }
    status
}

fn any(name: &str, message: &[u8]) -> Vec<u8> {
    let mut any = Vec::new();
    let url = format!("type.googleapis.com/google.rpc.{name}");
    bytes(1, url.as_bytes(), &mut any);
    bytes(2, message, &mut any);
    any
}

fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    number(field << 3 | 2, out);
    number(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// A field of zero is its default, and is left out.
fn varint(field: u64, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        number(field << 3, out);
        number(value, out);
    }
}

fn number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
