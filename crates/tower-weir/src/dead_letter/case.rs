//! What is kept of a request while it is under way, in case it fails.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Request, header, request};
use tokio::time::Instant;

use super::{Letter, LetterAttempt, LetterBody, LetterResult};
use crate::{
    hosts::host_of,
    outcome::{Fault, Processed, Protocol},
    retry::{Attempt, Recorder},
};

/// The headers that are left out unless a layer is told otherwise: credentials.
pub(super) const SECRETS: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    HeaderName::from_static("x-api-key"),
];

/// A request on its way: its head, and the record that the retries keep.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) head: request::Parts,
    pub(super) recorder: Recorder,
    /// Whether nobody further out wants the record.
    ours: bool,
}

/// A failed request, all but its body.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) case: Box<Case>,
    pub(super) result: LetterResult,
    pub(super) processed: Processed,
    /// When, by both clocks.
    pub(super) at: (Instant, SystemTime),
}

impl Case {
    pub(super) fn open<B>(request: &mut Request<B>) -> Box<Self> {
        let (head, ours) = copy_of_head(request);
        let outer = request.extensions().get::<Recorder>().cloned();
        let recorder = outer.unwrap_or_else(|| {
            let recorder = Recorder::new();
            request.extensions_mut().insert(recorder.clone());
            recorder
        });
        Box::new(Self {
            head,
            recorder,
            ours,
        })
    }

    /// Nobody will ask.
    pub(super) fn close(&self) {
        if self.ours {
            self.recorder.close();
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    pub(super) fn host(&self) -> String {
        let host = host_of(&self.head.uri, &self.head.headers);
        host.unwrap_or_default().into_owned()
    }

    /// Whether an upstream may have acted on the request, as far as `fault`
    /// tells where no attempt was written down.
    pub(super) fn processed(&self, fault: Option<Fault>) -> Processed {
        if !self.recorder.attempts().is_empty() {
            return self.recorder.processed();
        }
        let protocol = Protocol::of(&self.head.headers);
        fault.map_or(Processed::Maybe, |fault| fault.outcome(protocol).processed)
    }
}

fn copy_of_head<B>(request: &Request<B>) -> (request::Parts, bool) {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    let ours = request.extensions().get::<Recorder>().is_none();
    (copy.into_parts().0, ours)
}

impl Failed {
    /// The letter, with its `body`; without the `secrets` among the headers.
    pub(super) fn letter(self, body: LetterBody, secrets: &[HeaderName]) -> Letter {
        let Self {
            case,
            result,
            processed,
            at,
        } = self;
        let Case { head, recorder, .. } = *case;
        let (mut headers, left_out) = without(head.headers, secrets);
        let key = recorder.key();
        // It may be the caller's own, and one that is not to be kept.
        if let Some((name, value)) = key.filter(|(name, _)| !left_out.contains(name)) {
            headers.insert(name, value);
        }
        let attempts = recorder.attempts();
        let attempts = attempts.iter().map(|attempt| of(attempt, at)).collect();
        Letter {
            at: whole_millis(at.1),
            method: head.method,
            uri: head.uri,
            headers,
            left_out,
            body,
            attempts,
            ending: recorder.ending().map(|ending| ending.to_string()),
            processed,
            result,
        }
    }
}

/// The headers that may be kept, and the names of those that may not.
fn without(headers: HeaderMap, secrets: &[HeaderName]) -> (HeaderMap, Vec<HeaderName>) {
    let secret = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        secrets.contains(name) || values.any(http::HeaderValue::is_sensitive)
    };
    let left_out: Vec<_> = headers
        .keys()
        .filter(|name| secret(name))
        .cloned()
        .collect();
    let mut kept = headers;
    for name in &left_out {
        kept.remove(name);
    }
    (kept, left_out)
}

/// An attempt by the clock on the wall, of which `now` is the present.
fn of(attempt: &Attempt, (now, wall): (Instant, SystemTime)) -> LetterAttempt {
    let ago = now.saturating_duration_since(attempt.began);
    let end = attempt.end;
    LetterAttempt {
        at: whole_millis(wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)),
        host: attempt.host.to_string(),
        took: end.map(|end| millis(end.at.saturating_duration_since(attempt.began))),
        cause: end.map(|end| end.outcome.cause.to_string()),
        delay: end.and_then(|end| end.delay).map(millis),
    }
}

fn millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + millis(since.unwrap_or_default())
}
