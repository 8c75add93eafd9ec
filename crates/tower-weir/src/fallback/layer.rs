use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    Does, Fallback, FallbackCause, Other, Says, Unset,
    cause::{Causes, Fallen},
};
#[cfg(feature = "tonic")]
use crate::retry::ToTonic;
use crate::{
    BoxError,
    observe::{Event, Seam, Subscription},
    outcome::{HttpClassifier, Outcome},
    retry::{Account, CloneRequest, MapBody, ReplayBody, Same},
};

type Chosen = Arc<dyn Fn(&Outcome, Option<&BoxError>) -> bool + Send + Sync>;

/// A layer that has another answer for what has failed. See the
/// [module](super) for how.
///
/// It goes outside of the retries. It is complete with one of
/// [`answer`](Self::answer), [`answer_async`](Self::answer_async) and
/// [`service`](Self::service).
pub struct FallbackLayer<A = Unset, C = HttpClassifier, M = Same> {
    pub(super) rules: Arc<Rules<C>>,
    pub(super) answer: A,
    pub(super) map: M,
    pub(super) account: Account,
}

/// When there is another answer.
#[derive(Clone)]
pub(super) struct Rules<C> {
    pub(super) causes: Causes,
    chosen: Option<Chosen>,
    pub(super) enabled: bool,
    pub(super) classifier: C,
    pub(super) seam: Seam,
    pub(super) host: Arc<str>,
}

impl<C> Rules<C> {
    /// Why a result is not the caller's, if it is not.
    pub(super) fn cause(
        &self,
        held: Causes,
        outcome: &Outcome,
        error: Option<&BoxError>,
    ) -> Option<FallbackCause> {
        let chosen = || {
            let chosen = self.chosen.as_ref()?;
            chosen(outcome, error).then_some(FallbackCause::Chosen)
        };
        self.causes.first_of(held).or_else(chosen)
    }
}

impl FallbackLayer {
    /// Around hyper's clients and all stacks over them. Another
    /// [service](Self::service) is sent a [`ReplayBody`].
    pub fn http() -> Self {
        Self::over(HttpClassifier::new(), Same)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl FallbackLayer<Unset, HttpClassifier, ToTonic> {
    /// Around tonic's `Channel` and all stacks over it. Another
    /// [service](Self::service) is sent a `tonic::body::Body`.
    pub fn grpc() -> Self {
        Self::over(HttpClassifier::new(), ToTonic)
    }
}

impl<C> FallbackLayer<Unset, C, CloneRequest> {
    /// Around services that are not HTTP. Another [service](Self::service) is
    /// sent a clone of the request. What the retries made of a request is not
    /// known here: of the causes, a used-up budget shows only as an error, and
    /// used-up retries not at all. [`FallbackCause::Refused`] and
    /// [`FallbackCause::Failed`] go by the classifier.
    pub fn new(classifier: C) -> Self {
        Self::over(classifier, CloneRequest)
    }
}

impl<C, M> FallbackLayer<Unset, C, M> {
    fn over(classifier: C, map: M) -> Self {
        Self {
            rules: Arc::new(Rules {
                causes: Causes::usual(),
                chosen: None,
                enabled: true,
                classifier,
                seam: Seam::default(),
                host: "".into(),
            }),
            answer: Unset,
            map,
            account: Account::default(),
        }
    }

    /// Answers with what a closure gives. For HTTP its body may be of another
    /// type than the upstream's.
    pub fn answer<F, Res>(self, answer: F) -> FallbackLayer<Says<F>, C, M>
    where
        F: Fn(Fallen) -> Res,
    {
        self.with(Says(answer))
    }

    /// Answers with what an asynchronous closure gives; if that is an error, the
    /// caller gets the upstream's result.
    pub fn answer_async<F, Fut, Res, E>(self, answer: F) -> FallbackLayer<Does<F>, C, M>
    where
        F: Fn(Fallen) -> Fut,
        Fut: Future<Output = Result<Res, E>>,
        E: Into<BoxError>,
    {
        self.with(Does(answer))
    }

    /// Answers with what another service makes of the request: a cheaper model, a
    /// cache, a stack of its own. If that is an error, the caller gets the first
    /// one's result.
    ///
    /// The request goes there whether or not the first upstream may have acted on
    /// it: they are different services, and what they do twice only you know.
    /// Where that matters, let [`when`](Self::when) look at
    /// [`Outcome::processed`]. For HTTP the body is recorded while it is sent, in
    /// bounded memory; a retry further in takes it from the same record.
    pub fn service<T>(self, service: T) -> FallbackLayer<Other<T>, C, M> {
        self.with(Other(service))
    }

    fn with<A>(self, answer: A) -> FallbackLayer<A, C, M> {
        FallbackLayer {
            rules: self.rules,
            answer,
            map: self.map,
            account: self.account,
        }
    }
}

impl<A, C: Clone> FallbackLayer<A, C> {
    /// Sends both services what `map` makes of a request's body, for those that
    /// take one type of body only. See
    /// [`RetryLayer::map_body`](crate::retry::RetryLayer::map_body).
    #[must_use]
    pub fn map_body<F, B, Out>(self, map: F) -> FallbackLayer<A, C, MapBody<F>>
    where
        F: Fn(ReplayBody<B>) -> Out,
    {
        FallbackLayer {
            rules: self.rules,
            answer: self.answer,
            map: MapBody::new(map),
            account: self.account,
        }
    }
}

impl<A, M> FallbackLayer<A, HttpClassifier, M> {
    /// Judges answers with a classifier of the user's.
    #[must_use]
    pub fn classify<D>(self, classifier: D) -> FallbackLayer<A, D, M> {
        let Rules {
            causes,
            chosen,
            enabled,
            seam,
            host,
            ..
        } = Arc::unwrap_or_clone(self.rules);
        FallbackLayer {
            rules: Arc::new(Rules {
                causes,
                chosen,
                enabled,
                classifier,
                seam: seam.fresh(),
                host,
            }),
            answer: self.answer,
            map: self.map,
            account: self.account,
        }
    }
}

impl<A, C: Clone, M> FallbackLayer<A, C, M> {
    /// What there is another answer for, in place of the default causes: all but
    /// [`Failed`](FallbackCause::Failed), which stands for any failure.
    ///
    /// With no retries further in, failures are no default cause: those before a
    /// circuit opens, and each failed probe, reach the caller, refused connections
    /// too. Name `Failed` where any failure may have another answer:
    ///
    /// ```
    /// use tower_weir::fallback::{FallbackCause, FallbackLayer};
    ///
    /// let layer = FallbackLayer::http().on([FallbackCause::CircuitOpen, FallbackCause::Failed]);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn on(self, causes: impl IntoIterator<Item = FallbackCause>) -> Self {
        self.set(|rules| rules.causes = Causes::of(causes))
    }

    /// Has another answer also for every result that `chosen` says yes to, be it
    /// a success: it is told what the result comes to, and the error if it is
    /// one. [`Outcome::processed`] is that of all attempts together, as
    /// [`Fallen::processed`](super::Fallen::processed) is: of HTTP requests, whose
    /// retries write them down.
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_weir::{fallback::FallbackLayer, outcome::Cause};
    ///
    /// let gone = Cause::Status(StatusCode::GONE);
    /// let layer = FallbackLayer::http().when(move |outcome, _error| outcome.cause == gone);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn when(
        self,
        chosen: impl Fn(&Outcome, Option<&BoxError>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|rules| rules.chosen = Some(Arc::new(chosen)))
    }

