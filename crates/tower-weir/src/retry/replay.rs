//! Request bodies that can be sent more than once.
//!
//! Most bodies can be read only once, and those of tonic and the boxed ones are
//! not `Clone`. [`ReplayBody`] goes out in their place. The first attempt reads
//! the caller's body through it, and what it reads is recorded as it goes by,
//! so nothing waits and nothing is read that is not sent. The frames on the
//! record are the very buffers that were sent, counted once more and not copied.
//!
//! When a retry is decided on, [`ReplayHandle::take_over`] takes the body from
//! the attempt before: the new one plays the record, then goes on reading where
//! the old one stopped. The old attempt may well be sending still, since an
//! upstream can refuse a request of which it has seen only the beginning. It is
//! woken, reads no further and ends with [`BodyTakenOver`].
//!
//! The record is bounded, for each request and for all requests of a layer
//! together ([`Account`]). Beyond that the attempt under way goes on, the record
//! is dropped and the body [cannot be replayed](NotReplayable). A
//! `Full<Bytes>` and an empty body are not recorded and have no bound: they are
//! cloned.

mod account;
mod error;
mod shared;
mod tape;

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    convert::Infallible,
    fmt,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use self::shared::{Cell, Shared, lock};
pub use self::{
    account::Account,
    error::{BodyTakenOver, NotReplayable, RequestBodyError},
};
use crate::BoxError;

/// One attempt's view of a request body of type `B`.
///
/// Size hint, end of stream, data and trailers are those of the caller's body,
/// on the first attempt and on every other, so that each is framed alike:
/// content-length included.
///
/// `B` tells the compiler which body this one stands for. Its value is kept
/// behind a pointer that all attempts share.
///
/// # Errors
///
/// [`RequestBodyError`] when the caller's body fails, and [`BodyTakenOver`] when
/// another attempt has taken it over.
pub struct ReplayBody<B> {
    kind: Kind,
    body: PhantomData<fn() -> B>,
}

enum Kind {
    Whole(Full<Bytes>),
    Recorded(Reader),
}

struct Reader {
    cell: Arc<Cell>,
    generation: u64,
    /// Whether it has given its last frame, or an error.
    done: bool,
}

impl<B> ReplayBody<B> {
    fn from_kind(kind: Kind) -> Self {
        Self {
            kind,
            body: PhantomData,
        }
    }
}

impl<B> ReplayBody<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Puts `body` behind a first attempt, and a handle from which further
    /// attempts get it. Nothing is read yet.
    ///
    /// What is recorded counts in `account`. Recording ends when the last handle
    /// is dropped: drop it when no attempt will follow, and the memory is free
    /// while the attempt under way may go on for as long as it likes.
    pub fn new(body: B, account: &Account) -> (Self, ReplayHandle) {
        match whole(body) {
            Ok(full) => (
                Self::from_kind(Kind::Whole(full.clone())),
                ReplayHandle(Kept::Whole(full)),
            ),
            Err(body) => {
                let cell: Arc<Cell> = Arc::new(Mutex::new(Shared::new(body, account)));
                let reader = Reader::new(&cell, 0);
                (
                    Self::from_kind(Kind::Recorded(reader)),
                    ReplayHandle(Kept::Recorded(cell)),
                )
            }
        }
    }
}

/// A body that can be cloned instead of being recorded, or the body as it was.
fn whole<B: Body + 'static>(body: B) -> Result<Full<Bytes>, B> {
    let mut body = Some(body);
    if let Some(full) = (&mut body as &mut dyn Any).downcast_mut::<Option<Full<Bytes>>>() {
        return Ok(mem::take(full).unwrap_or_default());
    }
    match body {
        Some(body) if !(body.is_end_stream() && body.size_hint().exact() == Some(0)) => Err(body),
        _ => Ok(Full::default()),
    }
}

