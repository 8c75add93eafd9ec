use super::Counts;

const FAILED: u8 = 1;
const SLOW: u8 = 2;

/// The last so many calls, a byte each.
#[derive(Debug)]
pub(in super::super) struct LastCalls {
    ring: Box<[u8]>,
    /// Where the next call goes, which is where the oldest one is once the ring
    /// is full.
    next: usize,
    total: Counts,
}

impl LastCalls {
    pub(super) fn new(calls: u32) -> Self {
        Self {
            ring: vec![0; calls as usize].into(),
            next: 0,
            total: Counts::default(),
        }
    }

    pub(super) fn record(&mut self, call: Counts) -> Counts {
        let flags = FAILED * (call.failed as u8) + SLOW * (call.slow as u8);
        let oldest = std::mem::replace(&mut self.ring[self.next], flags);
        if self.total.calls == self.ring.len() as u64 {
            self.total -= Counts::one(oldest & FAILED != 0, oldest & SLOW != 0);
        }
        self.total += call;
        self.next = (self.next + 1) % self.ring.len();
        self.total
    }

    pub(super) const fn counts(&self) -> Counts {
        self.total
    }

    pub(super) fn clear(&mut self) {
        // What is left in the ring is overwritten before it is read, wherever
        // `next` points.
        self.total = Counts::default();
    }
}
