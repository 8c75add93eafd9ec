use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    InvalidSettings,
    error::{At, require},
    words::none,
};
use crate::circuit_breaker::{
    BreakerConfig, CountRefusals, FailureRun, InvalidOpenFor, InvalidWindow, OpenFor, Probes,
    Ratio, SlowCalls, WhenOpen, Window,
};

/// The section `circuit_breaker`: what
/// [`BreakerConfig`] can be told, under the same names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CircuitBreakerSettings {
    /// Whether there is a breaker. Default true. It cannot change while the stack
    /// runs: a circuit can be
    /// [held closed](crate::circuit_breaker::Control::ForcedClosed) instead.
    pub enabled: bool,
    /// What happens to calls while the circuit is open.
    pub when_open: WhenOpenKind,
    /// The share of failures that opens the circuit. Default 0.15; `"none"` for no
    /// such rule.
    #[serde(with = "none")]
    pub failure_rate: Option<f64>,
    /// How many calls the window must hold. Default 100.
    pub min_calls: u32,
    /// Whether "not now" is a failure.
    pub count_refusals: CountRefusalsKind,
    /// For how long there must have been no success before it is. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub starved_after: Duration,
    /// How long a call must have run for its caller's giving up to count. Default
    /// 10 s.
    #[serde(with = "none::time")]
    pub cancel_counts_after: Option<Duration>,
    /// The most that a server's hint can ask for. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub hint_cap: Duration,
    /// How long a probe may take. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub probe_lease: Duration,
    /// Which calls the rates are computed over.
    pub window: WindowSettings,
    /// Failures in a row.
    pub failure_run: FailureRunSettings,
    /// Calls that are too slow.
    pub slow_calls: SlowCallsSettings,
    /// How long an open circuit refuses.
    pub open_for: OpenForSettings,
    /// What a half-open circuit asks of its probes.
    pub probes: ProbesSettings,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            when_open: WhenOpenKind::default(),
            failure_rate: Some(0.15),
            min_calls: 100,
            count_refusals: CountRefusalsKind::default(),
            starved_after: Duration::from_secs(10),
            cancel_counts_after: Some(Duration::from_secs(10)),
            hint_cap: Duration::from_secs(60),
            probe_lease: Duration::from_secs(30),
            window: WindowSettings::default(),
            failure_run: FailureRunSettings::default(),
            slow_calls: SlowCallsSettings::default(),
            open_for: OpenForSettings::default(),
            probes: ProbesSettings::default(),
        }
    }
}

/// What happens to calls while the circuit is open: a [`WhenOpen`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WhenOpenKind {
    /// [`WhenOpen::Refuse`], the default.
    #[default]
    Refuse,
    /// [`WhenOpen::Wait`].
    Wait,
    /// [`WhenOpen::Pend`]. Neither it nor another can take the other's place while
    /// the stack runs.
    Pend,
}

/// Whether "not now" is a failure: a [`CountRefusals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CountRefusalsKind {
    /// [`CountRefusals::WhenStarved`], the default.
    #[default]
    WhenStarved,
    /// [`CountRefusals::Always`].
    Always,
    /// [`CountRefusals::Never`].
    Never,
}

/// The section `circuit_breaker.window`: a [`Window`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum WindowSettings {
    /// [`Window::time`], the default.
    Time {
        /// Default 5 min.
        #[serde(with = "humantime_serde")]
        span: Duration,
        /// Default 30; 1 to 1,000, of 1 ms or more.
        slices: u32,
    },
    /// [`Window::calls`].
    Calls {
        /// 1 to 1,000,000.
        calls: u32,
    },
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self::Time {
            span: Duration::from_secs(5 * 60),
            slices: 30,
        }
    }
}

/// The section `circuit_breaker.failure_run`: a [`FailureRun`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FailureRunSettings {
    /// Default true.
    pub enabled: bool,
    /// So many failures in a row. Default 10.
    pub failures: u32,
    /// The last so long after the first. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub lasting: Duration,
    /// So many failures of calls that were sent to an upstream known to fail make
    /// an eighth of the time enough. Default 100; `"none"` for never.
    #[serde(with = "none")]
    pub sooner: Option<u32>,
}

impl Default for FailureRunSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 10,
            lasting: Duration::from_secs(2),
            sooner: Some(100),
        }
    }
}

/// The section `circuit_breaker.slow_calls`: a [`SlowCalls`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SlowCallsSettings {
    /// Default false: what is slow depends on the upstream.
    pub enabled: bool,
    /// So long is slow. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub threshold: Duration,
    /// The share of slow calls that opens the circuit. Default 0.5.
    pub rate: f64,
}

impl Default for SlowCallsSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            threshold: Duration::from_secs(5),
            rate: 0.5,
        }
    }
}

