//! What a gRPC error says of a message that was too large.

use crate::BoxError;

/// Which message was too large: only if it was the request is nothing done.
///
/// gRPC has no code for it. tonic says OUT_OF_RANGE, all others RESOURCE_EXHAUSTED
/// since 2017 (grpc/grpc#10612), and both of whatever message they read or write, so
/// the text has to tell. It tells what it was that failed, and not on which side:
/// a tonic client that cannot read the answer says the same, to the letter, as a
/// tonic server that cannot read the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "tonic"),
    allow(dead_code, reason = "nobody else says it")
)]
pub(super) enum Oversize {
    /// The server did not read it.
    Request,
    /// The server has done what it was asked.
    Answer,
    /// Either, of so many bytes if the text says so.
    Unclear(Option<usize>),
}

impl Oversize {
    /// What the error says, if it says that a message was too large.
    #[cfg(feature = "tonic")]
    pub(super) fn of(error: &BoxError) -> Option<Self> {
        let first: &(dyn std::error::Error + 'static) = error.as_ref();
        let status = std::iter::successors(Some(first), |link| link.source())
            .find_map(|link| link.downcast_ref::<tonic::Status>())?;
        match status.code() {
            tonic::Code::OutOfRange => by_tonic(status.message()),
            tonic::Code::ResourceExhausted => by_others(status.message()),
            _ => None,
        }
    }

    #[cfg(not(feature = "tonic"))]
    pub(super) fn of(_: &BoxError) -> Option<Self> {
        None
    }
}

/// Older versions say neither "decoded" nor "encoded". A client's own limit for what
/// it writes never comes here: such a request ends as one whose body failed.
#[cfg(feature = "tonic")]
fn by_tonic(text: &str) -> Option<Oversize> {
    if text.contains("encoded message length too large") {
        return Some(Oversize::Answer);
    }
    let (_, found) = text.split_once("message length too large")?;
    let found = found.split_once("found ").map(|(_, rest)| rest);
    let digits = found.and_then(|rest| rest.split(' ').next());
    let found = digits.and_then(|digits| digits.parse().ok());
    Some(Oversize::Unclear(found))
}

/// grpc-go, gRPC's C core and grpc-java, none of which is the client here; and tonic
/// on either side, of what it unpacks.
#[cfg(feature = "tonic")]
fn by_others(text: &str) -> Option<Oversize> {
    let text = text.to_ascii_lowercase();
    let has = |part| text.contains(part);
    if has("received message larger than max") || has("message exceeds maximum size") {
        Some(Oversize::Request)
    } else if has("message larger than max") {
        Some(Oversize::Answer)
    } else {
        has("exceeded while decompressing message").then_some(Oversize::Unclear(None))
    }
}

#[cfg(all(test, feature = "tonic"))]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn the_text_tells_which_message_it_was() {
        use Oversize::{Answer, Request, Unclear};
        for (code, text, expected) in [
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 24 bytes, the limit is: 5 bytes",
                Some(Unclear(Some(24))),
            ),
            (
                Code::OutOfRange,
                "Error, message length too large: found 24 bytes, the limit is: 5 bytes",
                Some(Unclear(Some(24))),
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large",
                Some(Unclear(None)),
            ),
            (
                Code::OutOfRange,
                "Error, encoded message length too large: found 24 bytes, the limit is: 5 bytes",
                Some(Answer),
            ),
            (Code::OutOfRange, "page 7 of 6", None),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (24 vs. 5)",
                Some(Request),
            ),
            (
                Code::ResourceExhausted,
                "SERVER: Received message larger than max (24 vs. 5)",
                Some(Request),
            ),
            (
                Code::ResourceExhausted,
                "gRPC message exceeds maximum size 5: 24",
                Some(Request),
            ),
            (
                Code::ResourceExhausted,
                "trying to send message larger than max (24 vs. 5)",
                Some(Answer),
            ),
            (
                Code::ResourceExhausted,
                "Sent message larger than max (24 vs. 5)",
                Some(Answer),
            ),
            (
                Code::ResourceExhausted,
                "Error decompressing: size limit, of 5 bytes, exceeded while decompressing message",
                Some(Unclear(None)),
            ),
            (Code::ResourceExhausted, "quota", None),
            (
                Code::Internal,
                "grpc: received message larger than max (24 vs. 5)",
                None,
            ),
        ] {
            let error: BoxError = Status::new(code, text).into();
            assert_eq!(Oversize::of(&error), expected, "{code:?}: {text}");
        }
        assert_eq!(Oversize::of(&"no status".into()), None);
    }
}
