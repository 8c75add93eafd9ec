use std::collections::VecDeque;

use slab::Slab;
use tokio::time::Instant;

use crate::admit::Key;

/// A pending operation. With its place it takes one line of the cache.
#[derive(Debug)]
pub(super) struct Operation {
    /// When it came.
    pub(super) came: Instant,
    /// When its turn was, once it runs; until then, how long it may wait for that.
    pub(super) turn: Instant,
    pub(super) weight: usize,
    pub(super) bytes: u64,
    pub(super) lane: u32,
    pub(super) runs: bool,
}

/// The pending operations, each at a place of its own.
///
/// They are in no order: links to those before and after would be written by threads
/// that have nothing else to do with those. Who wants the oldest now and then looks at
/// all, and who wants it often keeps [`Arrivals`].
#[derive(Debug, Default)]
pub(super) struct Places {
    slab: Slab<Place>,
    next_number: u64,
}

/// So many keys may be kept that name nothing, whatever is pending.
const LEAST_ROOM: usize = 64;

#[derive(Debug)]
#[repr(align(64))]
struct Place {
    operation: Operation,
    number: u64,
}

impl Places {
    #[inline]
    pub(super) fn insert(&mut self, operation: Operation) -> Key {
        let number = self.next_number;
        self.next_number += 1;
        let index = self.slab.insert(Place { operation, number });
        Key::new(index, number)
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Operation> {
        let place = self.slab.get(key.place())?;
        (place.number == key.number()).then_some(&place.operation)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Operation> {
        let place = self.slab.get_mut(key.place())?;
        (place.number == key.number()).then_some(&mut place.operation)
    }

    /// `None` if it was removed before.
    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<Operation> {
        self.get(key)?;
        Some(self.slab.remove(key.place()).operation)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Operation)> {
        self.slab
            .iter()
            .map(|(index, place)| (Key::new(index, place.number), &place.operation))
    }
}

/// Operations in the order in which they came.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Some have ended: they are taken out when they are the first, or the most.
    keys: VecDeque<Key>,
}

impl Arrivals {
    /// All that are pending.
    pub(super) fn new(places: &Places) -> Self {
        let mut keys: Vec<_> = places.iter().map(|(key, _)| key).collect();
        keys.sort_unstable_by_key(|key| key.number());
        Self { keys: keys.into() }
    }

    /// The newest.
    pub(super) fn push(&mut self, key: Key, places: &Places) {
        // Else one that is pending for long would keep all that came after it.
        if self.keys.len() > 2 * places.slab.len() + LEAST_ROOM {
            self.keys.retain(|key| places.get(*key).is_some());
        }
        self.keys.push_back(key);
    }

    /// The oldest that is pending.
    pub(super) fn first<'a>(&mut self, places: &'a Places) -> Option<&'a Operation> {
        loop {
            let pending = places.get(*self.keys.front()?);
            if pending.is_some() {
                return pending;
            }
            self.keys.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One that is known by its size.
    fn operation(bytes: u64) -> Operation {
        let now = Instant::now();
        Operation {
            came: now,
            turn: now,
            weight: 1,
            bytes,
            lane: 0,
            runs: true,
        }
    }

    #[test]
    fn an_old_key_does_not_name_the_next_at_its_place() {
        let mut places = Places::default();
        let old = places.insert(operation(1));
        assert_eq!(places.remove(old).map(|it| it.bytes), Some(1));
        let new = places.insert(operation(2));
        assert_eq!(old.place(), new.place());
        assert!(places.get(old).is_none() && places.remove(old).is_none());
        assert_eq!(places.get(new).map(|it| it.bytes), Some(2));
    }

    #[test]
    fn a_place_takes_one_line() {
        // A slab's vacant places are told apart within it.
        assert_eq!(size_of::<Option<Place>>(), 64);
    }

    proptest! {
        #[test]
        fn the_first_is_the_oldest_whatever_ends(
            before in 0usize..20,
            ops in proptest::collection::vec((0u8..4, 0usize..1000), 0..2000),
        ) {
            let (mut places, mut pending) = (Places::default(), Vec::new());
            for came in 0..before {
                pending.push((places.insert(operation(came as u64)), came as u64));
            }
            // Places that are given again are not in the order of their keys.
            for n in 0..before / 2 {
                places.remove(pending.remove(n).0);
            }
            for came in before..before + before / 2 {
                pending.push((places.insert(operation(came as u64)), came as u64));
            }
            let mut arrivals = Arrivals::new(&places);
            for (came, (op, n)) in ops.into_iter().enumerate() {
                let came = (2 * before + came) as u64;
                match op {
                    0 | 1 => {
                        let key = places.insert(operation(came));
                        arrivals.push(key, &places);
                        pending.push((key, came));
                        let most = 2 * pending.len() + LEAST_ROOM + 1;
                        prop_assert!(arrivals.keys.len() <= most);
                    }
                    // The first stays for long.
                    2 if pending.len() > 1 => {
                        let (key, _) = pending.remove(1 + n % (pending.len() - 1));
                        places.remove(key);
                    }
                    3 if n < 10 && !pending.is_empty() => {
                        places.remove(pending.remove(0).0);
                    }
                    _ => {}
                }
                let first = arrivals.first(&places).map(|it| it.bytes);
                prop_assert_eq!(first, pending.first().map(|(_, came)| *came));
            }
        }
    }
}
