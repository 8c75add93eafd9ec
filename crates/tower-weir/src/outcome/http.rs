use std::time::SystemTime;

use http::{Extensions, HeaderMap, Response, StatusCode, header};

use super::{
    Cause, Classify, Fault, GrpcCode, Outcome, Processed, Protocol, Refusal, Repeat, Verdict, grpc,
    hint::{Advice, HintParser, should_retry},
    protocol::is_grpc,
};
use crate::BoxError;

/// How HTTP and gRPC answers are read: the default classifier of every layer.
///
/// | answer | verdict | repeated |
/// |---|---|---|
/// | 1xx, 2xx, 3xx, other 4xx | success | no |
/// | 408 | refused | any method |
/// | 429 | refused | any method |
/// | 503 with a hint | refused | any method |
/// | 503 | refused | if safe |
/// | 500, 502, 504 | failed | if safe |
/// | other 5xx | failed | no |
/// | 413 with a hint (RFC 9110 15.5.14) | success | if safe |
///
/// `x-should-retry: true` or `false` from the server overrides the last column;
/// `false` said with a refusal also takes the refusal out of the verdict, since
/// waiting will not help. gRPC answers go by their code (gRFC A6); an answer to
/// a gRPC request that is not gRPC goes by gRPC's HTTP mapping. Errors go by
/// the [`Fault`] found in their source chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassifier {
    hints: HintParser,
}

impl HttpClassifier {
    /// The default classifier.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses how hints are read: strictly or leniently, with or without the
    /// `RateLimit` header. Default: lenient, without.
    #[must_use]
    pub fn hints(mut self, hints: HintParser) -> Self {
        self.hints = hints;
        self
    }

    fn advice(&self, headers: &HeaderMap) -> Advice {
        self.hints.parse(headers, SystemTime::now)
    }

    fn http(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        if status.is_success() || status.is_informational() {
            return Outcome::success().with_cause(Cause::Status(status));
        }
        let hint = match self.advice(headers) {
            Advice::Wait(hint) => Some(hint),
            Advice::Nothing | Advice::Never => None,
        };
        let hinted = hint.is_some();
        let outcome = match status.as_u16() {
            408 => Outcome::throttled().with_verdict(Verdict::Refused(Refusal::RequestTimeout)),
            429 => Outcome::throttled(),
            503 if hinted => Outcome::unavailable()
                .with_repeat(Repeat::Always)
                .with_processed(Processed::No),
            503 => Outcome::unavailable(),
            500 | 502 | 504 => Outcome::failed(),
            501 | 505.. => Outcome::failed().with_repeat(Repeat::Never),
            413 if hinted => Outcome::success().with_repeat(Repeat::IfSafe),
            _ => Outcome::success(),
        };
        let told = should_retry(headers);
        let outcome = outcome
            .with_hint(hint)
            .with_cause(Cause::Status(status))
            .with_told(told);
        match (told, outcome.verdict) {
            (Some(true), _) => outcome.with_repeat(Repeat::Always),
            (Some(false), Verdict::Refused(_)) => outcome
                .with_repeat(Repeat::Never)
                .with_verdict(Verdict::Ignored),
            (Some(false), _) => outcome.with_repeat(Repeat::Never),
            (None, _) => outcome,
        }
    }

    fn grpc(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        let code = if let Some(value) = headers.get("grpc-status") {
            GrpcCode::parse(value.as_bytes())
        } else if status != StatusCode::OK {
            GrpcCode::from_http(status)
        } else if headers.get(header::CONTENT_TYPE).is_none_or(is_grpc) {
            // The headers commit the answer; what comes of it, the trailers tell.
            GrpcCode::Ok
        } else {
            GrpcCode::Unknown
        };
        grpc::outcome(code, self.advice(headers))
    }
}

/// To a layer outside of retries an answer is that of all their attempts: it may
/// say that nothing was done, but not of those before it.
#[cfg(feature = "retry")]
fn doubted(outcome: Outcome, extensions: &Extensions) -> Outcome {
    match extensions.get::<crate::retry::Retried>() {
        Some(retried) if retried.processed == Processed::Maybe => {
            let outcome = outcome.with_processed(Processed::Maybe);
            #[cfg(feature = "split")]
            let outcome = Outcome {
                doubted: true,
                ..outcome
            };
            outcome
        }
        _ => outcome,
    }
}

#[cfg(not(feature = "retry"))]
fn doubted(outcome: Outcome, _: &Extensions) -> Outcome {
    outcome
}

impl<B> Classify<Response<B>> for HttpClassifier {
    fn classify(&self, protocol: Protocol, result: Result<&Response<B>, &BoxError>) -> Outcome {
        match (result, protocol) {
            (Ok(response), Protocol::Http) => {
                let outcome = self.http(response.status(), response.headers());
                doubted(outcome, response.extensions())
            }
            (Ok(response), Protocol::Grpc) => self.grpc(response.status(), response.headers()),
            (Err(error), _) => Fault::classify(error.as_ref(), protocol),
        }
    }

    fn classify_trailers(&self, protocol: Protocol, trailers: &HeaderMap) -> Option<Outcome> {
        if protocol != Protocol::Grpc {
            return None;
        }
        let code = GrpcCode::parse(trailers.get("grpc-status")?.as_bytes());
        Some(grpc::outcome(code, self.advice(trailers)).with_repeat(Repeat::Never))
    }
}
