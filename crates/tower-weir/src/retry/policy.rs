#[cfg(feature = "config")]
mod terms;

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode, Uri};

#[cfg(feature = "config")]
pub(crate) use self::terms::PolicyTerms;
use super::{
    backoff::{Backoff, DecorrelatedJitter},
    budget::{Budget, BudgetRule, Budgets, InvalidBudget, Ticket},
    tower_policy::Session,
};
use crate::{
    hosts::{MAX_HOSTS, host_of},
    observe::Seam,
    outcome::{Cause, GrpcCode, HttpClassifier, Outcome, Protocol, Repeat},
    random::{Seed, Stream, Streams},
    trust::Task,
};

/// When, how often and after what wait a request is repeated.
///
/// A policy is a value: give it to [`RetryLayer::new`](super::RetryLayer::new),
/// or change the one in a layer with
/// [`RetryLayer::policy`](super::RetryLayer::policy). What is counted while it
/// is at work, the budgets, belongs to the layer: two layers made from clones of
/// one policy share nothing.
#[derive(Clone, Debug)]
pub struct RetryPolicy<C = HttpClassifier> {
    pub(super) classifier: C,
    pub(super) rules: Rules,
    pub(super) session: Session,
}

/// All of a policy but its classifier.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) enabled: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) any_method: bool,
    max_retries: Option<u32>,
    pub(super) max_wait: Duration,
    max_hint: Option<Duration>,
    pub(super) patience: Option<Duration>,
    pub(super) backoff: Arc<dyn Backoff>,
    statuses: Option<Arc<[StatusCode]>>,
    codes: Option<Arc<[GrpcCode]>>,
    pub(super) attempt_header: Option<HeaderName>,
    #[cfg(feature = "idempotency")]
    pub(super) key: Option<super::IdempotencyKey>,
    pub(super) suppress_nested: bool,
    pub(super) host: Option<Arc<str>>,
    seed: Option<u64>,
    streams: Arc<Streams>,
    pub(super) budgets: Budgets,
    max_hosts: usize,
    /// Whether the classifier may be another than that of the stack that the policy is
    /// in.
    own_classifier: bool,
    pub(super) seam: Seam,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new(HttpClassifier::new())
    }
}

impl<C> RetryPolicy<C> {
    /// The default policy over a classifier: 3 retries for HTTP and 5 for gRPC,
    /// after waits of [`DecorrelatedJitter`], within a
    /// [`RetryBudget`](super::budget::RetryBudget) for each host.
    pub fn new(classifier: C) -> Self {
        Self {
            classifier,
            rules: Rules::default(),
            session: Session::default(),
        }
    }

    /// The same policy over another classifier.
    #[must_use]
    pub fn classify<D>(mut self, classifier: D) -> RetryPolicy<D> {
        self.rules.own_classifier = true;
        self.rules.budgets.entrusted = false;
        self.judged_by(classifier)
    }

    /// The same for a stack that goes by the policy's classifier as a whole.
    #[cfg(feature = "weir")]
    pub(crate) fn of_stack(mut self) -> Self {
        self.rules.own_classifier = false;
        self
    }

    /// The same with a classifier that may be the stack's own.
    pub(crate) fn judged_by<D>(self, classifier: D) -> RetryPolicy<D> {
        RetryPolicy {
            classifier,
            rules: self.rules,
            session: self.session,
        }
    }

