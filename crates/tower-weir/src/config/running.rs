use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{InvalidSettings, Settings, error::require, settings::Checked};
#[cfg(feature = "dead-letter")]
use crate::dead_letter::DeadLetterHandle;
#[cfg(feature = "failover")]
use crate::failover::FailoverHandle;
use crate::{
    aimd::AimdHandle,
    circuit_breaker::{CircuitBreakerHandle, WhenOpen},
    panics::for_each,
    retry::RetryHandle,
    server::AdmissionHandle,
    split::SplitHandle,
    weir::WeirHandle,
};

/// Layers that run, to which settings can be applied together. Clones are the
/// same.
#[derive(Clone, Default)]
pub struct Running {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Beside the lock: observers, who are told while it is held, may ask.
    generation: AtomicU64,
    handles: Mutex<Vec<Handle>>,
}

/// A view into a layer that runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Handle {
    /// The whole stack.
    Weir(WeirHandle),
    /// Retries alone.
    Retry(RetryHandle),
    /// A limiter alone.
    Limiter(AimdHandle),
    /// A breaker alone.
    CircuitBreaker(CircuitBreakerHandle),
    /// What splits batches.
    Split(SplitHandle),
    /// What keeps letters of failed requests.
    #[cfg(feature = "dead-letter")]
    #[cfg_attr(docsrs, doc(cfg(feature = "dead-letter")))]
    DeadLetter(DeadLetterHandle),
    /// Several regions.
    #[cfg(feature = "failover")]
    #[cfg_attr(docsrs, doc(cfg(feature = "failover")))]
    Failover(FailoverHandle),
    /// A server's admission.
    Admission(AdmissionHandle),
}

macro_rules! from_handle {
    ($($kind:ident($handle:ident),)*) => {$(
        impl From<$handle> for Handle {
            fn from(handle: $handle) -> Self {
                Self::$kind(handle)
            }
        }
    )*};
}

from_handle!(
    Weir(WeirHandle),
    Retry(RetryHandle),
    Limiter(AimdHandle),
    CircuitBreaker(CircuitBreakerHandle),
    Split(SplitHandle),
    Admission(AdmissionHandle),
);
#[cfg(feature = "dead-letter")]
from_handle!(DeadLetter(DeadLetterHandle),);
#[cfg(feature = "failover")]
from_handle!(Failover(FailoverHandle),);

impl Running {
    /// No layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same layers and another one, which settings will be applied to as
    /// well.
    #[must_use]
    pub fn with(self, handle: impl Into<Handle>) -> Self {
        self.lock().push(handle.into());
        self
    }

    /// Applies settings to all layers; each takes what is of its sections. Returns
    /// the number of this change: 1 for the first.
    ///
    /// One change is made at a time, and all is checked before any layer is
    /// changed: after an error everything is as it was. Observers of the layers are
    /// told under way, and must not apply settings themselves: they would wait for
    /// themselves. Nor must a closure that changes one of the layers. If one of them
    /// panics, the change is made all the same, before the panic goes on.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range, and for one that
    /// cannot change while the layers run.
    pub fn apply(&self, settings: &Settings) -> Result<u64, InvalidSettings> {
        let checked = settings.check()?;
        let handles = self.lock();
        for handle in &*handles {
            handle.check(&checked)?;
        }
        let panicked = for_each(&*handles, |handle| handle.apply(&checked));
        let number = self.state.generation.fetch_add(1, Ordering::AcqRel) + 1;
        drop(handles);
        panicked.resume();
        Ok(number)
    }

