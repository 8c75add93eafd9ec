use slab::Slab;

use crate::admit::Key;

/// A pending operation. With its place it takes one line of the cache.
#[derive(Debug)]
pub(super) struct Operation {
    /// When it came.
    pub(super) came: u64,
    /// When its turn was, once it runs; until then, how long it may wait for that.
    pub(super) turn: u64,
    pub(super) weight: usize,
    pub(super) bytes: u64,
    pub(super) lane: u32,
    pub(super) runs: bool,
}

/// The pending operations, each at a place of its own.
///
/// They are in no order: links to those before and after would be written by threads
/// that have nothing else to do with those. Who wants the oldest looks at all, and
/// remembers which it was.
#[derive(Debug, Default)]
pub(super) struct Places {
    slab: Slab<Place>,
    next_number: u64,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_name_the_next_at_its_place() {
        let operation = |came| Operation {
            came,
            turn: 0,
            weight: 1,
            bytes: 0,
            lane: 0,
            runs: true,
        };
        let mut places = Places::default();
        let old = places.insert(operation(1));
        assert_eq!(places.remove(old).map(|it| it.came), Some(1));
        let new = places.insert(operation(2));
        assert_eq!(old.place(), new.place());
        assert!(places.get(old).is_none() && places.remove(old).is_none());
        assert_eq!(places.get(new).map(|it| it.came), Some(2));
    }

    #[test]
    fn a_place_takes_one_line() {
        // A slab's vacant places are told apart within it.
        assert_eq!(size_of::<Option<Place>>(), 64);
    }
}
