use slab::Slab;

const NIL: usize = usize::MAX;

/// Names a value in a [`List`]. A key outlives its value harmlessly: a slot of
/// the slab that has been given to another value has another number.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: usize,
    number: u64,
}

/// Queues whose members can leave from anywhere in constant time: the order of
/// each is a doubly linked list of indices into one slab, which allocates only
/// while it grows.
#[derive(Debug)]
pub(crate) struct List<T> {
    nodes: Slab<Node<T>>,
    ends: Box<[Ends]>,
    linked: usize,
    next_number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    head: usize,
    tail: usize,
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    number: u64,
    prev: usize,
    next: usize,
    queue: usize,
    linked: bool,
}

impl Key {
    /// Of the value at this index that has this number.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn new(index: usize, number: u64) -> Self {
        Self { index, number }
    }

    /// What tells its value from others at the same place.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn number(self) -> u64 {
        self.number
    }

    /// A small number that no other value has at the same time.
    #[inline]
    pub(crate) fn place(self) -> usize {
        self.index
    }

    /// Whether its value came into any of the queues before the other's.
    pub(crate) fn is_older_than(self, other: Self) -> bool {
        self.number < other.number
    }
}

impl<T> List<T> {
    pub(crate) fn new(queues: usize) -> Self {
        let ends = Ends {
            head: NIL,
            tail: NIL,
        };
        Self {
            nodes: Slab::new(),
            ends: vec![ends; queues].into(),
            linked: 0,
            next_number: 0,
        }
    }

    /// How many values stand in the queues; those unlinked are not counted.
    pub(crate) fn len(&self) -> usize {
        self.linked
    }

    pub(crate) fn front(&self, queue: usize) -> Option<Key> {
        self.key(self.ends[queue].head)
    }

    /// The first of each queue that has one, from the last queue to the first.
    pub(crate) fn fronts(&self) -> impl Iterator<Item = (usize, Key)> {
        let fronts = (0..self.ends.len())
            .rev()
            .map(|queue| (queue, self.front(queue)));
        fronts.filter_map(|(queue, key)| Some((queue, key?)))
    }

    #[inline]
    pub(crate) fn push_back(&mut self, queue: usize, value: T) -> Key {
        self.insert_after(queue, self.ends[queue].tail, value)
    }

    /// Inserts behind the last value that does not come after it by `order`,
    /// searching from the back, where it usually belongs.
    pub(crate) fn insert_sorted<O: Ord>(
        &mut self,
        queue: usize,
        value: T,
        order: impl Fn(&T) -> O,
    ) -> Key {
        let mine = order(&value);
        let mut at = self.ends[queue].tail;
        while at != NIL && order(&self.nodes[at].value) > mine {
            at = self.nodes[at].prev;
        }
        self.insert_after(queue, at, value)
    }

    /// The first that `is` it, from the last queue to the first. Looks at all
    /// before.
    pub(crate) fn find(&self, is: impl Fn(Key, &T) -> bool) -> Option<Key> {
        let mut all = (0..self.ends.len())
            .rev()
            .flat_map(|queue| self.queue(queue));
        all.find(|(key, value)| is(*key, value)).map(|(key, _)| key)
    }