    /// How many changes there were.
    pub fn generation(&self) -> u64 {
        self.state.generation.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Handle>> {
        let handles = &self.state.handles;
        handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("generation", &self.generation())
            .field("handles", &*self.lock())
            .finish()
    }
}

fn pends(now: WhenOpen, checked: &Checked<'_>) -> Result<(), InvalidSettings> {
    let pends = |when_open| when_open == WhenOpen::Pend;
    let path = "circuit_breaker.when_open";
    unchanged(&pends(now), &pends(checked.when_open), path)
}

/// Refuses a setting of a layer that runs, unless it stays.
fn unchanged<T: PartialEq>(now: &T, wanted: &T, path: &str) -> Result<(), InvalidSettings> {
    require(now == wanted, path, "cannot change while the layer runs")
}

impl Handle {
    /// Whether the layer can take the settings over.
    fn check(&self, checked: &Checked<'_>) -> Result<(), InvalidSettings> {
        let settings = checked.settings;
        match self {
            Self::Weir(handle) => {
                let fixed = handle.fixed();
                let breaker = &settings.circuit_breaker;
                unchanged(&fixed.limiter, &settings.limiter.enabled, "limiter.enabled")?;
                let path = "circuit_breaker.enabled";
                unchanged(&fixed.breaker, &breaker.enabled, path)?;
                pends(fixed.when_open, checked)
            }
            Self::CircuitBreaker(handle) => pends(handle.when_open(), checked),
            Self::Admission(handle) => {
                let (now, wanted) = (handle.fixed(), &settings.admission);
                let path = |field| format!("admission.{field}");
                unchanged(&now.enabled, &wanted.enabled, &path("enabled"))?;
                unchanged(&now.max_hold, &wanted.max_hold, &path("max_hold"))?;
                let unsized_body = &wanted.unsized_body;
                unchanged(&now.unsized_body, unsized_body, &path("unsized_body"))?;
                let after = &wanted.drain_retry_after;
                unchanged(&now.drain_retry_after, after, &path("drain_retry_after"))?;
                let headers = &wanted.rate_limit_headers;
                unchanged(
                    &now.rate_limit_headers,
                    headers,
                    &path("rate_limit_headers"),
                )?;
                let adaptive = &wanted.adaptive.enabled;
                unchanged(&now.adaptive, adaptive, &path("adaptive.enabled"))
            }
            Self::Retry(_) | Self::Limiter(_) | Self::Split(_) => Ok(()),
            #[cfg(feature = "dead-letter")]
            Self::DeadLetter(_) => Ok(()),
            #[cfg(feature = "failover")]
            Self::Failover(_) => Ok(()),
        }
    }

    /// Last of all what observers are told of, who may panic.
    fn apply(&self, checked: &Checked<'_>) {
        let settings = checked.settings;
        let calls = &settings.calls;
        match self {
            Self::Weir(handle) => {
                handle.registry.tune(|own| calls.write_to(own));
                retune(&handle.retry, checked);
                handle.retune(|config| {
                    config.limiter.law = checked.law.clone();
                    config.breaker.breaker = checked.breaker.clone().into();
                    config.breaker.when_open = checked.when_open;
                });
            }
            Self::Retry(handle) => retune(handle, checked),
            Self::Limiter(handle) => {
                handle.registry.tune(|own| {
                    calls.write_to(own);
                    own.enabled = settings.limiter.enabled;
                });
                let law = checked.law.clone();
                handle.registry.replace(|config| config.law = law);
            }
            Self::CircuitBreaker(handle) => {
                handle.registry.tune(|own| {
                    calls.write_to(own);
                    own.enabled = settings.circuit_breaker.enabled;
                });
                handle.registry.replace(|config| {
                    config.breaker = checked.breaker.clone().into();
                    config.when_open = checked.when_open;
                });
            }
            Self::Split(handle) => handle.take(&settings.split, &checked.split_on),
            #[cfg(feature = "dead-letter")]
            Self::DeadLetter(handle) => handle.take(&settings.dead_letter),
            #[cfg(feature = "failover")]
            Self::Failover(handle) => handle.take(&settings.failover),
            Self::Admission(handle) => {
                handle.set_max_keys(settings.admission.max_keys);
                handle.retune(|config| checked.admission.write_to(config));
            }
        }
    }
}

fn retune(retries: &RetryHandle, checked: &Checked<'_>) {
    let settings = checked.settings;
    retries.update(|policy| {
        let policy = policy.changed_to(&checked.terms);
        policy.max_hosts(settings.calls.max_hosts)
    });
    settings.retry.replay.write_to(retries.replay());
}
