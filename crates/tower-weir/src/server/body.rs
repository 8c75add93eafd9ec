use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use super::pass::Pass;

pin_project! {
    /// The response body of [`Admission`](super::Admission): the inner service's
    /// own, which keeps its operation pending until it ends, or that of a
    /// rejection.
    pub struct AdmissionBody<B> {
        #[pin]
        kind: Kind<B>,
        pass: Option<Pass>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Own { #[pin] body: B },
        // On the heap, so that it does not make all others larger.
        Rejected { body: Box<Full<Bytes>> },
    }
}

impl<B> AdmissionBody<B> {
    /// The inner service's own, of an operation that is pending while it has a pass.
    #[inline]
    pub(super) fn own(body: B, pass: Option<Pass>) -> Self {
        Self {
            kind: Kind::Own { body },
            pass,
        }
    }

    pub(super) fn rejected(body: Full<Bytes>) -> Self {
        let body = Box::new(body);
        Self {
            kind: Kind::Rejected { body },
            pass: None,
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
        let mut debug = f.debug_struct("AdmissionBody");
        debug.field("holds", &self.pass.is_some());
        if let Kind::Rejected { body } = &self.kind {
            debug.field("rejected", body);
        }
        debug.finish_non_exhaustive()
    }
}

#[cold]
#[inline(never)]
fn poll_rejected<E>(
    body: &mut Full<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, E>>> {
    let frame = Pin::new(body).poll_frame(cx);
    frame.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
}

impl<B: Body<Data = Bytes>> Body for AdmissionBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut body = match this.kind.project() {
            KindProj::Own { body } => body,
            KindProj::Rejected { body } => return poll_rejected(body, cx),
        };
        let Some(pass) = this.pass else {
            return body.poll_frame(cx);
        };
        pass.watch(true);
        let polled = body.as_mut().poll_frame(cx);
        pass.watch(false);
        if pass.is_all(&*body, &polled) {
            pass.finish_at_once();
            *this.pass = None;
        } else if let Some(ending) = pass.look(&*body, &polled) {
            pass.finish(ending);
            *this.pass = None;
        }
        polled
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { body } => body.is_end_stream(),
            Kind::Rejected { body } => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { body } => body.size_hint(),
            Kind::Rejected { body } => body.size_hint(),
        }
    }
}
