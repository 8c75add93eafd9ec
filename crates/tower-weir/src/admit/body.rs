use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    gate::{Gate, How},
    permit::{Ending, Permit},
};
use crate::outcome::{Classify, Outcome, Protocol};

pin_project! {
    /// A response body that holds its call's slot until it ends, is dropped, or
    /// has been with the caller for `max_hold`.
    ///
    /// Frames, errors and size hints are those of the body within.
    pub struct HeldBody<B, G: Gate, C> {
        #[pin]
        body: B,
        held: Option<Holding<G, C>>,
        passing: Passing,
    }
}

/// What a body says when it is asked for its next frame.
pub(crate) type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// What is known of a body from what has passed of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passing {
    /// How many frames of data, up to 255.
    frames: u8,
    /// Whether anything of it had to be waited for.
    pended: bool,
}

impl Passing {
    /// Whether this is all of a body, and nobody had to wait for it. What nearly all
    /// bodies are, and less work to see than to look for all they may be.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn is_all<B: Body>(self, body: &B, polled: &Polled<B>) -> bool {
        matches!(polled, Poll::Ready(Some(Ok(frame))) if frame.is_data())
            && self.frames == 0
            && !self.pended
            && body.is_end_stream()
    }

    /// Something of a body, or nothing yet. How it ended, if it did with that.
    #[inline]
    pub(crate) fn look<B: Body>(
        &mut self,
        body: &B,
        polled: &Polled<B>,
        protocol: Protocol,
        trailers: impl FnOnce(&HeaderMap) -> Option<Outcome>,
    ) -> Option<Ending> {
        // Looked at in its place: a frame is too large to be moved about.
        if let Poll::Ready(Some(Ok(frame))) = polled
            && frame.is_data()
        {
            self.frames = self.frames.saturating_add(1);
            let in_one = self.frames == 1 && !self.pended;
            return body.is_end_stream().then(|| Ending::at_once(in_one));
        }
        self.look_for_the_end(polled, protocol, trailers)
    }

    #[inline(never)]
    fn look_for_the_end<D, E>(
        &mut self,
        polled: &Poll<Option<Result<Frame<D>, E>>>,
        protocol: Protocol,
        trailers: impl FnOnce(&HeaderMap) -> Option<Outcome>,
    ) -> Option<Ending> {
        match polled {
            Poll::Pending => {
                self.pended = true;
                None
            }
            Poll::Ready(None) => Some(Ending::at_once(self.frames == 0 && !self.pended)),
            // The upstream broke off in the middle of its answer.
            Poll::Ready(Some(Err(_))) => Some(Ending::with(Some(How::Outcome(Outcome::failed())))),
            Poll::Ready(Some(Ok(frame))) => Some(Ending {
                instead: trailers(frame.trailers_ref()?).map(How::Outcome),
                unary: protocol == Protocol::Grpc && self.frames <= 1,
                at_once: false,
            }),
        }
    }
}

pub(crate) struct Holding<G: Gate, C> {
    pub(crate) permit: Permit<G>,
    pub(crate) protocol: Protocol,
    pub(crate) classifier: C,
}

impl<B, G: Gate, C> HeldBody<B, G, C> {
    #[inline]
    pub(crate) fn new(body: B, held: Option<Holding<G, C>>) -> Self {
        Self {
            body,
            held,
            passing: Passing::default(),
        }
    }
}

/// A body that holds nothing, around the default of the one within. The clients
/// that tonic generates ask for it to be able to answer in the place of a service:
/// `with_interceptor`, where the interceptor refuses the request.
impl<B: Default, G: Gate, C> Default for HeldBody<B, G, C> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}

impl<B, G: Gate, C> std::fmt::Debug for HeldBody<B, G, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldBody")
            .field("holds", &self.held.is_some())
            .finish_non_exhaustive()
    }
}

impl<B, G, C> Body for HeldBody<B, G, C>
where
    B: Body,
    G: Gate,
    C: Classify<Response<B>>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(held) = this.held else {
            return this.body.poll_frame(cx);
        };
        held.permit.watch(true);
        let polled = this.body.as_mut().poll_frame(cx);
        held.permit.watch(false);
        let (protocol, classifier) = (held.protocol, &held.classifier);
        let trailers = |found: &_| classifier.classify_trailers(protocol, found);
        let ending = this.passing.look(&*this.body, &polled, protocol, trailers);
        if let Some(ending) = ending
            && let Some(held) = this.held.take()
        {
            held.permit.finish(ending);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
