use std::{fmt, sync::Arc};

use tower_layer::Layer;

#[cfg(feature = "tonic")]
use super::ToTonic;
#[cfg(feature = "weir")]
use super::budget::Budgets;
use super::{
    Account, MapBody, ReplayBody, Retry, RetryHandle, RetryPolicy, Same,
    live::{Live, View},
    policy_setters,
};
use crate::{
    observe::{Event, Subscription},
    outcome::HttpClassifier,
    shutdown::{Door, Shutdown},
};

/// A layer that repeats requests. See the [module](super) for how.
///
/// It goes outside of whatever counts attempts: of
/// [`CircuitBreakerLayer`](crate::circuit_breaker::CircuitBreakerLayer) and
/// [`AimdConcurrencyLayer`](crate::aimd::AimdConcurrencyLayer), so that each
/// attempt is admitted anew and none is held while it waits.
pub struct RetryLayer<C = HttpClassifier, M = Same> {
    live: Arc<Live<C>>,
    pub(super) map: M,
    pub(super) account: Account,
    /// The account, if it is the user's.
    given: Option<Account>,
    shutdown: Option<Shutdown>,
}

/// For services that are not HTTP: the request is cloned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloneRequest;

impl RetryLayer {
    /// For hyper's clients and for every other service that takes any request
    /// body: it is sent a [`ReplayBody`](super::ReplayBody) around the caller's.
    /// gRPC requests are told apart by their content type.
    ///
    /// Where the compiler says that `Service<Request<ReplayBody<_>>>` is not
    /// implemented for the client, that takes one body only: tonic's `Channel` goes
    /// under `RetryLayer::grpc()`, of the feature `tonic`, any other under
    /// [`map_body`](Self::map_body).
    pub fn http() -> Self {
        Self::over(RetryPolicy::default(), Same)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl RetryLayer<HttpClassifier, ToTonic> {
    /// For tonic's `Channel`: it is sent a `tonic::body::Body`.
    pub fn grpc() -> Self {
        Self::over(RetryPolicy::default(), ToTonic)
    }
}

impl<C> RetryLayer<C, CloneRequest> {
    /// For services that are not HTTP: each attempt gets a clone of the request.
    ///
    /// ```
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    /// use tower_weir::{BoxError, outcome::ErrorsFail, retry::{RetryLayer, RetryPolicy}};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), BoxError> {
    /// let policy = RetryPolicy::new(ErrorsFail).any_method(true);
    /// let mut calls = 0;
    /// let mut service = ServiceBuilder::new()
    ///     .layer(RetryLayer::new(policy))
    ///     .service(tower::util::BoxCloneService::new(service_fn(|n: u32| async move {
    ///         Ok::<_, BoxError>(n + 1)
    ///     })));
    /// assert_eq!(service.ready().await?.call(1).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(policy: RetryPolicy<C>) -> Self {
        Self::over(policy, CloneRequest)
    }
}

impl<C, M> RetryLayer<C, M> {
    pub(crate) fn over(policy: RetryPolicy<C>, map: M) -> Self {
        Self {
            live: Live::new(policy.fresh()),
            map,
            account: Account::default(),
            given: None,
            shutdown: None,
        }
    }

    /// Changes the policy. What was counted so far stays with the old layer.
    #[must_use]
    pub fn policy<D>(
        self,
        change: impl FnOnce(RetryPolicy<C>) -> RetryPolicy<D>,
    ) -> RetryLayer<D, M>
    where
        C: Clone,
    {
        self.edit(|policy| {
            let seam = policy.rules.seam.fresh();
            change(policy).told_to(seam)
        })
    }

    /// The budgets that the admission right below is told of, if it is.
    #[cfg(feature = "weir")]
    pub(crate) fn entrusted(&self) -> Option<Budgets> {
        self.live.read().rules.entrusted().cloned()
    }

    /// The same, for a stack whose layers tell of themselves together.
    pub(crate) fn edit<D>(
        self,
        change: impl FnOnce(RetryPolicy<C>) -> RetryPolicy<D>,
    ) -> RetryLayer<D, M>
    where
        C: Clone,
    {
        let policy = Arc::unwrap_or_clone(self.live.read());
        RetryLayer {
            live: Live::new(change(policy).fresh()),
            map: self.map,
            account: self.given.clone().unwrap_or_else(|| self.account.fresh()),
            given: self.given,
            shutdown: self.shutdown,
        }
    }
}

impl<C: Clone + Send + Sync + 'static, M> RetryLayer<C, M> {
    /// A view into the layer while it runs.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> RetryHandle {
        RetryHandle::new(self.live.clone(), self.account.clone())
    }
}

impl<C: Clone, M> RetryLayer<C, M> {
    policy_setters!(|layer, change| layer.policy(change));

