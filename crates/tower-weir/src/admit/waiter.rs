use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    count::Waiting,
    entry::{After, Entry},
    gate::{Answer, Ask, Gate, Load},
    list::Key,
    permit::Permit,
    state::{self, Grant, State},
};
use crate::{
    BoxError,
    alarm::Alarm,
    deadline::far,
    error::{DeadlineExceeded, QueueFull, QueueTimeout, ShuttingDown},
};

/// How long a call may wait for its turn, and what it is told when that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) until: Instant,
    /// The request's deadline, which ends it where it is the earlier.
    pub(crate) deadline: Option<Instant>,
}

impl Patience {
    pub(super) fn new(since: Instant, timeout: Duration, deadline: Option<Instant>) -> Self {
        let until = far(since, timeout);
        Self {
            until: deadline.map_or(until, |deadline| deadline.min(until)),
            deadline,
        }
    }
}

/// What a call wants of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) patience: Patience,
    pub(crate) weight: usize,
    pub(crate) load: Load,
}

impl Wish {
    #[inline]
    fn ask(&self, now: Instant) -> Ask {
        Ask {
            now,
            weight: self.weight,
            crowded: false,
            load: self.load,
            place: None,
        }
    }
}

/// That a call may go. Whoever asked makes a permit of it, which then sees to it that
/// it is settled: at once, since whatever is done between may panic.
pub(crate) struct Granted<G: Gate> {
    pub(crate) entry: Arc<Entry<G>>,
    pub(crate) ticket: G::Ticket,
    /// Since when, if that is known.
    pub(crate) at: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
}

/// A call that is let in, with its permit, or has to wait.
pub(crate) enum Entered<G: Gate, P = Permit<G>> {
    Admitted(P),
    Waiting(Waiter<G>),
}

/// A place in the queue. Dropping it leaves the queue, and passes on what was
/// granted meanwhile.
pub(crate) struct Waiter<G: Gate> {
    entry: Arc<Entry<G>>,
    key: Option<Key>,
    since: Instant,
    patience: Patience,
    _counted: Waiting,
}

/// Asks an entry to let a call in, and tells if it is refused.
#[cfg(any(feature = "server", test))]
#[inline]
pub(crate) fn enter<G: Gate, P: From<Granted<G>>>(
    entry: &Arc<Entry<G>>,
    now: Instant,
    wish: Wish,
    count: impl FnOnce() -> Result<Waiting, usize>,
) -> Result<Entered<G, P>, BoxError> {
    let asked = wish.ask(now);
    let in_full = |(), state: &mut State<G>, after: &mut After| {
        ask(entry, state, after, asked, wish.patience, count)
    };
    match entry.enter(|gate| gate.admit(&asked), |_| Ok(()), in_full) {
        Ok(ticket) => {
            let granted = Granted {
                entry: entry.clone(),
                ticket,
                at: Some(now),
                deadline: wish.patience.deadline,
            };
            Ok(Entered::Admitted(granted.into()))
        }
        Err(entered) => entered.inspect_err(|error| entry.refused(error)),
    }
}

/// The same for calls that wish nothing that needs the time, which is then read
/// only for those that cannot go at once.
#[inline]
pub(crate) fn enter_at_once<G: Gate>(
    entry: &Arc<Entry<G>>,
    weight: usize,
    deadline: Option<Instant>,
    wish: impl FnOnce(Instant) -> Wish,
    count: impl FnOnce() -> Result<Waiting, usize>,
) -> Result<Permit<G>, Result<Waiter<G>, BoxError>> {
    let refuse = |state: &mut State<G>| {
        let now = Instant::now();
        match state.refuse_at_once(now) {
            Some(refused) => Err(Err(refused)),
            None => Ok(now),
        }
    };
    let in_full = |now, state: &mut State<G>, after: &mut After| {
        let wish = wish(now);
        ask(entry, state, after, wish.ask(now), wish.patience, count)
    };
    match entry.enter(|gate| gate.admit_at_once(weight), refuse, in_full) {
        Ok(ticket) => {
            let granted = Granted {
                entry: entry.clone(),
                ticket,
                at: None,
                deadline,
            };
            Ok(granted.into())
        }
        Err(Ok(Entered::Admitted(permit))) => Ok(permit),
        Err(Ok(Entered::Waiting(waiter))) => Err(Ok(waiter)),
        Err(Err(error)) => {
            entry.refused(&error);
            Err(Err(error))
        }
    }
}