    /// Whether the layer does anything. Default: yes.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.set(|rules| rules.enabled = enabled)
    }

    /// The name by which events call what is behind the layer. Default: none.
    #[must_use]
    pub fn for_host(self, name: impl Into<Arc<str>>) -> Self {
        self.set(|rules| rules.host = name.into())
    }

    /// Where the memory of recorded request bodies is counted, if another
    /// [service](FallbackLayer::service) answers. Default: up to 4 MiB a request
    /// and 256 MiB a layer. A request over it gets the first one's result.
    #[must_use]
    pub fn replay(mut self, account: Account) -> Self {
        self.account = account;
        self
    }

    /// Tells `observer` what the layer does, as it happens, on the task whose
    /// request caused it: it must be quick and must not block.
    #[must_use]
    pub fn observe(self, observer: impl Fn(&str, &Event) + Send + Sync + 'static) -> Self {
        let mut rules = Arc::unwrap_or_clone(self.rules);
        rules.seam = rules.seam.with(observer);
        let rules = Arc::new(rules);
        Self { rules, ..self }
    }

    /// Everything that the layer does from now on.
    ///
    /// Set first, then subscribe: after a setter the events go elsewhere.
    pub fn subscribe(&self) -> Subscription {
        self.rules.seam.subscribe()
    }

    fn set(self, change: impl FnOnce(&mut Rules<C>)) -> Self {
        let mut rules = Arc::unwrap_or_clone(self.rules);
        rules.seam = rules.seam.fresh();
        change(&mut rules);
        let rules = Arc::new(rules);
        Self { rules, ..self }
    }
}

impl<A: Clone, C, M: Clone> Clone for FallbackLayer<A, C, M> {
    fn clone(&self) -> Self {
        Self {
            rules: self.rules.clone(),
            answer: self.answer.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
        }
    }
}

impl<A: fmt::Debug, C, M> fmt::Debug for FallbackLayer<A, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer")
            .field("causes", &self.rules.causes)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

impl<S, A: Clone, C, M: Clone> Layer<S> for FallbackLayer<A, C, M> {
    type Service = Fallback<S, A, C, M>;

    fn layer(&self, inner: S) -> Self::Service {
        Fallback {
            inner,
            rules: self.rules.clone(),
            answer: self.answer.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
        }
    }
}
