use std::{
    array,
    mem::replace,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::Drained;
use crate::{BoxError, error::ShuttingDown, panics::for_each};

/// A host of a layer.
pub(crate) trait Member: Send + Sync {
    /// Lets in no more. Returns how many who waited were refused.
    fn close(&self) -> usize;

    /// Whether all of its calls have ended, bodies included.
    fn is_quiet(&self) -> bool;

    /// Ends what was held for too long. Returns when the next will have been: a
    /// body that nobody reads runs no timer.
    fn reclaim(&self, now: Instant) -> Option<Instant>;

    /// How many responses' bodies are still open.
    fn bodies(&self) -> usize;

    /// How many calls have no response yet.
    fn unanswered(&self) -> usize;
}

/// What has become of a request since the shutdown began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Finished,
    Refused,
    Queued,
    Backoff,
    Cancelled,
}

const TALLIES: usize = 5;

impl Tally {
    /// What a result says of a request that was counted in. One that a layer
    /// further in has refused, by whichever handle, had waited for its turn.
    pub(crate) fn of<T>(result: &Result<T, BoxError>) -> Self {
        let down = |error: &BoxError| {
            let down = error.downcast_ref::<ShuttingDown>();
            down.is_some_and(|down| !down.is_cut())
        };
        match result {
            Err(error) if down(error) => Self::Queued,
            _ => Self::Finished,
        }
    }
}

/// The three highest bits of the state; the others count.
const BEGUN: usize = 1 << (usize::BITS - 1);
const CUT: usize = BEGUN >> 1;
/// A request has been counted in once: there is a layer that counts.
const USED: usize = CUT >> 1;
const COUNT: usize = USED - 1;

/// What is owed before it has begun.
const UNKNOWN: usize = usize::MAX;

/// So many lists of wakers: threads that run requests at the same time seldom
/// meet at one.
const LISTS: usize = 16;

/// What the clones of a handle share.
pub(crate) struct Ledger {
    /// How many requests are in flight, and how far it has come. One word, so
    /// that no request is let in after the last was counted, and the operation
    /// that counts one out says whether it ended before the beginning, before
    /// the cut or after it.
    state: AtomicUsize,
    /// How many were in flight when it began.
    owed: AtomicUsize,
    /// How many of those have been tallied.
    paid: AtomicUsize,
    wakers: [List; LISTS],
    /// Told of whatever a shutdown waits for.
    changed: Arc<Notify>,
    members: Mutex<Vec<Weak<dyn Member>>>,
    tallies: [AtomicU64; TALLIES],
    cut: AtomicUsize,
    began: OnceLock<Instant>,
}

/// Alone on its cache line.
#[derive(Default)]
#[repr(align(64))]
struct List(Mutex<Slab<Waker>>);

/// Where a waker is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) list: u8,
    pub(super) key: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            state: AtomicUsize::new(0),
            owed: AtomicUsize::new(UNKNOWN),
            paid: AtomicUsize::new(0),
            wakers: array::from_fn(|_| List::default()),
            changed: Arc::default(),
            members: Mutex::default(),
            tallies: array::from_fn(|_| AtomicU64::new(0)),
            cut: AtomicUsize::new(0),
            began: OnceLock::new(),
        }
    }
}

impl Ledger {
    fn state(&self) -> usize {
        self.state.load(Ordering::SeqCst)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.state() & BEGUN != 0
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state() & CUT != 0
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state() & COUNT
    }

