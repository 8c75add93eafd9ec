use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use slab::Slab;
use tokio::time::Instant;

use super::{
    entry::{After, Entry},
    gate::Gate,
};
use crate::alarm::Alarm;

/// What one service needs to pend while its host's circuit lets nobody through:
/// a place among those to be woken, and one timer that is set anew as need be.
///
/// It takes nothing from the gate. A service that was polled ready and is never
/// called has no place any more and holds up nobody.
pub(super) struct Readiness<G: Gate> {
    place: Option<(Arc<Entry<G>>, usize)>,
    alarm: Option<Pin<Box<Alarm>>>,
}

impl<G: Gate> Default for Readiness<G> {
    fn default() -> Self {
        Self {
            place: None,
            alarm: None,
        }
    }
}

impl<G: Gate> Readiness<G> {
    /// Ready while a call may be admitted.
    pub(super) fn poll(&mut self, entry: &Arc<Entry<G>>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let place = self.place.take().map(|(_, place)| place);
            let place = entry.pend(place, cx.waker(), now);
            let Some((place, wake_at)) = place else {
                self.alarm = None;
                return Poll::Ready(());
            };
            self.place = Some((entry.clone(), place));
            let Some(wake_at) = wake_at else {
                return Poll::Pending;
            };
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(Alarm::new()));
            if alarm.as_mut().poll(wake_at, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<G: Gate> Readiness<G> {
    /// Waits no longer.
    pub(super) fn leave(&mut self) {
        if let Some((entry, place)) = self.place.take() {
            entry.unpend(place);
        }
    }
}

impl<G: Gate> Drop for Readiness<G> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The tasks that pend on one host. Each has a timer of its own, so that none
/// depends on another's being polled.
#[derive(Default)]
pub(super) struct Pending {
    wakers: Slab<Option<Waker>>,
    /// What the timers are set to.
    until: Option<Instant>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// Whether the timers are set to this moment.
    pub(super) fn expects(&self, until: Option<Instant>) -> bool {
        self.until == until
    }

    pub(super) fn park(
        &mut self,
        place: Option<usize>,
        waker: &Waker,
        until: Option<Instant>,
        after: &mut After,
    ) -> usize {
        self.until = until;
        let place = place.unwrap_or_else(|| self.wakers.insert(None));
        after.park(&mut self.wakers[place], waker);
        place
    }

    /// Returns the waker that is not needed any more, to be dropped without the
    /// lock.
    pub(super) fn leave(&mut self, place: usize) -> Option<Waker> {
        self.wakers.try_remove(place)?
    }

    pub(super) fn wake(&mut self) -> impl Iterator<Item = Waker> + '_ {
        self.wakers.iter_mut().filter_map(|(_, waker)| waker.take())
    }
}
