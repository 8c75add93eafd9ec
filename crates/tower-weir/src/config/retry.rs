use std::{sync::Arc, time::Duration};

use http::{HeaderName, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    InvalidSettings, ReplaySettings,
    error::{At, require},
    words::{auto, none},
};
use crate::{
    outcome::GrpcCode,
    retry::{
        PolicyTerms,
        backoff::{Backoff, DecorrelatedJitter, ExponentialJitter, Jitter},
        budget::BudgetRule,
    },
};

/// The section `retry`: what [`RetryPolicy`](crate::retry::RetryPolicy) can be
/// told, under the same names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetrySettings {
    /// Whether anything is sent again. Default true.
    pub enabled: bool,
    /// How many attempts may follow the first. Default `"auto"`: 3, for gRPC 5.
    #[serde(with = "auto")]
    pub max_retries: Option<u32>,
    /// Whether every request is taken for safe to repeat. Default false.
    pub any_method: bool,
    /// The time for a whole request. Default `"none"`.
    #[serde(with = "none::time")]
    pub deadline: Option<Duration>,
    /// For how long refusals are waited out. Default `"none"`.
    #[serde(with = "none::time")]
    pub patience: Option<Duration>,
    /// The longest wait before a retry. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// The longest wait that the upstream may ask for. Default `"auto"`: as
    /// `max_wait`.
    #[serde(with = "auto::time")]
    pub max_hint: Option<Duration>,
    /// Which HTTP statuses are repeated, as numbers. Default `"auto"`.
    #[serde(with = "auto")]
    pub statuses: Option<Vec<u16>>,
    /// Which gRPC codes are repeated, by their names. Default `"auto"`.
    #[serde(with = "auto")]
    pub codes: Option<Vec<String>>,
    /// The header that carries an attempt's number. Default `"none"`.
    #[serde(with = "none")]
    pub attempt_header: Option<String>,
    /// Whether stacks further in are told not to retry. Default false.
    pub suppress_nested: bool,
    /// The waits that the upstream did not choose.
    pub backoff: BackoffSettings,
    /// How many retries each host must bear.
    pub budget: BudgetRule,
    /// What is recorded of request bodies, to be sent again.
    pub replay: ReplaySettings,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_retries: None,
            any_method: false,
            deadline: None,
            patience: None,
            max_wait: Duration::from_secs(60),
            max_hint: None,
            statuses: None,
            codes: None,
            attempt_header: None,
            suppress_nested: false,
            backoff: BackoffSettings::default(),
            budget: BudgetRule::default(),
            replay: ReplaySettings::default(),
        }
    }
}

/// The section `retry.backoff`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// How the wait is drawn.
    pub kind: BackoffKind,
    /// The least wait to grow from. Default 250 ms; at most the cap.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    /// The longest. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub cap: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            kind: BackoffKind::default(),
            base: Duration::from_millis(250),
            cap: Duration::from_secs(60),
        }
    }
}

/// How a wait is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BackoffKind {
    /// [`DecorrelatedJitter`], the default.
    #[default]
    Decorrelated,
    /// [`ExponentialJitter`] with [`Jitter::Full`].
    FullJitter,
    /// [`ExponentialJitter`] with [`Jitter::Equal`].
    EqualJitter,
    /// [`ExponentialJitter`] with [`Jitter::Band`].
    BandJitter,
}

impl BackoffSettings {
    fn make(&self) -> Result<Arc<dyn Backoff>, InvalidSettings> {
        let jitter = match self.kind {
            BackoffKind::Decorrelated => None,
            BackoffKind::FullJitter => Some(Jitter::Full),
            BackoffKind::EqualJitter => Some(Jitter::Equal),
            BackoffKind::BandJitter => Some(Jitter::Band),
        };
        let (base, cap) = (self.base, self.cap);
        let positive = "must be more than zero";
        require(!base.is_zero(), "retry.backoff.base", positive)?;
        require(!cap.is_zero(), "retry.backoff.cap", positive)?;
        // In code it means the cap, always; nobody writes that into a file.
        require(
            base <= cap,
            "retry.backoff",
            format_args!("the base, {base:?}, is above the cap, {cap:?}"),
        )?;
        Ok(match jitter {
            None => Arc::new(DecorrelatedJitter::new(base, cap).at("retry.backoff")?),
            Some(jitter) => {
                Arc::new(ExponentialJitter::new(base, cap, jitter).at("retry.backoff")?)
            }
        })
    }
}

impl RetrySettings {
    pub(super) fn terms(&self) -> Result<PolicyTerms, InvalidSettings> {
        let status = |(at, status): (usize, &u16)| {
            StatusCode::from_u16(*status).at(&format!("retry.statuses[{at}]"))
        };
        let code = |(at, name): (usize, &String)| code(name).at(&format!("retry.codes[{at}]"));
        let statuses = self.statuses.as_ref();
        let statuses = statuses.map(|all| all.iter().enumerate().map(status).collect());
        let codes = self.codes.as_ref();
        let codes = codes.map(|all| all.iter().enumerate().map(code).collect());
        let header = self.attempt_header.as_deref().map(str::parse::<HeaderName>);
        self.budget.make().map_err(|invalid| {
            InvalidSettings::new(format!("retry.budget.{}", invalid.field()), invalid)
        })?;
        Ok(PolicyTerms {
            enabled: self.enabled,
            max_retries: self.max_retries,
            any_method: self.any_method,
            deadline: self.deadline,
            patience: self.patience,
            max_wait: self.max_wait,
            max_hint: self.max_hint,
            backoff: self.backoff.make()?,
            statuses: statuses.transpose()?,
            codes: codes.transpose()?,
            attempt_header: header.transpose().at("retry.attempt_header")?,
            suppress_nested: self.suppress_nested,
            budget: self.budget,
        })
    }
}

pub(super) fn code(name: &str) -> Result<GrpcCode, String> {
    let mut codes = (0..=16).map(|number: u8| GrpcCode::parse(number.to_string().as_bytes()));
    let found = codes.find(|code| code.as_str() == name);
    found.ok_or_else(|| format!("`{name}` is no gRPC code"))
}