    /// Whether the layer does anything. Default: yes. Switched off, it keeps no
    /// deadline and makes no idempotency key either; `max_retries(0)` does both.
    ///
    /// `option_layer` and `Either` do not type-check around a layer that changes
    /// the request body; this does what they would.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.rules.enabled = enabled;
        self
    }

    /// How many attempts may follow the first. Default 3, for gRPC requests 5,
    /// of which each is cheaper; 0 for none.
    ///
    /// A stream that the peer refused unseen is sent once more without being
    /// counted (gRFC A6, transparent retries).
    #[must_use]
    #[inline]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.rules.max_retries = Some(retries);
        self
    }

    /// Takes every request for safe to repeat, whatever its method and even if
    /// the upstream may have acted on it already. For upstreams where doing
    /// something twice is doing it once, such as upserts by id. Default: only
    /// idempotent methods (RFC 9110 9.2.2), and requests with an
    /// `Idempotency-Key` or the [`Idempotent`](crate::outcome::Idempotent)
    /// extension.
    #[must_use]
    pub fn any_method(mut self, any: bool) -> Self {
        self.rules.any_method = any;
        self
    }

    /// The rule for waits that the upstream did not choose. Default
    /// [`DecorrelatedJitter`] from 0.25 s to 60 s.
    #[must_use]
    pub fn backoff(mut self, backoff: impl Backoff + 'static) -> Self {
        self.rules.backoff = Arc::new(backoff);
        self
    }

    /// The longest wait before a retry. Default 60 s. Our own backoff is cut
    /// down to it. A hint is not: see [`max_hint`](Self::max_hint).
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.rules.max_wait = wait;
        self
    }

    /// The longest wait that the upstream may ask for. If it asks for more, the
    /// caller gets the answer at once: an attempt before that time would be one
    /// that the upstream forbade. Default: [`max_wait`](Self::max_wait).
    #[must_use]
    pub fn max_hint(mut self, wait: Duration) -> Self {
        self.rules.max_hint = Some(wait);
        self
    }

    /// The time that a whole request may take, with all attempts, queues and
    /// waits. Default none. A [`Deadline`](crate::Deadline) among a request's
    /// extensions counts where it is earlier, and so does the `grpc-timeout` of
    /// a gRPC request, which is rewritten for each attempt: the server is told
    /// what is left.
    #[must_use]
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.rules.deadline = deadline.into();
        self
    }

    /// Waits out what is not the request's fault: attempts that were refused,
    /// never sent, or refused by a layer of this crate are bounded by `time` and
    /// not by [`max_retries`](Self::max_retries), and the backoff does not grow
    /// on them. Failures that may have been processed count as ever. A retry whose
    /// inner service does not become ready by then is not made: the caller gets the
    /// last result, or, if that had a body, a
    /// [`QueueTimeout`](crate::error::QueueTimeout); one that counts and is due
    /// after that waits `time` for it. Default none; 15 minutes under
    /// [`Weir::bulk`](crate::Weir::bulk).
    #[must_use]
    pub fn patience(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.rules.patience = time.into();
        self
    }

    /// Which HTTP statuses are repeated, instead of 408, 429, 500, 502, 503 and
    /// 504. What the limiter and the breaker make of a status stays the same. A
    /// status that would not be repeated by default is only repeated if that is
    /// safe; `x-should-retry` from the server goes before this list.
    #[must_use]
    pub fn retry_statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.rules.statuses = Some(statuses.into_iter().collect());
        self
    }

    /// Which gRPC codes are repeated, instead of UNAVAILABLE, RESOURCE_EXHAUSTED
    /// and ABORTED. A pushback that forbids it goes before this list.
    #[must_use]
    pub fn retry_codes(mut self, codes: impl IntoIterator<Item = GrpcCode>) -> Self {
        self.rules.codes = Some(codes.into_iter().collect());
        self
    }

    /// Bounds how many retries each host must bear, by the budgets that `make`
    /// makes, one for each host. Default:
    /// [`RetryBudget::default`](super::budget::RetryBudget). When a budget
    /// refuses a retry, the caller gets the result that there is; under
    /// [`patience`](Self::patience) the retry waits instead.
    ///
    /// ```
    /// use tower_weir::retry::{RetryPolicy, budget::CostQuota};
    ///
    /// let policy = RetryPolicy::default().budget(CostQuota::default);
    /// # let _ = policy;
    /// ```
    #[must_use]
    pub fn budget<B: Budget + 'static>(
        mut self,
        make: impl Fn() -> B + Send + Sync + 'static,
    ) -> Self {
        self.rules.budgets = Budgets::new(make);
        self
    }

    /// Bounds how many retries each host must bear, by a budget of this crate that
    /// is named by its kind and numbers. Default: [`BudgetRule::default`].
    ///
    /// Unlike others, such budgets can be given other numbers while they are at
    /// work: see `config`.
    ///
    /// # Errors
    ///
    /// [`InvalidBudget`] if a number is outside its range.
    pub fn budget_rule(mut self, rule: BudgetRule) -> Result<Self, InvalidBudget> {
        self.rules.budgets = Budgets::ruled(rule)?;
        Ok(self)
    }

    /// Takes the budget away: every retry that is due is made.
    ///
    /// **An outage then multiplies the load**: with 3 retries an upstream that
    /// fails everything is sent four times as many requests as in good times, at
    /// the moment when it can bear the least, and that can keep it from coming
    /// back. For tests, and for a client whose load does not matter to its
    /// upstream.
    #[must_use]
    pub fn no_budget(mut self) -> Self {
        self.rules.budgets = Budgets::none();
        self
    }

    /// How many hosts' budgets are remembered; the one idle the longest is forgotten
    /// first, with what it has spent, and none that has requests under way. Default
    /// 256; 0 counts as 1. Two that were among the first to end a request well stay
    /// in any case: they are found faster than others.
    ///
    /// A host that is forgotten begins anew with its next request: whoever calls
    /// more hosts in turn than are remembered has hardly a budget.
    #[must_use]
    pub fn max_hosts(mut self, hosts: usize) -> Self {
        self.rules.max_hosts = hosts;
        self
    }

    /// Sends this header with each retry, with the number of attempts before it
    /// that the upstream may have seen: 1, 2, ... One that could not connect, or
    /// was refused by a layer of this crate, does not count, and a retry after
    /// only such goes without. Default none. gRPC requests carry
    /// `grpc-previous-rpc-attempts` in any case (gRFC A6).
    #[must_use]
    pub fn attempt_header(mut self, name: impl Into<Option<HeaderName>>) -> Self {
        self.rules.attempt_header = name.into();
        self
    }

    /// Gives each request whose method is not idempotent a key, the same on all
    /// its attempts, and takes it for safe to repeat then. Default none. It is
    /// for upstreams that know such keys: see
    /// [`IdempotencyKey`](super::IdempotencyKey).
    #[cfg(feature = "idempotency")]
    #[cfg_attr(docsrs, doc(cfg(feature = "idempotency")))]
    #[must_use]
    pub fn idempotency_key(mut self, key: super::IdempotencyKey) -> Self {
        self.rules.key = Some(key);
        self
    }

    /// Puts [`NoRetry`](super::NoRetry) into each attempt, so that stacks of
    /// this crate further in do not repeat it too: three retries in each of two
    /// stacks are up to 16 attempts. Default no, since it costs each request an
    /// extension, and most stacks repeat in one place.
    #[must_use]
    pub fn suppress_nested(mut self, suppress: bool) -> Self {
        self.rules.suppress_nested = suppress;
        self
    }

    /// Says that all requests go to one upstream, called `name` in events,
    /// whatever their URIs say: they share one budget. For clients whose
    /// requests name no authority, such as tonic's `Channel`.
    #[must_use]
    pub fn for_host(mut self, name: impl Into<Arc<str>>) -> Self {
        self.rules.host = Some(name.into());
        self.rules.budgets.entrusted = false;
        self
    }

    /// Makes every random number follow from `seed`, so that a run can be
    /// replayed. Each request has its own stream of numbers. Default: a seed
    /// from the system.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.rules.seed = Some(seed);
        self.rules.streams = Arc::new(Streams::new(seed.into()));
        self
    }

    /// The same policy with budgets of which nothing is spent, and random
    /// numbers from the beginning.
    pub(super) fn fresh(mut self) -> Self {
        let rules = &mut self.rules;
        rules.budgets = rules.budgets.fresh();
        rules.bound_hosts();
        rules.streams = Arc::new(Streams::new(
            rules.seed.map_or_else(Seed::random, Seed::from),
        ));
        self
    }

    /// The same above an admission that is told of the budgets, of so many hosts and
    /// with the stack's classifier; `one_host` is whether it takes all for one.
    #[cfg(feature = "weir")]
    pub(crate) fn above(mut self, one_host: bool, hosts: usize) -> Self {
        let rules = &mut self.rules;
        // Fewer budgets than hosts would be forgotten before those are, and of more
        // nobody would know which was idle the longest.
        rules.budgets.entrusted = rules.budgets.are_ours()
            && rules.max_hosts == hosts
            && rules.host.is_some() == one_host
            && !rules.own_classifier;
        self
    }

    /// Where the policy's events go.
    pub(crate) fn told_to(mut self, seam: Seam) -> Self {
        self.rules.seam = seam;
        self
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            enabled: true,
            deadline: None,
            any_method: false,
            max_retries: None,
            max_wait: Duration::from_secs(60),
            max_hint: None,
            patience: None,
            backoff: Arc::new(DecorrelatedJitter::default()),
            statuses: None,
            codes: None,
            attempt_header: None,
            #[cfg(feature = "idempotency")]
            key: None,
            suppress_nested: false,
            host: None,
            seed: None,
            streams: Arc::new(Streams::new(Seed::random())),
            budgets: Budgets::default(),
            max_hosts: MAX_HOSTS,
            own_classifier: true,
            seam: Seam::default(),
        }
    }
}

