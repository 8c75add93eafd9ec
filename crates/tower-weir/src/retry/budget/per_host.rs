use std::{
    any::{self, TypeId},
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use tokio::time::Instant;

use super::{
    Budget, BudgetRule, CostQuota, GrpcThrottle, InvalidBudget, RetryBudget, Ticket, lock,
};
#[cfg(feature = "weir")]
use crate::trust::{self, Task};
use crate::{
    hosts::{Hosts, MAX_HOSTS},
    outcome::Outcome,
};

type Make = Arc<dyn Fn() -> Arc<dyn Budget> + Send + Sync>;

/// So many hosts are found without a look at all the others: most clients have no
/// more. Their budgets are never forgotten.
const EARLY: usize = 2;

/// The budget of one of the first hosts.
struct Early {
    host: Box<str>,
    budget: Arc<dyn Budget>,
}

/// A layer's budgets: one for each host, made when its first request comes.
#[derive(Clone)]
pub(crate) struct Budgets {
    make: Option<Make>,
    kind: &'static str,
    /// What the budgets are made by, where that can change.
    rule: Option<Arc<Mutex<BudgetRule>>>,
    /// Whether a budget may care when a request begins and ends. Ours that do not
    /// are looked up when there is something to tell them.
    counts: bool,
    /// Whether the admission right below knows each host's budget, and judges
    /// answers and names hosts as the policy of these budgets does.
    pub(in crate::retry) entrusted: bool,
    hosts: Arc<Hosts<dyn Budget>>,
    early: Arc<[OnceLock<Early>; EARLY]>,
}

impl Budgets {
    pub(crate) fn new<B: Budget + 'static>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Self::over(
            Some(Arc::new(move || Arc::new(make()))),
            any::type_name::<B>(),
            ![
                TypeId::of::<RetryBudget>(),
                TypeId::of::<GrpcThrottle>(),
                TypeId::of::<CostQuota>(),
            ]
            .contains(&TypeId::of::<B>()),
        )
    }

    /// Budgets by a rule, which can be [retuned](Self::retune).
    pub(crate) fn ruled(rule: BudgetRule) -> Result<Self, InvalidBudget> {
        if rule == BudgetRule::None {
            return Ok(Self::none());
        }
        rule.make()?;
        let counts = matches!(rule, BudgetRule::InFlight { .. });
        let rule = Arc::new(Mutex::new(rule));
        let current = rule.clone();
        let make = move || {
            let made = lock(&current).make();
            // The rule has been made from once.
            made.unwrap_or_else(|_| Arc::new(RetryBudget::default()))
        };
        Ok(Self {
            rule: Some(rule),
            ..Self::over(Some(Arc::new(make)), "rule", counts)
        })
    }

    /// Gives the budgets other numbers of the same kind; what they have counted
    /// stays. Whether that is possible.
    #[cfg(feature = "config")]
    pub(crate) fn retune(&self, rule: BudgetRule) -> bool {
        let Some(own) = &self.rule else {
            return rule == BudgetRule::None && self.make.is_none();
        };
        {
            let mut own = lock(own);
            if std::mem::discriminant(&*own) != std::mem::discriminant(&rule)
                || rule.make().is_err()
            {
                return false;
            }
            *own = rule;
        }
        // One that is being made meanwhile either is among them, or is made by
        // the new rule.
        self.hosts.all().iter().all(|budget| budget.retune(&rule))
    }

    /// Every retry is granted.
    pub(crate) fn none() -> Self {
        Self::over(None, "none", false)
    }

    /// Budgets of the same kind, of which nothing has been spent.
    pub(crate) fn fresh(&self) -> Self {
        let fresh = match &self.rule {
            Some(rule) => Self::ruled(*lock(rule)).unwrap_or_default(),
            None => Self::over(self.make.clone(), self.kind, self.counts),
        };
        Self {
            entrusted: self.entrusted,
            ..fresh
        }
    }

    fn over(make: Option<Make>, kind: &'static str, counts: bool) -> Self {
        Self {
            make,
            kind,
            rule: None,
            counts,
            entrusted: false,
            hosts: Arc::new(Hosts::new(MAX_HOSTS)),
            early: Arc::default(),
        }
    }

    /// Whether they are made by a rule of ours, without any of the user's code, and
    /// have no use for the moment at which a request begins.
    #[cfg(feature = "weir")]
    pub(crate) fn are_ours(&self) -> bool {
        self.rule.is_some() && !self.counts
    }

    /// A number that no others have while these are there. It is even.
    #[inline]
    pub(crate) fn number(&self) -> usize {
        Arc::as_ptr(&self.hosts).addr()
    }

    /// Whether a budget may be forgotten while its host has requests, unless
    /// somebody keeps it.
    #[inline]
    pub(crate) fn may_forget(&self) -> bool {
        self.hosts.may_forget()
    }

    /// The budget of a host for whoever has the host at hand.
    #[cfg(feature = "weir")]
    pub(crate) fn of(&self, host: Option<&str>) -> Option<HostBudget> {
        let budget = self.budget(host)?;
        let number = self.number();
        Some(HostBudget { number, budget })
    }

    /// How many hosts' budgets are remembered.
    pub(crate) fn set_max(&self, hosts: usize) {
        self.hosts.set_max(hosts);
    }

    /// Begins a request, where the budget may want to know, or might be forgotten
    /// before it ends.
    #[inline]
    pub(crate) fn begin<'a>(&self, host: impl FnOnce() -> Option<Cow<'a, str>>) -> Option<Ticket> {
        match self.counts || self.make.is_some() && self.hosts.may_forget() {
            true => self.ticket(host().as_deref()),
            false => None,
        }
    }

    /// Ends a request that was not begun. Its host may be asked for in full if it
    /// is not one of the first, `spelt` as they are. `now` is asked if there is a
    /// budget.
    #[inline]
    pub(crate) fn deposit<'a>(
        &self,
        spelt: Option<&str>,
        host: impl FnOnce() -> Option<Cow<'a, str>>,
        now: impl FnOnce() -> Instant,
        outcome: &Outcome,
    ) {
        let Some(make) = &self.make else { return };
        let now = now();
        let early = spelt.and_then(|spelt| self.early(spelt));
        if let Some(budget) = early {
            return budget.deposit(now, outcome, 0);
        }
        match host() {
            Some(host) => self.hosts.with(
                &host,
                |_| make(),
                |budget| {
                    budget.deposit(now, outcome, 0);
                    self.remember(&host, budget);
                },
            ),
            None => self.hosts.nameless(|| make()).deposit(now, outcome, 0),
        }
    }

    #[inline]
    fn early(&self, spelt: &str) -> Option<&Arc<dyn Budget>> {
        let mut early = self.early.iter().map_while(OnceLock::get);
        let found = early.find(|early| *early.host == *spelt)?;
        Some(&found.budget)
    }

    /// Of two hosts that are new at the same time one has to come again.
    fn remember(&self, host: &str, budget: &Arc<dyn Budget>) {
        if let Some(free) = self.early.iter().find(|early| early.get().is_none())
            && self.early(host).is_none()
        {
            let (host, budget) = (host.into(), budget.clone());
            let _ = free.set(Early { host, budget });
        }
    }

    /// The dealings of a request with its budget, unless there is none.
    pub(crate) fn ticket(&self, host: Option<&str>) -> Option<Ticket> {
        self.budget(host).map(Ticket::new)
    }

    fn budget(&self, host: Option<&str>) -> Option<Arc<dyn Budget>> {
        let make = self.make.as_ref()?;
        Some(match host {
            Some(host) => self.hosts.get(host, |_| make()),
            None => self.hosts.nameless(|| make()).clone(),
        })
    }
}

