use std::{sync::Arc, time::Duration};

#[cfg(feature = "config")]
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Budget, BudgetEmpty, CostQuota, GrpcThrottle, InFlightShare, InvalidBudget, RetryBudget,
};
use crate::outcome::Outcome;

/// A budget of this crate by its kind and numbers.
///
/// It is what [`RetryPolicy::budget_rule`](crate::retry::RetryPolicy::budget_rule)
/// takes, and what a running layer's budgets can be told without losing what they
/// have counted. With the feature `config` it is the section `retry.budget`, of the
/// `kind` `none`, `share`, `grpc-throttle`, `cost-quota` or `in-flight`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "config", derive(Serialize, Deserialize))]
#[cfg_attr(
    feature = "config",
    serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum BudgetRule {
    /// Every retry is granted, and **an outage multiplies the load**: read
    /// [`RetryPolicy::no_budget`](crate::retry::RetryPolicy::no_budget) first.
    None,
    /// [`RetryBudget::new`].
    Share {
        /// For how long deposits are remembered.
        #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
        memory: Duration,
        /// How many retries a second are granted in any case.
        per_second: u32,
        /// How many retries are granted for each request.
        share: f64,
    },
    /// [`GrpcThrottle::new`].
    GrpcThrottle {
        /// The greatest count.
        max_tokens: u32,
        /// What a success adds.
        token_ratio: f64,
    },
    /// [`CostQuota::new`].
    CostQuota {
        /// The greatest count.
        capacity: u32,
        /// What a retry takes.
        retry_cost: u32,
        /// What one takes after a timeout.
        timeout_cost: u32,
    },
    /// [`InFlightShare::new`].
    InFlight {
        /// The share of what is in flight that may be retries.
        share: f64,
        /// How many may be in any case.
        at_least: u32,
    },
}

impl Default for BudgetRule {
    /// That of [`RetryBudget`].
    fn default() -> Self {
        Self::Share {
            memory: Duration::from_secs(10),
            per_second: 10,
            share: 0.2,
        }
    }
}

impl BudgetRule {
    /// A budget of which nothing is spent.
    ///
    /// # Errors
    ///
    /// [`InvalidBudget`] if a number is outside its range.
    pub fn make(&self) -> Result<Arc<dyn Budget>, InvalidBudget> {
        Ok(match *self {
            Self::None => Arc::new(Boundless),
            Self::Share {
                memory,
                per_second,
                share,
            } => Arc::new(RetryBudget::new(memory, per_second, share)?),
            Self::GrpcThrottle {
                max_tokens,
                token_ratio,
            } => Arc::new(GrpcThrottle::new(max_tokens, token_ratio)?),
            Self::CostQuota {
                capacity,
                retry_cost,
                timeout_cost,
            } => Arc::new(CostQuota::new(capacity, retry_cost, timeout_cost)),
            Self::InFlight { share, at_least } => Arc::new(InFlightShare::new(share, at_least)?),
        })
    }
}

/// The budget that grants everything.
#[derive(Debug)]
struct Boundless;

impl Budget for Boundless {
    fn deposit(&self, _: Instant, _: &Outcome, _: u32) {}

    fn try_withdraw(&self, _: Instant, _: &Outcome, _: u32) -> Result<u32, BudgetEmpty> {
        Ok(0)
    }
}
