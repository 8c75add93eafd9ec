use std::thread::ScopedJoinHandle;

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::outcome::{Fault, Protocol, hint::tests::contract::rows};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn granted(budget: &RetryBudget, now: Instant) -> bool {
    budget.try_withdraw(now, &Outcome::unavailable(), 0).is_ok()
}

fn refused(retry_at: Option<Instant>) -> Result<u32, BudgetEmpty> {
    Err(BudgetEmpty { retry_at })
}

fn budget(seconds: u64, per_second: u32, share: f64) -> RetryBudget {
    RetryBudget::new(Duration::from_secs(seconds), per_second, share).unwrap()
}

fn succeed(budget: &RetryBudget, now: Instant, times: u32) {
    for _ in 0..times {
        budget.deposit(now, &Outcome::success(), 0);
    }
}

fn retries(budget: &RetryBudget, now: Instant) -> usize {
    (0..).take_while(|_| granted(budget, now)).count()
}

#[test]
fn the_contract() {
    let rows = rows::<5>(include_str!("../../../../tests/contract/retry_budget.tsv"));
    assert_eq!(rows.len(), 7);
    let now = Instant::now();
    for row in rows {
        let [memory, per_second, share, requests, expected] = row;
        let budget = budget(
            memory.parse().unwrap(),
            per_second.parse().unwrap(),
            share.parse().unwrap(),
        );
        let granted = (0..requests.parse().unwrap())
            .filter(|_: &u32| {
                succeed(&budget, now, 1);
                granted(&budget, now)
            })
            .count();
        // Nothing is lost to rounding, so the table's tolerance is not needed.
        assert_eq!(granted, expected.parse::<usize>().unwrap(), "{row:?}");
    }
}

#[test]
fn odd_shares_are_granted_exactly() {
    let now = Instant::now();
    for (share, expected) in [
        (0.35, 350),
        (0.6, 600),
        (1.0, 1000),
        (1.5, 1500),
        (7.3, 7300),
    ] {
        let budget = budget(60, 0, share);
        succeed(&budget, now, 1000);
        assert_eq!(retries(&budget, now), expected, "{share}");
    }
}

#[test]
fn only_an_answer_that_is_not_to_be_retried_deposits() {
    let now = Instant::now();
    for (outcome, expected) in [
        (Outcome::success(), true),
        (Outcome::failed().with_repeat(Repeat::Never), true),
        (Outcome::failed(), false),
        (Fault::Deadline.outcome(Protocol::Http), false),
        (Outcome::throttled(), false),
        (
            Outcome::ignored().with_cause(Cause::Fault(Fault::Local)),
            false,
        ),
    ] {
        let budget = budget(10, 0, 1.0);
        budget.deposit(now, &outcome, 0);
        assert_eq!(granted(&budget, now), expected, "{outcome:?}");
    }
}

#[test]
fn a_deposit_is_forgotten_a_slot_at_a_time_and_the_oldest_spent_first() {
    let start = Instant::now();
    let budget = budget(10, 0, 1.0);
    succeed(&budget, start, 2);
    succeed(&budget, start + 5 * SECOND, 2);
    let just_in_time = start + 10 * SECOND - MILLI;
    assert!(granted(&budget, just_in_time));
    // The second of the first two is gone, those of second 5 are whole.
    assert_eq!(retries(&budget, start + 10 * SECOND), 2);

    succeed(&budget, start + 11 * SECOND, 1);
    succeed(&budget, start + 20 * SECOND, 1);
    assert!(granted(&budget, start + 20 * SECOND));
    assert_eq!(retries(&budget, start + 21 * SECOND), 1);

    succeed(&budget, start + 30 * SECOND, 3);
    assert_eq!(retries(&budget, start + 1003 * SECOND), 0);
    assert_eq!(
        budget.try_withdraw(start, &Outcome::failed(), 0),
        refused(None)
    );
}

#[test]
fn the_reserve_is_refilled_evenly_and_says_when() {
    let start = Instant::now();
    let budget = budget(2, 3, 0.0);
    assert_eq!(retries(&budget, start), 6);
    let third = Duration::from_nanos(333_333_334);
    let ask = |now| budget.try_withdraw(now, &Outcome::failed(), 0);
    assert_eq!(ask(start), refused(Some(start + third)));
    let early = start + third - Duration::from_nanos(1);
    assert_eq!(ask(early), refused(Some(start + third)));
    assert_eq!(ask(start + third), Ok(0));
    assert_eq!(retries(&budget, start + 3600 * SECOND), 6);
}

#[test]
fn a_clock_that_was_read_earlier_takes_nothing_back() {
    let start = Instant::now();
    let budget = budget(1, 1, 1.0);
    assert!(granted(&budget, start + 5 * SECOND));
    // The first moment seen is the origin.
    assert_eq!(
        budget.try_withdraw(start, &Outcome::failed(), 0),
        refused(Some(start + 6 * SECOND))
    );
    succeed(&budget, start, 1);
    assert!(granted(&budget, start + 5 * SECOND));
}

#[test]
fn in_an_outage_the_retries_fall_to_the_reserve() {
    let start = Instant::now();
    let budget = RetryBudget::default();
    for milli in 0..10_000 {
        budget.deposit(start + milli * MILLI, &Outcome::success(), 0);
    }
    let outage = start + 10 * SECOND;
    let per_second: Vec<usize> = (0..60)
        .map(|second| {
            let milli = |milli| outage + second * SECOND + milli * MILLI;
            (0..1000).filter(|m| granted(&budget, milli(*m))).count()
        })
        .collect();
    assert_eq!(per_second[0], 1000, "the memory pays at first");
    assert!(per_second[..10].iter().sum::<usize>() <= 2000 + 100 + 100);
    assert_eq!(per_second[10..], [10; 50]);
}

