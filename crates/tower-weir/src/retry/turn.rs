//! One request on its way through its attempts.

use std::{borrow::Cow, fmt, time::Duration};

use tokio::time::Instant;

use super::{
    Ending, NotReplayable, Recorder, Source,
    budget::{BatchRetry, Ticket},
    policy::Rules,
    progress::{Next, Plan, Progress, Toll},
};
use crate::{
    BoxError,
    error::{QueueTimeout, ShuttingDown},
    observe::Event,
    outcome::{Cause, Fault, Outcome, Refusal, Repeat, Verdict},
    trust::Task,
};

/// What is kept of a request that may be repeated.
pub(super) struct Turn<R> {
    pub(super) source: R,
    pub(super) progress: Progress,
    /// Its dealings with its host's budget, once there are any.
    ticket: Option<Ticket>,
    /// The retry that is under way, where it belongs to a batch.
    batch: Option<Box<BatchRetry>>,
    /// Where somebody further out wants to know.
    recorder: Option<Recorder>,
}

/// An attempt to come.
pub(super) struct Planned<Req> {
    pub(super) delay: Duration,
    pub(super) request: Req,
    /// The outcome for which the budget must still grant the attempt.
    pub(super) owed: Option<Outcome>,
}

impl<R> fmt::Debug for Turn<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl<R> Turn<R> {
    #[inline(always)]
    pub(super) fn new(
        source: R,
        plan: Plan,
        ticket: Option<Ticket>,
        recorder: Option<Recorder>,
    ) -> Self {
        Self {
            source,
            progress: Progress::new(plan),
            ticket,
            batch: None,
            recorder,
        }
    }

    /// A request whose first attempt has been sent, if it can be repeated. It is put
    /// together only then: what is built before the call is copied after it.
    #[inline(always)]
    pub(super) fn begun(
        source: Option<R>,
        plan: Option<Plan>,
        ticket: Option<Ticket>,
        recorder: Option<Recorder>,
    ) -> Option<Self> {
        Some(Self::new(source?, plan?, ticket, recorder))
    }

    /// Writes down that an attempt begins.
    pub(super) fn begin<Res>(&mut self, rules: &Rules)
    where
        R: Source<Res>,
    {
        if let Some(retry) = &mut self.batch {
            retry.send();
        }
        if let Some(recorder) = &self.recorder {
            recorder.begin(self.host(rules).into(), Instant::now());
        }
    }

    fn record(&self, ending: Ending) {
        if let Some(recorder) = &self.recorder {
            recorder.conclude(ending);
        }
    }

    /// What is left to the admission while an attempt is under way: of the first that
    /// succeeds nobody but the budget is to be told.
    #[inline]
    pub(super) fn leaves(&self, rules: &Rules) -> Task {
        let first = self.progress.attempts() == 1;
        match first && self.ticket.is_none() && self.recorder.is_none() {
            true => rules.depositing(),
            false => Task::NONE,
        }
    }

    /// Has the budget kept as long as the request is under way.
    pub(super) fn keep_budget<Res>(&mut self, rules: &Rules)
    where
        R: Source<Res>,
    {
        self.ticket = rules.budgets.ticket(self.account(rules).as_deref());
    }

    /// Writes down why no other attempt follows, and tells it if anybody listens:
    /// after so many attempts, of which the last came to `cause`.
    fn conclude<Res>(&self, rules: &Rules, ending: Ending, cause: Cause, attempts: u32)
    where
        R: Source<Res>,
    {
        self.record(ending);
        // Who sends a request once only, gives up nothing.
        if self.progress.may_retry() && rules.seam.is_heard() {
            let gave_up = Event::GaveUp {
                cause,
                attempts,
                why: ending,
            };
            rules.seam.tell(&self.host(rules), gave_up);
        }
    }

    /// Ends the request with an attempt that is under way.
    pub(super) fn cut_short<Res>(&self, rules: &Rules, ending: Ending, fault: Fault)
    where
        R: Source<Res>,
    {
        let attempts = self.progress.attempts();
        self.conclude(rules, ending, Cause::Fault(fault), attempts);
    }

    /// Ends the request before the attempt that was planned: its batch gets back
    /// what that cost.
    pub(super) fn abandon<Res>(&mut self, rules: &Rules, ending: Ending)
    where
        R: Source<Res>,
    {
        self.give_up();
        // An attempt is planned for a reason, and counted.
        if let Some(reason) = self.progress.reason() {
            let made = self.progress.attempts() - 1;
            self.conclude(rules, ending, reason, made);
        }
    }

    /// Whether this outcome of the first attempt ends the request, and nobody is
    /// to be told of it but the budget.
    #[inline]
    pub(super) fn is_over(&self, outcome: &Outcome) -> bool {
        outcome.verdict == Verdict::Success
            && outcome.repeat == Repeat::Never
            && self.recorder.is_none()
            && self.progress.attempts() == 1
    }

