use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{HostSnapshot, Joined, WeirHandle, gate::JoinedConfig, handle::snapshot};
#[cfg(feature = "tonic")]
use crate::retry::ToTonic;
use crate::{
    admit::{Admit, Core, Http, Plain, Settings, admission_setters},
    aimd::{LawConfig, LimiterConfig},
    circuit_breaker::{BreakerConfig, GateConfig, ManyHosts, WhenOpen},
    outcome::HttpClassifier,
    retry::{
        Account, CloneRequest, MapBody, ReplayBody, Retry, RetryLayer, RetryPolicy, Same,
        policy_setters,
    },
    shutdown::Shutdown,
};

/// How long a bulk writer waits out what is not its requests' fault.
const BULK_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Retries, circuit breaker and concurrency limit as one layer, in the right
/// order and with defaults for a caller who waits for an answer. See the
/// [crate](crate) for the stack, and [`bulk`](Self::bulk) for writers who can
/// wait.
///
/// The layer value owns the state: its clones, and all services made from it,
/// share one limiter and one circuit per host. A setter makes a new value with
/// fresh state.
pub struct Weir<C = HttpClassifier, M = Same, X = Http<C>> {
    pub(super) retry: RetryLayer<C, M>,
    admit: Core<Joined, X>,
}

/// The service that [`Weir`] makes of a client `S`, for where its type must be
/// named: in a struct's field, or in a function's answer.
///
/// | from | the type |
/// |---|---|
/// | [`Weir::http()`](Weir::http) | `WeirService<S>` |
/// | `Weir::grpc()` | `WeirService<S, ToTonic>` |
/// | `Weir::http().classify(c)` | `WeirService<S, Same, C>` |
/// | [`Weir::new(c)`](Weir::new) | `WeirService<S, CloneRequest, C, Plain<C>>` |
///
/// Settings do not change it. A clone of the service shares the state of the layer
/// value, so it is cloned for each caller and needs no lock around it.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use hyper_util::{
///     client::legacy::{Client, connect::HttpConnector},
///     rt::TokioExecutor,
/// };
/// use tower::{Layer, ServiceExt};
/// use tower_weir::{BoxError, Weir, retry::ReplayBody, weir::WeirService};
///
/// type Http = Client<HttpConnector, ReplayBody<Full<Bytes>>>;
///
/// #[derive(Clone)]
/// struct Index {
///     client: WeirService<Http>,
/// }
///
/// impl Index {
///     fn new() -> Self {
///         let client = Client::builder(TokioExecutor::new()).build_http();
///         Self { client: Weir::http().ceiling(64).layer(client) }
///     }
///
///     async fn query(&self, uri: &str) -> Result<Bytes, BoxError> {
///         let request = Request::get(uri).body(Full::default())?;
///         let answer: Response<_> = self.client.clone().oneshot(request).await?;
///         Ok(answer.into_body().collect().await?.to_bytes())
///     }
/// }
/// # let _ = (Index::new, Index::query);
/// ```
pub type WeirService<S, M = Same, C = HttpClassifier, X = Http<C>> =
    Retry<Admit<S, Joined, X>, C, M>;

impl Weir {
    /// In front of hyper's clients, and every other service that takes any
    /// request body. gRPC requests are told apart by their content type.
    ///
    /// The client is sent a [`ReplayBody`] around the caller's body. Where the
    /// compiler says that `Service<Request<ReplayBody<_>>>` is not implemented for it
    /// (or only that the stack is no `Service<_>`), the client takes one body only:
    /// tonic's `Channel` goes under `Weir::grpc()`, of the feature `tonic`, any other
    /// under [`map_body`](Self::map_body).
    pub fn http() -> Self {
        Self::over(RetryLayer::http(), Settings::default(), Http::default())
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl Weir<HttpClassifier, ToTonic> {
    /// In front of tonic's `Channel`.
    pub fn grpc() -> Self {
        Self::over(RetryLayer::grpc(), Settings::default(), Http::default())
    }
}

impl<C: Clone> Weir<C, CloneRequest, Plain<C>> {
    /// In front of a service that is not HTTP, whose requests can be cloned and
    /// whose results `classifier` judges (make one with
    /// [`classify_fn`](crate::outcome::classify_fn)). All calls share one limiter
    /// and one circuit.
    ///
    /// Such requests have no place to carry a [`deadline`](Self::deadline) in: it
    /// bounds the retries, but where it ends an attempt, limiter and breaker see
    /// a caller that went away. Set [`attempt_timeout`](Self::attempt_timeout)
    /// for a hung upstream to be noticed.
    pub fn new(classifier: C) -> Self {
        let policy = RetryPolicy::new(classifier.clone());
        let retry = RetryLayer::new(policy);
        Self::over(retry, Settings::one_host(), Plain::new(classifier))
    }
}

impl<C: Clone, M, X: Clone> Weir<C, M, X> {
    fn over(retry: RetryLayer<C, M>, settings: Settings, exchange: X) -> Self {
        let config = JoinedConfig {
            breaker: GateConfig::default(),
            breaker_enabled: true,
            limiter: LimiterConfig::default(),
            limiter_enabled: true,
        };
        let admit = Core::new(settings, config, exchange);
        let retry = retry.edit(RetryPolicy::of_stack);
        Self { retry, admit }.edit(|_, _| {})
    }
}

impl<C: Clone + Send + Sync + 'static, M, X> Weir<C, M, X> {
    /// A view into the stack while it runs.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> WeirHandle {
        WeirHandle {
            registry: self.admit.registry().clone(),
            retry: self.retry.handle(),
        }
    }
}

