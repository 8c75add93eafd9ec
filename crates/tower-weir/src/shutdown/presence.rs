use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::ledger::{Ledger, Place, Tally};

/// A task's place among those that are woken when the shutdown begins, and when
/// the grace is over.
pub(super) struct Watch {
    ledger: Arc<Ledger>,
    parked: Option<(Place, Waker)>,
}

impl Watch {
    pub(super) fn new(ledger: &Arc<Ledger>) -> Self {
        Self {
            ledger: ledger.clone(),
            parked: None,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.ledger.has_begun()
    }

    /// To be asked after this, not before, whether it has begun.
    pub(super) fn park(&mut self, cx: &Context<'_>) {
        let place = match &self.parked {
            Some((_, waker)) if waker.will_wake(cx.waker()) => return,
            Some((place, _)) => Some(*place),
            None => None,
        };
        let place = self.ledger.park(place, cx.waker());
        self.parked = Some((place, cx.waker().clone()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((place, _)) = self.parked.take() {
            self.ledger.unpark(place);
        }
    }
}

/// A request that is counted as in flight, until it is dropped.
pub(crate) struct Presence {
    watch: Watch,
    became: Option<Tally>,
}

impl Presence {
    pub(super) fn enter(ledger: &Arc<Ledger>) -> Option<Self> {
        if !ledger.enter() {
            ledger.tally(Tally::Refused, 1);
            return None;
        }
        Some(Self {
            watch: Watch::new(ledger),
            became: Some(Tally::Cancelled),
        })
    }

    /// Whether nothing is to be begun or waited for any more.
    pub(crate) fn has_begun(&self) -> bool {
        self.watch.has_begun()
    }

    /// Whether the grace is over.
    pub(crate) fn is_cut(&self) -> bool {
        self.watch.ledger.is_cut()
    }

    /// Has the task woken when it begins, and when the grace is over. To be
    /// asked after this, not before, whether either is so.
    pub(crate) fn watch(&mut self, cx: &Context<'_>) {
        self.watch.park(cx);
    }

    /// The request is over. What became of it is counted if the shutdown has
    /// begun; `None` where a layer further in has counted it.
    pub(crate) fn leave(mut self, became: Option<Tally>) {
        self.became = became;
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let ledger = &self.watch.ledger;
        // Before it is counted out: whoever then sees nothing in flight sees this.
        if let Some(became) = self.became
            && ledger.has_begun()
            && !ledger.is_cut()
        {
            ledger.tally(became, 1);
        }
        ledger.leave();
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").finish_non_exhaustive()
    }
}

/// Ready when a request that is in flight is to be cut.
pub(crate) fn poll_cut(presence: &mut Option<Presence>, cx: &Context<'_>) -> Poll<()> {
    let Some(presence) = presence else {
        return Poll::Pending;
    };
    presence.watch(cx);
    match presence.is_cut() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }
}