/// A host's budget, for the admission that the retry layer leaves it to. It is not
/// forgotten as long as the host is known there.
#[cfg(feature = "weir")]
pub(crate) struct HostBudget {
    number: usize,
    budget: Arc<dyn Budget>,
}

#[cfg(feature = "weir")]
impl HostBudget {
    /// A call has come, for the time of which it is kept.
    #[inline]
    pub(crate) fn keep(&self) {
        trust::take(Task::keep(self.number));
    }

    /// An attempt has succeeded.
    #[inline]
    pub(crate) fn deposit(&self, now: Instant, outcome: &Outcome) {
        if trust::take(Task::deposit(self.number)) {
            self.budget.deposit(now, outcome, 0);
        }
    }
}

impl Default for Budgets {
    fn default() -> Self {
        // The default is in its range.
        Self::ruled(BudgetRule::default()).unwrap_or_else(|_| Self::none())
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule.as_ref().map(|rule| *lock(rule));
        match rule {
            Some(rule) => f.debug_tuple("Budgets").field(&rule).finish(),
            None => f.debug_tuple("Budgets").field(&self.kind).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_hosts_budget_is_one_however_it_is_spelt_and_found() {
        let budgets = Budgets::ruled(BudgetRule::Share {
            memory: Duration::from_secs(10),
            per_second: 0,
            share: 1.0,
        });
        let budgets = budgets.unwrap();
        let now = Instant::now();
        let deposit = |spelt: &str| {
            let host = || Some(spelt.to_ascii_lowercase().into());
            budgets.deposit(Some(spelt), host, || now, &Outcome::success());
        };
        let granted = |host: &str| {
            let mut ticket = budgets.ticket(Some(host)).unwrap();
            let grants = |_: &u32| ticket.try_withdraw(now, &Outcome::unavailable()).is_ok();
            (0..).take_while(grants).count()
        };
        for hosts in [["a", "b", "c", "d"], ["d", "c", "b", "a"]] {
            for host in hosts {
                deposit(host);
                deposit(&host.to_ascii_uppercase());
                deposit(host);
            }
        }
        assert_eq!(["a", "b", "c", "d"].map(granted), [6; 4]);
        // Those of requests that name none are nobody else's.
        budgets.deposit(None, || None, || now, &Outcome::success());
        assert_eq!(granted("a"), 0);
    }

    #[test]
    fn what_a_host_has_spent_is_not_forgotten_while_it_has_a_request() {
        let budgets = Budgets::new(|| CostQuota::new(5, 5, 5));
        let (now, failed) = (Instant::now(), Outcome::failed());
        for n in 0..MAX_HOSTS {
            let name = format!("host-{n}");
            let mut retried = budgets.ticket(Some(&name)).unwrap();
            assert!(retried.try_withdraw(now, &failed).is_ok());
        }
        // Its first attempt is under way.
        let _busy = budgets.begin(|| Some("host-0".into()));
        for n in 0..MAX_HOSTS {
            let _ = budgets.ticket(Some(&format!("new-{n}")));
        }
        let mut again = budgets.ticket(Some("host-0")).unwrap();
        assert!(again.try_withdraw(now, &failed).is_err());
    }
}
