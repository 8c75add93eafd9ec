use super::{Cause, GrpcCode, Outcome, Processed, Repeat, Verdict, hint::Advice};

/// What a gRPC status means, with the server's pushback (gRFC A6): a negative,
/// unreadable or repeated one forbids the retry, and a refusal that comes with
/// it says nothing of the upstream's state.
pub(super) fn outcome(code: GrpcCode, advice: Advice) -> Outcome {
    let outcome = by_code(code).with_cause(Cause::Code(code));
    match advice {
        Advice::Nothing => outcome,
        Advice::Wait(hint) => outcome.with_hint(Some(hint)),
        Advice::Never => {
            let outcome = outcome.with_repeat(Repeat::Never).with_told(Some(false));
            match outcome.verdict {
                Verdict::Refused(_) => outcome.with_verdict(Verdict::Ignored),
                Verdict::Success | Verdict::Failed(_) | Verdict::Ignored => outcome,
            }
        }
    }
}

fn by_code(code: GrpcCode) -> Outcome {
    match code {
        GrpcCode::ResourceExhausted => Outcome::throttled(),
        GrpcCode::Unavailable => Outcome::unavailable().with_repeat(Repeat::Always),
        // The transaction lost against another one: the server is well, and the
        // specification of the code says to try again.
        GrpcCode::Aborted => Outcome::success().with_repeat(Repeat::Always),
        GrpcCode::Unknown
        | GrpcCode::DeadlineExceeded
        | GrpcCode::Internal
        | GrpcCode::DataLoss => Outcome::failed().with_repeat(Repeat::Never),
        GrpcCode::Cancelled => Outcome::ignored().with_processed(Processed::Maybe),
        GrpcCode::Ok
        | GrpcCode::InvalidArgument
        | GrpcCode::NotFound
        | GrpcCode::AlreadyExists
        | GrpcCode::PermissionDenied
        | GrpcCode::FailedPrecondition
        | GrpcCode::OutOfRange
        | GrpcCode::Unimplemented
        | GrpcCode::Unauthenticated => Outcome::success(),
    }
}