    /// Plans the attempt that follows one with this `outcome`, if one is due,
    /// can be made and is borne; else says why not. No other is due after the
    /// `last`. `now` is asked only if it matters, and must always say the same.
    pub(super) fn plan<Res>(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
        local: Option<Duration>,
        last: bool,
        now: impl Fn() -> Instant,
    ) -> Result<Planned<R::Request>, Ending>
    where
        R: Source<Res>,
    {
        let attempts = self.progress.attempts();
        let planned = self.try_plan(rules, outcome, local, last, &now);
        let planned = planned.map_err(|ending| match (ending, outcome.cause) {
            (Ending::Done, Cause::Fault(Fault::Deadline)) => Ending::Deadline,
            (Ending::Done, Cause::Fault(Fault::ShuttingDown | Fault::Cut)) => Ending::ShuttingDown,
            _ => ending,
        });
        if let Some(recorder) = &self.recorder {
            let delay = planned.as_ref().ok().map(|planned| planned.delay);
            recorder.end(*outcome, delay, now());
        }
        match planned {
            Ok(_) => {}
            // Nobody would have repeated it, or an event tells of it already.
            Err(ending @ (Ending::Done | Ending::BudgetEmpty | Ending::NotReplayable(_))) => {
                self.record(ending);
            }
            Err(ending) => self.conclude(rules, ending, outcome.cause, attempts),
        }
        planned
    }

    fn try_plan<Res>(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
        local: Option<Duration>,
        last: bool,
        now: impl Fn() -> Instant,
    ) -> Result<Planned<R::Request>, Ending>
    where
        R: Source<Res>,
    {
        // Its time is up to here.
        self.batch = None;
        if outcome.verdict == Verdict::Refused(Refusal::Throttled) {
            rules.seam.throttled(&self.host(rules), outcome.cause);
        }
        let source = &self.source;
        let decided = self
            .progress
            .decide(rules, outcome, || source.is_safe(), local, &now);
        let (delay, toll) = match decided {
            Next::Retry(..) if last => {
                self.deposit(rules, outcome, now);
                return Err(Ending::ShuttingDown);
            }
            Next::Retry(delay, toll) => (delay, toll),
            Next::Return(ending) => {
                self.deposit(rules, outcome, now);
                return Err(ending);
            }
        };
        if let Err(why) = self.source.replayable() {
            self.cannot_replay(rules, why);
            self.deposit(rules, outcome, now);
            return Err(Ending::NotReplayable(why));
        }
        let mut planned = (delay, None);
        if toll != Toll::Free {
            if !self.batch_bears(rules, outcome.cause, delay, now()) {
                self.deposit(rules, outcome, now);
                return Err(Ending::BudgetEmpty);
            }
            planned = self
                .charge(rules, outcome, delay, toll, now())
                .ok_or(Ending::BudgetEmpty)?;
        } else if self.ticket.is_none() {
            // Until it is sent again nobody else does.
            self.keep_budget(rules);
        }
        let (delay, owed) = planned;
        let seen = self.progress.attempts_seen();
        match self.source.again(seen, rules.attempt_header.as_ref()) {
            Ok(request) => Ok(Planned {
                delay,
                request,
                owed,
            }),
            // The attempt that still sends has passed the cap just now.
            Err(why) => {
                self.give_up();
                self.cannot_replay(rules, why);
                Err(Ending::NotReplayable(why))
            }
        }
    }

    /// Asks the host's budget for the retry; when it is refused and may wait,
    /// for how long, and what is owed then.
    fn charge<Res>(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
        delay: Duration,
        toll: Toll,
        now: Instant,
    ) -> Option<(Duration, Option<Outcome>)>
    where
        R: Source<Res>,
    {
        if self.ticket.is_none() {
            self.keep_budget(rules);
        }
        let Some(ticket) = &mut self.ticket else {
            return Some((delay, None));
        };
        let Err(empty) = ticket.try_withdraw(now, outcome) else {
            rules.seam.budget_granted(&self.host(rules));
            return Some((delay, None));
        };
        let cause = outcome.cause;
        rules.seam.budget_empty(&self.host(rules), cause, now);
        let wait = match toll {
            Toll::Patient => self.progress.wait_for_budget(rules, empty, now),
            Toll::Free | Toll::Budget => None,
        };
        if wait.is_none() {
            self.give_up();
        }
        Some((delay.max(wait?), Some(*outcome)))
    }

    /// Asks the host's budget once more; for how long to wait if it still
    /// refuses, `None` if that is too long.
    pub(super) fn pay<Res>(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
    ) -> Result<(), Option<Duration>>
    where
        R: Source<Res>,
    {
        let now = Instant::now();
        let Some(ticket) = &mut self.ticket else {
            return Ok(());
        };
        match ticket.ask_again(now, outcome) {
            Ok(()) => rules.seam.budget_granted(&self.host(rules)),
            Err(empty) => {
                let host = self.host(rules);
                rules.seam.budget_still_empty(&host, outcome.cause, now);
                return Err(self.progress.wait_for_budget(rules, empty, now));
            }
        }
        Ok(())
    }

