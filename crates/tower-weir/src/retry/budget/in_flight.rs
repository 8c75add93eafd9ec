use std::sync::Mutex;

use tokio::time::Instant;

use super::{Budget, BudgetEmpty, BudgetRule, InvalidBudget, lock, share};
use crate::outcome::Outcome;

const WHOLE: u32 = 1_000_000;

/// Retries up to a share of what is in flight, as Envoy's retry budgets count.
///
/// A retry is granted while fewer than max(`share` of the requests in flight,
/// `at_least`) are retrying: each from the grant, its backoff included, until
/// its outcome. It needs no memory and no clock, and follows the load at once;
/// but with few requests in flight `at_least` alone decides, and a slow
/// upstream, where much is in flight, gets more retries.
///
/// The default is a share of 0.2 and at least 3.
#[derive(Debug)]
pub struct InFlightShare {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// In millionths.
    share: u64,
    at_least: u32,
    requests: u32,
    retries: u32,
}

impl InFlightShare {
    /// A budget of `share` (0 to 1) of the requests in flight, rounded down, or
    /// of `at_least` retries, whichever is more.
    ///
    /// # Errors
    ///
    /// [`InvalidBudget`] if the share is outside its range.
    pub fn new(share: f64, at_least: u32) -> Result<Self, InvalidBudget> {
        check(share)?;
        Ok(Self::of(share, at_least))
    }

    fn of(ratio: f64, at_least: u32) -> Self {
        let counts = Counts {
            share: share(ratio, WHOLE),
            at_least,
            ..Counts::default()
        };
        Self {
            counts: Mutex::new(counts),
        }
    }
}

fn check(share: f64) -> Result<(), InvalidBudget> {
    match (0.0..=1.0).contains(&share) {
        true => Ok(()),
        false => Err(InvalidBudget::new(
            "share",
            "a share of what is in flight must be 0 to 1",
        )),
    }
}

impl Default for InFlightShare {
    fn default() -> Self {
        Self::of(0.2, 3)
    }
}

impl Budget for InFlightShare {
    fn begin(&self) {
        lock(&self.counts).requests += 1;
    }

    fn deposit(&self, _now: Instant, _outcome: &Outcome, _held: u32) {}

    fn try_withdraw(
        &self,
        _now: Instant,
        _outcome: &Outcome,
        held: u32,
    ) -> Result<u32, BudgetEmpty> {
        let mut counts = lock(&self.counts);
        counts.retries = counts.retries.saturating_sub(held);
        let share = u64::from(counts.requests) * counts.share / u64::from(WHOLE);
        if u64::from(counts.retries) >= share.max(counts.at_least.into()) {
            return Err(BudgetEmpty { retry_at: None });
        }
        counts.retries += 1;
        Ok(1)
    }

    fn retune(&self, rule: &BudgetRule) -> bool {
        let BudgetRule::InFlight {
            share: ratio,
            at_least,
        } = *rule
        else {
            return false;
        };
        if check(ratio).is_err() {
            return false;
        }
        let mut counts = lock(&self.counts);
        counts.share = share(ratio, WHOLE);
        counts.at_least = at_least;
        true
    }

    fn end(&self, held: u32) {
        let mut counts = lock(&self.counts);
        counts.requests = counts.requests.saturating_sub(1);
        counts.retries = counts.retries.saturating_sub(held);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::Ticket, *};

    fn begin(budget: &Arc<dyn Budget>, requests: usize) -> Vec<Ticket> {
        (0..requests).map(|_| Ticket::new(budget.clone())).collect()
    }

    fn retrying(requests: &mut [Ticket]) -> usize {
        let now = Instant::now();
        requests
            .iter_mut()
            .filter_map(|request| request.try_withdraw(now, &Outcome::failed()).ok())
            .count()
    }

    #[test]
    fn a_fifth_or_three_may_retry_at_once() {
        for (requests, expected) in [(1, 1), (2, 2), (10, 3), (19, 3), (20, 4), (24, 4), (99, 19)] {
            let budget: Arc<dyn Budget> = Arc::new(InFlightShare::default());
            assert_eq!(
                retrying(&mut begin(&budget, requests)),
                expected,
                "{requests}"
            );
        }
    }

    #[test]
    fn a_retry_that_ends_makes_room_however_it_ends() {
        let budget: Arc<dyn Budget> = Arc::new(InFlightShare::new(0.0, 1).unwrap());
        let mut requests = begin(&budget, 3);
        assert_eq!(retrying(&mut requests[..2]), 1);
        // Its next retry takes the place of its last.
        assert_eq!(retrying(&mut requests[..1]), 1);
        // Dropped, as by a caller who goes away.
        requests.remove(0);
        assert_eq!(retrying(&mut requests), 1);
        let now = Instant::now();
        requests.remove(0).deposit(now, &Outcome::success());
        assert_eq!(retrying(&mut requests), 1);
    }

    #[test]
    fn the_share_follows_the_load_and_is_rounded_down() {
        let budget: Arc<dyn Budget> = Arc::new(InFlightShare::new(0.5, 0).unwrap());
        let mut one = begin(&budget, 1);
        assert_eq!(retrying(&mut one), 0);
        let mut another = begin(&budget, 1);
        assert_eq!(retrying(&mut another), 1, "one of two");
        assert_eq!(retrying(&mut one), 0);
        drop(another);
        assert_eq!(retrying(&mut one), 0, "none of one");
    }

    #[test]
    fn what_a_refused_request_held_is_given_back_once() {
        let budget: Arc<dyn Budget> = Arc::new(InFlightShare::new(0.5, 0).unwrap());
        let mut requests = begin(&budget, 4);
        assert_eq!(retrying(&mut requests[..2]), 2);
        requests.truncate(2);
        // One of two may retry, and the other does.
        assert_eq!(retrying(&mut requests[..1]), 0);
        requests.remove(0);
        let mut another = begin(&budget, 1);
        assert_eq!(retrying(&mut another), 0);
    }

    #[test]
    fn everything_comes_back() {
        let budget = Arc::new(InFlightShare::default());
        let shared: Arc<dyn Budget> = budget.clone();
        let mut requests = begin(&shared, 50);
        assert_eq!(retrying(&mut requests), 10);
        assert_eq!(retrying(&mut requests), 10);
        let now = Instant::now();
        for (place, request) in requests.into_iter().enumerate() {
            if place % 2 == 0 {
                request.deposit(now, &Outcome::failed());
            }
        }
        let counts = lock(&budget.counts);
        assert_eq!((counts.requests, counts.retries), (0, 0));
    }

    #[test]
    fn the_share_has_bounds() {
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(InFlightShare::new(share, 3).is_err(), "{share}");
        }
    }

    #[test]
    fn other_numbers_hold_for_what_is_in_flight() {
        let rule = |share, at_least| BudgetRule::InFlight { share, at_least };
        let budget: Arc<dyn Budget> = Arc::new(InFlightShare::new(0.2, 0).unwrap());
        let mut requests = begin(&budget, 10);
        assert_eq!(retrying(&mut requests[..5]), 2);
        assert!(budget.retune(&rule(0.5, 0)));
        // Of those that ask anew, two were retrying already.
        assert_eq!(retrying(&mut requests[5..]), 3);
        assert!(budget.retune(&rule(0.0, 1)));
        assert_eq!(retrying(&mut begin(&budget, 1)), 0);
        assert!(!budget.retune(&rule(1.5, 1)) && !budget.retune(&BudgetRule::default()));
    }
}
