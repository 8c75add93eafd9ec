//! What a region's final result means for the region, and for the request.

use super::{DownCause, board::Report};
use crate::{
    BoxError,
    error::ShuttingDown,
    outcome::{Cause, Fault, Outcome, Refusal, Repeat, Verdict},
};

/// What a result says of the region.
pub(super) fn report(outcome: &Outcome, error: Option<&BoxError>) -> Report {
    if let Some(error) = error
        && let Some(shut) = shut(error)
    {
        return shut;
    }
    match (outcome.verdict, outcome.cause) {
        (Verdict::Success, _) => Report::Good,
        // A 408 says that the server waited for us.
        (Verdict::Refused(Refusal::RequestTimeout), _) => Report::Nothing,
        (Verdict::Refused(_), _) => Report::Refused,
        (Verdict::Failed(_), _) => Report::Failed,
        // A queue that was full, or too long; a deadline that passed in it.
        (Verdict::Ignored, Cause::Fault(Fault::Local)) => Report::Refused,
        (Verdict::Ignored, _) => Report::Nothing,
    }
}

fn shut(error: &BoxError) -> Option<Report> {
    #[cfg(feature = "circuit-breaker")]
    if let Some(open) = error.downcast_ref::<crate::error::CircuitOpen>() {
        return Some(Report::Shut(DownCause::CircuitOpen, open.retry_after()));
    }
    let draining = error.is::<ShuttingDown>();
    draining.then_some(Report::Shut(DownCause::ShuttingDown, None))
}

/// Whether a region's own layers refused the request, so that no upstream has
/// had this try.
pub(super) fn is_local(outcome: &Outcome) -> bool {
    matches!(
        outcome.cause,
        Cause::Fault(Fault::Local | Fault::ShuttingDown)
    )
}

/// Whether another region may have a better answer, and may be asked as far as
/// this result goes.
pub(super) fn goes_elsewhere(outcome: &Outcome, safe: bool) -> bool {
    let Cause::Fault(fault) = outcome.cause else {
        let bad = matches!(outcome.verdict, Verdict::Refused(_) | Verdict::Failed(_));
        return bad && may_repeat(outcome.repeat, safe);
    };
    match fault {
        Fault::Request => false,
        // Hopeless there, and nothing was sent.
        Fault::Local | Fault::ShuttingDown | Fault::Tls => true,
        // The region's own deadline, or another one's that is not ours: the
        // request's is looked at apart.
        Fault::Deadline => safe,
        // What is no HTTP, or no good gRPC, there may be elsewhere.
        _ => safe || may_repeat(outcome.repeat, safe),
    }
}

fn may_repeat(repeat: Repeat, safe: bool) -> bool {
    match repeat {
        Repeat::Never => false,
        Repeat::IfSafe => safe,
        Repeat::Always | Repeat::Transparent => true,
    }
}

#[cfg(test)]
mod tests {
    use http::{Response, StatusCode};

    use super::*;
    use crate::{
        error::QueueFull,
        outcome::{HttpClassifier, Protocol, judge},
    };

    fn of(status: u16) -> Outcome {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        judge(&HttpClassifier::new(), Protocol::Http, Ok(&response))
    }

    #[test]
    fn statuses_say_what_they_say_to_every_layer() {
        for (status, said, unsafe_too) in [
            (200, Report::Good, None),
            (404, Report::Good, None),
            (408, Report::Nothing, Some(true)),
            (429, Report::Refused, Some(true)),
            (500, Report::Failed, Some(false)),
            (501, Report::Failed, None),
            (503, Report::Refused, Some(false)),
        ] {
            let outcome = of(status);
            assert_eq!(report(&outcome, None), said, "{status}");
            assert_eq!(
                goes_elsewhere(&outcome, true),
                unsafe_too.is_some(),
                "{status}"
            );
            assert_eq!(
                goes_elsewhere(&outcome, false),
                unsafe_too == Some(true),
                "{status}"
            );
        }
    }

    #[test]
    fn faults_go_elsewhere_by_what_was_sent() {
        for (fault, safe, any) in [
            (Fault::Connect, true, true),
            (Fault::Tls, true, true),
            (Fault::NotSent, true, true),
            (Fault::GoAway, true, true),
            (Fault::Local, true, true),
            (Fault::ShuttingDown, true, true),
            (Fault::Closed, true, false),
            (Fault::AttemptTimeout, true, false),
            (Fault::Parse, true, false),
            (Fault::Deadline, true, false),
            (Fault::Request, false, false),
        ] {
            let outcome = fault.outcome(Protocol::Http);
            assert_eq!(goes_elsewhere(&outcome, true), safe, "{fault}");
            assert_eq!(goes_elsewhere(&outcome, false), any, "{fault}");
        }
    }

    #[test]
    fn a_full_queue_is_a_refusal_and_a_drained_stack_is_shut() {
        let protocol = Protocol::Http;
        let local = Fault::Local.outcome(protocol);
        let full: BoxError = QueueFull::new("a".into(), None, 1).into();
        assert_eq!(report(&local, Some(&full)), Report::Refused);
        let drained: BoxError = ShuttingDown::unsent("a".into()).into();
        let outcome = Fault::ShuttingDown.outcome(protocol);
        let shut = Report::Shut(DownCause::ShuttingDown, None);
        assert_eq!(report(&outcome, Some(&drained)), shut);
    }
}