impl Rules {
    /// Has the budgets remember as many hosts as the rules say, however they came
    /// to be the rules'.
    pub(super) fn bound_hosts(&self) {
        self.budgets.set_max(self.max_hosts);
    }

    /// The budgets that the admission is told of, if it is.
    #[cfg(feature = "weir")]
    pub(super) fn entrusted(&self) -> Option<&Budgets> {
        self.budgets.entrusted.then_some(&self.budgets)
    }

    /// What is left to the admission when a request is sent for the first time.
    #[inline]
    pub(super) fn keeping(&self) -> Task {
        match self.budgets.entrusted && self.budgets.may_forget() {
            true => Task::keep(self.budgets.number()),
            false => Task::NONE,
        }
    }

    /// What is left to it while the first attempt is under way.
    #[inline]
    pub(super) fn depositing(&self) -> Task {
        match self.budgets.entrusted && !self.lists() {
            true => Task::deposit(self.budgets.number()),
            false => Task::NONE,
        }
    }

    pub(super) fn max_hint(&self) -> Duration {
        self.max_hint.unwrap_or(self.max_wait)
    }

    pub(super) fn max_retries(&self, protocol: Protocol) -> u32 {
        self.max_retries.unwrap_or(match protocol {
            Protocol::Http => 3,
            Protocol::Grpc => 5,
        })
    }

