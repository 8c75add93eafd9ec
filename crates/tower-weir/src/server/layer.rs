use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::request::Parts;
use tower_layer::Layer;

use super::{
    Admission, AdmissionConfig, AdmissionHandle, Class, ClassLimits, ClassTable, KeySnapshot,
    Limits,
    service::{Plain, Shared},
};
#[cfg(feature = "aimd")]
use crate::aimd::{LatencySignal, LawConfig};
use crate::{
    admit::{common_setters, switch_setters},
    observe::Seam,
    shutdown::Shutdown,
};

/// A layer for servers, which delays and then rejects operations that are too
/// many. See the [module](super) for how.
///
/// The layer value owns the state: its clones, and all services made from it,
/// share one set of pending operations for each key. A setter makes a new value
/// with fresh state.
#[derive(Clone)]
pub struct AdmissionLayer {
    shared: Arc<Shared>,
}

/// How a request's class is found. A table needs no more than its method and
/// path; to hand a function the whole head costs moving that.
#[derive(Clone)]
pub(super) enum Classes {
    Table(Arc<ClassTable>),
    Function(Arc<dyn Fn(&Parts) -> Class + Send + Sync>),
}

pub(super) type Keys = Arc<dyn Fn(&Parts) -> Cow<'_, str> + Send + Sync>;

/// What a layer may be told, besides its limits.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) enabled: bool,
    pub(super) classes: Classes,
    pub(super) keys: Option<Keys>,
    pub(super) max_keys: usize,
    pub(super) unsized_body: u64,
    pub(super) max_hold: Duration,
    pub(super) drain_retry_after: Duration,
    pub(super) rate_limit_headers: bool,
    pub(super) seed: Option<u64>,
    pub(super) seam: Seam,
    pub(super) shutdown: Option<Shutdown>,
}

impl Settings {
    /// Whether a request needs no more to be looked at than for its class.
    pub(super) fn plain(&self) -> Plain {
        let nothing_else = self.enabled && self.keys.is_none() && self.shutdown.is_none();
        match &self.classes {
            Classes::Table(table) if nothing_else => match table.is_by_method() {
                true => Plain::ByMethod,
                false => Plain::Table(table.clone()),
            },
            _ => Plain::Not,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            classes: Classes::Table(Arc::default()),
            keys: None,
            max_keys: 1024,
            unsized_body: 65_535,
            max_hold: Duration::from_secs(30),
            drain_retry_after: Duration::from_secs(5),
            rate_limit_headers: false,
            seed: None,
            seam: Seam::default(),
            shutdown: None,
        }
    }
}

