use std::{
    fmt,
    num::NonZero,
    sync::{Arc, PoisonError, RwLock},
};

use http::StatusCode;
use tower_layer::Layer;

use super::{SplitService, oversize::Oversize, plan::Said};
use crate::{
    BoxError,
    outcome::{
        Cause, Classify, GrpcCode, HttpClassifier, Outcome, Processed, Protocol, Verdict, judge,
    },
};

/// A layer that halves what the upstream does not take whole. See the
/// [module](super) for how.
///
/// It goes outside of the retries, so that what it halves was not for want of
/// patience. It has no state.
pub struct SplitLayer<C, M> {
    pub(super) shared: Arc<Shared<C, M>>,
}

/// What all services of one layer value share.
pub(super) struct Shared<C, M> {
    pub(super) classifier: C,
    pub(super) merge: M,
    pub(super) rules: LiveRules,
}

/// The rules in force. A request keeps those by which it was split.
type LiveRules = Arc<RwLock<Arc<Rules>>>;

#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) enabled: bool,
    pub(super) refusals: Option<NonZero<u32>>,
    pub(super) concurrency: NonZero<usize>,
    any_method: bool,
    protocol: Protocol,
    statuses: Vec<StatusCode>,
    codes: Vec<GrpcCode>,
}

impl Rules {
    fn new(protocol: Protocol) -> Self {
        Self {
            enabled: true,
            refusals: Some(NonZero::<u32>::MIN),
            concurrency: NonZero::<usize>::MIN,
            any_method: false,
            protocol,
            statuses: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// What a result says of the items that went together, whose message has a
    /// `len` as far as that is known.
    pub(super) fn said(
        &self,
        outcome: &Outcome,
        oversize: Option<Oversize>,
        safe: bool,
        len: impl FnOnce() -> Option<usize>,
    ) -> Said {
        let again = safe || self.any_method;
        match self.by_itself(outcome, oversize, again, len) {
            // It says nothing of the attempts before.
            Said::TooLarge | Said::Poisoned | Said::Refused if outcome.doubted && !again => {
                Said::Failed
            }
            said => said,
        }
    }

    fn by_itself(
        &self,
        outcome: &Outcome,
        oversize: Option<Oversize>,
        again: bool,
        len: impl FnOnce() -> Option<usize>,
    ) -> Said {
        let too_large = match oversize {
            None => outcome.cause == Cause::Status(StatusCode::PAYLOAD_TOO_LARGE),
            Some(Oversize::Request) => true,
            Some(Oversize::Answer) => again,
            Some(Oversize::Unclear(found)) => again || found.is_some() && found == len(),
        };
        if too_large {
            return Said::TooLarge;
        }
        let named = match outcome.cause {
            Cause::Status(status) => self.statuses.contains(&status),
            Cause::Code(code) => self.codes.contains(&code),
            Cause::Fault(_) | Cause::Unspecified => false,
        };
        if named {
            return Said::Poisoned;
        }
        match outcome.verdict {
            Verdict::Success if outcome.is_done() => Said::Delivered,
            // The code of an answer that is too large says that nothing was done.
            Verdict::Refused(_)
                if oversize.is_none() && (again || outcome.processed == Processed::No) =>
            {
                Said::Refused
            }
            _ => Said::Failed,
        }
    }
}

impl<C, M> Shared<C, M> {
    pub(super) fn rules(&self) -> Arc<Rules> {
        read(&self.rules)
    }

    pub(super) fn judge<Res>(&self, rules: &Rules, result: Result<&Res, &BoxError>) -> Outcome
    where
        C: Classify<Res>,
    {
        judge(&self.classifier, rules.protocol, result)
    }
}

/// 0 counts as 1.
fn times(times: u32) -> NonZero<u32> {
    NonZero::new(times).unwrap_or(NonZero::<u32>::MIN)
}

/// 0 counts as 1.
fn pieces(pieces: usize) -> NonZero<usize> {
    NonZero::new(pieces).unwrap_or(NonZero::<usize>::MIN)
}

fn read(rules: &RwLock<Arc<Rules>>) -> Arc<Rules> {
    rules.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A view into a running [`SplitLayer`], for as long as it is wanted: clones are
/// views of the same. What it is for is [`Running`](crate::config::Running).
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
#[derive(Clone)]
pub struct SplitHandle {
    rules: LiveRules,
}

#[cfg(feature = "config")]
impl SplitHandle {
    /// Takes over settings, of which the lists were checked.
    pub(crate) fn take(
        &self,
        settings: &crate::config::SplitSettings,
        (statuses, codes): &(Vec<StatusCode>, Vec<GrpcCode>),
    ) {
        let rules = self.rules.write();
        let mut rules = rules.unwrap_or_else(PoisonError::into_inner);
        *rules = Arc::new(Rules {
            enabled: settings.enabled,
            refusals: settings.refusals.map(times),
            concurrency: pieces(settings.concurrency),
            any_method: settings.any_method,
            protocol: rules.protocol,
            statuses: statuses.clone(),
            codes: codes.clone(),
        });
    }
}

#[cfg(feature = "config")]
impl fmt::Debug for SplitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SplitHandle")
            .field(&read(&self.rules))
            .finish()
    }
}

impl<M> SplitLayer<HttpClassifier, M> {
    /// For requests whose answers are HTTP's. With the feature
    /// `json` there is `SplitLayer::json`, for bodies that are JSON.
    pub fn http(merge: M) -> Self {
        Self::new(HttpClassifier::new(), merge)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl<M> SplitLayer<super::StatusErrors, M> {
    /// For a tonic client that was generated from a service's definition: the
    /// requests are its messages, and its errors `tonic::Status`.
    ///
    /// There is no code for a request that is too large. A status counts as 413
    /// does over HTTP if its text says so: that of grpc-go, grpc-java and gRPC's C
    /// core does (RESOURCE_EXHAUSTED), that of tonic (OUT_OF_RANGE) can as well mean
    /// the answer, after all was stored. See
    /// [`Split::encoded_len`](super::Split::encoded_len), which tells them apart;
    /// without it such a request is only split if that
    /// [is safe](super::Split::is_safe).
    pub fn grpc(merge: M) -> Self {
        Self::over(super::StatusErrors, merge, Protocol::Grpc)
    }
}

impl<C, M> SplitLayer<C, M> {
    /// For any service. `classifier` judges the results (make one with
    /// [`classify_fn`](crate::outcome::classify_fn)): what it gives the
    /// [cause](Outcome::with_cause) 413 is too large. `merge` makes one answer of many (make one with [`merge_fn`](super::merge_fn)).
    pub fn new(classifier: C, merge: M) -> Self {
        Self::over(classifier, merge, Protocol::Http)
    }

    fn over(classifier: C, merge: M, protocol: Protocol) -> Self {
        let rules = Rules::new(protocol);
        Self::ruled(classifier, merge, rules)
    }

    fn ruled(classifier: C, merge: M, rules: Rules) -> Self {
        let rules = Arc::new(RwLock::new(Arc::new(rules)));
        Self {
            shared: Arc::new(Shared {
                classifier,
                merge,
                rules,
            }),
        }
    }

    /// A view into the layer while it runs.
    #[cfg(feature = "config")]
    #[cfg_attr(docsrs, doc(cfg(feature = "config")))]
    pub fn handle(&self) -> SplitHandle {
        SplitHandle {
            rules: self.shared.rules.clone(),
        }
    }
}

impl<C: Clone, M: Clone> SplitLayer<C, M> {
    fn edit(self, change: impl FnOnce(&mut Rules)) -> Self {
        let mut rules = Rules::clone(&self.shared.rules());
        change(&mut rules);
        let (classifier, merge) = (&self.shared.classifier, &self.shared.merge);
        Self::ruled(classifier.clone(), merge.clone(), rules)
    }

    /// On which HTTP statuses a request is split too, until the one item is
    /// found that is to blame: 400 or 422, where the upstream refuses a batch
    /// for one bad record. Default none.
    ///
    /// To name a status is to say that nothing of a batch is done when it is
    /// answered, or that doing it twice does no harm: the good items are sent
    /// again.
    #[must_use]
    pub fn split_on(self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.edit(|rules| rules.statuses = statuses.into_iter().collect())
    }

    /// The same for gRPC: INVALID_ARGUMENT, most often. Default none.
    #[must_use]
    pub fn split_on_codes(self, codes: impl IntoIterator<Item = GrpcCode>) -> Self {
        self.edit(|rules| rules.codes = codes.into_iter().collect())
    }

    /// How often a piece must come back refused (429, 503 and their kind) before
    /// it is halved. Default 1: with a retry layer beneath, that is a refusal of
    /// all its attempts. 0 counts as 1; `None` never halves for refusals.
    ///
    /// With more, a piece is sent again at once, since waiting is the retries'
    /// affair. A single item that is refused ends it: to send less is no help
    /// then, and the rest is [not sent](super::Undelivered::NotSent).
    ///
    /// A 503 without a hint leaves open whether something was done: there a
    /// request is only split if that [is safe](super::Split::is_safe).
    #[must_use]
    pub fn refusals(self, times: impl Into<Option<u32>>) -> Self {
        let refusals = times.into();
        self.edit(|rules| rules.refusals = refusals.map(self::times))
    }

    /// Takes every request for safe to repeat, as
    /// [`RetryPolicy::any_method`](crate::retry::RetryPolicy::any_method) does.
    /// Default: what [`Split::is_safe`](super::Split::is_safe) says.
    #[must_use]
    pub fn any_method(self) -> Self {
        self.safe(true)
    }

    pub(crate) fn safe(self, any_method: bool) -> Self {
        self.edit(|rules| rules.any_method = any_method)
    }

    /// How many pieces of one request are under way at once. Default 1; 0 counts
    /// as 1. One after the other they need the fewest requests, since each
    /// learns from those before it, and a caller has one call in flight as
    /// without the layer. How many all callers have is the
    /// [limiter's](crate::aimd) affair.
    #[must_use]
    pub fn concurrency(self, pieces: usize) -> Self {
        self.edit(|rules| rules.concurrency = self::pieces(pieces))
    }

    /// Whether the layer does anything. Default: yes.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.edit(|rules| rules.enabled = enabled)
    }
}

impl<C, M> Clone for SplitLayer<C, M> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<C, M> fmt::Debug for SplitLayer<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SplitLayer")
            .field(&self.shared.rules())
            .finish()
    }
}

impl<S, C, M> Layer<S> for SplitLayer<C, M> {
    type Service = SplitService<S, C, M>;

    fn layer(&self, inner: S) -> Self::Service {
        SplitService::new(inner, self.shared.clone())
    }
}
