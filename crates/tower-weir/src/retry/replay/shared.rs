use std::{
    mem,
    pin::Pin,
    sync::{Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::{Account, NotReplayable, RequestBodyError, tape::Tape};
use crate::BoxError;

/// The caller's body, of whatever type, until it is closed.
pub(super) trait Source: Send {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>;
    fn is_end_stream(&self) -> bool;
    fn size_hint(&self) -> SizeHint;
    fn close(&mut self);
}

impl<B> Source for Option<B>
where
    B: Body + Send + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = self else {
            return Poll::Ready(None);
        };
        Pin::new(body).poll_frame(cx).map(|polled| {
            polled.map(|result| {
                result
                    .map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                    .map_err(Into::into)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }

    fn close(&mut self) {
        *self = None;
    }
}

/// What the attempts of one request share: the body, its tape, and whose turn
/// it is to read.
pub(super) struct Shared<S: ?Sized> {
    /// Only the reader that bears this number may read.
    generation: u64,
    /// Whether that reader still exists.
    reading: bool,
    /// Whether it has not read anything yet. Until then it must look just like
    /// the caller's body, or the attempts would differ in their framing.
    fresh: bool,
    /// How many bytes of data it was given.
    delivered: u64,
    /// Its waker, while it waits for the caller's body.
    waker: Option<Waker>,
    /// Whether it has been told the end, or an error.
    finished: bool,
    /// Who waits for it to be done.
    idle: Vec<Waker>,
    /// How many handles could still ask for another attempt.
    handles: usize,
    first_hint: SizeHint,
    first_end: bool,
    tape: Tape,
    source: S,
}

pub(super) type Cell = Mutex<Shared<dyn Source>>;

pub(super) fn lock(cell: &Cell) -> MutexGuard<'_, Shared<dyn Source>> {
    cell.lock().unwrap_or_else(|poisoned| {
        // The caller's body panicked while it was polled. Who knows what it
        // would give now: it counts as failed, for this attempt and any other.
        cell.clear_poison();
        let mut shared = poisoned.into_inner();
        shared.fail();
        shared
    })
}

impl<B> Shared<Option<B>>
where
    B: Body + Send + Unpin,
    B::Error: Into<BoxError>,
{
    /// With one reader, number 0, and one handle.
    pub(super) fn new(body: B, account: &Account) -> Self {
        let first_hint = body.size_hint();
        Self {
            generation: 0,
            reading: true,
            fresh: true,
            delivered: 0,
            waker: None,
            finished: false,
            idle: Vec::new(),
            handles: 1,
            first_hint,
            first_end: body.is_end_stream(),
            tape: Tape::new(account, first_hint.lower()),
            source: Some(body),
        }
    }
}

impl Shared<dyn Source> {
    pub(super) fn is_turn_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Gives the next reader its turn, and its number; and the waker of the one
    /// before, to be woken without the lock.
    pub(super) fn take_over(&mut self) -> Result<(u64, Option<Waker>), NotReplayable> {
        if let Some(reason) = self.tape.lost() {
            return Err(reason);
        }
        self.generation += 1;
        self.reading = true;
        self.fresh = true;
        self.finished = false;
        self.delivered = 0;
        self.tape.rewind();
        Ok((self.generation, self.waker.take()))
    }

    pub(super) fn not_replayable(&self) -> Option<NotReplayable> {
        self.tape.lost()
    }

    /// Has the reader wait for the caller's body. Returns the waker that it had
    /// before, to be dropped without the lock.
    pub(super) fn wait(&mut self, waker: &Waker) -> Option<Waker> {
        match &self.waker {
            Some(kept) if kept.will_wake(waker) => None,
            _ => self.waker.replace(waker.clone()),
        }
    }

    /// When it is pending, the reader is to [wait](Self::wait).
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.fresh = false;
        if let Some(frame) = self.tape.play() {
            return self.deliver(frame);
        }
        if self.failed() {
            let panicked = "the body panicked while it was read".into();
            return Poll::Ready(Some(Err(RequestBodyError::boxed(panicked))));
        }
        match self.source.poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                // Not every body bears being polled after its end.
                self.source.close();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail();
                Poll::Ready(Some(Err(RequestBodyError::boxed(error))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.tape.record(&frame);
                self.deliver(frame)
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        if self.fresh {
            return self.first_end;
        }
        self.tape.played() && !self.failed() && self.source.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if !self.fresh && self.tape.played() {
            return self.source.size_hint();
        }
        // Not what the tape and the rest add up to: that is known better now
        // than it was to the first attempt, and would be announced otherwise.
        let mut hint = SizeHint::new();
        hint.set_lower(self.first_hint.lower().saturating_sub(self.delivered));
        if let Some(upper) = self.first_hint.upper() {
            hint.set_upper(upper.saturating_sub(self.delivered));
        }
        hint
    }

    pub(super) fn add_handle(&mut self) {
        self.handles += 1;
    }

    pub(super) fn drop_handle(&mut self) {
        self.handles -= 1;
        self.let_go();
    }

    /// Returns who waits for that, to be woken without the lock.
    pub(super) fn drop_reader(&mut self, generation: u64) -> Vec<Waker> {
        if !self.is_turn_of(generation) {
            return Vec::new();
        }
        self.reading = false;
        self.let_go();
        mem::take(&mut self.idle)
    }

    /// The reader has had its last frame, or an error. Returns who waits for
    /// that.
    pub(super) fn finish_reader(&mut self) -> Vec<Waker> {
        self.finished = true;
        mem::take(&mut self.idle)
    }

    /// Whether the reader needs nothing more.
    pub(super) fn is_idle(&self) -> bool {
        !self.reading || self.finished
    }

    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_idle() {
            return Poll::Ready(());
        }
        if !self.idle.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.idle.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Frees what nobody can ask for any more. A reader whose turn is over may
    /// exist for long, and must not keep it alive.
    fn let_go(&mut self) {
        if self.handles > 0 {
            return;
        }
        self.tape.keep_no_more();
        if !self.reading {
            self.tape.clear();
            self.source.close();
        }
    }

    fn deliver(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.delivered = self.delivered.saturating_add(length as u64);
        Poll::Ready(Some(Ok(frame)))
    }

    fn fail(&mut self) {
        self.tape.lose(NotReplayable::BodyFailed);
        self.source.close();
    }

    fn failed(&self) -> bool {
        self.tape.lost() == Some(NotReplayable::BodyFailed)
    }
}
