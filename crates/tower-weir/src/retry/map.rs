//! From the body that can be replayed to the one that the inner service takes.

use std::fmt;

use super::ReplayBody;

/// Turns the [`ReplayBody`] of each attempt into the body of its request.
///
/// It must be cheap, and must not read the body: it runs once an attempt.
pub trait MapReplay<B>: MapsBodies {
    /// The body that the inner service takes.
    type Out;

    /// Makes the body of one attempt.
    fn map(&self, body: ReplayBody<B>) -> Self::Out;
}

/// Marks the types that implement [`MapReplay`] for some body, whichever: what
/// sets a retry over HTTP apart from one over requests that are cloned.
pub trait MapsBodies {}

impl MapsBodies for Same {}
#[cfg(feature = "tonic")]
impl MapsBodies for ToTonic {}
impl<F> MapsBodies for MapBody<F> {}

/// Sends the [`ReplayBody`] itself. For hyper's clients and for all services
/// that are generic in their request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Same;

impl<B> MapReplay<B> for Same {
    type Out = ReplayBody<B>;

    fn map(&self, body: ReplayBody<B>) -> Self::Out {
        body
    }
}

/// Sends a [`tonic::body::Body`]. For tonic's `Channel`.
#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToTonic;

#[cfg(feature = "tonic")]
impl<B: 'static> MapReplay<B> for ToTonic {
    type Out = tonic::body::Body;

    fn map(&self, body: ReplayBody<B>) -> Self::Out {
        tonic::body::Body::new(body)
    }
}

/// Sends what a closure makes of the [`ReplayBody`].
#[derive(Clone, Copy)]
pub struct MapBody<F>(F);

impl<F> MapBody<F> {
    /// Calls `f` once for each attempt.
    pub const fn new(f: F) -> Self {
        Self(f)
    }
}

impl<F, B, Out> MapReplay<B> for MapBody<F>
where
    F: Fn(ReplayBody<B>) -> Out,
{
    type Out = Out;

    fn map(&self, body: ReplayBody<B>) -> Out {
        (self.0)(body)
    }
}

impl<F> fmt::Debug for MapBody<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

    use super::*;
    use crate::{BoxError, retry::Account};

    fn body() -> ReplayBody<Full<Bytes>> {
        ReplayBody::new(Full::from("body"), &Account::default()).0
    }

    #[tokio::test]
    async fn a_closure_makes_any_body() {
        let map = MapBody::new(ReplayBody::boxed_unsync);
        let boxed: UnsyncBoxBody<Bytes, BoxError> = map.map(Same.map(body()));
        assert_eq!(boxed.collect().await.unwrap().to_bytes(), "body");
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn tonics_body_carries_the_data_and_the_cause_of_an_error() {
        use std::error::Error;

        use http_body_util::{LengthLimitError, Limited};

        use crate::retry::RequestBodyError;

        let sent: tonic::body::Body = ToTonic.map(body());
        assert_eq!(sent.collect().await.unwrap().to_bytes(), "body");

        let failing = Limited::new(Full::<Bytes>::from("body"), 1);
        let (failing, _handle) = ReplayBody::new(failing, &Account::default());
        let status = ToTonic.map(failing).collect().await.unwrap_err();
        let source = status.source().unwrap();
        let cause = source.downcast_ref::<RequestBodyError>().unwrap();
        assert!(cause.source().unwrap().is::<LengthLimitError>());
    }
}