    /// The values that stand in a queue, from the first to the last.
    pub(crate) fn queue(&self, queue: usize) -> impl Iterator<Item = (Key, &T)> {
        let mut at = self.ends[queue].head;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at)?;
            let key = Key {
                index: at,
                number: node.number,
            };
            at = node.next;
            Some((key, &node.value))
        })
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let node = self.nodes.get(key.index)?;
        (node.number == key.number).then_some(&node.value)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let node = self.nodes.get_mut(key.index)?;
        (node.number == key.number).then_some(&mut node.value)
    }

    /// All that are kept, in no order.
    #[cfg(feature = "config")]
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.nodes.iter_mut().map(|(_, node)| &mut node.value)
    }

    /// Takes a value out of the queue and keeps it under its key.
    pub(crate) fn unlink(&mut self, key: Key) {
        if self.get(key).is_some() && self.nodes[key.index].linked {
            self.detach(key.index);
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let node = self.nodes.get(key.index)?;
        if node.number != key.number {
            return None;
        }
        if node.linked {
            self.detach(key.index);
        }
        Some(self.nodes.remove(key.index).value)
    }

    fn key(&self, index: usize) -> Option<Key> {
        self.nodes.get(index).map(|node| Key {
            index,
            number: node.number,
        })
    }

    #[inline]
    fn insert_after(&mut self, queue: usize, prev: usize, value: T) -> Key {
        let next = if prev == NIL {
            self.ends[queue].head
        } else {
            self.nodes[prev].next
        };
        let number = self.next_number;
        self.next_number += 1;
        let index = self.nodes.insert(Node {
            value,
            number,
            prev,
            next,
            queue,
            linked: true,
        });
        *self.next_of(queue, prev) = index;
        *self.prev_of(queue, next) = index;
        self.linked += 1;
        Key { index, number }
    }

    #[inline]
    fn detach(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.linked = false;
        let (queue, prev, next) = (node.queue, node.prev, node.next);
        *self.next_of(queue, prev) = next;
        *self.prev_of(queue, next) = prev;
        self.linked -= 1;
    }

    #[inline]
    fn next_of(&mut self, queue: usize, index: usize) -> &mut usize {
        match self.nodes.get_mut(index) {
            Some(node) => &mut node.next,
            None => &mut self.ends[queue].head,
        }
    }

    #[inline]
    fn prev_of(&mut self, queue: usize, index: usize) -> &mut usize {
        match self.nodes.get_mut(index) {
            Some(node) => &mut node.prev,
            None => &mut self.ends[queue].tail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(list: &mut List<u32>) -> Vec<u32> {
        std::iter::from_fn(|| list.front(0).and_then(|key| list.remove(key))).collect()
    }

    #[test]
    fn values_leave_from_anywhere_in_order() {
        let mut list = List::<u32>::new(1);
        let keys: Vec<_> = (0..5).map(|n| list.push_back(0, n)).collect();
        assert_eq!(list.remove(keys[2]), Some(2));
        assert_eq!(list.remove(keys[2]), None);
        list.unlink(keys[0]);
        assert_eq!(list.get(keys[0]), Some(&0));
        assert_eq!(list.len(), 3);
        assert_eq!(drain(&mut list), [1, 3, 4]);
        assert_eq!(list.remove(keys[0]), Some(0));
    }

    #[test]
    fn an_old_key_does_not_name_the_slots_new_value() {
        let mut list = List::<u32>::new(1);
        let old = list.push_back(0, 1);
        list.remove(old);
        let new = list.push_back(0, 2);
        assert_eq!(old.index, new.index);
        assert_eq!(list.get(old), None);
        assert_eq!(list.remove(old), None);
        assert_eq!(list.remove(new), Some(2));
    }

    #[cfg(feature = "aimd")]
    #[test]
    fn a_waiters_place_is_as_small_as_documented() {
        use crate::{
            admit::{gate::Gate, state::Waiting},
            aimd::Limiter,
        };
        type Place = Node<Waiting<<Limiter as Gate>::Ticket>>;
        // What the limiter's page in docs/ says of it.
        assert!(size_of::<Place>() <= 192, "{}", size_of::<Place>());
    }

    #[test]
    fn the_queues_of_a_list_are_apart() {
        let mut list = List::<u32>::new(3);
        let late = list.push_back(2, 1);
        let early = list.push_back(0, 2);
        list.push_back(2, 3);
        assert_eq!(list.fronts().collect::<Vec<_>>(), [(2, late), (0, early)]);
        assert!(late.is_older_than(early));
        list.unlink(late);
        assert_eq!(list.get(list.front(2).unwrap()), Some(&3));
        assert_eq!(list.remove(early), Some(2));
        assert_eq!((list.front(0), list.front(1), list.len()), (None, None, 1));
    }

    proptest! {
        #[test]
        fn it_is_a_queue_whatever_leaves(ops in proptest::collection::vec((0u8..4, 0u32..1000), 0..200)) {
            let mut list = List::<u32>::new(1);
            let mut model: Vec<(Key, u32)> = Vec::new();
            for (op, n) in ops {
                match op {
                    0 => model.push((list.push_back(0, n + 1000), n + 1000)),
                    1 => {
                        let at = model.partition_point(|(_, m)| *m <= n);
                        if model.is_sorted_by_key(|(_, m)| *m) {
                            let key = list.insert_sorted(0, n, |m| *m);
                            model.insert(at, (key, n));
                        }
                    }
                    2 if !model.is_empty() => {
                        let (key, n) = model.remove(n as usize % model.len());
                        prop_assert_eq!(list.remove(key), Some(n));
                    }
                    _ => prop_assert_eq!(list.front(0), model.first().map(|(key, _)| *key)),
                }
                prop_assert_eq!(list.len(), model.len());
            }
            let expected: Vec<u32> = model.into_iter().map(|(_, n)| n).collect();
            prop_assert_eq!(drain(&mut list), expected);
        }
    }
}
