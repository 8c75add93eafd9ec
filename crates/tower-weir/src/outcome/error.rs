use std::{error::Error, io};

use super::{Cause, Fault, Outcome, Processed, Protocol, Refusal, Repeat, Verdict};
use crate::error::{AttemptTimeout, DeadlineExceeded, QueueFull, QueueTimeout, ShuttingDown};

impl Fault {
    /// Finds the fault in an error's source chain: the outermost link that is
    /// known decides, because the inner ones say how and not what.
    ///
    /// Known are this crate's own errors, those of hyper, hyper-util's legacy
    /// client and h2 (feature `hyper`), of tonic's `Channel` (feature `tonic`),
    /// tower's `Timeout` and `std::io`.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        links(error).find_map(link_fault).unwrap_or(Self::Other)
    }

    /// What the error says: its fault's outcome; under the feature `tonic` an
    /// error that is a `tonic::Status` and nothing else goes by its code.
    pub(crate) fn classify(error: &(dyn Error + 'static), protocol: Protocol) -> Outcome {
        if let Some(fault) = links(error).find_map(link_fault) {
            return fault.outcome(protocol);
        }
        #[cfg(feature = "tonic")]
        if let Some(status) = links(error).find_map(|link| link.downcast_ref::<tonic::Status>()) {
            let code = super::GrpcCode::parse(i32::from(status.code()).to_string().as_bytes());
            return super::grpc::outcome(code, super::hint::Advice::Nothing);
        }
        Self::Other.outcome(protocol)
    }

    /// What the fault means for the layers. gRPC requests go by the code that
    /// the fault stands for: a lost connection is UNAVAILABLE and so repeated,
    /// a reset stream is INTERNAL and so not.
    pub fn outcome(self, protocol: Protocol) -> Outcome {
        let grpc = protocol == Protocol::Grpc;
        let outcome = match self {
            Self::Connect => Outcome::failed()
                .with_repeat(Repeat::Always)
                .with_processed(Processed::No),
            Self::Tls => Outcome::failed()
                .with_repeat(Repeat::Never)
                .with_processed(Processed::No),
            Self::NotSent => Outcome::ignored().with_repeat(Repeat::Always),
            Self::RefusedStream | Self::GoAway => {
                Outcome::ignored().with_repeat(Repeat::Transparent)
            }
            Self::EnhanceYourCalm => Outcome::throttled()
                .with_verdict(Verdict::Refused(Refusal::Throttled))
                .with_repeat(if grpc { Repeat::Always } else { Repeat::IfSafe })
                .with_processed(Processed::Maybe),
            Self::StreamReset if grpc => Outcome::failed().with_repeat(Repeat::Never),
            Self::Closed | Self::Reset | Self::KeepAlive if grpc => {
                Outcome::failed().with_repeat(Repeat::Always)
            }
            Self::StreamReset | Self::Closed | Self::Reset | Self::KeepAlive | Self::Other => {
                Outcome::failed()
            }
            Self::AttemptTimeout => Outcome::timed_out(),
            Self::Deadline | Self::Parse => Outcome::failed().with_repeat(Repeat::Never),
            Self::Request | Self::Cut => Outcome::ignored().with_processed(Processed::Maybe),
            Self::Local | Self::ShuttingDown => Outcome::ignored(),
        };
        outcome.with_cause(Cause::Fault(self))
    }
}

