//! The policy in tower's own `Retry`.

use std::{borrow::Cow, time::Duration};

use http::{HeaderName, Request, Response};
use tokio::time::{Instant, Sleep, sleep};
use tower::retry::Policy;

use super::{
    NotReplayable, Retried, RetryPolicy, Source,
    budget::{BatchBudget, Cost},
    grpc_timeout,
    progress::{Plan, Terms},
    source::{Drain, count_attempts},
    turn::{Planned, Turn},
};
use crate::{
    BoxError, Deadline,
    hosts::host_of,
    outcome::{Classify, judge},
};

/// What a copy of the policy knows of the request that it is for.
///
/// tower's `Retry` has the policy clone the request, then clones the policy for
/// the request's future: when it began must come along, how far it is must not.
#[derive(Debug, Default)]
pub(super) struct Session {
    began: Option<Instant>,
    turn: Option<Box<Turn<Facts>>>,
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self {
            began: self.began,
            turn: None,
        }
    }
}

/// What there is to know of a request that tower keeps.
pub(super) struct Facts {
    host: Box<str>,
    batch: Option<(BatchBudget, Cost)>,
    timed: bool,
}

impl<Res> Source<Res> for Facts {
    /// How many attempts the upstream has seen.
    type Request = u32;

    fn replayable(&self) -> Result<(), NotReplayable> {
        Ok(())
    }

    fn again(&mut self, before: u32, _: Option<&HeaderName>) -> Result<u32, NotReplayable> {
        Ok(before)
    }

    fn is_safe(&self) -> bool {
        // What it is, its progress knows from the beginning.
        false
    }

    fn stamp(&self, _: &mut u32, _: impl FnOnce() -> Option<Duration>) {}

    fn host(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.host)
    }

    fn authority(&self) -> Option<&str> {
        Some(&self.host)
    }

    fn batch(&self) -> Option<(BatchBudget, Cost)> {
        self.batch.clone()
    }

    fn is_whole(_: &Res) -> bool {
        true
    }

    fn discard(_: Res) -> Option<Drain> {
        None
    }

    fn mark(_: &mut Res, _: Retried) {}
}

/// For those who keep tower's `Retry`: what is repeated, after what wait and
/// within which budget is the same as with [`RetryLayer`](super::RetryLayer).
///
/// ```
/// # async fn run() -> Result<(), tower_weir::BoxError> {
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::{Service, ServiceBuilder, ServiceExt, retry::RetryLayer};
/// use tower_weir::{BoxError, retry::RetryPolicy};
/// # let client = tower::util::BoxCloneService::new(tower::service_fn(
/// #     |_: http::Request<Full<Bytes>>| async {
/// #         Ok::<_, std::io::Error>(http::Response::new(String::new()))
/// #     },
/// # ));
///
/// let mut client = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::default()))
///     .map_err(BoxError::from)
///     .service(client);
/// let request = http::Request::get("http://index.internal/query").body(Full::default())?;
/// let response = client.ready().await?.call(request).await?;
/// # drop(response);
/// # Ok(())
/// # }
/// ```
///
/// The request's body must be `Clone`, and the inner service's error a
/// [`BoxError`]. What tower's `Retry` has no place for is lost:
///
/// - bodies that are not `Clone`, tonic's among them, are not replayed;
/// - the deadline ends the retries, but not an attempt under way; the first
///   attempt is not told of it;
/// - a discarded answer is dropped and not drained, which costs HTTP/1 its
///   connection;
/// - an empty budget always ends the retries, also under
///   [`patience`](RetryPolicy::patience);
/// - [`suppress_nested`](RetryPolicy::suppress_nested) and the setting of
///   idempotency keys do nothing;
/// - what is counted belongs to the policy: clones of one share its budgets.
impl<B, R, C> Policy<Request<B>, Response<R>, BoxError> for RetryPolicy<C>
where
    B: Clone,
    C: Classify<Response<R>>,
{
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, BoxError>,
    ) -> Option<Sleep> {
        let rules = &self.rules;
        let began = self.session.began;
        let turn = self
            .session
            .turn
            .get_or_insert_with(|| Box::new(rules.begin(request, began)));
        let protocol = turn.progress.protocol();
        let outcome = judge(&self.classifier, protocol, result.as_ref());
        let outcome = rules.apply(outcome);
        let retried = turn.progress.retried();
        let now = Instant::now();
        let planned = Turn::plan::<Response<R>>(turn, rules, &outcome, None, false, || now);
        if let Ok(Planned {
            delay,
            request: before,
            owed: None,
        }) = planned
        {
            Turn::tell_retry::<Response<R>>(turn, rules, &outcome, delay);
            // Whether the caller goes away before it is sent does not show here.
            Turn::begin::<Response<R>>(turn, rules);
            count_attempts(request.headers_mut(), before, rules.attempt_header.as_ref());
            if let Some(at) = turn.progress.deadline() {
                request.extensions_mut().insert(Deadline(at));
                if turn.source.timed {
                    let left = at.saturating_duration_since(now).saturating_sub(delay);
                    let left = grpc_timeout::write(left);
                    request.headers_mut().insert(grpc_timeout::NAME, left);
                }
            }
            return Some(sleep(delay));
        }
        turn.give_up();
        if let (Ok(response), Some(retried)) = (result, retried) {
            response.extensions_mut().insert(retried);
        }
        None
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        if !self.rules.enabled {
            return None;
        }
        // A copy that has a turn is that of a request under way.
        if self.session.turn.is_none() {
            self.session.began = Some(Instant::now());
        }
        Some(request.clone())
    }
}

impl super::policy::Rules {
    /// A request that began when its first attempt was made.
    fn begin<B>(&self, request: &Request<B>, began: Option<Instant>) -> Turn<Facts> {
        self.bound_hosts();
        let (uri, headers) = (request.uri(), request.headers());
        let terms = Terms::of(request.method(), headers, request.extensions());
        let plan = Plan::new(self, terms, || began.unwrap_or_else(Instant::now));
        let extensions = request.extensions();
        let cost = extensions.get::<Cost>().copied().unwrap_or_default();
        let facts = Facts {
            host: host_of(uri, headers).unwrap_or_default().into(),
            batch: extensions.get().cloned().map(|batch| (batch, cost)),
            timed: terms.timeout.is_some(),
        };
        Turn::new(facts, plan, self.ticket(uri, headers), None)
    }
}