/// The section `circuit_breaker.open_for`: an [`OpenFor`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OpenForSettings {
    /// The first period. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub first: Duration,
    /// The longest. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub cap: Duration,
    /// The longest after a probe that was refused. Default 2 s; `"none"` for `cap`.
    #[serde(with = "none::time")]
    pub refused_cap: Option<Duration>,
    /// How far it is moved at random. Default 0.2.
    #[serde(with = "none")]
    pub jitter: Option<f64>,
}

impl Default for OpenForSettings {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            cap: Duration::from_secs(15),
            refused_cap: Some(Duration::from_secs(2)),
            jitter: Some(0.2),
        }
    }
}

/// The section `circuit_breaker.probes`: [`Probes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProbesSettings {
    /// How many probes there are. Default 2.
    pub calls: u32,
    /// The share of them that must succeed. Default 1.
    pub good: f64,
    /// How many may be in flight at once. Default 1.
    pub in_flight: u32,
}

impl Default for ProbesSettings {
    fn default() -> Self {
        Self {
            calls: 2,
            good: 1.0,
            in_flight: 1,
        }
    }
}

impl CircuitBreakerSettings {
    pub(super) fn breaker(&self) -> Result<BreakerConfig, InvalidSettings> {
        let ratio = |ratio: f64, field: &str| {
            let path = format!("circuit_breaker.{field}");
            Ratio::new(ratio).at(&path)
        };
        let optional = |value: Option<f64>, field| value.map(|value| ratio(value, field));
        let least_1 = |value: u32, path| require(value >= 1, path, "must be at least 1");
        least_1(self.min_calls, "circuit_breaker.min_calls")?;
        let run = &self.failure_run;
        least_1(run.failures, "circuit_breaker.failure_run.failures")?;
        let sooner = run.sooner.unwrap_or(1);
        least_1(sooner, "circuit_breaker.failure_run.sooner")?;
        let run = run
            .enabled
            .then(|| FailureRun::new(run.failures, run.lasting).sooner(run.sooner));
        let slow = &self.slow_calls;
        let rate = ratio(slow.rate, "slow_calls.rate")?;
        let slow = slow.enabled.then(|| SlowCalls::new(slow.threshold, rate));
        let open_for = OpenFor::new(self.open_for.first, self.open_for.cap);
        let open_for = open_for.map_err(|invalid| {
            let field = match invalid {
                InvalidOpenFor::Zero => ".first",
                InvalidOpenFor::AboveCap { .. } => "",
            };
            InvalidSettings::new(format!("circuit_breaker.open_for{field}"), invalid)
        })?;
        let jitter = optional(self.open_for.jitter, "open_for.jitter").transpose()?;
        let probes = &self.probes;
        least_1(probes.calls, "circuit_breaker.probes.calls")?;
        least_1(probes.in_flight, "circuit_breaker.probes.in_flight")?;
        let good = ratio(probes.good, "probes.good")?;
        let probes = Probes::ratio(probes.calls, good).in_flight(probes.in_flight);
        let window = match self.window {
            WindowSettings::Time { span, slices } => Window::time(span, slices),
            WindowSettings::Calls { calls } => Window::calls(calls),
        };
        let refusals = match self.count_refusals {
            CountRefusalsKind::WhenStarved => CountRefusals::WhenStarved,
            CountRefusalsKind::Always => CountRefusals::Always,
            CountRefusalsKind::Never => CountRefusals::Never,
        };
        Ok(BreakerConfig::default()
            .window(window.map_err(|invalid| {
                let field = match invalid {
                    InvalidWindow::Slices(_) => "slices",
                    InvalidWindow::Width(_) => "span",
                    InvalidWindow::Calls(_) => "calls",
                };
                InvalidSettings::new(format!("circuit_breaker.window.{field}"), invalid)
            })?)
            .failure_rate(optional(self.failure_rate, "failure_rate").transpose()?)
            .min_calls(self.min_calls)
            .failure_run(run)
            .slow_calls(slow)
            .count_refusals(refusals)
            .starved_after(self.starved_after)
            .cancel_counts_after(self.cancel_counts_after)
            .open_for(
                open_for
                    .refused_cap(self.open_for.refused_cap)
                    .jitter(jitter),
            )
            .hint_cap(self.hint_cap)
            .probes(probes)
            .probe_lease(self.probe_lease))
    }

    pub(super) fn when_open(&self) -> WhenOpen {
        match self.when_open {
            WhenOpenKind::Refuse => WhenOpen::Refuse,
            WhenOpenKind::Wait => WhenOpen::Wait,
            WhenOpenKind::Pend => WhenOpen::Pend,
        }
    }
}