impl<C, M, X> Weir<C, M, X> {
    /// The state of every host that is known, in the order of their names.
    pub fn snapshot(&self) -> Vec<HostSnapshot> {
        snapshot(self.admit.registry())
    }
}

impl<C: Clone, M, X: Clone> Weir<C, M, X> {
    fn edit(self, f: impl FnOnce(&mut Settings, &mut JoinedConfig)) -> Self {
        let mut host = None;
        let admit = self.admit.edit(|settings, config| {
            f(settings, config);
            host.clone_from(&settings.host);
        });
        let seam = admit.registry().seam().clone();
        let (one_host, hosts) = (host.is_some(), admit.registry().max());
        let retry = self.retry.edit(|policy| {
            let policy = match host {
                Some(host) => policy.for_host(host),
                None => policy,
            };
            policy.told_to(seam).above(one_host, hosts)
        });
        if let Some(budgets) = retry.entrusted() {
            admit.registry().entrust(budgets);
        }
        Self { retry, admit }
    }

    /// Changes the policy; the whole value's state is fresh then.
    fn edit_policy(self, change: impl FnOnce(RetryPolicy<C>) -> RetryPolicy<C>) -> Self {
        let retry = self.retry.edit(change);
        Self { retry, ..self }.edit(|_, _| {})
    }

    /// For bulk work that must all be done and may take its time: whatever is
    /// not a request's own fault is waited out, up to 15 minutes.
    ///
    /// - Any method is repeated, for upserts by id are idempotent.
    /// - Refusals and attempts that were never sent use up no retry and do not
    ///   lengthen the backoff. Failures that may have been processed still count
    ///   against [`max_retries`](Self::max_retries).
    /// - A `Retry-After` of up to those 15 minutes is obeyed.
    /// - An open circuit and a full queue are waited for instead of refusing
    ///   ([`WhenOpen::Wait`]), and the circuit's open time stays under 5 s.
    ///
    /// The 15 minutes bound when another attempt may begin to wait; the last one may
    /// wait for its turn as long again. For a hard end, set a
    /// [`deadline`](Self::deadline).
    ///
    /// Why: with the defaults a 3 s outage opens the circuit, and a writer that
    /// takes every refusal for an answer loses half of what it sends.
    #[must_use]
    pub fn bulk(self) -> Self {
        let retry = self.retry.edit(|policy| {
            let patient = policy.any_method(true).patience(BULK_PATIENCE);
            patient.max_hint(BULK_PATIENCE)
        });
        Self { retry, ..self }.edit(|settings, config| {
            settings.max_waiting = usize::MAX;
            settings.queue_timeout = BULK_PATIENCE;
            settings.pends = false;
            config.breaker.breaker = BreakerConfig::bulk().into();
            config.breaker.when_open = WhenOpen::Wait;
        })
    }

    admission_setters!();

    policy_setters!(|weir, change| weir.edit_policy(change));

    /// How many hosts are remembered, with their limit, their circuit and their
    /// budget of retries; the one idle the longest is forgotten first, and none that
    /// has calls in flight or waiting. Default 256; 0 counts as 1.
    #[must_use]
    pub fn max_hosts(self, hosts: usize) -> Self {
        let retry = self.retry.edit(|policy| policy.max_hosts(hosts));
        Self { retry, ..self }.edit(|settings, _| settings.max_hosts = hosts)
    }

    /// The most calls that are ever in flight to one host. Default 256; 0 counts
    /// as 1, since a limit of 0 would never let a call through that could raise
    /// it again.
    #[must_use]
    pub fn ceiling(self, calls: usize) -> Self {
        self.limiter(|law| law.max = calls)
    }

    /// Ends the whole stack with `shutdown`: see the
    /// [module](crate::shutdown) for what happens. Default: none.
    #[must_use]
    pub fn shutdown(self, shutdown: &Shutdown) -> Self {
        let retry = self.retry.shutdown(shutdown);
        Self { retry, ..self }.edit(|settings, _| settings.shutdown = Some(shutdown.clone()))
    }