    pub(super) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Counts a request in, unless it has begun.
    pub(super) fn enter(&self) -> bool {
        let counted = |state: usize| (state & BEGUN == 0).then(|| (state + 1) | USED);
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, counted)
            .is_ok()
    }

    /// Counts a request out, and tallies what became of it if it was in flight
    /// when it began and has not been counted as cut.
    pub(super) fn leave(&self, became: Tally) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & BEGUN != 0 && before & CUT == 0 {
            self.pay(became);
        }
    }

    #[cold]
    fn pay(&self, became: Tally) {
        self.tally(became, 1);
        self.paid.fetch_add(1, Ordering::SeqCst);
        if self.is_paid() {
            self.changed.notify_waiters();
        }
    }

    /// Whether every request that was in flight when it began is in the report.
    fn is_paid(&self) -> bool {
        let cut = match self.is_cut() {
            true => self.cut.load(Ordering::SeqCst),
            false => 0,
        };
        self.paid.load(Ordering::SeqCst) + cut == self.owed.load(Ordering::SeqCst)
    }

    pub(super) fn tally(&self, what: Tally, by: u64) {
        self.tallies[what as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Tallies what a layer has refused that does not count. Where one counts,
    /// it does so for the layers under it too: it alone knows whose caller is
    /// still there. What was refused before it began was so for another reason.
    pub(super) fn tally_uncounted(&self, what: Tally, by: u64) {
        if self.state() & (USED | BEGUN) == BEGUN {
            self.tally(what, by);
        }
    }

    pub(super) fn begin(&self) {
        self.began.get_or_init(Instant::now);
        let before = self.state.fetch_or(BEGUN, Ordering::SeqCst);
        if before & BEGUN != 0 {
            return;
        }
        let panicked = for_each(self.members(), |member| self.close(&*member));
        // It is not over before whoever waited has been refused.
        self.owed.store(before & COUNT, Ordering::SeqCst);
        self.wake_all();
        self.changed.notify_waiters();
        panicked.resume();
    }

    pub(super) fn cut(&self) {
        let one_at_a_time = lock(&self.members);
        let mut state = self.state();
        while state & CUT == 0 {
            // Before anybody can see that it is so, and ask how many there were.
            self.cut.store(state & COUNT, Ordering::SeqCst);
            let (this, now) = (Ordering::SeqCst, state | CUT);
            match self.state.compare_exchange(state, now, this, this) {
                Ok(_) => state = now,
                Err(other) => state = other,
            }
        }
        drop(one_at_a_time);
        self.wake_all();
        self.changed.notify_waiters();
    }

    pub(super) fn join(&self, member: &Arc<dyn Member>) {
        let mut members = lock(&self.members);
        // Hosts come and go.
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
        drop(members);
        if self.has_begun() {
            self.close(&**member);
        }
    }

    fn close(&self, member: &dyn Member) {
        self.tally_uncounted(Tally::Queued, member.close() as u64);
    }

    fn members(&self) -> Vec<Arc<dyn Member>> {
        let members = lock(&self.members);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether there is nothing more to wait for.
    pub(super) fn is_over(&self) -> bool {
        let quiet = || self.members().iter().all(|member| member.is_quiet());
        self.is_paid() && (self.is_cut() || quiet())
    }

    /// Ends what was held for too long; when the next will have been.
    fn reclaim(&self) -> Option<Instant> {
        let now = Instant::now();
        let members = self.members().into_iter();
        members.filter_map(|member| member.reclaim(now)).min()
    }

    /// Returns when it has begun.
    pub(super) async fn begun(&self) {
        self.wait(Self::has_begun, |_| None).await;
    }

    /// Returns when there is nothing more to wait for.
    pub(super) async fn over(&self) {
        self.wait(Self::is_over, Self::reclaim).await;
    }

    /// Returns when that is so. It must not become so without a notice, unless
    /// time makes it so: `next` says when.
    async fn wait(&self, is_so: fn(&Self) -> bool, next: fn(&Self) -> Option<Instant>) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let next = next(self);
            if is_so(self) {
                return;
            }
            match next {
                // Whichever comes first: then it is looked again.
                Some(next) => drop(timeout_at(next, changed).await),
                None => changed.await,
            }
        }
    }

    fn sum(&self, of: fn(&dyn Member) -> usize) -> u64 {
        let members = self.members();
        members.iter().map(|member| of(&**member) as u64).sum()
    }

    pub(super) fn report(&self) -> Drained {
        let tally = |what: Tally| self.tallies[what as usize].load(Ordering::Relaxed);
        let began = self.began.get();
        let counted = self.state() & USED != 0;
        Drained {
            finished: tally(Tally::Finished),
            refused: tally(Tally::Refused),
            queued: tally(Tally::Queued),
            backoffs: tally(Tally::Backoff),
            cancelled: tally(Tally::Cancelled),
            cut: self.cut.load(Ordering::SeqCst) as u64,
            bodies: self.sum(|member| member.bodies()),
            // Where requests are counted, these are attempts of them.
            left: match counted {
                true => 0,
                false => self.sum(|member| member.unanswered()),
            },
            took: began.map(Instant::elapsed).unwrap_or_default(),
        }
    }

    /// Keeps a waker, in its place if it has one.
    pub(super) fn park(&self, place: Option<Place>, waker: &Waker) -> Place {
        if let Some(place) = place {
            let mut list = self.list(place);
            let kept = list.get_mut(place.key as usize);
            let changed = kept.filter(|kept| !kept.will_wake(waker));
            let old = changed.map(|kept| replace(kept, waker.clone()));
            // The last waker may take its task with it, and what that has here.
            drop((list, old));
            return place;
        }
        let list = my_list();
        let key = lock(&self.wakers[list].0).insert(waker.clone());
        Place {
            list: list as u8,
            key: key as u32,
        }
    }

    pub(super) fn unpark(&self, place: Place) {
        let waker = self.list(place).try_remove(place.key as usize);
        drop(waker);
    }

    #[cfg(test)]
    pub(super) fn parked(&self) -> usize {
        self.wakers.iter().map(|list| lock(&list.0).len()).sum()
    }

    fn list(&self, place: Place) -> MutexGuard<'_, Slab<Waker>> {
        lock(&self.wakers[place.list as usize].0)
    }

    fn wake_all(&self) {
        for list in &self.wakers {
            // Woken without the lock, which their futures may want.
            let wakers: Vec<Waker> = lock(&list.0).iter().map(|(_, w)| w.clone()).collect();
            for waker in wakers {
                waker.wake();
            }
        }
    }
}

/// The list of this thread.
fn my_list() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LISTS;
    }
    MINE.with(|mine| *mine)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
