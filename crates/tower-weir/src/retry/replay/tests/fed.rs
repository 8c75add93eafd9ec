//! A body that the test feeds frame by frame.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) struct Oops;

impl fmt::Display for Oops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oops")
    }
}

impl Error for Oops {}

pub(super) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        HeaderName::from_static("checksum"),
        HeaderValue::from_static("abc"),
    )])
}

enum Fodder {
    Frame(Frame<Bytes>),
    Error,
    Panic,
    End,
}

pub(super) struct Feed {
    frames: mpsc::UnboundedSender<Fodder>,
    polls: Weak<AtomicUsize>,
}

/// The body. It ends when its [`Feed`] is dropped, and panics when it is polled
/// again after its end, as some do.
pub(super) struct Fed {
    frames: mpsc::UnboundedReceiver<Fodder>,
    polls: Arc<AtomicUsize>,
    hint: SizeHint,
    ended: bool,
}

pub(super) fn feed() -> (Feed, Fed) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let polls = Arc::new(AtomicUsize::new(0));
    let feed = Feed {
        frames: sender,
        polls: Arc::downgrade(&polls),
    };
    let fed = Fed {
        frames: receiver,
        polls,
        hint: SizeHint::default(),
        ended: false,
    };
    (feed, fed)
}

impl Feed {
    pub(super) fn data(&self, data: impl Into<Bytes>) {
        self.send(Fodder::Frame(Frame::data(data.into())));
    }

    pub(super) fn trailers(&self) {
        self.send(Fodder::Frame(Frame::trailers(trailers())));
    }

    pub(super) fn error(&self) {
        self.send(Fodder::Error);
    }

    pub(super) fn panic(&self) {
        self.send(Fodder::Panic);
    }

    pub(super) fn end(&self) {
        self.send(Fodder::End);
    }

    fn send(&self, fodder: Fodder) {
        assert!(self.frames.send(fodder).is_ok(), "the body is gone");
    }

    /// How often the body was polled.
    pub(super) fn polls(&self) -> usize {
        self.polls.upgrade().unwrap().load(Ordering::Relaxed)
    }

    pub(super) fn body_lives(&self) -> bool {
        self.polls.strong_count() > 0
    }
}

impl Fed {
    pub(super) fn exactly(mut self, length: u64) -> Self {
        self.hint = SizeHint::with_exact(length);
        self
    }

    pub(super) fn between(mut self, lower: u64, upper: u64) -> Self {
        self.hint.set_lower(lower);
        self.hint.set_upper(upper);
        self
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Oops;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Oops>>> {
        assert!(!self.ended, "polled after its end");
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.frames.poll_recv(cx).map(|fodder| match fodder {
            Some(Fodder::Frame(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let lower = self.hint.lower().saturating_sub(length);
                let upper = self.hint.upper().map(|upper| upper - length);
                self.hint = SizeHint::new();
                self.hint.set_lower(lower);
                upper
                    .into_iter()
                    .for_each(|upper| self.hint.set_upper(upper));
                Some(Ok(frame))
            }
            Some(Fodder::Error) => Some(Err(Oops)),
            Some(Fodder::Panic) => panic!("as the test wants it"),
            Some(Fodder::End) | None => {
                self.ended = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.hint.exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Counts how often its waker is woken.
pub(super) struct Wakes(AtomicUsize);

impl Wakes {
    pub(super) fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self(AtomicUsize::new(0)));
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
