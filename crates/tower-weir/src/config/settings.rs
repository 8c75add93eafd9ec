use std::time::Duration;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned},
};
use toml::{Table, Value};

use super::{
    Admission, AdmissionSettings, CallSettings, CircuitBreakerSettings, DeadLetterSettings,
    FailoverSettings, InvalidSettings, LimiterSettings, RetrySettings, ShutdownSettings,
    SplitSettings, WhenOpenKind, error::At,
};
use crate::{
    aimd::LawConfig,
    circuit_breaker::{BreakerConfig, WhenOpen},
    outcome::GrpcCode,
    retry::PolicyTerms,
};

/// The settings of every layer. Durations are written as in `"1m 30s"`, and an
/// unknown field is an error.
///
/// Within a program's own settings, and in whatever format those are, they are read
/// as [`from_toml`](Self::from_toml) reads them: over the preset's, and checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Settings {
    /// Where the settings come from that are left out.
    pub preset: Preset,
    /// Of [`RetryLayer`](crate::retry::RetryLayer).
    pub retry: RetrySettings,
    /// Of [`AimdConcurrencyLayer`](crate::aimd::AimdConcurrencyLayer).
    pub limiter: LimiterSettings,
    /// Of [`CircuitBreakerLayer`](crate::circuit_breaker::CircuitBreakerLayer).
    pub circuit_breaker: CircuitBreakerSettings,
    /// Of both of these.
    pub calls: CallSettings,
    /// Of [`SplitLayer`](crate::split::SplitLayer).
    pub split: SplitSettings,
    /// Of the `DeadLetterLayer`, with the feature `dead-letter`.
    pub dead_letter: DeadLetterSettings,
    /// Of `Failover`, with the feature `failover`.
    pub failover: FailoverSettings,
    /// Of the program that ends, for [`Shutdown`](crate::shutdown::Shutdown).
    pub shutdown: ShutdownSettings,
    /// Of [`AdmissionLayer`](crate::server::AdmissionLayer), at the other end.
    pub admission: AdmissionSettings,
}

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// For a caller who waits for an answer: the layers' defaults.
    #[default]
    Interactive,
    /// For work that must all be done and may take its time:
    /// [`Weir::bulk`](crate::Weir::bulk).
    Bulk,
}

impl Settings {
    /// The defaults of a preset.
    pub fn preset(preset: Preset) -> Self {
        let mut settings = Self {
            preset,
            ..Self::default()
        };
        if preset == Preset::Bulk {
            let patience = Duration::from_secs(15 * 60);
            settings.retry.any_method = true;
            settings.retry.patience = Some(patience);
            settings.retry.max_hint = Some(patience);
            settings.calls.max_waiting = None;
            settings.calls.queue_timeout = patience;
            settings.circuit_breaker.open_for.cap = Duration::from_secs(5);
            settings.circuit_breaker.when_open = WhenOpenKind::Wait;
        }
        settings
    }

    /// Reads and checks settings. What is left out has the preset's value.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a text that is no TOML, an unknown field, a value of
    /// another type, and one that is out of range.
    pub fn from_toml(text: &str) -> Result<Self, InvalidSettings> {
        Self::of(toml::from_str(text).at("")?)
    }

    fn of(given: Table) -> Result<Self, InvalidSettings> {
        let preset = match given.get("preset") {
            Some(preset) => preset.clone().try_into().at("preset")?,
            None => Preset::default(),
        };
        let mut whole = Table::try_from(Self::preset(preset)).at("")?;
        if let Some(unknown) = given.keys().find(|name| !whole.contains_key(*name)) {
            let known: Vec<_> = whole.keys().map(|name| format!("`{name}`")).collect();
            let why = format!(
                "unknown field `{unknown}`, expected one of {}",
                known.join(", ")
            );
            return Err(InvalidSettings::new("", why));
        }
        merge(&mut whole, given);
        let whole = &mut whole;
        let settings = Self {
            preset: section(whole, "preset")?,
            retry: section(whole, "retry")?,
            limiter: section(whole, "limiter")?,
            circuit_breaker: section(whole, "circuit_breaker")?,
            calls: section(whole, "calls")?,
            split: section(whole, "split")?,
            dead_letter: section(whole, "dead_letter")?,
            failover: section(whole, "failover")?,
            shutdown: section(whole, "shutdown")?,
            admission: section(whole, "admission")?,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Checks settings that were changed by code.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] for a value that is out of range.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        self.check().map(drop)
    }

    pub(super) fn check(&self) -> Result<Checked<'_>, InvalidSettings> {
        self.dead_letter.check()?;
        self.failover.check()?;
        Ok(Checked {
            terms: self.retry.terms()?,
            law: self.limiter.law("limiter")?,
            breaker: self.circuit_breaker.breaker()?,
            when_open: self.circuit_breaker.when_open(),
            split_on: self.split.lists()?,
            admission: self.admission.check()?,
            settings: self,
        })
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(Table::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Settings of which each is in its range, as the layers take them.
pub(super) struct Checked<'a> {
    pub(super) settings: &'a Settings,
    pub(super) terms: PolicyTerms,
    pub(super) law: LawConfig,
    pub(super) breaker: BreakerConfig,
    pub(super) when_open: WhenOpen,
    pub(super) split_on: (Vec<http::StatusCode>, Vec<GrpcCode>),
    pub(super) admission: Admission,
}

/// Puts what was given over the defaults. A table of another kind has other
/// fields: it takes the place of the whole.
fn merge(whole: &mut Table, given: Table) {
    for (name, value) in given {
        match (whole.get_mut(&name), value) {
            (Some(Value::Table(own)), Value::Table(given))
                if given
                    .get("kind")
                    .is_none_or(|kind| own.get("kind") == Some(kind)) =>
            {
                merge(own, given);
            }
            (_, value) => {
                whole.insert(name, value);
            }
        }
    }
}

/// Takes a section out of the whole, which has all that there are.
fn section<T: DeserializeOwned>(whole: &mut Table, name: &str) -> Result<T, InvalidSettings> {
    let value = whole.remove(name).unwrap_or(Value::Table(Table::new()));
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => name.to_owned(),
            path => format!("{name}.{path}"),
        };
        InvalidSettings::new(path, error.inner().message())
    })
}
