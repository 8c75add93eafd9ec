use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::Instant;

use super::{Budget, BudgetEmpty, BudgetRule, InvalidBudget, share};
use crate::outcome::{Outcome, Repeat};

/// The throttle of gRFC A6, as in `retryThrottling` of a gRPC service config.
///
/// A count begins at `max_tokens`. Each failed attempt whose result could be
/// retried takes one token, whether or not a retry follows, and so does an
/// answer that forbids the retry (a negative pushback); each success gives
/// `token_ratio` tokens, up to `max_tokens`. Retries are made only while the
/// count, after the failure was taken, is above half of `max_tokens`. Other
/// results, such as INVALID_ARGUMENT, change nothing.
///
/// Time does not fill it, so that [`BudgetEmpty::retry_at`] is never known: an
/// upstream that gets no request but through retries stays refused.
#[derive(Debug)]
pub struct GrpcThrottle {
    /// In thousandths, as all counts here: A6 reads three decimals of the ratio.
    max: AtomicU32,
    per_success: AtomicU32,
    count: AtomicU32,
}

const TOKEN: u32 = 1000;

impl GrpcThrottle {
    /// A throttle of `max_tokens` (1 to 1000) and of `token_ratio` tokens a
    /// success, of which three decimals count (0.001 to 1000). A6's own example
    /// is 10 and 0.1.
    ///
    /// # Errors
    ///
    /// [`InvalidBudget`] if an argument is outside its range.
    pub fn new(max_tokens: u32, token_ratio: f64) -> Result<Self, InvalidBudget> {
        let (max, per_success) = thousandths(max_tokens, token_ratio)?;
        Ok(Self {
            max: AtomicU32::new(max),
            per_success: AtomicU32::new(per_success),
            count: AtomicU32::new(max),
        })
    }

    /// Returns the count that is left.
    fn change(&self, by: impl Fn(u32) -> u32) -> u32 {
        let before = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                Some(by(count))
            });
        by(before.unwrap_or_else(|count| count))
    }

    fn fail(&self) -> u32 {
        self.change(|count| count.saturating_sub(TOKEN))
    }

    fn grant(&self, count: u32) -> Result<u32, BudgetEmpty> {
        if count > self.max.load(Ordering::Relaxed) / 2 {
            Ok(0)
        } else {
            Err(BudgetEmpty { retry_at: None })
        }
    }
}

fn thousandths(max_tokens: u32, token_ratio: f64) -> Result<(u32, u32), InvalidBudget> {
    if !(1..=1000).contains(&max_tokens) {
        return Err(InvalidBudget::new(
            "max_tokens",
            "a throttle's maxTokens must be 1 to 1000",
        ));
    }
    if !(0.001..=1000.0).contains(&token_ratio) {
        return Err(InvalidBudget::new(
            "token_ratio",
            "a throttle's tokenRatio must be 0.001 to 1000",
        ));
    }
    // Millionths first: cut off at once, 1.001 would be 1.
    let per_success = share(token_ratio, 1_000_000) / 1000;
    Ok((max_tokens * TOKEN, per_success as u32))
}

impl Budget for GrpcThrottle {
    fn deposit(&self, _now: Instant, outcome: &Outcome, _held: u32) {
        if outcome.is_done() {
            let (more, max) = (&self.per_success, &self.max);
            let (more, max) = (more.load(Ordering::Relaxed), max.load(Ordering::Relaxed));
            self.change(|count| (count + more).min(max));
        } else if outcome.repeat != Repeat::Never || outcome.told == Some(false) {
            self.fail();
        }
    }

    fn try_withdraw(
        &self,
        _now: Instant,
        _outcome: &Outcome,
        _held: u32,
    ) -> Result<u32, BudgetEmpty> {
        self.grant(self.fail())
    }

    fn ask_again(&self, _now: Instant, _outcome: &Outcome, _held: u32) -> Result<u32, BudgetEmpty> {
        self.grant(self.count.load(Ordering::Relaxed))
    }

