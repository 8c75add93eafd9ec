use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use super::ServerGate;
use crate::{admit::HeldBody, outcome::HttpClassifier};

pin_project! {
    /// The response body of [`Admission`](super::Admission): the inner service's
    /// own, which keeps its operation pending until it ends, or that of a
    /// rejection.
    pub struct AdmissionBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Free { #[pin] body: B },
        Held { #[pin] body: HeldBody<B, ServerGate, HttpClassifier> },
        Rejected { #[pin] body: Full<Bytes> },
    }
}

impl<B> AdmissionBody<B> {
    pub(super) fn free(body: B) -> Self {
        Self {
            kind: Kind::Free { body },
        }
    }

    pub(super) fn held(body: HeldBody<B, ServerGate, HttpClassifier>) -> Self {
        Self {
            kind: Kind::Held { body },
        }
    }

    pub(super) fn rejected(body: Full<Bytes>) -> Self {
        Self {
            kind: Kind::Rejected { body },
        }
    }
}

/// An empty body, which tower-http's `Timeout` answers with.
impl<B> Default for AdmissionBody<B> {
    fn default() -> Self {
        Self::rejected(Full::default())
    }
}

impl<B> fmt::Debug for AdmissionBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Free { .. } => f.debug_struct("AdmissionBody").finish_non_exhaustive(),
            Kind::Held { body } => f.debug_tuple("AdmissionBody").field(body).finish(),
            Kind::Rejected { body } => f.debug_tuple("AdmissionBody").field(body).finish(),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for AdmissionBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Free { body } => body.poll_frame(cx),
            KindProj::Held { body } => body.poll_frame(cx),
            KindProj::Rejected { body } => {
                let frame = body.poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Free { body } => body.is_end_stream(),
            Kind::Held { body } => body.is_end_stream(),
            Kind::Rejected { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Free { body } => body.size_hint(),
            Kind::Held { body } => body.size_hint(),
            Kind::Rejected { body } => body.size_hint(),
        }
    }
}
