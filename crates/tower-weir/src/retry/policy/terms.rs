//! A policy's rules as they come from a file.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, StatusCode};

use super::RetryPolicy;
use crate::{
    outcome::GrpcCode,
    retry::{
        backoff::Backoff,
        budget::{BudgetRule, Budgets},
    },
};

/// What a file says of a policy: all but what names or counts something.
pub(crate) struct PolicyTerms {
    pub(crate) enabled: bool,
    pub(crate) max_retries: Option<u32>,
    pub(crate) any_method: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) patience: Option<Duration>,
    pub(crate) max_wait: Duration,
    pub(crate) max_hint: Option<Duration>,
    pub(crate) backoff: Arc<dyn Backoff>,
    pub(crate) statuses: Option<Vec<StatusCode>>,
    pub(crate) codes: Option<Vec<GrpcCode>>,
    pub(crate) attempt_header: Option<HeaderName>,
    pub(crate) suppress_nested: bool,
    /// Checked before.
    pub(crate) budget: BudgetRule,
}

impl<C> RetryPolicy<C> {
    /// The policy on these terms, with budgets of which nothing is spent.
    pub(crate) fn on(mut self, terms: &PolicyTerms) -> Self {
        self.rules.budgets = budgets(terms.budget);
        self.take(terms)
    }

    /// The same for a policy at work: its budgets keep what they have counted,
    /// unless they are of another kind.
    pub(crate) fn changed_to(mut self, terms: &PolicyTerms) -> Self {
        if !self.rules.budgets.retune(terms.budget) {
            self.rules.budgets = budgets(terms.budget);
        }
        self.take(terms)
    }

    fn take(mut self, terms: &PolicyTerms) -> Self {
        let rules = &mut self.rules;
        rules.enabled = terms.enabled;
        rules.max_retries = terms.max_retries;
        rules.any_method = terms.any_method;
        rules.deadline = terms.deadline;
        rules.patience = terms.patience;
        rules.max_wait = terms.max_wait;
        rules.max_hint = terms.max_hint;
        rules.backoff = terms.backoff.clone();
        rules.statuses = terms.statuses.as_deref().map(Into::into);
        rules.codes = terms.codes.as_deref().map(Into::into);
        rules.attempt_header.clone_from(&terms.attempt_header);
        rules.suppress_nested = terms.suppress_nested;
        self
    }
}

fn budgets(rule: BudgetRule) -> Budgets {
    Budgets::ruled(rule).unwrap_or_default()
}
