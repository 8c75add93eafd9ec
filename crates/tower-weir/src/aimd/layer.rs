use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    AimdHandle, Decrease, LatencySignal, LawConfig, Limiter, LimiterConfig, LimiterSnapshot,
    law::{FixedLimit, LimitLaw},
};
use crate::{
    admit::{Admit, Core, Http, Plain, Settings, single_gate_setters},
    outcome::{HttpClassifier, Protocol},
};

/// A layer that limits how many calls are in flight to each host, and finds the
/// limit by itself. See the [module](super) for how.
///
/// The layer value owns the state: its clones, and all services made from it,
/// share one limiter per host. A setter makes a new value with fresh state.
pub struct AimdConcurrencyLayer<X = Http> {
    core: Core<Limiter, X>,
}

/// The service that [`AimdConcurrencyLayer`] makes.
pub type AimdConcurrency<S, X = Http> = Admit<S, Limiter, X>;

impl AimdConcurrencyLayer {
    /// For clients of HTTP and gRPC, told apart by each request's content type,
    /// with one limiter per host.
    pub fn http() -> Self {
        Self::over(Http::default())
    }

    /// For clients that speak gRPC only: every answer is read as gRPC, whatever
    /// the request's content type.
    pub fn grpc() -> Self {
        Self::over(Http::new(HttpClassifier::new()).only(Protocol::Grpc))
    }
}

impl<C: Clone> AimdConcurrencyLayer<Plain<C>> {
    /// For services that are not HTTP, judged by `classifier` (make one with
    /// [`classify_fn`](crate::outcome::classify_fn)). All calls share one
    /// limiter, and a call ends with its answer.
    pub fn new(classifier: C) -> Self {
        Self::over(Plain::new(classifier))
    }
}

impl<D> AimdConcurrencyLayer<Http<D>> {
    /// Judges HTTP answers with a classifier of the user's. A layer for
    /// [`grpc`](AimdConcurrencyLayer::grpc) stays one.
    #[must_use]
    pub fn classify<C>(self, classifier: C) -> AimdConcurrencyLayer<Http<C>> {
        AimdConcurrencyLayer {
            core: self.core.exchange(|http| http.classify(classifier)),
        }
    }
}

impl<X> AimdConcurrencyLayer<X> {
    fn over(exchange: X) -> Self {
        Self {
            core: Core::new(Settings::default(), LimiterConfig::default(), exchange),
        }
    }

    /// A view into the layer while it runs.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> AimdHandle {
        AimdHandle {
            registry: self.core.registry().clone(),
        }
    }

    /// The state of every host that is known, in the order of their names.
    pub fn snapshot(&self) -> Vec<(Arc<str>, LimiterSnapshot)> {
        self.handle().snapshot()
    }
}

impl<X: Clone> AimdConcurrencyLayer<X> {
    fn edit(self, f: impl FnOnce(&mut Settings, &mut LimiterConfig)) -> Self {
        Self {
            core: self.core.edit(f),
        }
    }

    single_gate_setters!();

    /// The most calls that are ever in flight to one host. Default 256; 0 counts
    /// as 1, since a limit of 0 would never let a call through that could raise
    /// it again.
    #[must_use]
    pub fn ceiling(self, calls: usize) -> Self {
        self.edit(|_, config| config.law.max = calls)
    }

    /// The limit that a host starts with. Default 10, never over the ceiling.
    #[must_use]
    pub fn initial(self, calls: usize) -> Self {
        self.edit(|_, config| config.law.initial = calls)
    }

    /// The least limit. Default 1; 0 counts as 1.
    #[must_use]
    pub fn min(self, calls: usize) -> Self {
        self.edit(|_, config| config.law.min = calls)
    }

    /// How far an overload lowers the limit. Default
    /// [`Decrease::Proportional`].
    #[must_use]
    pub fn decrease(self, decrease: Decrease) -> Self {
        self.edit(|_, config| config.law.decrease = decrease)
    }

    /// Lets round trips that become longer hold the limit down, for upstreams
    /// that delay before they reject. Default: they do not.
    #[must_use]
    pub fn latency(self, latency: LatencySignal) -> Self {
        self.edit(|_, config| config.law.latency = Some(latency))
    }

    /// All settings of the law at once.
    #[must_use]
    pub fn law_config(self, law: LawConfig) -> Self {
        self.edit(|_, config| config.law = law)
    }

    /// A limit that calls do not move. Refused slots do not cool either. It is
    /// the ceiling too: whoever sets or updates that later sets this limit.
    #[must_use]
    pub fn fixed(self, calls: usize) -> Self {
        self.edit(|_, config| {
            config.law.max = calls;
            config.custom = Some(Arc::new(|law, _| Box::new(FixedLimit::new(law.max))));
        })
    }

    /// Another law. `make` is called once for each host, with a seed of the
    /// host's own.
    #[must_use]
    pub fn law<L: LimitLaw>(self, make: impl Fn(u64) -> L + Send + Sync + 'static) -> Self {
        self.edit(|_, config| {
            config.custom = Some(Arc::new(move |_, seed| Box::new(make(seed))));
        })
    }
}

impl<X> Clone for AimdConcurrencyLayer<X> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
        }
    }
}

impl<X> fmt::Debug for AimdConcurrencyLayer<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AimdConcurrencyLayer")
            .field(&self.core)
            .finish()
    }
}

impl<S, X> Layer<S> for AimdConcurrencyLayer<X> {
    type Service = AimdConcurrency<S, X>;

    fn layer(&self, inner: S) -> Self::Service {
        self.core.layer(inner)
    }
}
