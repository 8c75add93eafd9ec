use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use super::ledger::{Ledger, Place, Tally};

/// A task's place among those that are woken when the shutdown begins, and when
/// the grace is over. Two words: every future of the retries has room for one.
pub(super) struct Watch {
    ledger: Arc<Ledger>,
    seat: Seat,
}

enum Seat {
    /// It has not waited yet.
    None,
    // Spelt out, for a `Place` within would leave no room for the tag.
    At {
        list: u8,
        key: u32,
    },
    /// Of a request that has been counted out.
    Left,
}

impl Watch {
    pub(super) fn new(ledger: &Arc<Ledger>) -> Self {
        Self {
            ledger: ledger.clone(),
            seat: Seat::None,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.ledger.has_begun()
    }

    /// To be asked after this, not before, whether it has begun.
    pub(super) fn park(&mut self, cx: &Context<'_>) {
        let Place { list, key } = self.ledger.park(self.place(), cx.waker());
        self.seat = Seat::At { list, key };
    }

    fn unpark(&mut self) {
        if let Some(place) = self.place() {
            self.ledger.unpark(place);
        }
        self.seat = Seat::Left;
    }

    fn place(&self) -> Option<Place> {
        match self.seat {
            Seat::At { list, key } => Some(Place { list, key }),
            Seat::None | Seat::Left => None,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.unpark();
    }
}

/// A request that is counted as in flight. Dropped without having
/// [left](Self::leave), its caller went away.
pub(crate) struct Presence {
    watch: Watch,
}

impl Presence {
    pub(super) fn enter(ledger: &Arc<Ledger>) -> Option<Self> {
        if !ledger.enter() {
            ledger.tally(Tally::Refused, 1);
            return None;
        }
        let watch = Watch::new(ledger);
        Some(Self { watch })
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
    /// begun, and the request has not been counted as cut.
    pub(crate) fn leave(mut self, became: Tally) {
        self.count_out(became);
    }

    fn count_out(&mut self, became: Tally) {
        if matches!(self.watch.seat, Seat::Left) {
            return;
        }
        self.watch.unpark();
        self.watch.ledger.leave(became);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.count_out(Tally::Cancelled);
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

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, mpsc},
        task::{Wake, Waker},
        time::Duration,
    };

    use super::*;

    #[test]
    fn it_takes_two_words_of_a_future() {
        assert_eq!(size_of::<Option<Presence>>(), 2 * size_of::<usize>());
    }

    #[test]
    fn whoever_waits_has_one_waker_in_the_lists_and_none_after_it() {
        let ledger = Arc::new(Ledger::default());
        let mut presence = Presence::enter(&ledger).unwrap();
        let cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..3 {
            presence.watch(&cx);
            assert_eq!(ledger.parked(), 1);
        }
        presence.leave(Tally::Finished);
        assert_eq!((ledger.parked(), ledger.in_flight()), (0, 0));
    }

    /// A task that ends when the last of its wakers is dropped.
    struct Task {
        _request: Mutex<Option<Presence>>,
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn the_last_waker_of_a_task_takes_the_tasks_request_with_it() {
        let ledger = Arc::new(Ledger::default());
        let (done, is_done) = mpsc::channel();
        let its = ledger.clone();
        // A thread of its own, whose wakers are in one list.
        std::thread::spawn(move || {
            let mut presence = Presence::enter(&its).unwrap();
            let mut other = Presence::enter(&its).unwrap();
            other.watch(&Context::from_waker(Waker::noop()));
            let task = Waker::from(Arc::new(Task {
                _request: Mutex::new(Some(other)),
            }));
            presence.watch(&Context::from_waker(&task));
            drop(task);
            presence.watch(&Context::from_waker(Waker::noop()));
            done.send(presence)
        });
        let _presence = is_done.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((ledger.parked(), ledger.in_flight()), (1, 1));
    }

    const CROWD: usize = 64;

    /// Four threads end the requests of a crowd, while `meanwhile` is done; what
    /// is done `first` comes when all have been counted in and none has ended.
    fn while_they_end<T>(
        ledger: &Arc<Ledger>,
        first: impl FnOnce(&Ledger),
        meanwhile: impl FnOnce(&Ledger) -> T,
    ) -> T {
        let enter = |_| Presence::enter(ledger).unwrap();
        let mut crowd: Vec<Presence> = (0..CROWD).map(enter).collect();
        first(ledger);
        let start = std::sync::Barrier::new(5);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (mine, start) = (crowd.split_off(crowd.len() - CROWD / 4), &start);
                scope.spawn(move || {
                    start.wait();
                    for (n, presence) in mine.into_iter().enumerate() {
                        match n % 4 {
                            0 => drop(presence),
                            1 => presence.leave(Tally::Queued),
                            2 => presence.leave(Tally::Backoff),
                            _ => presence.leave(Tally::Finished),
                        }
                    }
                });
            }
            start.wait();
            meanwhile(ledger)
        })
    }

    /// What the report says once it is over.
    fn tallied(ledger: &Ledger) -> usize {
        while !ledger.is_over() {
            std::hint::spin_loop();
        }
        let drained = ledger.report();
        let ended = drained.finished + drained.queued + drained.backoffs + drained.cancelled;
        (ended + drained.cut) as usize
    }

    #[test]
    fn whoever_ends_as_the_grace_does_is_tallied_or_cut() {
        for round in 0..1000 {
            let ledger = Arc::default();
            let told = while_they_end(&ledger, Ledger::begin, |ledger| {
                ledger.cut();
                tallied(ledger)
            });
            assert_eq!((told, tallied(&ledger)), (CROWD, CROWD), "{round}");
        }
    }

    #[test]
    fn whoever_is_in_flight_when_it_begins_is_in_the_report_when_it_is_over() {
        for round in 0..1000 {
            let ledger = Arc::default();
            let (begun, told) = while_they_end(
                &ledger,
                |_| {},
                |ledger| {
                    ledger.begin();
                    (ledger.in_flight(), tallied(ledger))
                },
            );
            assert!(begun <= told && told <= CROWD, "{round}: {begun}, {told}");
            assert_eq!(tallied(&ledger), told, "{round}");
        }
    }
}