impl<B> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Whole(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never: Infallible| match never {}),
            Kind::Recorded(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(full) => full.is_end_stream(),
            Kind::Recorded(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(full) => full.size_hint(),
            Kind::Recorded(reader) => reader.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

impl Reader {
    fn new(cell: &Arc<Cell>, generation: u64) -> Self {
        Self {
            cell: Arc::clone(cell),
            generation,
            done: false,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let mut shared = lock(&self.cell);
        if !shared.is_turn_of(self.generation) {
            return Poll::Ready(Some(Err(Box::new(BodyTakenOver))));
        }
        let polled = shared.poll_frame(cx);
        self.done = matches!(polled, Poll::Ready(None | Some(Err(_))));
        let waiting = self.done.then(|| shared.finish_reader());
        let old = polled.is_pending().then(|| shared.wait(cx.waker()));
        drop(shared);
        drop(old);
        waiting.into_iter().flatten().for_each(Waker::wake);
        polled
    }

    fn is_end_stream(&self) -> bool {
        if self.done {
            return true;
        }
        let shared = lock(&self.cell);
        // False after a take-over, even when all was sent: a client that took
        // the end for granted would not ask, and would not find the error.
        shared.is_turn_of(self.generation) && shared.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.done {
            return SizeHint::with_exact(0);
        }
        let shared = lock(&self.cell);
        if shared.is_turn_of(self.generation) {
            shared.size_hint()
        } else {
            SizeHint::new()
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let waiting = lock(&self.cell).drop_reader(self.generation);
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// From where each further attempt gets the request's body.
///
/// The body's type does not show, so that a handle can be left in a request's
/// extensions for another layer: one further in that repeats the request too, or
/// one further out that keeps what failed. Clones are handles on the same body.
/// While one of them exists, what attempts read is recorded.
pub struct ReplayHandle(Kept);

enum Kept {
    Whole(Full<Bytes>),
    Recorded(Arc<Cell>),
}

impl ReplayHandle {
    /// The body from its beginning. An attempt that had it before gets no more
    /// of it: it is woken and ends with [`BodyTakenOver`].
    ///
    /// `B` may be any type; that of the original body where it matters.
    ///
    /// # Errors
    ///
    /// When the beginning of the body is gone. The attempt that has the body
    /// then keeps it, and goes on.
    pub fn take_over<B>(&self) -> Result<ReplayBody<B>, NotReplayable> {
        let kind = match &self.0 {
            Kept::Whole(full) => Kind::Whole(full.clone()),
            Kept::Recorded(cell) => {
                let (generation, waker) = lock(cell).take_over()?;
                if let Some(waker) = waker {
                    waker.wake();
                }
                Kind::Recorded(Reader::new(cell, generation))
            }
        };
        Ok(ReplayBody::from_kind(kind))
    }

    /// The body from its beginning, once the attempt that has it needs it no
    /// longer: it has read it to the end, or has dropped it. To take it over before
    /// that cuts the attempt short, and with it an answer that the caller may still
    /// read.
    ///
    /// Of those who wait for it one gets it, and the others when that one is done.
    ///
    /// # Errors
    ///
    /// When the beginning of the body is gone.
    pub fn poll_take_idle<B>(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ReplayBody<B>, NotReplayable>> {
        let kind = match &self.0 {
            Kept::Whole(full) => Kind::Whole(full.clone()),
            Kept::Recorded(cell) => {
                let mut shared = lock(cell);
                ready!(shared.poll_idle(cx));
                // A reader that is done waits for nothing: there is none to wake.
                let (generation, _) = shared.take_over()?;
                drop(shared);
                Kind::Recorded(Reader::new(cell, generation))
            }
        };
        Poll::Ready(Ok(ReplayBody::from_kind(kind)))
    }

    /// Whether the attempt that has the body needs it no longer. If it does, to take
    /// it over cuts short what is still to come of that attempt's answer.
    #[cfg(any(feature = "failover", feature = "fallback"))]
    pub(crate) fn is_idle(&self) -> bool {
        match &self.0 {
            Kept::Whole(_) => true,
            Kept::Recorded(cell) => lock(cell).is_idle(),
        }
    }

    /// Whether [`take_over`](Self::take_over) would now give the body. While an
    /// attempt reads, that can change.
    pub fn can_replay(&self) -> bool {
        self.not_replayable().is_none()
    }

    /// Why the body cannot be replayed, if it cannot.
    pub fn not_replayable(&self) -> Option<NotReplayable> {
        match &self.0 {
            Kept::Whole(_) => None,
            Kept::Recorded(cell) => lock(cell).not_replayable(),
        }
    }
}

impl Clone for ReplayHandle {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Kept::Whole(full) => Kept::Whole(full.clone()),
            Kept::Recorded(cell) => {
                lock(cell).add_handle();
                Kept::Recorded(Arc::clone(cell))
            }
        })
    }
}

impl Drop for ReplayHandle {
    fn drop(&mut self) {
        if let Kept::Recorded(cell) = &self.0 {
            lock(cell).drop_handle();
        }
    }
}

impl fmt::Debug for ReplayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayHandle")
            .field("not_replayable", &self.not_replayable())
            .finish_non_exhaustive()
    }
}
