//! How many retries an upstream may be asked to bear.
//!
//! A retry helps when few requests fail and harms when many do: with three
//! retries each, an upstream that fails everything gets four times its load at
//! the worst moment, and layers of clients multiply. No choice of the number of
//! retries avoids that, because it looks at one request only. A [`Budget`] is
//! shared by all requests to an upstream and looks at them together: it lets
//! nearly every retry pass while failures are few, and hardly any in an outage.
//!
//! | | refuses when | comes back with |
//! |---|---|---|
//! | [`RetryBudget`], the default | retries exceed a share of the requests that went well, and a small reserve | such requests, and time |
//! | [`GrpcThrottle`] | failures have eaten half of a count | successes |
//! | [`CostQuota`] | the costs of retries have eaten all of a count | successes |
//! | [`InFlightShare`] | retries in flight exceed a share of the requests in flight | the end of a retry |
//!
//! ```
//! use std::sync::Arc;
//!
//! use tokio::time::Instant;
//! use tower_weir::{
//!     outcome::Outcome,
//!     retry::budget::{Budget, RetryBudget, Ticket},
//! };
//!
//! let budget: Arc<dyn Budget> = Arc::new(RetryBudget::default());
//!
//! let mut request = Ticket::new(budget.clone());
//! request.try_withdraw(Instant::now(), &Outcome::unavailable())?;
//! // The retry went well.
//! request.deposit(Instant::now(), &Outcome::success());
//! # Ok::<(), tower_weir::retry::budget::BudgetEmpty>(())
//! ```

mod batch;
mod cost_quota;
mod grpc_throttle;
mod in_flight;
mod per_host;
mod retry_budget;
mod rule;
mod ticket;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

#[cfg(feature = "weir")]
pub(crate) use self::per_host::HostBudget;
pub(crate) use self::{batch::BatchRetry, per_host::Budgets};
pub use self::{
    batch::{BatchBudget, BatchSpent, Cost},
    cost_quota::CostQuota,
    grpc_throttle::GrpcThrottle,
    in_flight::InFlightShare,
    retry_budget::RetryBudget,
    rule::BudgetRule,
    ticket::Ticket,
};
use crate::outcome::Outcome;

/// Decides whether the upstream can bear another retry.
///
/// Each request calls [`begin`](Self::begin) once, then tells the outcome of
/// each of its attempts to either [`try_withdraw`](Self::try_withdraw), when
/// another attempt is wanted, or [`deposit`](Self::deposit), when not; and
/// [`end`](Self::end) once, however it ends. [`Ticket`] sees to the order. A
/// transparent retry (gRFC A6) is free: it is told to nobody.
///
/// `held` is what the request's last granted withdrawal returned, 0 if there
/// was none: what it means is the budget's own affair.
pub trait Budget: Send + Sync + fmt::Debug {
    /// A request begins. By default this does nothing.
    fn begin(&self) {}

    /// An attempt ended with `outcome` and no retry is wanted: it went well, it
    /// must not be repeated, or there are no attempts or no time left.
    fn deposit(&self, now: Instant, outcome: &Outcome, held: u32);

    /// An attempt ended with `outcome` and a retry is wanted. The request then
    /// holds what is returned, and no longer what it `held` before, also if the
    /// retry is refused.
    ///
    /// # Errors
    ///
    /// [`BudgetEmpty`] if the upstream cannot bear it now.
    fn try_withdraw(&self, now: Instant, outcome: &Outcome, held: u32) -> Result<u32, BudgetEmpty>;

    /// The same question once more, after a wait: its outcome has been told
    /// already and must not be counted again. By default it is asked like the
    /// first time.
    ///
    /// # Errors
    ///
    /// [`BudgetEmpty`] if the upstream still cannot bear it.
    fn ask_again(&self, now: Instant, outcome: &Outcome, held: u32) -> Result<u32, BudgetEmpty> {
        self.try_withdraw(now, outcome, held)
    }

    /// Takes over other numbers while requests are under way, and keeps what it
    /// has counted. Whether it can: a rule of its own kind is one it can. By
    /// default none is.
    fn retune(&self, rule: &BudgetRule) -> bool {
        let _ = rule;
        false
    }

    /// The request is over; its caller may also have gone away. By default this
    /// does nothing.
    fn end(&self, held: u32) {
        let _ = held;
    }
}

/// A retry was refused by its [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetEmpty {
    /// When it is worth asking again, if time alone can tell.
    pub retry_at: Option<Instant>,
}

impl fmt::Display for BudgetEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the retry budget is empty")
    }
}

impl std::error::Error for BudgetEmpty {}

/// A budget that was asked for cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidBudget {
    #[cfg_attr(not(feature = "config"), allow(dead_code, reason = "a file's field"))]
    /// The number that is outside its range, by its name in [`BudgetRule`].
    field: &'static str,
    why: &'static str,
}

impl InvalidBudget {
    const fn new(field: &'static str, why: &'static str) -> Self {
        Self { field, why }
    }

    #[cfg(feature = "config")]
    pub(crate) fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for InvalidBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

impl std::error::Error for InvalidBudget {}

/// A share of something as an exact number of its `parts`.
fn share(ratio: f64, parts: u32) -> u64 {
    (ratio * f64::from(parts)).round() as u64
}

/// The counts stay sound if a thread panics while it holds them.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
