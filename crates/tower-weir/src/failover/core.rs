use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::{sync::Notify, time::Instant};

use super::{
    DownCause, RegionChange,
    board::{Board, Change, Report, Ticket, Tried},
    policy::Policy,
    region::Place,
};
use crate::observe::{Event, Seam};

/// What all clones of one failover share, whatever the types of its services.
pub(super) struct Core {
    pub(super) places: Vec<Place>,
    pub(super) seam: Seam,
    /// Told when another region may be chosen: some may wait for theirs.
    changed: Arc<Notify>,
    /// What the board knows of it, it has itself.
    policy: RwLock<Policy>,
    board: Mutex<Board>,
}

impl Core {
    pub(super) fn new(places: Vec<Place>, seam: Seam, policy: Policy) -> Self {
        let board = Board::new(policy.rules, places.len(), Instant::now());
        Self {
            places,
            seam,
            changed: Arc::default(),
            policy: RwLock::new(policy),
            board: Mutex::new(board),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        *self.policy.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "config")]
    pub(super) fn take(&self, policy: Policy) {
        self.change(|board| {
            // Under the board's lock: it goes by the policy that was set last.
            let own = self.policy.write();
            *own.unwrap_or_else(PoisonError::into_inner) = policy;
            board.go_by(policy.rules, Instant::now());
        });
    }

    /// Looks at the board, or changes what makes no event.
    pub(super) fn board<R>(&self, look: impl FnOnce(&mut Board) -> R) -> R {
        look(&mut self.lock())
    }

    /// Changes the board, and tells of it.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Board) -> R) -> R {
        let mut board = self.lock();
        let result = change(&mut board);
        let changes = board.take_changes();
        drop(board);
        // First: an observer may panic.
        self.changed.notify_waiters();
        self.tell(changes);
        result
    }

    /// Where a new request goes.
    pub(super) fn plan(&self, now: Instant, safe: bool, ready: Option<usize>) -> Ticket {
        self.look_for_shut(now);
        let mut board = self.lock();
        let ticket = board.plan(now, safe, ready);
        self.unlock_and_tell(board);
        ticket
    }

    /// Where a request goes that was to the `tried` ones in vain.
    pub(super) fn next(&self, now: Instant, safe: bool, tried: Tried) -> Option<Ticket> {
        self.look_for_shut(now);
        let mut board = self.lock();
        let ticket = board.next(now, safe, tried);
        self.unlock_and_tell(board);
        ticket
    }

    /// The region to get ready for a request to come, after the `tried` ones.
    pub(super) fn candidate(&self, now: Instant, tried: Tried) -> Option<usize> {
        let mut board = self.lock();
        let region = board.candidate(now, true, tried);
        self.unlock_and_tell(board);
        region
    }

    pub(super) fn settle(&self, ticket: Ticket, report: Report, now: Instant) {
        let mut board = self.lock();
        board.settle(ticket, report, now);
        self.unlock_and_tell(board);
    }

    pub(super) fn shut(&self, region: usize, cause: DownCause, now: Instant) {
        let mut board = self.lock();
        board.shut(region, cause, now);
        self.unlock_and_tell(board);
    }

    pub(super) fn by_hand(&self, name: &str, change: impl FnOnce(&mut Board, usize)) -> bool {
        let mut places = self.places.iter();
        let Some(region) = places.position(|place| &*place.name == name) else {
            return false;
        };
        self.change(|board| change(board, region));
        true
    }

    pub(super) fn name(&self, region: usize) -> &Arc<str> {
        &self.places[region].name
    }

    pub(super) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Asks the regions that can say so whether they are shut. Without the lock:
    /// it is the user's code, and may look at this board.
    pub(super) fn look_for_shut(&self, now: Instant) {
        for (region, place) in self.places.iter().enumerate() {
            let Some(shut) = &place.shut else { continue };
            let up = self.lock().condition(region).0.is_none();
            if up && shut() {
                self.shut(region, DownCause::CircuitOpen, now);
            }
        }
    }

    fn unlock_and_tell(&self, mut board: MutexGuard<'_, Board>) {
        let changes = board.take_changes();
        drop(board);
        if !changes.is_empty() {
            self.changed.notify_waiters();
            self.tell(changes);
        }
    }

    fn tell(&self, changes: Vec<Change>) {
        for change in changes {
            let name = self.name(change.region).clone();
            let event = Event::Region(RegionChange {
                region: name.clone(),
                down: change.down,
                active: change.active.map(|active| self.name(active).clone()),
            });
            self.seam.tell(&name, event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing of the user's runs under the lock.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