/// The fault, if the error is one that this crate's layers make. Only the
/// outermost error is looked at: they are not wrapped on their way to a layer
/// of ours, and a success path that fails must stay cheap.
pub(crate) fn own_fault(error: &(dyn Error + 'static)) -> Option<Fault> {
    if error.is::<AttemptTimeout>() {
        Some(Fault::AttemptTimeout)
    } else if let Some(deadline) = error.downcast_ref::<DeadlineExceeded>() {
        Some(if deadline.is_unsent() {
            Fault::Local
        } else {
            Fault::Deadline
        })
    } else if let Some(down) = error.downcast_ref::<ShuttingDown>() {
        Some(match down.processed() {
            Processed::No => Fault::ShuttingDown,
            Processed::Maybe => Fault::Cut,
        })
    } else if error.is::<QueueFull>() || error.is::<QueueTimeout>() || is_circuit_open(error) {
        Some(Fault::Local)
    } else {
        is_budget_exhausted(error).then_some(Fault::Local)
    }
}

#[cfg(feature = "retry")]
fn is_budget_exhausted(error: &(dyn Error + 'static)) -> bool {
    error.is::<crate::error::BudgetExhausted>()
}

#[cfg(not(feature = "retry"))]
fn is_budget_exhausted(_: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(feature = "circuit-breaker")]
fn is_circuit_open(error: &(dyn Error + 'static)) -> bool {
    error.is::<crate::error::CircuitOpen>()
}

#[cfg(not(feature = "circuit-breaker"))]
fn is_circuit_open(_: &(dyn Error + 'static)) -> bool {
    false
}

type Link<'a> = &'a (dyn Error + 'static);

fn links(error: Link<'_>) -> impl Iterator<Item = Link<'_>> {
    std::iter::successors(Some(error), |link: &Link<'_>| -> Option<Link<'_>> {
        (*link).source()
    })
}

fn link_fault(link: &(dyn Error + 'static)) -> Option<Fault> {
    if let Some(fault) = own_fault(link) {
        return Some(fault);
    }
    if link.is::<tower::timeout::error::Elapsed>() {
        return Some(Fault::AttemptTimeout);
    }
    if link.is::<tower::load_shed::error::Overloaded>() {
        return Some(Fault::Local);
    }
    #[cfg(feature = "retry")]
    if link.is::<crate::retry::RequestBodyError>() {
        return Some(Fault::Request);
    }
    #[cfg(feature = "tonic")]
    if link.is::<tonic::ConnectError>() {
        return Some(connect_fault(link));
    } else if link.is::<tonic::TimeoutExpired>() {
        return Some(Fault::AttemptTimeout);
    }
    #[cfg(feature = "hyper")]
    if let Some(fault) = hyper_fault(link) {
        return Some(fault);
    }
    io_fault(link.downcast_ref::<io::Error>()?)
}

#[cfg(feature = "hyper")]
fn hyper_fault(link: &(dyn Error + 'static)) -> Option<Fault> {
    if let Some(error) = link.downcast_ref::<hyper_util::client::legacy::Error>() {
        if error.is_connect() {
            return Some(connect_fault(error));
        }
        // The client refuses a request it cannot send (a relative URI, say)
        // with a kind that only its text tells, and with no source.
        let refused = error.source().is_none() && error.to_string().contains("(User");
        return refused.then_some(Fault::Request);
    }
    if let Some(error) = link.downcast_ref::<hyper::Error>() {
        return if error.is_canceled() || error.is_closed() {
            Some(Fault::NotSent)
        } else if error.is_user() {
            Some(Fault::Request)
        } else if error.is_incomplete_message() {
            Some(Fault::Closed)
        } else if error.is_parse() {
            Some(Fault::Parse)
        } else if error.is_timeout() {
            Some(Fault::KeepAlive)
        } else {
            None
        };
    }
    let error = link.downcast_ref::<h2::Error>()?;
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => {
            Some(Fault::RefusedStream)
        }
        _ if error.is_go_away() && error.is_remote() => Some(Fault::GoAway),
        // Our side ended it: what the peer sent is not HTTP/2.
        _ if error.is_go_away() && error.is_library() => Some(Fault::Parse),
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_remote() => Some(Fault::EnhanceYourCalm),
        // Reset by our side, and not by h2 itself for what the peer sent: hyper
        // does that when the request's body fails, and drops the body's error.
        Some(_) if error.is_reset() && !error.is_remote() && !error.is_library() => {
            Some(Fault::Request)
        }
        Some(_) => Some(Fault::StreamReset),
        None if error.is_io() => error.get_io().and_then(io_fault).or(Some(Fault::Reset)),
        None => None,
    }
}

/// Tells a connection that will never be made from one that may be made later.
#[cfg(feature = "hyper")]
fn connect_fault(error: &(dyn Error + 'static)) -> Fault {
    let hopeless = links(error).any(|link| {
        // TLS stacks report a bad certificate or handshake as InvalidData.
        let tls = link
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        // Connectors have no type for a scheme they do not speak: hyper-util's
        // names the scheme, tonic's says "HTTPS without TLS".
        let speaks_no = |text: String| text.contains("scheme") || text.contains("without TLS");
        tls || link.source().is_none() && speaks_no(link.to_string())
    });
    if hopeless { Fault::Tls } else { Fault::Connect }
}

fn io_fault(error: &io::Error) -> Option<Fault> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::AddrNotAvailable => Some(Fault::Connect),
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected
        | Kind::UnexpectedEof => Some(Fault::Reset),
        Kind::TimedOut => Some(Fault::KeepAlive),
        _ => None,
    }
}
