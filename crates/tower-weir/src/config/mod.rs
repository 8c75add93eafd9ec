//! Every layer's settings as one structure, from a file, and applied to layers
//! that run.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use tower_weir::{BoxError, Weir, config::{Running, Settings}};
//!
//! let settings = Settings::from_toml(r#"
//!     [retry]
//!     deadline = "2s"
//!
//!     [limiter]
//!     max = 64
//! "#)?;
//! let stack = Weir::http().configured(&settings)?;
//! let running = Running::new().with(stack.handle());
//! # let service = ServiceBuilder::new().layer(stack).service(service_fn(
//! #     |_: http::Request<tower_weir::retry::ReplayBody<String>>| async {
//! #         Ok::<_, BoxError>(http::Response::new(String::new()))
//! #     },
//! # ));
//!
//! // Later, when the file has changed:
//! let invalid = Settings::from_toml("[circuit_breaker]\nfailure_rate = 1.5").unwrap_err();
//! assert_eq!(
//!     invalid.to_string(),
//!     "circuit_breaker.failure_rate: a ratio is above 0 and at most 1, not 1.5"
//! );
//! let settings = Settings::from_toml("limiter.max = 32")?;
//! assert_eq!(running.apply(&settings)?, 1);
//! # drop(service);
//! # Ok::<(), tower_weir::config::InvalidSettings>(())
//! ```
//!
//! What is left out of a file has its default, which is the layers' own, or that
//! of the [`preset`](Settings::preset). `docs/config.toml` of this crate's
//! repository is the whole file with every default.
//!
//! # While the layers run
//!
//! [`Running::apply`] checks all of the settings, and whether each of its layers
//! can take them over, before it changes anything. A request that is under way
//! keeps the retry policy that it began with; a limit, the circuit's rules and the
//! bounds of the queue hold at once, the time also for those who wait, from when they
//! came. An attempt under way may take longer at once where its time is raised;
//! lowered, the time it was sent with still holds for it. Budgets keep their balance,
//! the circuit what it has recorded (unless its window changes), the limiter what it
//! has found.
//!
//! Few things cannot change: whether there are limiter, breaker and admission at
//! all, whether a service [pends](crate::circuit_breaker::WhenOpen::Pend), and
//! what the server's layer answers with. Settings that would change these are
//! refused, by the path of the field.
//!
//! The sections are the same whatever features are on: one file serves several
//! programs. A section whose layer a program does not have is checked, no more.

mod admission;
mod build;
mod calls;
mod circuit_breaker;
mod dead_letter;
mod error;
mod failover;
mod limiter;
mod replay;
mod retry;
mod running;
mod settings;
mod shutdown;
mod split;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use self::admission::Admission;
pub use self::{
    admission::{AdaptiveSettings, AdmissionSettings, RecordSettings, StructuralSettings},
    calls::{CallSettings, HoldKind},
    circuit_breaker::{
        CircuitBreakerSettings, CountRefusalsKind, FailureRunSettings, OpenForSettings,
        ProbesSettings, SlowCallsSettings, WhenOpenKind, WindowSettings,
    },
    dead_letter::DeadLetterSettings,
    error::InvalidSettings,
    failover::{FailoverSettings, RunSettings},
    limiter::{DecreaseKind, LatencySettings, LimiterSettings},
    replay::ReplaySettings,
    retry::{BackoffKind, BackoffSettings, RetrySettings},
    running::{Handle, Running},
    settings::{Preset, Settings},
    shutdown::ShutdownSettings,
    split::SplitSettings,
};
