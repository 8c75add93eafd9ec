use std::{
    sync::{OnceLock, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::sync::AtomicU64;

/// How many moments the first chunk has, and how many times as many each has as
/// the one before.
const FIRST: usize = 64;
const TIMES: usize = 16;

/// Together they have more than any slab can have places.
const CHUNKS: usize = 14;

/// Moments in whole nanoseconds after this one, which are half as large as an
/// [`Instant`] and an eighth of the work to subtract.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Since(pub(crate) Instant);

impl Since {
    /// 0 for what was before, and the greatest number for what is later than it says,
    /// which is more than five centuries.
    #[inline]
    pub(crate) fn nanos(self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.0).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    pub(crate) fn moment(self, nanos: u64) -> Instant {
        self.0 + Duration::from_nanos(nanos)
    }
}

/// When the heads of an entry's calls went out, by the calls' places.
///
/// It is written without the entry's lock, by whoever hands a head on, and read
/// under it, by whoever wants the place of a call whose body nobody reads.
// In this order what nearly all calls touch lies together.
#[doc(hidden)]
#[derive(Debug)]
#[repr(C)]
pub struct Heads {
    since: Since,
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
}

impl Heads {
    pub(crate) fn new(since: Since) -> Self {
        Self {
            since,
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    /// The head of the call at this place has gone out.
    #[inline]
    pub(crate) fn set(&self, place: usize, at: Instant) {
        // One more, for 0 is none.
        let nanos = self.since.nanos(at) + 1;
        self.moment(place).store(nanos, Ordering::Relaxed);
    }

    /// That call has ended: another may come to its place. When its head went out.
    pub(crate) fn take(&self, place: usize) -> Option<u64> {
        let moment = self.moment(place);
        let nanos = moment.load(Ordering::Relaxed);
        moment.store(0, Ordering::Relaxed);
        nanos.checked_sub(1)
    }

    /// That call has ended, and it is known when its head went out.
    #[inline]
    pub(crate) fn clear(&self, place: usize) {
        self.moment(place).store(0, Ordering::Relaxed);
    }

    /// When the head of the call at this place has gone out, if it has.
    pub(crate) fn get(&self, place: usize) -> Option<u64> {
        let (chunk, _, rest) = chunk_of(place);
        // Whoever only looks makes no room.
        let moment = &self.chunks[chunk].get()?[rest];
        moment.load(Ordering::Relaxed).checked_sub(1)
    }

    #[inline]
    fn moment(&self, place: usize) -> &AtomicU64 {
        // Most places are in the first chunk, which is there once any has been used.
        match self.chunks[0].get() {
            Some(first) if place < first.len() => &first[spread(place)],
            _ => self.any_moment(place),
        }
    }

    #[cold]
    fn any_moment(&self, place: usize) -> &AtomicU64 {
        let (chunk, size, rest) = chunk_of(place);
        let make = || (0..size).map(|_| AtomicU64::new(0)).collect();
        &self.chunks[chunk].get_or_init(make)[rest]
    }
}

/// The chunk that a place is in, how many it has, and which of them it is.
#[inline]
fn chunk_of(place: usize) -> (usize, usize, usize) {
    let (mut chunk, mut size, mut rest) = (0, FIRST, place);
    while rest >= size {
        (chunk, rest, size) = (chunk + 1, rest - size, size * TIMES);
    }
    (chunk, size, spread(rest))
}

/// Places that follow each other are on different lines of the cache: nearly always
/// few of them are in use at a time, by threads that write without a lock.
#[inline]
fn spread(rest: usize) -> usize {
    rest & !63 | (rest & 7) << 3 | rest >> 3 & 7
}

#[cfg(all(test, not(weir_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_own_moment() {
        let begin = Instant::now();
        let heads = Heads::new(Since(begin));
        let at = |place: usize| begin + Duration::from_nanos(place as u64);
        for place in 0..5000 {
            assert_eq!(heads.get(place), None, "{place}");
            heads.set(place, at(place));
        }
        for place in 0..5000 {
            assert_eq!(heads.get(place), Some(place as u64), "{place}");
        }
        for place in [63, 65, 2000] {
            heads.clear(place);
            assert_eq!(heads.get(place), None, "{place}");
            heads.set(place, at(place));
        }
        assert_eq!(heads.take(64), Some(64));
        assert_eq!(heads.take(64), None);
        assert_eq!(heads.take(4999), Some(4999));
        let cleared = (0..5000).filter(|place| heads.get(*place).is_none());
        assert_eq!(cleared.collect::<Vec<_>>(), [64, 4999]);
    }
    #[test]
    fn whoever_looks_for_a_head_makes_no_room_for_it() {
        let heads = Heads::new(Since(Instant::now()));
        assert_eq!(heads.get(100_000), None);
        assert!(heads.chunks.iter().all(|chunk| chunk.get().is_none()));
    }
}
