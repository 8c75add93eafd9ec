use std::{any, fmt, sync::Arc};

use super::{Budget, RetryBudget, Ticket};
use crate::hosts::{Hosts, MAX_HOSTS};

type Make = Arc<dyn Fn() -> Arc<dyn Budget> + Send + Sync>;

/// A layer's budgets: one for each host, made when its first request comes.
#[derive(Clone)]
pub(crate) struct Budgets {
    make: Option<Make>,
    kind: &'static str,
    hosts: Arc<Hosts<dyn Budget>>,
}

impl Budgets {
    pub(crate) fn new<B: Budget + 'static>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Self::over(
            Some(Arc::new(move || Arc::new(make()))),
            any::type_name::<B>(),
        )
    }

    /// Every retry is granted.
    pub(crate) fn none() -> Self {
        Self::over(None, "none")
    }

    /// Budgets of the same kind, of which nothing has been spent.
    pub(crate) fn fresh(&self) -> Self {
        Self::over(self.make.clone(), self.kind)
    }

    fn over(make: Option<Make>, kind: &'static str) -> Self {
        Self {
            make,
            kind,
            hosts: Arc::new(Hosts::new(MAX_HOSTS)),
        }
    }

    /// Begins a request, unless there is no budget.
    pub(crate) fn ticket(&self, host: Option<&str>) -> Option<Ticket> {
        let make = self.make.as_ref()?;
        Some(Ticket::new(match host {
            Some(host) => self.hosts.get(host, |_| make()),
            None => self.hosts.nameless(|| make()).clone(),
        }))
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(RetryBudget::default)
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Budgets").field(&self.kind).finish()
    }
}