#[inline(never)]
fn ask<G: Gate, P: From<Granted<G>>>(
    entry: &Arc<Entry<G>>,
    state: &mut State<G>,
    after: &mut After,
    ask: Ask,
    mut patience: Patience,
    count: impl FnOnce() -> Result<Waiting, usize>,
) -> Result<Entered<G, P>, BoxError> {
    let now = ask.now;
    if state.is_draining() {
        return Err(ShuttingDown::unsent(entry.host().clone()).into());
    }
    match state.enter(ask, after) {
        Answer::Go(Grant { ticket, at }) => {
            let granted = Granted {
                entry: entry.clone(),
                ticket,
                at: Some(at),
                deadline: patience.deadline,
            };
            Ok(Entered::Admitted(granted.into()))
        }
        Answer::Refuse(refused) => Err(refused),
        Answer::Wait => {
            let host = || entry.host().clone();
            let limit = state.gate().limit();
            let counted = count().map_err(|n| QueueFull::new(host(), limit, n))?;
            let closed = state.gate().closed_until(now);
            if closed.is_some_and(|closed| closed > patience.until) {
                // Waiting would be in vain: say so at once.
                let waiting = state.queue().len();
                return Err(refusal(patience, host(), limit, waiting, now, now));
            }
            let (key, until) = state.enqueue(ask, patience.until, after);
            patience.until = until;
            Ok(Entered::Waiting(Waiter {
                entry: entry.clone(),
                key: Some(key),
                since: now,
                patience,
                _counted: counted,
            }))
        }
    }
}

fn refusal(
    patience: Patience,
    host: Arc<str>,
    limit: Option<usize>,
    waiting: usize,
    since: Instant,
    now: Instant,
) -> BoxError {
    if patience.deadline == Some(patience.until) {
        return DeadlineExceeded::unsent().into();
    }
    let waited = now.saturating_duration_since(since);
    QueueTimeout::new(host, limit, waiting, waited).into()
}

impl<G: Gate> Waiter<G> {
    /// Has it wait as long as its layer now says, from its beginning on. For gates
    /// that set no time of their own.
    pub(super) fn bound(&mut self) {
        let timeout = self.entry.knobs().queue_timeout();
        self.patience = Patience::new(self.since, timeout, self.patience.deadline);
    }

    /// Waits for the turn; `alarm` is the timer it may use.
    pub(crate) fn poll<P: From<Granted<G>>>(
        &mut self,
        mut alarm: Pin<&mut Alarm>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<P, BoxError>> {
        loop {
            let wake_at = match self.look(cx) {
                Ok(answer) => return Poll::Ready(answer),
                Err(wake_at) => wake_at,
            };
            ready!(alarm.as_mut().poll(wake_at, cx));
        }
    }

    /// Looks for the answer, or says when to look again.
    pub(super) fn look<P: From<Granted<G>>>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<Result<P, BoxError>, Instant> {
        let Some(key) = self.key else {
            return Ok(Err(DeadlineExceeded::unsent().into()));
        };
        let entry = &self.entry;
        let patience = self.patience;
        let answer = entry.with(|state, after| {
            let now = Instant::now();
            if state.bound(key, patience.until) {
                state.reclaim(now, after);
                state.serve(now, after);
            }
            if answered(state.queue().get(key)) {
                state.alert(now, after);
                let waiting = state.queue().remove(key);
                let answer = waiting.and_then(|waiting| waiting.answer);
                return match answer {
                    Some(Ok(Grant { ticket, at })) => {
                        let granted = Granted {
                            entry: entry.clone(),
                            ticket,
                            at: Some(at),
                            deadline: patience.deadline,
                        };
                        Ok(Ok(granted.into()))
                    }
                    Some(Err(refused)) => Ok(Err(refused)),
                    None => Ok(Err(DeadlineExceeded::unsent().into())),
                };
            }
            let closed = state.gate().closed_until(now);
            if now >= patience.until || closed.is_some_and(|closed| closed > patience.until) {
                let own = state.lose_patience(key, now);
                state.leave(key, now, after);
                if let Some(own) = own {
                    return Ok(Err(own));
                }
                let waiting = state.queue().len();
                let limit = state.gate().limit();
                let host = entry.host().clone();
                return Ok(Err(refusal(
                    patience, host, limit, waiting, self.since, now,
                )));
            }
            let event = state.park(key, cx.waker(), now, after);
            state.alert(now, after);
            Err(event.map_or(patience.until, |event| event.min(patience.until)))
        });
        if let Ok(answer) = &answer {
            self.key = None;
            if let Err(error) = answer {
                self.entry.refused(error);
            }
        }
        answer
    }
}

fn answered<T>(waiting: Option<&state::Waiting<T>>) -> bool {
    waiting.is_none_or(|waiting| waiting.answer.is_some())
}

impl<G: Gate> Drop for Waiter<G> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.entry
                .with(|state, after| state.leave(key, Instant::now(), after));
        }
    }
}
