use std::collections::VecDeque;

use tokio::{sync::oneshot, time::Instant};

/// The slots, and the queue before them.
#[derive(Debug)]
pub(super) struct Slots {
    capacity: usize,
    busy: usize,
    queue: VecDeque<oneshot::Sender<Instant>>,
}

/// What [`Slots::admit`] gave.
#[derive(Debug)]
pub(super) enum Admission {
    /// A slot.
    Slot,
    /// A place in the queue: this receives when the slot was given.
    Queued(oneshot::Receiver<Instant>),
    /// Neither.
    Full,
}

impl Slots {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            busy: 0,
            queue: VecDeque::new(),
        }
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many are in a slot or wait for one.
    pub(super) fn in_flight(&self) -> usize {
        self.busy + self.queue.len()
    }

    pub(super) fn is_full(&self, queue: usize) -> bool {
        self.busy >= self.capacity && self.queue.len() >= queue
    }

    pub(super) fn admit(&mut self, queue: usize) -> Admission {
        if self.is_full(queue) {
            return Admission::Full;
        }
        if self.busy < self.capacity {
            self.busy += 1;
            return Admission::Slot;
        }
        let (turn, waiter) = oneshot::channel();
        self.queue.push_back(turn);
        Admission::Queued(waiter)
    }

    /// Fewer slots than are busy take effect as requests end.
    pub(super) fn set_capacity(&mut self, capacity: usize, now: Instant) {
        self.capacity = capacity;
        self.grant(now);
    }

    /// A slot is free again.
    pub(super) fn release(&mut self, now: Instant) {
        self.busy -= 1;
        self.grant(now);
    }

    /// A waiter has gone, with its slot if that was given meanwhile.
    pub(super) fn leave(&mut self, mut waiter: oneshot::Receiver<Instant>, now: Instant) {
        waiter.close();
        if waiter.try_recv().is_ok() {
            self.release(now);
        }
        self.queue.retain(|turn| !turn.is_closed());
    }

    fn grant(&mut self, now: Instant) {
        while self.busy < self.capacity
            && let Some(turn) = self.queue.pop_front()
        {
            if turn.send(now).is_ok() {
                self.busy += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(slots: &mut Slots, queue: usize) -> oneshot::Receiver<Instant> {
        match slots.admit(queue) {
            Admission::Queued(waiter) => waiter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn above_the_slots_is_full_without_a_queue() {
        let mut slots = Slots::new(1);
        assert!(matches!(slots.admit(0), Admission::Slot));
        assert!(matches!(slots.admit(0), Admission::Full));
        slots.release(Instant::now());
        assert!(matches!(slots.admit(0), Admission::Slot));
    }

    #[test]
    fn the_queue_is_bounded_and_in_order() {
        let mut slots = Slots::new(1);
        assert!(matches!(slots.admit(2), Admission::Slot));
        let mut first = queued(&mut slots, 2);
        let mut second = queued(&mut slots, 2);
        assert!(matches!(slots.admit(2), Admission::Full));
        assert_eq!(slots.in_flight(), 3);

        let now = Instant::now();
        slots.release(now);
        assert_eq!(first.try_recv(), Ok(now));
        second.try_recv().unwrap_err();
    }

    #[test]
    fn a_waiter_that_leaves_gives_its_place_or_its_slot_back() {
        let mut slots = Slots::new(1);
        assert!(matches!(slots.admit(9), Admission::Slot));
        let first = queued(&mut slots, 9);
        let second = queued(&mut slots, 9);
        let mut third = queued(&mut slots, 9);
        slots.leave(first, Instant::now());
        assert_eq!(slots.in_flight(), 3);
        slots.release(Instant::now());
        slots.leave(second, Instant::now());
        third.try_recv().unwrap();
        slots.release(Instant::now());
        assert_eq!(slots.in_flight(), 0);
    }

    #[test]
    fn capacity_grows_at_once_and_shrinks_as_requests_end() {
        let mut slots = Slots::new(2);
        assert!(matches!(slots.admit(9), Admission::Slot));
        assert!(matches!(slots.admit(9), Admission::Slot));
        let mut waiter = queued(&mut slots, 9);
        slots.set_capacity(1, Instant::now());
        slots.release(Instant::now());
        waiter.try_recv().unwrap_err();
        slots.set_capacity(2, Instant::now());
        waiter.try_recv().unwrap();
    }
}
