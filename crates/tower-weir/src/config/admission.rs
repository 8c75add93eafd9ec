use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidSettings, LatencySettings, LimiterSettings, error::require, words::none};
use crate::{
    aimd::LawConfig,
    server::{AdmissionConfig, Class, ClassLimits, Limits},
};

/// The section `admission`, for servers: what
/// [`AdmissionLayer`](crate::server::AdmissionLayer) can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdmissionSettings {
    /// Whether anything is delayed or rejected. Default true. It cannot change
    /// while the layer runs.
    pub enabled: bool,
    /// So many operations run at once. Default 100.
    pub throttle_at: usize,
    /// So many are pending at most. Default 5,000.
    pub reject_at: usize,
    /// How long one is delayed at most. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
    /// How many bytes the bodies of the pending ones may have. Default `"none"`:
    /// no limit.
    #[serde(with = "none")]
    pub max_bytes: Option<u64>,
    /// How many bytes a body counts for whose size nothing says. Default 65,535. It
    /// cannot change while the layer runs.
    pub unsized_body: u64,
    /// How old the oldest pending one may be. Default `"none"`: no limit.
    #[serde(with = "none::time")]
    pub max_age: Option<Duration>,
    /// From which fill level of the storage on writes are rejected. Default 0.95.
    pub storage_mark: f64,
    /// How many keys are remembered. Default 1,024; 0 counts as 1.
    pub max_keys: usize,
    /// How long after its headers a response keeps its operation pending. Default
    /// 30 s. It cannot change while the layer runs.
    #[serde(with = "humantime_serde")]
    pub max_hold: Duration,
    /// When to come again after a drain. Default 5 s. It cannot change while the
    /// layer runs.
    #[serde(with = "humantime_serde")]
    pub drain_retry_after: Duration,
    /// Whether rejections name the limit in `RateLimit`. Default false. It cannot
    /// change while the layer runs.
    pub rate_limit_headers: bool,
    /// The limits of [`Class::RECORD`].
    pub record: RecordSettings,
    /// The limits of [`Class::STRUCTURAL`].
    pub structural: StructuralSettings,
    /// Whether the layer finds by itself how many operations can run at once.
    pub adaptive: AdaptiveSettings,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            throttle_at: 100,
            reject_at: 5000,
            max_delay: Duration::from_secs(30),
            max_bytes: None,
            unsized_body: 65_535,
            max_age: None,
            storage_mark: 0.95,
            max_keys: 1024,
            max_hold: Duration::from_secs(30),
            drain_retry_after: Duration::from_secs(5),
            rate_limit_headers: false,
            record: RecordSettings::default(),
            structural: StructuralSettings::default(),
            adaptive: AdaptiveSettings::default(),
        }
    }
}

macro_rules! class_settings {
    ($name:ident, $section:literal, $throttle_at:expr, $reject_at:expr, $said:literal) => {
        #[doc = concat!("The section `admission.", $section, "`: [`ClassLimits`].")]
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct $name {
            #[doc = concat!("So many of the class run at once. Default ", $said)]
            #[serde(with = "none")]
            pub throttle_at: Option<usize>,
            /// So many of the class are pending at most.
            #[serde(with = "none")]
            pub reject_at: Option<usize>,
            /// How long one of the class is delayed at most. Default `"none"`: as
            /// others.
            #[serde(with = "none::time")]
            pub max_delay: Option<Duration>,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    throttle_at: $throttle_at,
                    reject_at: $reject_at,
                    max_delay: None,
                }
            }
        }

        impl $name {
            fn limits(&self) -> ClassLimits {
                let mut limits = ClassLimits::new();
                limits.throttle_at = self.throttle_at;
                limits.reject_at = self.reject_at;
                limits.max_delay = self.max_delay;
                limits
            }
        }
    };
}

class_settings!(
    RecordSettings,
    "record",
    None,
    None,
    "`\"none\"`: no limit of its own."
);
class_settings!(
    StructuralSettings,
    "structural",
    Some(10),
    Some(500),
    "10, and 500 pending."
);

/// The section `admission.adaptive`. The numbers can change while the layer runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdaptiveSettings {
    /// Default false. It cannot change while the layer runs.
    pub enabled: bool,
    /// As [`LimiterSettings::initial`].
    pub initial: usize,
    /// As [`LimiterSettings::min`].
    pub min: usize,
    /// As [`LimiterSettings::max`].
    pub max: usize,
    /// As [`LatencySettings::hold`].
    pub hold: f64,
    /// As [`LatencySettings::shrink`].
    pub shrink: f64,
    /// As [`LatencySettings::window`].
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

impl Default for AdaptiveSettings {
    fn default() -> Self {
        let LimiterSettings {
            initial,
            min,
            max,
            latency,
            ..
        } = LimiterSettings::default();
        Self {
            enabled: false,
            initial,
            min,
            max,
            hold: latency.hold,
            shrink: latency.shrink,
            window: latency.window,
        }
    }
}

impl AdaptiveSettings {
    fn law(&self) -> Result<LawConfig, InvalidSettings> {
        let law = LimiterSettings {
            initial: self.initial,
            min: self.min,
            max: self.max,
            latency: LatencySettings {
                enabled: true,
                hold: self.hold,
                shrink: self.shrink,
                window: self.window,
            },
            ..LimiterSettings::default()
        };
        let path = "admission.adaptive";
        law.law(path).map_err(|invalid| {
            let field = invalid.path().replace(".latency.", ".");
            InvalidSettings::new(field, invalid.why())
        })
    }
}

/// Settings of an admission that can be.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) limits: Limits,
    record: ClassLimits,
    structural: ClassLimits,
    pub(crate) adaptive: Option<LawConfig>,
}

impl AdmissionSettings {
    pub(super) fn check(&self) -> Result<Admission, InvalidSettings> {
        let why = format!("{} is not within 0..=1", self.storage_mark);
        let good = (0.0..=1.0).contains(&self.storage_mark);
        require(good, "admission.storage_mark", why)?;
        let limits = Limits {
            throttle_at: self.throttle_at,
            reject_at: self.reject_at,
            max_delay: self.max_delay,
            max_bytes: self.max_bytes,
            max_age: self.max_age,
            storage_mark: self.storage_mark,
        };
        let law = self.adaptive.law()?;
        Ok(Admission {
            limits,
            record: self.record.limits(),
            structural: self.structural.limits(),
            adaptive: self.adaptive.enabled.then_some(law),
        })
    }
}

impl Admission {
    pub(crate) fn classes(&self) -> [(Class, ClassLimits); 2] {
        [
            (Class::RECORD, self.record.clone()),
            (Class::STRUCTURAL, self.structural.clone()),
        ]
    }

    /// Changes what may change while operations are pending.
    pub(crate) fn write_to(&self, config: &mut AdmissionConfig) {
        config.limits = self.limits.clone();
        for (class, limits) in self.classes() {
            if let Some(own) = config.class_mut(class) {
                *own = limits;
            }
        }
        config.set_law(self.adaptive.as_ref());
    }
}