    /// Begins an HTTP request with its host's budget, if that may want to know.
    #[inline]
    pub(super) fn ticket(&self, uri: &Uri, headers: &HeaderMap) -> Option<Ticket> {
        self.ticket_of(|| match &self.host {
            Some(_) => None,
            None => host_of(uri, headers),
        })
    }

    /// The same of a host that is asked for if need be. Where the admission keeps the
    /// budget, nobody else has to.
    #[inline]
    pub(super) fn ticket_of<'a>(
        &self,
        host: impl FnOnce() -> Option<Cow<'a, str>>,
    ) -> Option<Ticket> {
        match self.budgets.entrusted {
            true => None,
            false => self.budgets.begin(host),
        }
    }

    /// Random numbers for one request.
    pub(super) fn stream(&self) -> Stream {
        self.streams.stream()
    }

    /// The outcome as the lists of statuses and codes have it.
    #[inline]
    pub(super) fn apply(&self, outcome: Outcome) -> Outcome {
        match self.lists() {
            true => self.listed(outcome),
            false => outcome,
        }
    }

    /// Whether there are such lists.
    #[inline]
    pub(super) fn lists(&self) -> bool {
        self.statuses.is_some() || self.codes.is_some()
    }

    fn listed(&self, outcome: Outcome) -> Outcome {
        if outcome.told.is_some() {
            return outcome;
        }
        let (listed, unlisted) = match (outcome.cause, &self.statuses, &self.codes) {
            (Cause::Status(status), Some(list), _) => (list.contains(&status), Repeat::IfSafe),
            (Cause::Code(code), _, Some(list)) => (list.contains(&code), Repeat::Always),
            _ => return outcome,
        };
        outcome.with_repeat(match outcome.repeat {
            Repeat::Never if listed => unlisted,
            repeat if listed => repeat,
            _ => Repeat::Never,
        })
    }
}