impl Default for AdmissionLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl AdmissionLayer {
    /// One scope for all requests, classes by their methods (see
    /// [`ClassTable`]), and the limits that [`Limits`] has by default.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new(Settings::default(), AdmissionConfig::default())),
        }
    }

    fn edit(self, change: impl FnOnce(&mut Settings, &mut AdmissionConfig)) -> Self {
        let mut settings = self.shared.settings.clone();
        let mut config = self.shared.registry.config();
        settings.max_keys = self.shared.registry.max();
        settings.seam = settings.seam.fresh();
        config.storage = 0.0;
        change(&mut settings, &mut config);
        Self {
            shared: Arc::new(Shared::new(settings, config)),
        }
    }

    common_setters!();
    switch_setters!();

    /// Which class a request is of, by a table. Default: an empty one, which
    /// goes by the method.
    #[must_use]
    pub fn table(self, table: ClassTable) -> Self {
        self.edit(|settings, _| settings.classes = Classes::Table(Arc::new(table)))
    }

    /// Which class a request is of, by a function of its head. Under axum's
    /// `route_layer` and `get(..).layer(..)` the `MatchedPath` is among its
    /// extensions.
    #[must_use]
    pub fn classify(self, class: impl Fn(&Parts) -> Class + Send + Sync + 'static) -> Self {
        self.edit(|settings, _| settings.classes = Classes::Function(Arc::new(class)))
    }

    /// Declares a class with its limits, or gives a class there is other ones.
    ///
    /// Classes of little [weight](Class::weight) go ahead of heavier ones among
    /// those that are delayed; of equal ones the class that was declared first.
    #[must_use]
    pub fn class(self, class: Class, limits: ClassLimits) -> Self {
        self.edit(|_, config| config.declare(class, limits))
    }

    /// Keeps the operations of each key apart: per application, per index, per
    /// tenant. Default: all are one.
    ///
    /// Each key has all the [`Limits`] for itself. Take it from something that a
    /// caller cannot make up, such as what it is authenticated as.
    #[must_use]
    pub fn key(self, key: impl Fn(&Parts) -> Cow<'_, str> + Send + Sync + 'static) -> Self {
        self.edit(|settings, _| settings.keys = Some(Arc::new(key)))
    }

    /// How many keys are remembered; the one idle the longest is forgotten
    /// first, with what was measured and counted of it, and none that has
    /// operations pending. Default 1,024; 0 counts as 1.
    #[must_use]
    pub fn max_keys(self, keys: usize) -> Self {
        self.edit(|settings, _| settings.max_keys = keys)
    }

    /// Changes the [`Limits`].
    #[must_use]
    pub fn limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        self.edit(|_, config| change(&mut config.limits))
    }

    /// Sets [`Limits::throttle_at`]. Default 100.
    #[must_use]
    pub fn throttle_at(self, operations: usize) -> Self {
        self.limits(|limits| limits.throttle_at = operations)
    }

    /// Sets [`Limits::reject_at`]. Default 5,000.
    #[must_use]
    pub fn reject_at(self, operations: usize) -> Self {
        self.limits(|limits| limits.reject_at = operations)
    }

    /// Sets [`Limits::max_delay`]. Default 30 s.
    #[must_use]
    pub fn max_delay(self, delay: Duration) -> Self {
        self.limits(|limits| limits.max_delay = delay)
    }

    /// How many bytes a body counts for towards [`Limits::max_bytes`] whose size
    /// nothing says: a chunked one, and that of every gRPC call (tonic and grpcio
    /// send no `Content-Length`). Default 65,535, which a peer may send over
    /// HTTP/2 before anybody has read (RFC 9113 6.9.2): a delayed body is not
    /// read, so about as much of it can be here. With 0 the limit is only for
    /// bodies that say their size.
    #[must_use]
    pub fn unsized_body(self, bytes: u64) -> Self {
        self.edit(|settings, _| settings.unsized_body = bytes)
    }

    /// Finds by itself how many operations the server can run at once, instead
    /// of running [`throttle_at`](Self::throttle_at): by the law of
    /// [`AimdConcurrencyLayer`](crate::aimd::AimdConcurrencyLayer), which the
    /// [latency](LatencySignal) of the server's own answers holds down, and every
    /// 503, or UNAVAILABLE, among them. What is above the limit is delayed.
    ///
    /// A handler's own 429, or RESOURCE_EXHAUSTED, is about its caller or about
    /// another server: it says nothing to the law. A 503 counts whatever it is for;
    /// one that does not mean this server should come from outside of the layer.
    #[cfg(feature = "aimd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "aimd")))]
    #[must_use]
    pub fn adaptive(self) -> Self {
        self.adaptive_by(LawConfig {
            latency: Some(LatencySignal::default()),
            ..LawConfig::default()
        })
    }

    /// [`adaptive`](Self::adaptive), with other settings of the law.
    #[cfg(feature = "aimd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "aimd")))]
    #[must_use]
    pub fn adaptive_by(self, law: LawConfig) -> Self {
        self.found_by(Some(law))
    }

    #[cfg(feature = "aimd")]
    pub(crate) fn found_by(self, law: Option<LawConfig>) -> Self {
        self.edit(|_, config| config.adaptive = law)
    }

    /// When to come again, for those who are rejected because the layer is being
    /// [drained](AdmissionHandle::drain). Default 5 s: time for a successor to
    /// start, or for a balancer to look elsewhere.
    #[must_use]
    pub fn drain_retry_after(self, after: Duration) -> Self {
        self.edit(|settings, _| settings.drain_retry_after = after)
    }

    /// Drains the layer when `shutdown` begins: see
    /// [`AdmissionHandle::drain`]. It counts its operations, and answers those
    /// that have no response when the grace is over: as new ones, but those that
    /// had begun without saying when to come again, since they may have been done.
    /// Under gRPC they are told not to. [Exempt](super::Class::EXEMPT) requests, and
    /// all of a layer that is not [enabled](Self::enabled), pass, and are neither
    /// counted nor waited for. Default: none.
    #[must_use]
    pub fn shutdown(self, shutdown: &Shutdown) -> Self {
        self.edit(|settings, _| settings.shutdown = Some(shutdown.clone()))
    }

    /// Whether rejections say which limit was broken in `RateLimit` and
    /// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers). Default: no,
    /// since it is a draft.
    #[must_use]
    pub fn rate_limit_headers(self, said: bool) -> Self {
        self.edit(|settings, _| settings.rate_limit_headers = said)
    }

    /// A view into the layer while it runs.
    ///
    /// Set first, then take handles: one that was taken before a setter is a view of
    /// state that nobody uses.
    pub fn handle(&self) -> AdmissionHandle {
        AdmissionHandle {
            shared: self.shared.clone(),
        }
    }

    /// The state of every key that is known, in their order.
    pub fn snapshot(&self) -> Vec<KeySnapshot> {
        self.handle().snapshot()
    }
}

impl fmt::Debug for AdmissionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionLayer")
            .field("config", &self.shared.registry.config())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission::new(inner, self.shared.clone())
    }
}