    /// The count keeps its share of the greatest.
    fn retune(&self, rule: &BudgetRule) -> bool {
        let BudgetRule::GrpcThrottle {
            max_tokens,
            token_ratio,
        } = *rule
        else {
            return false;
        };
        let Ok((max, per_success)) = thousandths(max_tokens, token_ratio) else {
            return false;
        };
        self.per_success.store(per_success, Ordering::Relaxed);
        let before = self.max.swap(max, Ordering::Relaxed);
        let scaled = |count: u32| u64::from(count) * u64::from(max) / u64::from(before);
        self.change(|count| u32::try_from(scaled(count)).unwrap_or(max).min(max));
        true
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::outcome::{Cause, Fault, GrpcCode};

    fn grpc(outcome: Outcome, code: GrpcCode) -> Outcome {
        outcome.with_cause(Cause::Code(code))
    }

    fn ask(throttle: &GrpcThrottle) -> bool {
        let outcome = grpc(Outcome::unavailable(), GrpcCode::Unavailable);
        throttle.try_withdraw(Instant::now(), &outcome, 0).is_ok()
    }

    fn tell(throttle: &GrpcThrottle, outcome: Outcome, code: GrpcCode) {
        throttle.deposit(Instant::now(), &grpc(outcome, code), 0);
    }

    #[test]
    fn retries_are_made_only_above_half() {
        // From 10: 9, 8, 7, 6 are above 5; 5 is not.
        let throttle = GrpcThrottle::new(10, 0.1).unwrap();
        let asked: Vec<bool> = (0..6).map(|_| ask(&throttle)).collect();
        assert_eq!(asked, [true, true, true, true, false, false]);
        // It stands at 4; 20 successes make it 6, and 1 more 6.1.
        for _ in 0..20 {
            tell(&throttle, Outcome::success(), GrpcCode::Ok);
        }
        assert!(!ask(&throttle), "6 less 1 is not above 5");
        for _ in 0..11 {
            tell(&throttle, Outcome::success(), GrpcCode::Ok);
        }
        assert!(ask(&throttle), "6.1 less 1 is");
    }

    #[test]
    fn to_ask_again_costs_nothing() {
        let throttle = GrpcThrottle::new(3, 1.0).unwrap();
        let again = || {
            let failed = Outcome::unavailable();
            throttle.ask_again(Instant::now(), &failed, 0).is_ok()
        };
        assert_eq!([ask(&throttle), ask(&throttle)], [true, false]);
        assert_eq!([again(), again()], [false, false]);
        // It stood at 1, and half is 1.5.
        tell(&throttle, Outcome::success(), GrpcCode::Ok);
        assert_eq!([again(), again()], [true, true]);
    }

    #[test]
    fn half_of_an_odd_count_is_not_rounded() {
        // From 3: 2 is above 1.5, 1 is not.
        let throttle = GrpcThrottle::new(3, 0.5).unwrap();
        assert_eq!([ask(&throttle), ask(&throttle)], [true, false]);
    }

    #[test]
    fn the_count_stays_between_nothing_and_the_greatest() {
        let throttle = GrpcThrottle::new(4, 3.0).unwrap();
        for _ in 0..9 {
            ask(&throttle);
        }
        // From 0 one success makes 3, a second 4, not 6: 3 is above 2, then 2.
        tell(&throttle, Outcome::success(), GrpcCode::Ok);
        tell(&throttle, Outcome::success(), GrpcCode::Ok);
        assert_eq!([ask(&throttle), ask(&throttle)], [true, false]);
    }

    #[test]
    fn what_each_result_costs() {
        let failure = grpc(Outcome::unavailable(), GrpcCode::Unavailable);
        let aborted = grpc(Outcome::success(), GrpcCode::Aborted).with_repeat(Repeat::Always);
        let told = |outcome: Outcome| outcome.with_told(Some(false));
        let forbidden = told(grpc(Outcome::ignored(), GrpcCode::Unavailable));
        let forbidden_abort = told(grpc(Outcome::success(), GrpcCode::Aborted));
        let forbidden_http =
            told(Outcome::ignored().with_cause(Cause::Status(StatusCode::TOO_MANY_REQUESTS)));
        let cancelled = grpc(Outcome::ignored(), GrpcCode::Cancelled);
        let local = Outcome::ignored().with_cause(Cause::Fault(Fault::Local));
        let blames = grpc(Outcome::success(), GrpcCode::InvalidArgument);
        let internal = grpc(
            Outcome::failed().with_repeat(Repeat::Never),
            GrpcCode::Internal,
        );
        for (outcome, thousandths) in [
            (failure, -1000),
            (aborted, -1000),
            (forbidden, -1000),
            (forbidden_abort, -1000),
            (forbidden_http, -1000),
            (Outcome::success().with_repeat(Repeat::Always), -1000),
            (cancelled, 0),
            (local, 0),
            (blames, 0),
            (internal, 0),
            (grpc(Outcome::success(), GrpcCode::Ok), 250),
            (
                Outcome::success().with_cause(Cause::Status(StatusCode::OK)),
                250,
            ),
            (
                Outcome::success().with_cause(Cause::Status(StatusCode::NOT_FOUND)),
                0,
            ),
            (Outcome::success(), 250),
        ] {
            let throttle = GrpcThrottle::new(10, 0.25).unwrap();
            let count = || throttle.change(|count| count).cast_signed();
            throttle.fail();
            throttle.deposit(Instant::now(), &outcome, 0);
            assert_eq!(count() - 9_000, thousandths, "{outcome:?}");
        }
    }

    #[test]
    fn three_decimals_of_the_ratio_count() {
        for (ratio, expected) in [
            (0.001, 1),
            (0.029, 29),
            (1.001, 1_001),
            (0.1239, 123),
            (0.5466, 546),
            (0.57, 570),
            (1000.0, 1_000_000),
        ] {
            assert_eq!(
                GrpcThrottle::new(1000, ratio)
                    .unwrap()
                    .per_success
                    .into_inner(),
                expected,
                "{ratio}"
            );
        }
        for (max, ratio) in [
            (0, 0.1),
            (1001, 0.1),
            (10, 0.0),
            (10, 0.0009),
            (10, f64::NAN),
        ] {
            assert!(GrpcThrottle::new(max, ratio).is_err(), "{max} {ratio}");
        }
    }

    #[test]
    fn other_numbers_leave_the_count_its_share() {
        let rule = |max_tokens, token_ratio| BudgetRule::GrpcThrottle {
            max_tokens,
            token_ratio,
        };
        let throttle = GrpcThrottle::new(10, 0.1).unwrap();
        ask(&throttle);
        ask(&throttle);
        // 8 of 10 are 80 of 100: it is asked 29 times until 51 are left.
        assert!(throttle.retune(&rule(100, 1.0)));
        assert_eq!((0..50).filter(|_| ask(&throttle)).count(), 29);
        // 30 of 100 are 1.2 of 4, and 2 successes of 0.5 make it 2.2.
        assert!(throttle.retune(&rule(4, 0.5)));
        tell(&throttle, Outcome::success(), GrpcCode::Ok);
        tell(&throttle, Outcome::success(), GrpcCode::Ok);
        assert_eq!(throttle.change(|count| count), 2_200);
        assert!(!throttle.retune(&rule(0, 0.5)) && !throttle.retune(&BudgetRule::default()));
    }
}
