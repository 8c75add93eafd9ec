use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    board::{Report, Ticket},
    core::Core,
};
use crate::{outcome::Outcome, retry::Recorder};

/// A caller who went away after this long was not just impatient: a region that
/// hangs would else never be noticed where callers have their own timeouts.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request whose deadline left a region less than this says nothing of it.
const IMPATIENT: Duration = Duration::from_secs(1);

/// One request at one region. It settles once; dropped before, the caller is
/// gone.
pub(super) struct Leg {
    core: Arc<Core>,
    ticket: Ticket,
    recorder: Recorder,
    /// How many attempts were on the record before.
    before: usize,
    began: Instant,
    sent: bool,
    settled: bool,
}

impl Leg {
    pub(super) fn begin(core: Arc<Core>, ticket: Ticket, recorder: Recorder, now: Instant) -> Self {
        Self {
            core,
            ticket,
            before: recorder.count(),
            recorder,
            began: now,
            sent: false,
            settled: false,
        }
    }

    pub(super) fn region(&self) -> usize {
        self.ticket.region
    }

    /// The region's service is about to be called.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// What it says of the region that the request's deadline passed there.
    pub(super) fn late(&self, now: Instant) -> Report {
        if now.saturating_duration_since(self.began) >= IMPATIENT {
            Report::Failed
        } else {
            Report::Nothing
        }
    }

    pub(super) fn settle(&mut self, outcome: &Outcome, report: Report, now: Instant) {
        self.settled = true;
        self.write_down(Some(outcome), now);
        self.core.settle(self.ticket, report, now);
    }

    /// It ends without a result.
    pub(super) fn abandon(&mut self, report: Report, now: Instant) {
        self.settled = true;
        self.write_down(None, now);
        self.core.settle(self.ticket, report, now);
    }

    /// A region's stack that retries keeps the record itself.
    fn write_down(&self, outcome: Option<&Outcome>, now: Instant) {
        if self.sent && self.recorder.count() == self.before {
            let name = self.core.name(self.region()).clone();
            self.recorder.begin(name, self.began);
            if let Some(outcome) = outcome {
                self.recorder.end(*outcome, None, now);
            }
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.settled {
            let now = Instant::now();
            let long = self.sent && now.saturating_duration_since(self.began) >= PATIENCE;
            let report = if long {
                Report::Failed
            } else {
                Report::Nothing
            };
            self.abandon(report, now);
        }
    }
}
