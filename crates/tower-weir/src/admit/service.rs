use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use super::{
    count::Count,
    entry::Entry,
    exchange::{Exchange, Facts},
    future::{CallFacts, ResponseFuture},
    gate::{Gate, Load},
    knobs::Knobs,
    readiness::Readiness,
    registry::Registry,
    settings::Settings,
    waiter::{Patience, Wish, enter_at_once},
};
use crate::{BoxError, random::Seed};

/// What all services of one layer value share.
pub(crate) struct Shared<G: Gate, X> {
    pub(super) settings: Settings,
    pub(super) exchange: X,
    pub(crate) registry: Arc<Registry<G>>,
    waiting: Count,
}

impl<G: Gate, X> Shared<G, X> {
    fn new(settings: Settings, config: G::Config, exchange: X) -> Self {
        let seed = settings.seed.unwrap_or_else(|| Seed::random().get());
        let name = settings.host.clone().unwrap_or_else(|| "".into());
        let (hosts, seam) = (settings.max_hosts, settings.seam.clone());
        let registry = Registry::new(config, seed, hosts, name, seam);
        let registry = registry.joined(settings.shutdown.as_ref());
        Self {
            registry: Arc::new(registry.with(Knobs::of(&settings))),
            settings,
            exchange,
            waiting: Count::default(),
        }
    }
}

/// The core of a layer: its state, which every use of the value shares.
pub(crate) struct Core<G: Gate, X> {
    shared: Arc<Shared<G, X>>,
}

impl<G: Gate, X> Core<G, X> {
    pub(crate) fn new(settings: Settings, config: G::Config, exchange: X) -> Self {
        Self {
            shared: Arc::new(Shared::new(settings, config, exchange)),
        }
    }

    /// The same layer with other settings, and fresh state: what was layered
    /// before keeps its own.
    pub(crate) fn edit(&self, f: impl FnOnce(&mut Settings, &mut G::Config)) -> Self
    where
        X: Clone,
    {
        let mut settings = self.settings();
        let mut config = self.shared.registry.config();
        f(&mut settings, &mut config);
        Self::new(settings, config, self.shared.exchange.clone())
    }

    /// The same layer for another kind of exchange, with fresh state.
    pub(crate) fn exchange<Y>(&self, change: impl FnOnce(&X) -> Y) -> Core<G, Y> {
        let exchange = change(&self.shared.exchange);
        Core::new(self.settings(), self.shared.registry.config(), exchange)
    }

    /// The settings in force.
    fn settings(&self) -> Settings {
        let mut settings = self.shared.settings.clone();
        self.shared.registry.knobs.write_to(&mut settings);
        Settings {
            seam: settings.seam.fresh(),
            max_hosts: self.shared.registry.max(),
            ..settings
        }
    }

    /// Whether all requests go to one host, by the settings.
    pub(crate) fn has_one_host(&self) -> bool {
        self.shared.settings.host.is_some()
    }

    pub(crate) fn registry(&self) -> &Arc<Registry<G>> {
        &self.shared.registry
    }
}

impl<G: Gate, X> Clone for Core<G, X> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<G: Gate, X> fmt::Debug for Core<G, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings().fmt(f)
    }
}

impl<G: Gate, X, S> Layer<S> for Core<G, X> {
    type Service = Admit<S, G, X>;

    fn layer(&self, inner: S) -> Self::Service {
        Admit {
            inner,
            shared: self.shared.clone(),
            readiness: self.shared.settings.pends.then(Box::default),
        }
    }
}

/// The service of the limiter's and the breaker's layers: it admits each call
/// through a gate, and tells the gate what became of it.
///
/// It is always ready (unless it is a breaker's and set to
/// [`WhenOpen::Pend`](crate::circuit_breaker::WhenOpen::Pend)): admission happens in `call`, since a permit taken in
/// `poll_ready` would be lost on clones that are never called, and a refusal
/// there would end a `Buffer` for good. The inner service is polled ready after
/// the permit is granted, because whoever queues while holding the readiness of
/// a limited inner service can wait for itself.
pub struct Admit<S, G: Gate, X> {
    inner: S,
    shared: Arc<Shared<G, X>>,
    /// Only where the service is to pend while a circuit is open.
    readiness: Option<Box<Readiness<G>>>,
}

impl<S: Clone, G: Gate, X> Clone for Admit<S, G, X> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
            // Another task's: it has its own place and timer.
            readiness: self.readiness.as_ref().map(|_| Box::default()),
        }
    }
}

impl<S: fmt::Debug, G: Gate, X> fmt::Debug for Admit<S, G, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admit")
            .field("inner", &self.inner)
            .field("settings", &self.shared.settings)
            .finish()
    }
}

impl<S, G, X, Req> Service<Req> for Admit<S, G, X>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    G: Gate,
    X: Exchange<Req, S::Response>,
{
    type Response = X::Response<G>;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, G, X>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(readiness) = &mut self.readiness else {
            return Poll::Ready(Ok(()));
        };
        let registry = &self.shared.registry;
        if registry.knobs.enabled() {
            let entry = registry.nameless();
            let ready = readiness.poll(entry, cx);
            // Once more: who was switched off before this task had its place has
            // not woken it.
            if ready.is_ready() || registry.knobs.enabled() {
                return ready.map(Ok);
            }
        }
        readiness.leave();
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let shared = &*self.shared;
        let exchange = shared.exchange.clone();
        let inner = &mut self.inner;
        if !shared.registry.knobs.enabled() {
            return ResponseFuture::free(exchange, inner, request);
        }
        let Facts {
            protocol,
            deadline,
            hold,
            priority,
            weight,
        } = shared.exchange.describe(&request);
        let knobs = &shared.registry.knobs;
        let facts = CallFacts {
            protocol,
            hold: hold.unwrap_or_else(|| knobs.hold()),
        };
        let weight = weight.map_or(1, |weight| weight.0.get());
        let wish = |now| Wish {
            patience: Patience::new(now, knobs.queue_timeout(), deadline),
            weight,
            load: Load {
                lane: priority as usize,
                ..Load::default()
            },
        };
        let count = || shared.waiting.enter(knobs.max_waiting());
        let enter = |entry: &Arc<Entry<G>>| {
            let entered = enter_at_once(entry, weight, deadline, wish, count);
            // One that is refused leaves the entry at once.
            if !matches!(entered, Err(Err(_))) {
                entry.keep_budget();
            }
            entered
        };
        let many = shared.settings.host.is_none();
        let host = many.then(|| shared.exchange.host(&request)).flatten();
        let entered = match host {
            Some(host) => enter(&shared.registry.get(&host)),
            None => enter(shared.registry.nameless()),
        };
        match entered {
            Ok(permit) => ResponseFuture::admitted(exchange, facts, inner, request, Some(permit)),
            Err(Ok(waiter)) => {
                let inner = inner.clone();
                ResponseFuture::waiting(exchange, facts, inner, request, waiter)
            }
            Err(Err(refused)) => {
                shared.settings.refused(&refused);
                ResponseFuture::refused(exchange, facts, refused)
            }
        }
    }
}
