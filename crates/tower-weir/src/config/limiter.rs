use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidSettings, error::require, words::auto};
use crate::aimd::{Decrease, LatencySignal, LawConfig};

/// The section `limiter`: what
/// [`AimdConcurrencyLayer`](crate::aimd::AimdConcurrencyLayer) can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimiterSettings {
    /// Whether there is a limit. Default true. It cannot change while the stack
    /// runs: to do without a limit set `min` as high as `max`.
    pub enabled: bool,
    /// The limit that a host starts with; one over `max` counts as `max`.
    /// Default 10.
    pub initial: usize,
    /// The least limit. Default 1.
    pub min: usize,
    /// The most calls that are ever in flight to one host. Default 256.
    pub max: usize,
    /// How far an overload lowers the limit.
    pub decrease: DecreaseKind,
    /// How many successes raise the limit. Default `"auto"`.
    #[serde(with = "auto")]
    pub streak: Option<usize>,
    /// Whether round trips that become longer hold the limit down.
    pub latency: LatencySettings,
}

impl Default for LimiterSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            initial: 10,
            min: 1,
            max: 256,
            decrease: DecreaseKind::default(),
            streak: None,
            latency: LatencySettings::default(),
        }
    }
}

/// How far an overload lowers the limit: a [`Decrease`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DecreaseKind {
    /// [`Decrease::Proportional`], the default.
    #[default]
    Proportional,
    /// [`Decrease::Halve`].
    Halve,
}

/// The section `limiter.latency`: a [`LatencySignal`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LatencySettings {
    /// Default false.
    pub enabled: bool,
    /// From which multiple of the least median on the limit stays. Default 1.2; at
    /// least 1.
    pub hold: f64,
    /// From which multiple on it shrinks. Default 1.6; at least `hold`.
    pub shrink: f64,
    /// How long a least median holds. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

impl Default for LatencySettings {
    fn default() -> Self {
        Self {
            enabled: false,
            hold: 1.2,
            shrink: 1.6,
            window: Duration::from_secs(10),
        }
    }
}

impl LimiterSettings {
    /// The law of a limiter whose section is at `path`.
    pub(super) fn law(&self, path: &str) -> Result<LawConfig, InvalidSettings> {
        let at = |field: &str| format!("{path}.{field}");
        for (field, value) in [
            ("initial", self.initial),
            ("min", self.min),
            ("max", self.max),
            ("streak", self.streak.unwrap_or(1)),
        ] {
            require(value >= 1, &at(field), "must be at least 1")?;
        }
        let (min, max) = (self.min, self.max);
        require(min <= max, &at("min"), format!("{min} is above max, {max}"))?;
        let LatencySettings {
            enabled,
            hold,
            shrink,
            window,
        } = self.latency;
        let why = format!("{hold} is not 1 or more");
        require(hold >= 1.0 && hold.is_finite(), &at("latency.hold"), why)?;
        let why = format!("{shrink} is not {hold}, which is `hold`, or more");
        let good = shrink >= hold && shrink.is_finite();
        require(good, &at("latency.shrink"), why)?;
        let signal = LatencySignal {
            hold,
            shrink,
            window,
        };
        Ok(LawConfig {
            initial: self.initial,
            min,
            max,
            decrease: match self.decrease {
                DecreaseKind::Proportional => Decrease::Proportional,
                DecreaseKind::Halve => Decrease::Halve,
            },
            streak: self.streak,
            latency: enabled.then_some(signal),
        })
    }
}
