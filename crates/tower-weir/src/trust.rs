//! What the retry layer of a stack leaves to the admission right below it, which has
//! the host's entry at hand and need not look for the host's budget by name.
//!
//! It is handed down on the thread, for the time of one call or poll: requests have
//! no place for it, and the services between the two know nothing of it.

use std::{cell::Cell, mem};

thread_local! {
    static LEFT: Cell<Task> = const { Cell::new(Task::NONE) };
}

/// Something that one of the two does. It names the stack's budgets, by a number
/// that no others have meanwhile: those of another stack leave it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task(usize);

impl Task {
    pub(crate) const NONE: Self = Self(0);

    /// To keep the budget for as long as the call lasts. `budgets` is an even number.
    pub(crate) const fn keep(budgets: usize) -> Self {
        Self(budgets | 1)
    }

    /// Whether it is left to somebody to keep some budget.
    #[cfg(feature = "weir")]
    #[inline]
    pub(crate) fn is_keeping() -> bool {
        LEFT.get().0 & 1 == 1
    }

    /// To tell the budget of an attempt that was the first and succeeded.
    pub(crate) const fn deposit(budgets: usize) -> Self {
        Self(budgets)
    }
}

/// A task that was left, until [`taken`](Self::taken) is asked.
#[must_use = "what was left before is to be left again"]
pub(crate) struct Left {
    task: Task,
    before: Task,
}

/// Leaves this to whoever may do it, if anybody may, until it is asked who did.
#[inline]
pub(crate) fn leave(task: Task) -> Left {
    // Calls within calls come here too.
    let before = LEFT.replace(task);
    Left { task, before }
}

impl Left {
    /// Whether anybody took it; nobody may from now on.
    #[inline]
    pub(crate) fn taken(self) -> bool {
        let taken = LEFT.replace(self.before) != self.task;
        mem::forget(self);
        taken
    }
}

/// What follows has panicked. Whoever catches that may be within a call that has left
/// something too.
impl Drop for Left {
    #[cold]
    fn drop(&mut self) {
        LEFT.set(self.before);
    }
}

/// Whether this is left to be done. Then it is to be done, and is left no more.
#[inline]
pub(crate) fn take(task: Task) -> bool {
    let left = LEFT.get() == task;
    if left {
        LEFT.set(Task::NONE);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_taken_once_and_by_whom_it_is_for() {
        let (own, others) = (Task::deposit(16), Task::deposit(32));
        let left = leave(own);
        assert!(!take(others) && !take(Task::keep(16)));
        assert!(take(own) && !take(own));
        assert!(left.taken());
        assert!(!leave(own).taken());
        assert!(!take(own), "nobody may do it any more");
    }

    #[test]
    fn what_was_left_before_a_panic_is_left_after_it() {
        let own = Task::deposit(16);
        let around = leave(own);
        let panicked = std::panic::catch_unwind(|| {
            let _within = leave(Task::deposit(32));
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(panicked.is_err() && take(own) && around.taken());
    }

    #[test]
    fn calls_within_calls_leave_each_others_tasks_alone() {
        let (outer, inner) = (Task::deposit(16), Task::NONE);
        let around = leave(outer);
        let within = leave(inner);
        assert!(!take(outer), "it is not this call's");
        assert!(!within.taken());
        assert!(take(outer));
        assert!(around.taken());
    }
}
