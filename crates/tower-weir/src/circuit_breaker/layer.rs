use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    Breaker, BreakerConfig, CircuitBreakerHandle, ManyHosts, Snapshot, WhenOpen, gate::GateConfig,
};
use crate::{
    admit::{Admit, Core, Http, Plain, Settings, single_gate_setters},
    outcome::{HttpClassifier, Protocol},
};

/// A layer that stops calling an upstream that is down. See the
/// [module](super) for how.
///
/// The layer value owns the state: its clones, and all services made from it,
/// share one circuit per host. A setter makes a new value with fresh state.
pub struct CircuitBreakerLayer<X = Http> {
    core: Core<Breaker, X>,
}

/// The service that [`CircuitBreakerLayer`] makes.
pub type CircuitBreaker<S, X = Http> = Admit<S, Breaker, X>;

impl CircuitBreakerLayer {
    /// For clients of HTTP and gRPC, told apart by each request's content type,
    /// with one circuit per host.
    pub fn http() -> Self {
        Self::over(Settings::default(), Http::default())
    }

    /// For clients that speak gRPC only: every answer is read as gRPC, whatever
    /// the request's content type.
    pub fn grpc() -> Self {
        let exchange = Http::new(HttpClassifier::new()).only(Protocol::Grpc);
        Self::over(Settings::default(), exchange)
    }
}

impl<C: Clone> CircuitBreakerLayer<Plain<C>> {
    /// For services that are not HTTP, judged by `classifier` (make one with
    /// [`classify_fn`](crate::outcome::classify_fn)). All calls share one
    /// circuit, and a call ends with its answer.
    pub fn new(classifier: C) -> Self {
        Self::over(Settings::one_host(), Plain::new(classifier))
    }
}

impl<D> CircuitBreakerLayer<Http<D>> {
    /// Judges HTTP answers with a classifier of the user's.
    #[must_use]
    pub fn classify<C>(self, classifier: C) -> CircuitBreakerLayer<Http<C>> {
        CircuitBreakerLayer {
            core: self.core.exchange(|http| http.classify(classifier)),
        }
    }
}

impl<X> CircuitBreakerLayer<X> {
    fn over(settings: Settings, exchange: X) -> Self {
        Self {
            core: Core::new(settings, GateConfig::default(), exchange),
        }
    }

    /// A view into the layer while it runs.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle {
            registry: self.core.registry().clone(),
        }
    }

    /// The state of every host that is known, in the order of their names.
    pub fn snapshot(&self) -> Vec<(Arc<str>, Snapshot)> {
        self.handle().snapshot()
    }
}

impl<X: Clone> CircuitBreakerLayer<X> {
    fn edit(self, f: impl FnOnce(&mut Settings, &mut GateConfig)) -> Self {
        Self {
            core: self.core.edit(f),
        }
    }

    single_gate_setters!();

    /// When the circuit opens, for how long, and how it closes.
    #[must_use]
    pub fn config(self, config: BreakerConfig) -> Self {
        self.edit(|_, gate| gate.breaker = config.into())
    }

    /// What happens to calls while the circuit is open. Default
    /// [`WhenOpen::Refuse`].
    ///
    /// # Errors
    ///
    /// [`ManyHosts`] for [`WhenOpen::Pend`] on an HTTP layer that was not told
    /// [`for_host`](Self::for_host) before.
    pub fn when_open(self, when_open: WhenOpen) -> Result<Self, ManyHosts> {
        when_open.check(self.core.has_one_host())?;
        Ok(self.edit(|settings, gate| {
            settings.pends = when_open == WhenOpen::Pend;
            gate.when_open = when_open;
        }))
    }
}

impl<X> Clone for CircuitBreakerLayer<X> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
        }
    }
}

impl<X> fmt::Debug for CircuitBreakerLayer<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CircuitBreakerLayer")
            .field(&self.core)
            .finish()
    }
}

impl<S, X> Layer<S> for CircuitBreakerLayer<X> {
    type Service = CircuitBreaker<S, X>;

    fn layer(&self, inner: S) -> Self::Service {
        self.core.layer(inner)
    }
}
