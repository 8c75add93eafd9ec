use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    BreakerConfig, ChangeCause, Control, Snapshot,
    state::{self, Circuit, Room, Ticket, Wait},
};
use crate::{
    BoxError,
    admit::gate::{Answer, Ask, End, Gate, How, sealed::Sealed},
    error::CircuitOpen,
    observe::{Event, Events},
    outcome::Verdict,
    srtt::Srtt,
};

/// A probe's headers were good this long ago: the upstream is back, however
/// long its body streams.
const PROBE_HOLD: Duration = Duration::from_secs(1);

/// The gate of [`CircuitBreakerLayer`](super::CircuitBreakerLayer): the circuit
/// of one host.
///
/// What every call touches comes first, so that it lies together.
#[derive(Debug)]
#[repr(C)]
pub struct Breaker {
    /// The smoothed round trip of successes: callers who give the upstream less
    /// than a few of them are impatient, not it slow.
    srtt: Srtt,
    circuit: Circuit,
    host: Arc<str>,
    when_open: WhenOpen,
}

/// What happens to a call while the circuit is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenOpen {
    /// It is refused at once with a [`CircuitOpen`]. The default, for callers
    /// who wait for an answer.
    #[default]
    Refuse,
    /// It waits its turn, at most `queue_timeout`: the one that has waited the
    /// longest is the first probe, and all go when the circuit closes. For work
    /// that must be done and may take its time.
    Wait,
    /// `poll_ready` pends until a call may be admitted, so that a balancer sends
    /// its calls elsewhere. The service must be for one host, or its readiness
    /// would mean nothing; see [`ManyHosts`].
    ///
    /// Each service (each clone, too) that pends has one timer, and is woken
    /// when the circuit may admit. Readiness takes nothing: a probe's place is
    /// taken in `call`, and of services that were readied at the same time,
    /// those that call when the places are gone are refused as under
    /// [`Refuse`](Self::Refuse).
    ///
    /// The first attempt's caller waits in `poll_ready` and bounds that wait
    /// himself. A retry waits within its call: until the request's deadline, or
    /// until its patience is over. With neither it waits as long as the circuit
    /// lets nobody through, which is for good where that is held open by hand or
    /// the upstream stays dead: set a
    /// [`deadline`](crate::retry::RetryPolicy::deadline).
    Pend,
}

impl WhenOpen {
    /// Whether a layer may be told so that sends its requests to one host, or
    /// to many.
    pub(crate) fn check(self, one_host: bool) -> Result<(), ManyHosts> {
        match self {
            Self::Pend if !one_host => Err(ManyHosts),
            Self::Refuse | Self::Wait | Self::Pend => Ok(()),
        }
    }
}

/// [`WhenOpen::Pend`] was asked of a layer that has a circuit for each host of
/// its requests: which of them a call is for is not known in `poll_ready`.
///
/// Name the one host with `for_host` first; layers over services that are not
/// HTTP have one anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManyHosts;

impl fmt::Display for ManyHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a service can pend only for one host: name it with `for_host` first")
    }
}

impl std::error::Error for ManyHosts {}

/// What a breaker is made from.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct GateConfig {
    pub(crate) breaker: Arc<BreakerConfig>,
    pub(crate) when_open: WhenOpen,
}

impl Breaker {
    /// Whether a call that goes now would be a probe.
    #[cfg(feature = "weir")]
    pub(crate) fn wants_probe(&self, now: Instant) -> bool {
        matches!(self.circuit.peek(now), Room::Probes(_))
    }

    /// Takes the circuit by hand.
    pub(crate) fn control(&mut self, control: Control, now: Instant, events: &mut Events) {
        let transition = match control {
            Control::Automatic => self.circuit.reset(now),
            Control::ForcedOpen => self.circuit.force_open(now),
            Control::ForcedClosed => self.circuit.force_closed(now),
            Control::MetricsOnly => self.circuit.metrics_only(now),
        };
        events.extend(transition.map(Event::Circuit));
    }

    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        self.circuit.snapshot(now)
    }

    #[cfg(all(test, feature = "weir"))]
    pub(crate) fn circuit(&mut self) -> &mut Circuit {
        &mut self.circuit
    }

    /// Takes in how long a call took.
    #[inline]
    pub(crate) fn learn(&mut self, end: &End) {
        if let How::Outcome(outcome) = &end.how
            && outcome.verdict == Verdict::Success
        {
            self.srtt.add(end.rtt);
        }
    }

    /// Takes in what became of a call.
    #[inline]
    pub(crate) fn decide(&mut self, ticket: Ticket, end: &End, events: &mut Events) {
        let how = match &end.how {
            How::Outcome(outcome) => state::End::Outcome(outcome.verdict, outcome.wait()),
            How::Cancelled => state::End::Cancelled,
            How::Panicked => state::End::Panicked,
        };
        if let Some(transition) = self.circuit.settle(ticket, how, end.rtt, end.now) {
            events.push(Event::Circuit(transition));
        }
    }

    fn refusal(&self, wait: Wait, now: Instant) -> BoxError {
        CircuitOpen::new(
            self.host.clone(),
            self.circuit.come_again(wait, now),
            now.saturating_duration_since(self.circuit.since()),
            self.circuit.opened_by().unwrap_or(ChangeCause::Manual),
        )
        .into()
    }
}

impl Sealed for Breaker {}

impl Gate for Breaker {
    type Config = GateConfig;
    type Ticket = Ticket;

    fn open(config: &GateConfig, host: &Arc<str>, seed: u64, now: Instant) -> Self {
        Self {
            circuit: Circuit::new(config.breaker.clone(), seed, now),
            host: host.clone(),
            when_open: config.when_open,
            srtt: Srtt::default(),
        }
    }

    fn ask(&mut self, ask: Ask, events: &mut Events) -> Answer<Ticket> {
        match self.circuit.admit(ask.now) {
            Ok(admitted) => {
                if let Some(transition) = admitted.transition {
                    events.push(Event::Circuit(transition));
                }
                Answer::Go(admitted.ticket)
            }
            Err(_) if self.when_open == WhenOpen::Wait => Answer::Wait,
            Err(wait) => Answer::Refuse(self.refusal(wait, ask.now)),
        }
    }

    #[inline]
    fn admit_at_once(&mut self, _: usize) -> Option<Ticket> {
        self.circuit.admit_at_once()
    }

    fn refuses(&self, now: Instant) -> Option<BoxError> {
        match self.circuit.peek(now) {
            Room::Full(wait) if self.when_open != WhenOpen::Wait => Some(self.refusal(wait, now)),
            _ => None,
        }
    }

    fn is_shut(&self, now: Instant) -> bool {
        matches!(self.circuit.peek(now), Room::Full(_))
    }

    #[inline]
    fn settle(&mut self, ticket: Ticket, end: &End, events: &mut Events) {
        self.learn(end);
        self.decide(ticket, end, events);
    }

    fn next_event(&self, _: usize, now: Instant) -> Option<Instant> {
        match self.circuit.peek(now) {
            Room::Full(Wait { until }) => until,
            Room::All | Room::Probes(_) => Some(now),
        }
    }

    fn reconfigure(&mut self, config: &GateConfig, now: Instant, _: &mut Events) {
        self.when_open = config.when_open;
        self.circuit.reconfigure(config.breaker.clone(), now);
    }

    fn closed_until(&self, _: Instant) -> Option<Instant> {
        None
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn srtt(&self) -> Option<Duration> {
        self.srtt.get()
    }

    fn hold(&self, ticket: Ticket) -> Option<Duration> {
        ticket.is_probe().then_some(PROBE_HOLD)
    }
}
