use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use super::settings::{Hold, Settings};

/// The settings of a layer's calls that may change while it runs.
///
/// Each is read where it is needed, and costs a load; a call may so find one
/// changed and another not yet.
#[derive(Debug)]
pub(crate) struct Knobs {
    enabled: AtomicBool,
    max_waiting: AtomicUsize,
    queue_timeout: Span,
    attempt_timeout: Span,
    at_headers: AtomicBool,
    max_hold: Span,
}

impl Knobs {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            enabled: AtomicBool::new(settings.enabled),
            max_waiting: AtomicUsize::new(settings.max_waiting),
            queue_timeout: Span::new(Some(settings.queue_timeout)),
            attempt_timeout: Span::new(settings.attempt_timeout),
            at_headers: AtomicBool::new(settings.hold == Hold::Headers),
            max_hold: Span::new(Some(settings.max_hold)),
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(super) fn max_waiting(&self) -> usize {
        self.max_waiting.load(Ordering::Relaxed)
    }

    pub(super) fn queue_timeout(&self) -> Duration {
        self.queue_timeout.get().unwrap_or(Duration::MAX)
    }

    pub(super) fn attempt_timeout(&self) -> Option<Duration> {
        self.attempt_timeout.get()
    }

    pub(super) fn hold(&self) -> Hold {
        match self.at_headers.load(Ordering::Relaxed) {
            true => Hold::Headers,
            false => Hold::BodyEnd,
        }
    }

    pub(super) fn max_hold(&self) -> Duration {
        self.max_hold.get().unwrap_or(Duration::MAX)
    }

    /// The settings with what may have changed.
    pub(super) fn write_to(&self, settings: &mut Settings) {
        settings.enabled = self.enabled();
        settings.max_waiting = self.max_waiting();
        settings.queue_timeout = self.queue_timeout();
        settings.attempt_timeout = self.attempt_timeout();
        settings.hold = self.hold();
        settings.max_hold = self.max_hold();
    }

    /// Takes over what the settings say.
    #[cfg(feature = "config")]
    pub(crate) fn set(&self, settings: &Settings) {
        let new = Self::of(settings);
        self.enabled.store(new.enabled(), Ordering::Relaxed);
        let max_waiting = new.max_waiting();
        self.max_waiting.store(max_waiting, Ordering::Relaxed);
        self.queue_timeout.set(&new.queue_timeout);
        self.attempt_timeout.set(&new.attempt_timeout);
        let at_headers = new.hold() == Hold::Headers;
        self.at_headers.store(at_headers, Ordering::Relaxed);
        self.max_hold.set(&new.max_hold);
    }
}

/// A duration of up to 584 years in nanoseconds, or none.
#[derive(Debug)]
struct Span(AtomicU64);

impl Span {
    const NONE: u64 = u64::MAX;

    fn new(span: Option<Duration>) -> Self {
        let nanos = span.map(|span| u64::try_from(span.as_nanos()).unwrap_or(Self::NONE));
        Self(AtomicU64::new(nanos.unwrap_or(Self::NONE)))
    }

    fn get(&self) -> Option<Duration> {
        let nanos = self.0.load(Ordering::Relaxed);
        (nanos != Self::NONE).then(|| Duration::from_nanos(nanos))
    }

    #[cfg(feature = "config")]
    fn set(&self, to: &Self) {
        self.0
            .store(to.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
