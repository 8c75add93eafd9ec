use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::Instant;

use super::{Budget, BudgetEmpty, BudgetRule};
use crate::outcome::{Failure, Outcome, Verdict};

/// The retry quota of the AWS SDKs' standard mode.
///
/// A count begins at `capacity`. A retry takes `retry_cost`, or `timeout_cost`
/// when the attempt before it timed out, and is refused when less is left. A
/// request that succeeds gives back what its last retry took, or 1 if it took
/// none, up to `capacity`.
///
/// The default is that of the SDKs: 500, 5 and 10. So an outage is met with a
/// hundred retries, then with none until requests succeed at the first attempt.
/// Time does not fill it: [`BudgetEmpty::retry_at`] is never known.
#[derive(Debug)]
pub struct CostQuota {
    capacity: AtomicU32,
    retry_cost: AtomicU32,
    timeout_cost: AtomicU32,
    left: AtomicU32,
}

impl CostQuota {
    /// A quota of `capacity` tokens, of which a retry takes `retry_cost`, and
    /// after a timeout `timeout_cost`. A cost of 0 makes that retry free; one
    /// over `capacity` forbids it.
    pub const fn new(capacity: u32, retry_cost: u32, timeout_cost: u32) -> Self {
        Self {
            capacity: AtomicU32::new(capacity),
            retry_cost: AtomicU32::new(retry_cost),
            timeout_cost: AtomicU32::new(timeout_cost),
            left: AtomicU32::new(capacity),
        }
    }
}

impl Default for CostQuota {
    fn default() -> Self {
        Self::new(500, 5, 10)
    }
}

impl Budget for CostQuota {
    fn deposit(&self, _now: Instant, outcome: &Outcome, held: u32) {
        if !outcome.is_done() {
            return;
        }
        let capacity = self.capacity.load(Ordering::Relaxed);
        // The closure never declines, so the result says nothing.
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_add(held.max(1)).min(capacity))
            });
    }

    fn try_withdraw(
        &self,
        _now: Instant,
        outcome: &Outcome,
        _held: u32,
    ) -> Result<u32, BudgetEmpty> {
        let cost = if outcome.verdict == Verdict::Failed(Failure::Timeout) {
            &self.timeout_cost
        } else {
            &self.retry_cost
        };
        let cost = cost.load(Ordering::Relaxed);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(cost)
            })
            .map(|_| cost)
            .map_err(|_| BudgetEmpty { retry_at: None })
    }

    /// What is spent stays spent.
    fn retune(&self, rule: &BudgetRule) -> bool {
        let BudgetRule::CostQuota {
            capacity,
            retry_cost,
            timeout_cost,
        } = *rule
        else {
            return false;
        };
        self.retry_cost.store(retry_cost, Ordering::Relaxed);
        self.timeout_cost.store(timeout_cost, Ordering::Relaxed);
        let before = self.capacity.swap(capacity, Ordering::Relaxed);
        // The closure never declines, so the result says nothing.
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(capacity.saturating_sub(before.saturating_sub(left)))
            });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(quota: &CostQuota, after: &Outcome) -> usize {
        let now = Instant::now();
        (0..)
            .take_while(|_| quota.try_withdraw(now, after, 0).is_ok())
            .count()
    }

    #[test]
    fn an_outage_is_met_with_a_hundred_retries_or_half_after_timeouts() {
        assert_eq!(retries(&CostQuota::default(), &Outcome::unavailable()), 100);
        assert_eq!(retries(&CostQuota::default(), &Outcome::timed_out()), 50);
    }

    #[test]
    fn a_retry_that_succeeds_gives_back_what_it_took_and_a_first_attempt_1() {
        let now = Instant::now();
        let quota = CostQuota::new(20, 5, 10);
        let failed = Outcome::failed();
        let first = quota.try_withdraw(now, &failed, 0).unwrap();
        let second = quota
            .try_withdraw(now, &Outcome::timed_out(), first)
            .unwrap();
        assert_eq!((first, second), (5, 10));
        quota.deposit(now, &Outcome::success(), second);
        // 15 are left: three retries, and then nothing.
        assert_eq!(retries(&quota, &failed), 3);
        for success in 1..=5 {
            assert_eq!(retries(&quota, &failed), 0, "{success}");
            quota.deposit(now, &Outcome::success(), 0);
        }
        assert_eq!(retries(&quota, &failed), 1);
        quota.deposit(now, &failed, 5);
        assert_eq!(retries(&quota, &failed), 0, "a failure gives nothing back");
    }

    #[test]
    fn it_is_never_fuller_than_full() {
        let quota = CostQuota::new(10, 5, 10);
        for _ in 0..9 {
            quota.deposit(Instant::now(), &Outcome::success(), 5);
        }
        assert_eq!(retries(&quota, &Outcome::failed()), 2);
    }

    #[test]
    fn other_numbers_leave_spent_what_is_spent() {
        let rule = |capacity, retry_cost| BudgetRule::CostQuota {
            capacity,
            retry_cost,
            timeout_cost: 1,
        };
        let (now, failed) = (Instant::now(), Outcome::failed());
        let quota = CostQuota::new(100, 20, 20);
        assert_eq!(quota.try_withdraw(now, &failed, 0), Ok(20));
        assert_eq!(quota.try_withdraw(now, &failed, 20), Ok(20));
        // 40 of 60 are spent.
        assert!(quota.retune(&rule(60, 10)));
        assert_eq!(retries(&quota, &failed), 2);
        assert!(quota.retune(&rule(70, 10)));
        assert_eq!(retries(&quota, &failed), 1);
        assert!(quota.retune(&rule(30, 10)));
        assert_eq!(retries(&quota, &failed), 0);
        assert!(!quota.retune(&BudgetRule::default()));
    }
}
