use std::{marker::PhantomData, sync::Arc, time::Duration};

use http::{Extensions, Request, Response, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use super::{
    AnsweredBy, DownCause,
    board::{Report, Tried},
    leg::Leg,
    shared::Shared,
    verdict::{goes_elsewhere, is_local, report},
};
use crate::{
    BoxError, Deadline,
    deadline::far,
    observe::Event,
    outcome::{Cause, Classify, Fault, Outcome, Protocol, judge},
    retry::{
        Account, Ending, MapReplay, Recorder, ReplayHandle, Terms, grpc_timeout, is_head_only,
        recorded,
    },
};

/// One request on its way through the regions.
pub(super) struct Journey<S, C, B, M> {
    pub(super) shared: Arc<Shared<S, C>>,
    head: Parts,
    body: ReplayHandle,
    map: M,
    recorder: Recorder,
    /// Whether nobody further out looks at the record.
    own_record: bool,
    protocol: Protocol,
    safe: bool,
    once: bool,
    /// Whether the request says its time in a `grpc-timeout`.
    timed: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) ready_within: Duration,
    tried: Tried,
    pub(super) leg: Leg,
    /// Whether the body was taken from a region that still read it: of its answer
    /// no more may come than the head.
    cut: bool,
    kind: PhantomData<fn() -> B>,
}

