//! Layers that are made from settings.

use super::{InvalidSettings, Settings, error::At};
#[cfg(feature = "dead-letter")]
use crate::dead_letter::DeadLetterLayer;
#[cfg(feature = "failover")]
use crate::failover::Failover;
use crate::{
    Weir, aimd::AimdConcurrencyLayer, circuit_breaker::CircuitBreakerLayer, retry::RetryLayer,
    server::AdmissionLayer, split::SplitLayer,
};

/// Sets what the section `calls` says, on each layer that has it.
macro_rules! called {
    ($layer:expr, $settings:expr) => {{
        let calls = &$settings.calls;
        $layer
            .max_waiting(calls.max_waiting())
            .queue_timeout(calls.queue_timeout)
            .attempt_timeout(calls.attempt_timeout)
            .hold(calls.hold())
            .max_hold(calls.max_hold)
            .max_hosts(calls.max_hosts)
    }};
}

impl<C: Clone, M> RetryLayer<C, M> {
    /// The layer with the settings of the section `retry`, and `max_hosts` of the
    /// section `calls`, and fresh state. The account of what is recorded is its own: to share one, give it
    /// ([`replay`](Self::replay)) afterwards.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        let checked = settings.check()?;
        let hosts = settings.calls.max_hosts;
        let layer = self.policy(|policy| policy.on(&checked.terms).max_hosts(hosts));
        Ok(layer.own_account(settings.retry.replay.account()))
    }
}

impl<X: Clone> AimdConcurrencyLayer<X> {
    /// The layer with the settings of the sections `limiter` and `calls`, and
    /// fresh state.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        let checked = settings.check()?;
        let layer = self.law_config(checked.law);
        Ok(called!(layer, settings).enabled(settings.limiter.enabled))
    }
}

impl<X: Clone> CircuitBreakerLayer<X> {
    /// The layer with the settings of the sections `circuit_breaker` and `calls`,
    /// and fresh state.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        let checked = settings.check()?;
        let layer = self.config(checked.breaker);
        let layer = called!(layer, settings).when_open(checked.when_open);
        let layer = layer.at("circuit_breaker.when_open")?;
        Ok(layer.enabled(settings.circuit_breaker.enabled))
    }
}

impl<C: Clone, M, X: Clone> Weir<C, M, X> {
    /// The stack with the settings of the sections `retry`, `limiter`,
    /// `circuit_breaker` and `calls`, and fresh state. All of them: what was set
    /// before is not kept, but for what no file can say (a classifier, a host's
    /// name, a seed, observers). An account to be [shared](Self::replay) is given
    /// afterwards.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        let checked = settings.check()?;
        let stack = self
            .retry(|policy| policy.on(&checked.terms))
            .own_account(settings.retry.replay.account())
            .limiter(|law| *law = checked.law)
            .limiter_enabled(settings.limiter.enabled)
            .breaker(|_| checked.breaker)
            .breaker_enabled(settings.circuit_breaker.enabled);
        let stack = called!(stack, settings).when_open(checked.when_open);
        stack.at("circuit_breaker.when_open")
    }
}

impl<C: Clone, M: Clone> SplitLayer<C, M> {
    /// The layer with the settings of the section `split`.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        let (statuses, codes) = settings.check()?.split_on;
        let split = &settings.split;
        Ok(self
            .enabled(split.enabled)
            .split_on(statuses)
            .split_on_codes(codes)
            .refusals(split.refusals)
            .safe(split.any_method)
            .concurrency(split.concurrency))
    }
}

#[cfg(feature = "dead-letter")]
#[cfg_attr(docsrs, doc(cfg(feature = "dead-letter")))]
impl DeadLetterLayer {
    /// The layer with the settings of the section `dead_letter`, and fresh state.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        settings.validate()?;
        Ok(self.taking(&settings.dead_letter))
    }
}

#[cfg(feature = "failover")]
#[cfg_attr(docsrs, doc(cfg(feature = "failover")))]
impl<S: Clone, C: Clone, M> Failover<S, C, M> {
    /// The failover with the settings of the section `failover`, and fresh state.
    /// The account of what is recorded is its own: to share one, give it
    /// ([`replay`](Self::replay)) afterwards.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        settings.validate()?;
        Ok(self.taking(&settings.failover))
    }
}

impl AdmissionLayer {
    /// The layer with the settings of the section `admission`, and fresh state. Also
    /// whether it is [adaptive](Self::adaptive) is as they say, whatever it was told
    /// before.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn configured(self, settings: &Settings) -> Result<Self, InvalidSettings> {
        let checked = settings.check()?.admission;
        let admission = &settings.admission;
        let layer = self
            .limits(|limits| limits.clone_from(&checked.limits))
            .max_keys(admission.max_keys)
            .unsized_body(admission.unsized_body)
            .max_hold(admission.max_hold)
            .drain_retry_after(admission.drain_retry_after)
            .rate_limit_headers(admission.rate_limit_headers)
            .enabled(admission.enabled);
        let classes = checked.classes().into_iter();
        let layer = classes.fold(layer, |layer, (class, limits)| layer.class(class, limits));
        Ok(layer.found_by(checked.adaptive))
    }
}