    /// Sends the inner service what `map` makes of each attempt's body, for
    /// services that take one type of body only.
    ///
    /// ```
    /// use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
    /// use bytes::Bytes;
    /// use tower_weir::{BoxError, retry::{ReplayBody, RetryLayer}};
    ///
    /// type Boxed = UnsyncBoxBody<Bytes, BoxError>;
    /// let layer = RetryLayer::http().map_body(|body: ReplayBody<Boxed>| body.boxed_unsync());
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn map_body<F, B, Out>(self, map: F) -> RetryLayer<C, MapBody<F>>
    where
        F: Fn(ReplayBody<B>) -> Out,
    {
        let layer = self.policy(|policy| policy);
        RetryLayer {
            live: layer.live,
            map: MapBody::new(map),
            account: layer.account,
            given: layer.given,
            shutdown: layer.shutdown,
        }
    }

    /// Where the memory of recorded request bodies is counted. Default: up to
    /// 4 MiB a request and 256 MiB a layer. A request over it is not repeated.
    ///
    /// An account that is given here is the user's own: layers that are made from
    /// this one by further setters share it.
    #[must_use]
    pub fn replay(mut self, account: Account) -> Self {
        self.given = Some(account);
        self.policy(|policy| policy)
    }

    /// An account of these bounds, the layer's own: also where one was given.
    #[cfg(feature = "config")]
    pub(crate) fn own_account(mut self, account: Account) -> Self {
        self.given = None;
        self.account = account;
        self.policy(|policy| policy)
    }

    /// Ends with `shutdown`: once that has begun, new requests are refused, none
    /// is sent again, and those that wait for it get a
    /// [`ShuttingDown`](crate::error::ShuttingDown); once its grace is over, so
    /// do those that are in flight. Default: none. It holds also where the layer
    /// is not [enabled](Self::enabled).
    #[must_use]
    pub fn shutdown(mut self, shutdown: &Shutdown) -> Self {
        self.shutdown = Some(shutdown.clone());
        self.policy(|policy| policy)
    }

    /// How many hosts' budgets are remembered. Default 256. See
    /// [`RetryPolicy::max_hosts`].
    #[must_use]
    pub fn max_hosts(self, hosts: usize) -> Self {
        self.policy(|policy| policy.max_hosts(hosts))
    }

    /// Whether the layer does anything. Default: yes. See
    /// [`RetryPolicy::enabled`].
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.policy(|policy| policy.enabled(enabled))
    }

    /// Tells `observer` what the layer does, as it happens: it is called with the
    /// host and the [`Event`] on the task whose request caused it, so it must be
    /// quick and must not block.
    #[must_use]
    pub fn observe(self, observer: impl Fn(&str, &Event) + Send + Sync + 'static) -> Self {
        self.edit(|policy| {
            let seam = policy.rules.seam.with(observer);
            policy.told_to(seam)
        })
    }

    /// Everything that the layer does from now on.
    ///
    /// Set first, then subscribe: after a setter the events go elsewhere.
    pub fn subscribe(&self) -> Subscription {
        self.live.read().rules.seam.subscribe()
    }

    /// See [`RetryPolicy::for_host`].
    #[must_use]
    pub fn for_host(self, name: impl Into<Arc<str>>) -> Self {
        self.policy(|policy| policy.for_host(name))
    }

    /// See [`RetryPolicy::seed`].
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.policy(|policy| policy.seed(seed))
    }
}

impl<C, M: Clone> Clone for RetryLayer<C, M> {
    fn clone(&self) -> Self {
        Self {
            live: self.live.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
            given: self.given.clone(),
            shutdown: self.shutdown.clone(),
        }
    }
}

impl<C: fmt::Debug, M> fmt::Debug for RetryLayer<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.live.read())
            .finish_non_exhaustive()
    }
}

impl<S, C, M: Clone> Layer<S> for RetryLayer<C, M> {
    type Service = Retry<S, C, M>;

    fn layer(&self, inner: S) -> Self::Service {
        let (view, policy) = View::new(self.live.clone());
        Retry {
            inner,
            policy,
            view,
            map: self.map.clone(),
            account: self.account.clone(),
            door: self.shutdown.as_ref().map(Door::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setter_makes_a_fresh_replay_account() {
        let fresh = |make: fn(RetryLayer) -> Account| {
            let layer = RetryLayer::http();
            assert!(layer.clone().account.is(&layer.account));
            !make(layer.clone()).is(&layer.account)
        };
        assert!(fresh(|layer| layer.max_retries(1).account));
        assert!(fresh(|layer| layer.observe(|_, _| ()).account));
        assert!(fresh(|layer| layer.shutdown(&Shutdown::new()).account));
        assert!(fresh(|layer| layer
            .map_body(|body: ReplayBody<String>| body)
            .account));
    }

    #[test]
    fn an_account_that_was_given_is_kept_by_every_setter() {
        let account = Account::new(20, 20);
        let layer = RetryLayer::http().replay(account.clone()).max_retries(1);
        assert!(layer.account.is(&account));
        let mapped = layer.map_body(|body: ReplayBody<String>| body);
        assert!(mapped.account.is(&account));
    }
}