    /// The retry that was planned is not made: its batch gets back what it cost.
    pub(super) fn give_up(&mut self) {
        self.batch = None;
    }

    /// The inner service did not become ready to send the attempt in time.
    pub(super) fn never_ready<Res>(&self, rules: &Rules, since: Instant) -> BoxError
    where
        R: Source<Res>,
    {
        let waited = Instant::now().saturating_duration_since(since);
        QueueTimeout::new(self.host(rules).into(), None, 0, waited).into()
    }

    /// The shutdown has begun, and the attempt that was planned is not made.
    pub(super) fn shut_down<Res>(&mut self, rules: &Rules) -> ShuttingDown
    where
        R: Source<Res>,
    {
        self.abandon(rules, Ending::ShuttingDown);
        let progress = &self.progress;
        let host = self.host(rules).into();
        // The one that was planned has been counted.
        let made = progress.attempts() - 1;
        ShuttingDown::after(host, made, progress.reason(), progress.processed())
    }

    /// The attempt that is under way is cut short.
    pub(super) fn cut<Res>(&self, rules: &Rules) -> ShuttingDown
    where
        R: Source<Res>,
    {
        self.cut_short(rules, Ending::ShuttingDown, Fault::Cut);
        let progress = &self.progress;
        ShuttingDown::cut(
            self.host(rules).into(),
            progress.attempts(),
            progress.reason(),
        )
    }

    /// An attempt after the first that was refused for the shutdown's sake: the
    /// request was sent before.
    pub(super) fn explain(&self, attempts: u32, error: BoxError) -> BoxError {
        match error.downcast_ref::<ShuttingDown>() {
            Some(down) if attempts > 1 && down.attempts() == 0 => {
                let progress = &self.progress;
                let (reason, processed) = (progress.reason(), progress.processed());
                ShuttingDown::after(down.host().into(), attempts - 1, reason, processed).into()
            }
            _ => error,
        }
    }

    fn batch_bears<Res>(
        &mut self,
        rules: &Rules,
        cause: Cause,
        delay: Duration,
        now: Instant,
    ) -> bool
    where
        R: Source<Res>,
    {
        let Some((batch, cost)) = self.source.batch() else {
            return true;
        };
        self.batch = batch.spend(cost, delay, now).map(Box::new);
        if self.batch.is_some() {
            return true;
        }
        let first = batch.first_refusal();
        let empty = Event::BudgetEmpty { cause, first };
        rules.seam.tell(&self.host(rules), empty);
        false
    }

    /// Ends the request, which needs no other attempt.
    pub(super) fn deposit<Res>(
        &mut self,
        rules: &Rules,
        outcome: &Outcome,
        now: impl FnOnce() -> Instant,
    ) where
        R: Source<Res>,
    {
        match self.ticket.take() {
            Some(ticket) => ticket.deposit(now(), outcome),
            None => {
                let spelt = match rules.host {
                    Some(_) => None,
                    None => self.source.authority(),
                };
                let host = || self.account(rules);
                rules.budgets.deposit(spelt, host, now, outcome);
            }
        }
    }

    /// The host whose budget it is, if that is not one for all.
    fn account<'a, Res>(&'a self, rules: &Rules) -> Option<Cow<'a, str>>
    where
        R: Source<Res>,
    {
        if rules.host.is_some() {
            return None;
        }
        let host = self.source.host();
        (!host.is_empty()).then_some(host)
    }

    /// Tells of the retry that was planned.
    pub(super) fn tell_retry<Res>(&self, rules: &Rules, outcome: &Outcome, delay: Duration)
    where
        R: Source<Res>,
    {
        let attempt = self.progress.attempts();
        tracing::Span::current().record("http.request.resend_count", attempt - 1);
        rules.seam.tell(
            &self.host(rules),
            Event::Retry {
                cause: outcome.cause,
                attempt,
                max_attempts: self.progress.max_attempts(),
                delay,
                hint: outcome.hint,
            },
        );
    }

    fn cannot_replay<Res>(&self, rules: &Rules, why: NotReplayable)
    where
        R: Source<Res>,
    {
        rules
            .seam
            .tell(&self.host(rules), Event::NotReplayable { why });
    }

    /// The host's name in events.
    pub(super) fn host<'a, Res>(&'a self, rules: &'a Rules) -> Cow<'a, str>
    where
        R: Source<Res>,
    {
        match &rules.host {
            Some(name) => Cow::Borrowed(name),
            None => self.source.host(),
        }
    }
}
