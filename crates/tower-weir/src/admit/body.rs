use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
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
        // How many frames of data have passed, up to 255.
        frames: u8,
        // Whether anything of it had to be waited for.
        pended: bool,
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
            frames: 0,
            pended: false,
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

#[inline]
fn finish<G: Gate, C>(held: &mut Option<Holding<G, C>>, ending: Ending) {
    if let Some(held) = held.take() {
        held.permit.finish(ending);
    }
}

fn watch<G: Gate, C>(held: &mut Option<Holding<G, C>>, running: bool) {
    if let Some(held) = held {
        held.permit.watch(running);
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
        watch(this.held, true);
        let polled = this.body.as_mut().poll_frame(cx);
        watch(this.held, false);
        // Looked at in its place: a frame is too large to be moved about.
        let Poll::Ready(frame) = &polled else {
            *this.pended = true;
            return polled;
        };
        let at_once = |in_one| Ending::at_once(in_one && !*this.pended);
        match frame {
            None => finish(this.held, at_once(*this.frames == 0)),
            // The upstream broke off in the middle of its answer.
            Some(Err(_)) => finish(
                this.held,
                Ending::with(Some(How::Outcome(Outcome::failed()))),
            ),
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(held)) = (frame.trailers_ref(), this.held.as_ref()) {
                    let instead = held.classifier.classify_trailers(held.protocol, trailers);
                    let ending = Ending {
                        instead: instead.map(How::Outcome),
                        unary: held.protocol == Protocol::Grpc && *this.frames <= 1,
                        at_once: false,
                    };
                    finish(this.held, ending);
                } else {
                    *this.frames = this.frames.saturating_add(1);
                    if this.body.is_end_stream() {
                        finish(this.held, at_once(*this.frames == 1));
                    }
                }
            }
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