/// 60,000 requests at 1,000 a second, each retried up to 3 times at once:
/// attempts per request, and retries refused.
fn under_failures(rate: f64) -> (f64, u32) {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(7);
    let budget = RetryBudget::default();
    let (mut attempts, mut refusals) = (0, 0);
    let requests = 60_000;
    for request in 0..requests {
        let now = start + request * MILLI;
        for retry in 0..=3 {
            attempts += 1;
            if !rng.random_bool(rate) {
                budget.deposit(now, &Outcome::success(), 0);
                break;
            }
            if retry == 3 {
                budget.deposit(now, &Outcome::failed(), 0);
            } else if !granted(&budget, now) {
                refusals += 1;
                break;
            }
        }
    }
    (f64::from(attempts) / f64::from(requests), refusals)
}

#[test]
fn few_failures_are_all_retried_and_many_cost_a_quarter_at_most() {
    let (_, refusals) = under_failures(0.05);
    assert_eq!(refusals, 0);
    let (attempts, refusals) = under_failures(0.5);
    assert!(attempts <= 1.25, "{attempts}");
    assert!(attempts > 1.1 && refusals > 0, "{attempts} {refusals}");
}

#[test]
fn arguments_have_bounds() {
    for (memory, share) in [
        (Duration::from_millis(999), 0.2),
        (Duration::from_millis(60_001), 0.2),
        (SECOND, -0.1),
        (SECOND, 1000.1),
        (SECOND, f64::NAN),
    ] {
        assert!(
            RetryBudget::new(memory, 10, share).is_err(),
            "{memory:?} {share}"
        );
    }
    // The greatest there is must not wrap round.
    let most = RetryBudget::new(60 * SECOND, u32::MAX, 1000.0).unwrap();
    let now = Instant::now();
    assert!(granted(&most, now) && granted(&most, now + Duration::from_secs(1 << 33)));
}

proptest! {
    /// What is granted from the start to any moment was deposited or is of
    /// the reserve.
    #[test]
    fn no_more_is_granted_than_was_paid_for(
        steps in prop::collection::vec((0_u64..3_000, any::<bool>()), 1..300),
        per_second in 0_u32..5,
        percent in 0_u32..150,
    ) {
        let start = Instant::now();
        let budget = budget(5, per_second, f64::from(percent) / 100.0);
        let (mut at, mut deposits, mut grants) = (0, 0_u64, 0_u64);
        for (millis, deposit) in steps {
            at += millis;
            let now = start + Duration::from_millis(at);
            if deposit {
                budget.deposit(now, &Outcome::success(), 0);
                deposits += 1;
            } else {
                grants += u64::from(granted(&budget, now));
            }
            // In thousandths of a token.
            let paid = deposits * u64::from(percent) * 10;
            let reserve = u64::from(per_second) * (5_000 + at);
            prop_assert!(grants * 1000 <= paid + reserve);
        }
    }
}

#[test]
fn other_numbers_leave_what_was_earned() {
    let now = Instant::now();
    let rule = |memory: u64, per_second, share| BudgetRule::Share {
        memory: Duration::from_secs(memory),
        per_second,
        share,
    };
    let budget = budget(10, 1, 0.5);
    // Ten from the reserve and fifty from requests, of which twenty are spent.
    succeed(&budget, now, 100);
    assert_eq!((0..20).filter(|_| granted(&budget, now)).count(), 20);
    // A second's worth of reserve is left, and all of the deposits.
    assert!(budget.retune(&rule(1, 1, 0.1)));
    assert_eq!((0..5).filter(|_| granted(&budget, now)).count(), 5);
    assert!(budget.retune(&rule(60, 1, 0.1)));
    succeed(&budget, now, 100);
    assert_eq!(retries(&budget, now), 25 + 10 + 1);
    // It fills up to the new measure.
    assert_eq!(retries(&budget, now + 70 * SECOND), 60);
    for other in [
        rule(61, 1, 0.1),
        rule(10, 1, -1.0),
        BudgetRule::InFlight {
            share: 0.1,
            at_least: 1,
        },
    ] {
        assert!(!budget.retune(&other), "{other:?}");
    }
    assert_eq!(retries(&budget, now + 140 * SECOND), 60);
}

#[test]
fn nothing_of_what_threads_deposit_and_withdraw_at_once_is_lost() {
    let now = Instant::now();
    let budget = budget(60, 0, 1.0);
    let granted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let rounds = 0..5_000;
                    rounds
                        .filter(|n| {
                            succeed(&budget, now, 2);
                            n % 2 == 0 && granted(&budget, now)
                        })
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(granted, 10_000);
    assert_eq!(retries(&budget, now), 30_000);
}

#[test]
fn nothing_of_what_is_deposited_while_the_rule_changes_is_lost() {
    let now = Instant::now();
    let rules = [60, 30].map(|memory| BudgetRule::Share {
        memory: memory * SECOND,
        per_second: 0,
        share: 1.0,
    });
    let budget = budget(60, 0, 1.0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| succeed(&budget, now, 50_000)))
            .collect();
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            for rule in &rules {
                assert!(budget.retune(rule));
            }
        }
    });
    assert_eq!(retries(&budget, now), 200_000);
}