    /// Makes every random number of the stack follow from `seed`, so that a run
    /// can be replayed. Default: a seed from the system.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        let retry = self.retry.edit(|policy| policy.seed(seed));
        Self { retry, ..self }.edit(|settings, _| settings.seed = Some(seed))
    }

    /// Changes how the limiter's law works.
    #[must_use]
    pub fn limiter(self, change: impl FnOnce(&mut LawConfig)) -> Self {
        self.edit(|_, config| change(&mut config.limiter.law))
    }

    /// Changes when the circuit opens, for how long, and how it closes.
    #[must_use]
    pub fn breaker(self, change: impl FnOnce(BreakerConfig) -> BreakerConfig) -> Self {
        self.edit(|_, config| {
            let breaker = std::mem::take(&mut config.breaker.breaker);
            config.breaker.breaker = change(Arc::unwrap_or_clone(breaker)).into();
        })
    }

    /// What happens to calls while the circuit is open. Default
    /// [`WhenOpen::Refuse`]; [`WhenOpen::Wait`] under [`bulk`](Self::bulk).
    ///
    /// # Errors
    ///
    /// [`ManyHosts`] for [`WhenOpen::Pend`] on an HTTP stack that was not told
    /// [`for_host`](Self::for_host) before.
    pub fn when_open(self, when_open: WhenOpen) -> Result<Self, ManyHosts> {
        when_open.check(self.admit.has_one_host())?;
        Ok(self.edit(|settings, config| {
            settings.pends = when_open == WhenOpen::Pend;
            config.breaker.when_open = when_open;
        }))
    }

    /// Changes the retry policy.
    #[must_use]
    pub fn retry(self, change: impl FnOnce(RetryPolicy<C>) -> RetryPolicy<C>) -> Self {
        self.edit_policy(change)
    }

    /// Where the memory of recorded request bodies is counted. Default: up to
    /// 4 MiB a request and 256 MiB a stack. See [`RetryLayer::replay`].
    #[must_use]
    pub fn replay(self, account: Account) -> Self {
        let retry = self.retry.replay(account);
        Self { retry, ..self }.edit(|_, _| {})
    }

    #[cfg(feature = "config")]
    pub(crate) fn own_account(self, account: Account) -> Self {
        let retry = self.retry.own_account(account);
        Self { retry, ..self }.edit(|_, _| {})
    }

    /// Whether the retry layer does anything. Default: yes. Its deadline and its
    /// idempotency keys go with it; `max_retries(0)` keeps them.
    #[must_use]
    pub fn retry_enabled(self, enabled: bool) -> Self {
        self.retry(|policy| policy.enabled(enabled))
    }

    /// Whether there is a concurrency limit. Default: yes.
    #[must_use]
    pub fn limiter_enabled(self, enabled: bool) -> Self {
        self.edit(|_, config| config.limiter_enabled = enabled)
    }

    /// Whether there is a circuit breaker. Default: yes.
    #[must_use]
    pub fn breaker_enabled(self, enabled: bool) -> Self {
        self.edit(|_, config| config.breaker_enabled = enabled)
    }
}

impl<C: Clone> Weir<C> {
    /// Sends the inner service what `map` makes of each attempt's body. See
    /// [`RetryLayer::map_body`].
    #[must_use]
    pub fn map_body<F, B, Out>(self, map: F) -> Weir<C, MapBody<F>>
    where
        F: Fn(ReplayBody<B>) -> Out,
    {
        let admit = self.admit;
        let retry = self.retry.map_body(map);
        Weir { retry, admit }.edit(|_, _| {})
    }
}

impl<M> Weir<HttpClassifier, M> {
    /// Judges HTTP answers with a classifier of the user's, in all three layers.
    #[must_use]
    pub fn classify<C: Clone>(self, classifier: C) -> Weir<C, M> {
        let admit = self
            .admit
            .exchange(|http| http.classify(classifier.clone()));
        let retry = self
            .retry
            .edit(|policy| policy.judged_by(classifier).of_stack());
        Weir { retry, admit }.edit(|_, _| {})
    }
}

impl<C, M: Clone, X> Clone for Weir<C, M, X> {
    fn clone(&self) -> Self {
        Self {
            retry: self.retry.clone(),
            admit: self.admit.clone(),
        }
    }
}

impl<C: fmt::Debug, M, X> fmt::Debug for Weir<C, M, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weir")
            .field("retry", &self.retry)
            .field("admission", &self.admit)
            .finish()
    }
}

impl<S, C, M: Clone, X> Layer<S> for Weir<C, M, X> {
    type Service = WeirService<S, M, C, X>;

    fn layer(&self, inner: S) -> Self::Service {
        self.retry.layer(self.admit.layer(inner))
    }
}
