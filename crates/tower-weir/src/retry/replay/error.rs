use std::{error::Error, fmt};

use crate::BoxError;

/// The request's own body failed while it was being sent.
///
/// It is the caller's error: it says nothing about the upstream, and no other
/// attempt is made. The body's error is the [`source`](Error::source).
///
/// It need not be in the client's error: tonic, when it finds a `Status` under
/// it, keeps only that one. [`NotReplayable::BodyFailed`] tells in any case.
#[derive(Debug)]
pub struct RequestBodyError(BoxError);

impl RequestBodyError {
    pub(super) fn boxed(error: BoxError) -> BoxError {
        // The body may be a replayed one already, of a layer further out.
        if error.is::<Self>() {
            error
        } else {
            Box::new(Self(error))
        }
    }
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's own body failed")
    }
}

impl Error for RequestBodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// The body now belongs to a later attempt.
///
/// An attempt that is given up while it still sends finds this where the rest of
/// the body was, so that the client resets its stream instead of ending it as if
/// it were whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyTakenOver;

impl fmt::Display for BodyTakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body was taken over by a later attempt")
    }
}

impl Error for BodyTakenOver {}

/// Why a body cannot be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotReplayable {
    /// It is longer than one request may record.
    OverRequestCap,
    /// All requests of the layer together had recorded all that they may.
    OverLayerCap,
    /// The body itself failed, or panicked, while it was read.
    BodyFailed,
}

impl fmt::Display for NotReplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OverRequestCap => "the body is longer than one request may record",
            Self::OverLayerCap => "the layer's memory for recorded bodies was used up",
            Self::BodyFailed => "the request's own body failed",
        })
    }
}

impl Error for NotReplayable {}
