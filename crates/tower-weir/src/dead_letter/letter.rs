use std::{
    error::Error,
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, request, response,
};

use crate::{
    BoxError,
    error::{BudgetExhausted, QueueFull, QueueTimeout},
    outcome::{Fault, GrpcCode, Processed, Protocol, own_fault},
    retry::NotReplayable,
};

/// The header that carries an idempotency key
/// (draft-ietf-httpapi-idempotency-key-header).
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request that has finally failed, with what is known of why.
///
/// Times and durations are in whole milliseconds. Under the feature
/// `dead-letter-file` it implements serde's traits; the JSON is that of the
/// [file](super::file).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Letter {
    /// When the request had failed.
    pub at: SystemTime,
    /// The request's method.
    pub method: Method,
    /// The request's URI.
    pub uri: Uri,
    /// The request's headers, without those [left out](Self::left_out), and with
    /// the idempotency key that a layer further in has given it.
    pub headers: HeaderMap,
    /// The names of the headers that the request had and the letter has not.
    pub left_out: Vec<HeaderName>,
    /// The request's body. Its trailers, if it had any, are not kept.
    pub body: LetterBody,
    /// The attempts that were made, the first one first. None if the request
    /// passed no layer that writes them down.
    pub attempts: Vec<LetterAttempt>,
    /// Why no other attempt was made, in words.
    pub ending: Option<String>,
    /// Whether an upstream may have acted on the request.
    pub processed: Processed,
    /// What the caller got.
    pub result: LetterResult,
}

/// A letter's copy of the request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterBody {
    /// All of it; empty if the request had none.
    Whole(Bytes),
    /// It could not be had.
    Absent(Absent),
}

/// Why a letter has no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Absent {
    /// The request passed no layer that records bodies.
    NotRecorded,
    /// It is longer than what may be recorded of a request, or than what a letter
    /// may hold.
    TooLong,
    /// All requests, or all letters that were pending, together took up the memory
    /// there was.
    NoRoom,
    /// The body itself failed while it was read.
    Failed,
    /// It was not there in time.
    TimedOut,
}

impl Absent {
    /// The word used in files and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRecorded => "not_recorded",
            Self::TooLong => "too_long",
            Self::NoRoom => "no_room",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRecorded => "the body was not recorded",
            Self::TooLong => "the body was too long to be recorded",
            Self::NoRoom => "there was no memory left for the body",
            Self::Failed => "the body failed while it was read",
            Self::TimedOut => "the body was not read in time",
        })
    }
}

impl Error for Absent {}

impl From<NotReplayable> for Absent {
    fn from(why: NotReplayable) -> Self {
        match why {
            NotReplayable::OverRequestCap => Self::TooLong,
            NotReplayable::OverLayerCap => Self::NoRoom,
            NotReplayable::BodyFailed => Self::Failed,
        }
    }
}

/// One attempt of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LetterAttempt {
    /// When it began, its wait for a slot included.
    pub at: SystemTime,
    /// The host that was called; empty where requests name none.
    pub host: String,
    /// How long it took, to the head of the answer. `None` if it was cut short.
    pub took: Option<Duration>,
    /// What it came to: a status, a gRPC code, or the word of a
    /// [`Fault`]. `None` if it was cut short.
    pub cause: Option<String>,
    /// The wait that was planned before the next one.
    pub delay: Option<Duration>,
}

/// What the caller of a failed request got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LetterResult {
    /// A response.
    Response {
        /// Its status.
        status: StatusCode,
        /// The status of a gRPC response, if its headers have one.
        grpc: Option<GrpcStatus>,
    },
    /// An error.
    Error {
        /// What kind: `circuit_open`, `queue_full`, `queue_timeout`,
        /// `budget_exhausted`, or the word of a [`Fault`].
        fault: String,
        /// The error with its causes.
        text: String,
    },
    /// Nothing: the caller went away.
    Cancelled,
}

/// What a gRPC response said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcStatus {
    /// The code's name in the specification.
    pub code: String,
    /// Its message, as it was sent (percent-encoded).
    pub message: Option<String>,
}

impl Letter {
    /// The request, to be sent again: with its whole body, and without the
    /// headers that were left out.
    ///
    /// # Errors
    ///
    /// When the letter has no body.
    pub fn request(&self) -> Result<Request<Bytes>, Absent> {
        match &self.body {
            LetterBody::Whole(body) => Ok(self.request_with(body.clone())),
            LetterBody::Absent(why) => Err(*why),
        }
    }

    /// The request with another body.
    pub fn request_with<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// The key by which an upstream tells repetitions: the `Idempotency-Key`.
    pub fn idempotency_key(&self) -> Option<&HeaderValue> {
        self.headers.get(KEY)
    }
}

impl LetterResult {
    /// What came, as far as a letter tells of it.
    pub(super) fn of(
        request: &request::Parts,
        result: Result<&response::Parts, &BoxError>,
    ) -> Self {
        match result {
            Ok(response) => Self::Response {
                status: response.status,
                grpc: grpc_status(&request.headers, &response.headers),
            },
            Err(error) => Self::Error {
                fault: fault(error).to_owned(),
                text: chain(error),
            },
        }
    }
}

/// The `grpc-status` among the headers of an answer to a gRPC request.
pub(super) fn grpc_code(request: &HeaderMap, response: &HeaderMap) -> Option<GrpcCode> {
    let status = response.get("grpc-status")?;
    (Protocol::of(request) == Protocol::Grpc).then(|| GrpcCode::parse(status.as_bytes()))
}

fn grpc_status(request: &HeaderMap, response: &HeaderMap) -> Option<GrpcStatus> {
    let message = response.get("grpc-message");
    Some(GrpcStatus {
        code: grpc_code(request, response)?.as_str().to_owned(),
        message: message.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()),
    })
}

fn fault(error: &BoxError) -> &'static str {
    #[cfg(feature = "circuit-breaker")]
    if error.is::<crate::error::CircuitOpen>() {
        return "circuit_open";
    }
    if error.is::<QueueFull>() {
        "queue_full"
    } else if error.is::<QueueTimeout>() {
        "queue_timeout"
    } else if error.is::<BudgetExhausted>() {
        "budget_exhausted"
    } else {
        Fault::of(error.as_ref()).as_str()
    }
}

/// An error with its causes, without those that the one before spells out. Our
/// own errors have no cause but the `Status` that says the same.
pub(super) fn chain(error: &BoxError) -> String {
    let mut text = error.to_string();
    if own_fault(error.as_ref()).is_some() {
        return text;
    }
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
