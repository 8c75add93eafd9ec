use std::time::Duration;

use tokio::time::Instant;

use super::Counts;

/// The calls of a span of time, counted by slice.
///
/// What every call touches comes first, so that it lies together.
#[derive(Debug)]
#[repr(C)]
pub(in super::super) struct Slices {
    /// When the next slice begins, if the clock can say.
    next: Option<Instant>,
    total: Counts,
    /// The newest slice, whose place in the ring is empty meanwhile. It never moves
    /// back: threads read the clock before they take the lock, so a call can come
    /// with a time older than its predecessor's, and is then counted in it.
    newest: Counts,
    /// The newest slice's place, and when it began.
    head: usize,
    began: Instant,
    width: Duration,
    ring: Box<[Counts]>,
}

impl Slices {
    pub(super) fn new(width: Duration, slices: u32, now: Instant) -> Self {
        Self {
            next: now.checked_add(width),
            total: Counts::default(),
            newest: Counts::default(),
            head: 0,
            began: now,
            width,
            ring: vec![Counts::default(); slices as usize].into(),
        }
    }

    /// What the slices held when a call was last recorded.
    pub(super) const fn total(&self) -> Counts {
        self.total
    }

    #[inline]
    pub(super) fn record(&mut self, call: Counts, now: Instant) -> Counts {
        self.roll(now);
        self.newest += call;
        self.total += call;
        self.total
    }

    pub(super) fn counts(&self, now: Instant) -> Counts {
        let mut total = self.total;
        let (slices, _) = self.passed(now);
        for step in 1..=slices.min(self.ring.len()) {
            total -= self.ring[(self.head + step) % self.ring.len()];
        }
        if slices >= self.ring.len() {
            total -= self.newest;
        }
        total
    }

    pub(super) fn clear(&mut self, now: Instant) {
        self.ring.fill(Counts::default());
        self.newest = Counts::default();
        self.total = Counts::default();
        self.began = self.began.max(now);
        self.next = self.began.checked_add(self.width);
    }

    #[inline]
    fn roll(&mut self, now: Instant) {
        if self.next.is_none_or(|next| now >= next) {
            self.roll_on(now);
        }
    }

    #[cold]
    fn roll_on(&mut self, now: Instant) {
        let (slices, into) = self.passed(now);
        if slices == 0 {
            return;
        }
        self.ring[self.head] = std::mem::take(&mut self.newest);
        for _ in 0..slices.min(self.ring.len()) {
            self.head = (self.head + 1) % self.ring.len();
            self.total -= std::mem::take(&mut self.ring[self.head]);
        }
        // On the slice's own boundary, or the slices would drift apart by a
        // part of their width with every roll.
        self.began = now - into;
        self.next = self.began.checked_add(self.width);
    }

    /// How many slices ago the newest one was current, and how far into its
    /// slice `now` is.
    fn passed(&self, now: Instant) -> (usize, Duration) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < self.width {
            return (0, elapsed);
        }
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let width = u64::try_from(self.width.as_nanos()).unwrap_or(u64::MAX);
        let slices = usize::try_from(elapsed / width).unwrap_or(usize::MAX);
        (slices, Duration::from_nanos(elapsed % width))
    }
}
