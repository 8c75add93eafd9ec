use std::fmt;

#[cfg(feature = "circuit-breaker")]
use crate::error::CircuitOpen;
use crate::{
    BoxError,
    error::{BudgetExhausted, DeadlineExceeded, QueueFull, QueueTimeout},
    outcome::{Cause, Fault, Outcome, Processed, Verdict},
    retry::{Ending, wait::GiveUp},
};

/// Why a request got another answer than its own.
///
/// More than one can hold of a result: a 429 after the last retry is refused,
/// its retries are exhausted, and it has failed. The first of those that the
/// layer [acts on](super::FallbackLayer::on) is told, in the order below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FallbackCause {
    /// The circuit was open.
    CircuitOpen,
    /// The request's deadline had passed, or would have before another attempt.
    Deadline,
    /// A retry was due, and the budget of the host or the batch, be it of retries
    /// or of their cost, could not bear it.
    BudgetExhausted,
    /// The retries were used up, and the last result was one to be repeated.
    RetriesExhausted,
    /// The queue was full or too slow, or the upstream said "not now" to the end.
    Refused,
    /// Anything that is no success: this one holds whenever another one does.
    /// Only the request's own error is none of it.
    Failed,
    /// A [closure](super::FallbackLayer::when) chose it.
    Chosen,
}

impl FallbackCause {
    const ALL: [Self; 7] = [
        Self::CircuitOpen,
        Self::Deadline,
        Self::BudgetExhausted,
        Self::RetriesExhausted,
        Self::Refused,
        Self::Failed,
        Self::Chosen,
    ];

    /// The word used in logs, fit for a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::Deadline => "deadline",
            Self::BudgetExhausted => "budget_exhausted",
            Self::RetriesExhausted => "retries_exhausted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Chosen => "chosen",
        }
    }
}

impl fmt::Display for FallbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a request that needs another answer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fallen {
    /// Why.
    pub cause: FallbackCause,
    /// What its last result comes to: [`Outcome::cause`] has the status or the
    /// fault.
    pub outcome: Outcome,
    /// Whether an upstream may have acted on it, in any of its attempts where
    /// these are on record, else in the last.
    pub processed: Processed,
}

/// A response extension: the answer is not the upstream's, but that of the
/// fallback.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FellBack {
    /// Why.
    pub cause: FallbackCause,
    /// What the upstream's last result was.
    pub result: Cause,
}

/// A set of causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Causes(u8);

impl Causes {
    pub(super) fn of(causes: impl IntoIterator<Item = FallbackCause>) -> Self {
        let bits = causes.into_iter().map(|cause| 1 << cause as u8);
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// All that a caller who waits would rather have another answer for.
    pub(super) fn usual() -> Self {
        let mut usual = Self::of(FallbackCause::ALL);
        usual.remove(FallbackCause::Failed);
        usual.remove(FallbackCause::Chosen);
        usual
    }

    fn remove(&mut self, cause: FallbackCause) {
        self.0 &= !(1 << cause as u8);
    }

    fn add(&mut self, cause: FallbackCause) {
        self.0 |= 1 << cause as u8;
    }

    fn has(self, cause: FallbackCause) -> bool {
        self.0 & 1 << cause as u8 != 0
    }

    /// The first one that both have.
    pub(super) fn first_of(self, held: Self) -> Option<FallbackCause> {
        let both = Self(self.0 & held.0);
        FallbackCause::ALL
            .into_iter()
            .find(|cause| both.has(*cause))
    }

    /// All that hold of a result.
    pub(super) fn held(
        outcome: &Outcome,
        error: Option<&BoxError>,
        ending: Option<Ending>,
    ) -> Self {
        let mut held = Self::default();
        if outcome.cause == Cause::Fault(Fault::Request) {
            return held;
        }
        if let Some(cause) = error.and_then(by_error) {
            held.add(cause);
        }
        match ending {
            Some(Ending::Exhausted) => held.add(FallbackCause::RetriesExhausted),
            Some(Ending::BudgetEmpty) => held.add(FallbackCause::BudgetExhausted),
            Some(Ending::Deadline | Ending::GaveUp(GiveUp::Deadline { .. })) => {
                held.add(FallbackCause::Deadline);
            }
            _ => {}
        }
        if matches!(outcome.verdict, Verdict::Refused(_)) {
            held.add(FallbackCause::Refused);
        }
        if held != Self::default() || outcome.verdict != Verdict::Success {
            held.add(FallbackCause::Failed);
        }
        held
    }
}

fn by_error(error: &BoxError) -> Option<FallbackCause> {
    #[cfg(feature = "circuit-breaker")]
    if error.is::<CircuitOpen>() {
        return Some(FallbackCause::CircuitOpen);
    }
    if error.is::<DeadlineExceeded>() {
        Some(FallbackCause::Deadline)
    } else if error.is::<BudgetExhausted>() {
        Some(FallbackCause::BudgetExhausted)
    } else if error.is::<QueueFull>() || error.is::<QueueTimeout>() {
        Some(FallbackCause::Refused)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::Protocol;
    use FallbackCause as Why;

    #[test]
    fn several_causes_hold_of_one_result_and_the_first_that_counts_is_told() {
        let refused = Outcome::throttled();
        let held = Causes::held(&refused, None, Some(Ending::Exhausted));
        assert_eq!(
            held,
            Causes::of([Why::RetriesExhausted, Why::Refused, Why::Failed])
        );
        let told = |on: &[Why]| Causes::of(on.iter().copied()).first_of(held);
        assert_eq!(told(&Why::ALL), Some(Why::RetriesExhausted));
        assert_eq!(told(&[Why::Failed, Why::Refused]), Some(Why::Refused));
        assert_eq!(told(&[Why::Failed]), Some(Why::Failed));
        assert_eq!(told(&[Why::CircuitOpen]), None);
    }

    #[test]
    fn a_success_is_nothing_to_fall_back_from() {
        let held = Causes::held(&Outcome::success(), None, Some(Ending::Done));
        assert_eq!(held, Causes::default());
        // An ABORTED transaction is a success of the server's only.
        let held = Causes::held(&Outcome::success(), None, Some(Ending::Exhausted));
        assert_eq!(Causes::usual().first_of(held), Some(Why::RetriesExhausted));
        let own = Fault::Request.outcome(Protocol::Http);
        assert_eq!(Causes::held(&own, None, None), Causes::default());
    }

    #[test]
    fn our_own_errors_tell_by_themselves() {
        let local = Fault::Local.outcome(Protocol::Http);
        let of =
            |error: BoxError| Causes::usual().first_of(Causes::held(&local, Some(&error), None));
        assert_eq!(
            of(QueueFull::new("a".into(), None, 1).into()),
            Some(Why::Refused)
        );
        let waited = QueueTimeout::new("a".into(), None, 1, Duration::ZERO);
        assert_eq!(of(waited.into()), Some(Why::Refused));
        assert_eq!(of(DeadlineExceeded::sent().into()), Some(Why::Deadline));
        let budget = BudgetExhausted::new("a".into(), Cause::Unspecified);
        assert_eq!(of(budget.into()), Some(Why::BudgetExhausted));
        assert_eq!(of("any other".into()), None);
    }
}