impl<S, C, B, M> Journey<S, C, B, M>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    M: MapReplay<B>,
    S: Clone,
{
    #[allow(clippy::type_complexity, reason = "a pair in a result")]
    pub(super) fn begin(
        shared: Arc<Shared<S, C>>,
        map: M,
        account: &Account,
        request: Request<B>,
        ready: Option<usize>,
    ) -> Result<(Self, Request<M::Out>), BoxError> {
        let now = Instant::now();
        let (mut head, body) = request.into_parts();
        let recorder = head.extensions.remove::<Recorder>();
        let own_record = recorder.is_none();
        let recorder = recorder.unwrap_or_default();
        let (body, handle) = recorded(body, account, Some(&recorder));
        let terms = Terms::of(&head.method, &head.headers, &head.extensions);
        let policy = shared.core.policy();
        let timeout = policy.deadline.into_iter().chain(terms.timeout);
        let until = timeout.min().map(|time| far(now, time));
        let deadline = until.into_iter().chain(terms.deadline).min();
        if let Some(at) = deadline {
            head.extensions.insert(Deadline(at));
        }
        // What is given to each region, to be taken out by its retries.
        head.extensions.insert(recorder.clone());
        let safe = terms.safe || policy.any_method;
        // A probe is for those that can go elsewhere after it.
        let free = safe && !terms.once && handle.can_replay();
        let ticket = shared.core.plan(now, free, ready);
        let leg = Leg::begin(shared.core.clone(), ticket, recorder.clone(), now);
        let mut tried = Tried::default();
        tried.add(ticket.region);
        let journey = Self {
            shared,
            head,
            body: handle,
            map,
            recorder,
            own_record,
            protocol: terms.protocol,
            safe,
            once: terms.once,
            timed: terms.timeout.is_some(),
            deadline,
            ready_within: policy.ready_within,
            tried,
            leg,
            cut: false,
            kind: PhantomData,
        };
        let head = journey.head_for(ticket.region)?;
        let request = Request::from_parts(head, journey.map.map(body));
        Ok((journey, request))
    }

    fn head_for(&self, region: usize) -> Result<Parts, BoxError> {
        let mut head = self.head.clone();
        if let Some(origin) = &self.shared.core.places[region].origin {
            origin.apply(&mut head)?;
        }
        Ok(head)
    }

    /// Decides what follows a region's result: whether it came from an upstream, and
    /// whole, and the request for another region, if it goes to one.
    pub(super) fn after<ResB>(
        &mut self,
        result: Result<&Response<ResB>, &BoxError>,
        now: Instant,
    ) -> (bool, Option<Request<M::Out>>)
    where
        C: Classify<Response<ResB>>,
    {
        let outcome = judge(&self.shared.classifier, self.protocol, result);
        let late = outcome.cause == Cause::Fault(Fault::Deadline) && self.is_late(now);
        let said = if late {
            self.leg.late(now)
        } else {
            report(&outcome, result.err())
        };
        self.leg.settle(&outcome, said, now);
        let request = self.elsewhere(&outcome, now);
        if let Err(ending) = request {
            self.conclude(ending);
        }
        let request = request.ok();
        let broken = self.cut && result.is_ok_and(|response| !is_head_only(response));
        (!is_local(&outcome) && !broken, request)
    }

    /// The region's service failed to become ready: there is no using it.
    pub(super) fn unready(&mut self, now: Instant) -> Option<Request<M::Out>> {
        self.leg
            .abandon(Report::Shut(DownCause::NotReady, None), now);
        let request = self.elsewhere(&Fault::Local.outcome(self.protocol), now);
        if let Err(ending) = request {
            self.conclude(ending);
        }
        request.ok()
    }

    /// The region's service has not become ready in time; it may still do so.
    pub(super) fn not_ready(&mut self, now: Instant) -> Option<Request<M::Out>> {
        let request = self.elsewhere(&Fault::Local.outcome(self.protocol), now);
        request.ok()
    }

    fn elsewhere(&mut self, outcome: &Outcome, now: Instant) -> Result<Request<M::Out>, Ending> {
        self.cut = false;
        if !goes_elsewhere(outcome, true) {
            return Err(Ending::Done);
        }
        let again = goes_elsewhere(outcome, self.safe) && self.recorder.may_repeat(self.safe);
        if !again || self.once && !is_local(outcome) {
            return Err(Ending::Unsafe);
        }
        if self.is_late(now) {
            return Err(Ending::Deadline);
        }
        if let Some(why) = self.body.not_replayable() {
            return Err(Ending::NotReplayable(why));
        }
        let core = self.shared.core.clone();
        let free = self.safe && !self.once;
        let (leg, mut head) = loop {
            let ticket = core.next(now, free, self.tried);
            let ticket = ticket.ok_or(Ending::Exhausted)?;
            self.tried.add(ticket.region);
            let leg = Leg::begin(core.clone(), ticket, self.recorder.clone(), now);
            // A place that this request does not fit is no reason to end at this one.
            if let Ok(head) = self.head_for(ticket.region) {
                break (leg, head);
            }
        };
        if let (true, Some(deadline)) = (self.timed, self.deadline) {
            let left = deadline.saturating_duration_since(now);
            let left = grpc_timeout::write(left);
            head.headers.insert(grpc_timeout::NAME, left);
        }
        let idle = self.body.is_idle();
        // An attempt that still sends may have passed the cap just now.
        let body = self.body.take_over().map_err(Ending::NotReplayable)?;
        self.cut = !idle;
        let (from, to) = (self.leg.region(), leg.region());
        self.leg = leg;
        core.seam.tell(
            core.name(from),
            Event::Elsewhere {
                to: core.name(to).clone(),
                cause: outcome.cause,
            },
        );
        Ok(Request::from_parts(head, self.map.map(body)))
    }
}

impl<S, C, B, M> Journey<S, C, B, M> {
    pub(super) fn region(&self) -> usize {
        self.leg.region()
    }

    /// Whether the request's deadline has passed.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| now >= at)
    }

    /// Says on a response whose it is.
    pub(super) fn mark(&self, extensions: &mut Extensions) {
        let index = self.region();
        let name = self.shared.core.name(index).clone();
        extensions.insert(AnsweredBy { name, index });
    }

    /// Writes down why the request goes nowhere else, unless a region's stack
    /// knows better.
    pub(super) fn conclude(&self, ending: Ending) {
        if self.recorder.ending().is_none() {
            self.recorder.conclude(ending);
        }
    }
}

impl<S, C, B, M> Drop for Journey<S, C, B, M> {
    fn drop(&mut self) {
        // While there is a handle on the body, what is sent of it is recorded.
        if self.own_record {
            self.recorder.close();
        }
    }
}
