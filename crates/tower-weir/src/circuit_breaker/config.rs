//! What a circuit breaker can be told.

mod open_for;
mod probes;
mod ratio;
mod window;

use std::time::Duration;

pub(super) use self::window::Kind;
pub use self::{
    open_for::{InvalidOpenFor, OpenFor},
    probes::Probes,
    ratio::{InvalidRatio, Ratio},
    window::{InvalidWindow, Window},
};

/// The settings of a circuit breaker.
///
/// Every value is either valid by its type or valid whatever it is, so no
/// setter can fail. A rule, a cap or a time limit that takes an `Option` is
/// turned off by `None`.
///
/// ```
/// use std::time::Duration;
/// use tower_weir::circuit_breaker::{BreakerConfig, FailureRun, Ratio};
///
/// let config = BreakerConfig::default()
///     .failure_rate(Ratio::new(0.5)?)
///     .min_calls(20)
///     .failure_run(FailureRun::new(5, Duration::from_secs(1)))
///     .cancel_counts_after(None);
/// # Ok::<(), tower_weir::circuit_breaker::InvalidRatio>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    pub(super) window: Window,
    pub(super) failure_rate: Option<Ratio>,
    pub(super) min_calls: u32,
    pub(super) failure_run: Option<FailureRun>,
    pub(super) slow_calls: Option<SlowCalls>,
    pub(super) refusals: CountRefusals,
    pub(super) starved_after: Duration,
    pub(super) cancel_counts_after: Option<Duration>,
    pub(super) open_for: OpenFor,
    pub(super) hint_cap: Duration,
    pub(super) probes: Probes,
    pub(super) probe_lease: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: Window::default(),
            failure_rate: Some(Ratio(0.15)),
            min_calls: 100,
            failure_run: Some(FailureRun::default()),
            slow_calls: None,
            refusals: CountRefusals::WhenStarved,
            starved_after: Duration::from_secs(10),
            cancel_counts_after: Some(Duration::from_secs(10)),
            open_for: OpenFor::default(),
            hint_cap: Duration::from_secs(60),
            probes: Probes::default(),
            probe_lease: Duration::from_secs(30),
        }
    }
}

impl BreakerConfig {
    /// The defaults for a writer of bulk data, who waits for an open circuit
    /// instead of taking its refusal: the open period stops doubling at 5 s, so
    /// that less time is lost once the upstream is back.
    #[must_use]
    pub fn bulk() -> Self {
        let open_for = OpenFor {
            cap: Duration::from_secs(5),
            ..OpenFor::default()
        };
        Self::default().open_for(open_for)
    }

    /// Which calls the rates are computed over.
    ///
    /// Default: 5 minutes in 30 slices. Changing it on a running circuit
    /// empties its window.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Opens the circuit when this share of the calls in the window failed, or
    /// more, and there are at least [`min_calls`](Self::min_calls) of them.
    ///
    /// It is checked on every recorded call, a success too: the success that
    /// brings the window to `min_calls` opens the circuit if the failures
    /// before it suffice.
    ///
    /// Default: 0.15. Three failures in 20 are worse than the odd error of a
    /// healthy upstream, and early enough to help one that starts to fail.
    #[must_use]
    pub fn failure_rate(mut self, rate: impl Into<Option<Ratio>>) -> Self {
        self.failure_rate = rate.into();
        self
    }

    /// How many calls the window must hold before a rate means anything.
    ///
    /// It goes for the failure rate and the slow-call rate. Default: 100, where
    /// a single failure weighs one percent. 0 reads as 1. A window of fewer
    /// calls ([`Window::calls`]) lowers it to its own size.
    #[must_use]
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// Opens the circuit after a number of failures in a row, for hosts that
    /// never see [`min_calls`](Self::min_calls) in a window, and for outages,
    /// which it notices within seconds.
    ///
    /// Default: 10 failures over 2 s; where calls are many, 100 over 250 ms
    /// ([`FailureRun::sooner`]).
    #[must_use]
    pub fn failure_run(mut self, run: impl Into<Option<FailureRun>>) -> Self {
        self.failure_run = run.into();
        self
    }

    /// Opens the circuit when too many of the calls in the window were slow,
    /// whether they failed or not.
    ///
    /// A probe that is slow by this measure is a bad probe, or a circuit that
    /// opened because of slow calls would close on the next one.
    ///
    /// Default: `None`. What is slow depends on the upstream.
    #[must_use]
    pub fn slow_calls(mut self, slow: impl Into<Option<SlowCalls>>) -> Self {
        self.slow_calls = slow.into();
        self
    }

    /// Whether "not now" is a failure. Default: [`CountRefusals::WhenStarved`].
    #[must_use]
    pub fn count_refusals(mut self, refusals: CountRefusals) -> Self {
        self.refusals = refusals;
        self
    }

    /// For how long calls must have been made without a single success before
    /// [`CountRefusals::WhenStarved`] counts 503 and UNAVAILABLE.
    ///
    /// The time starts with the first call admitted since the last success, or
    /// since the circuit was made or closed. So an hour without calls is no
    /// hour of starvation, and the first 503 after it does not count.
    ///
    /// Default: 10 s. A client that competes with others for a full upstream
    /// gets a call through in that time; a dead upstream answers none.
    #[must_use]
    pub fn starved_after(mut self, starved_after: Duration) -> Self {
        self.starved_after = starved_after;
        self
    }

    /// How long a call must have run for its caller's giving up to count as a
    /// failure of the upstream.
    ///
    /// A call dropped sooner is not recorded: a caller who is gone says nothing
    /// about the upstream. But an upstream that hangs under callers with their
    /// own timeouts shows itself in no other way, so never to count them would
    /// keep its circuit closed for good. The limit itself counts, and it goes
    /// for probes as well.
    ///
    /// Default: 10 s. `None` never counts them.
    #[must_use]
    pub fn cancel_counts_after(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.cancel_counts_after = after.into();
        self
    }

    /// How long an open circuit refuses before it lets a probe through.
    ///
    /// Default: 1 s, doubling with each failed probe up to 15 s (2 s if it was
    /// refused), 20% jitter.
    #[must_use]
    pub fn open_for(mut self, open_for: OpenFor) -> Self {
        self.open_for = open_for;
        self
    }

    /// The most that a server's hint can ask for.
    ///
    /// A hint (`Retry-After` and the like) on the response that opened the
    /// circuit, or that failed a probe, lengthens the open period to what it
    /// says, without jitter, but not beyond this. A hint never shortens it.
    ///
    /// Default: 60 s. One mistaken `Retry-After: 86400` would otherwise cut the
    /// upstream off for a day. Zero makes the circuit deaf to hints.
    #[must_use]
    pub fn hint_cap(mut self, cap: Duration) -> Self {
        self.hint_cap = cap;
        self
    }

    /// What a half-open circuit asks of its probes before it closes.
    ///
    /// Default: two successes, one probe in flight.
    #[must_use]
    pub fn probes(mut self, probes: Probes) -> Self {
        self.probes = probes;
        self
    }

    /// How long a probe may take before another call may be sent in its place.
    ///
    /// From then on the first probe's result moves nothing. Without a lease one
    /// probe that never settles would keep the circuit half-open for good.
    ///
    /// Default: 30 s, which is also the default timeout of an attempt.
    #[must_use]
    pub fn probe_lease(mut self, lease: Duration) -> Self {
        self.probe_lease = lease;
        self
    }
}

/// Whether "not now" (429, 503 and their kind) is a failure to the breaker.
///
/// A limiter in front of the upstream handles refusals better than a breaker
/// can: when 16 clients share 4 slots, refusals are most of the answers, and
/// circuits that open on them lose work which the limiter would have got
/// through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CountRefusals {
    /// 503 and UNAVAILABLE are failures while calls have been made for
    /// [`starved_after`](BreakerConfig::starved_after) without one success, and
    /// when they answer a probe; otherwise they are not recorded. 429,
    /// RESOURCE_EXHAUSTED, ENHANCE_YOUR_CALM and 408 show that the server
    /// lives: they are not recorded, end a run of failures and are a good
    /// answer to a probe.
    #[default]
    WhenStarved,
    /// Every refusal is a failure, 429 and 408 included. For upstreams without
    /// a limiter in front, or where a 429 means an exhausted quota.
    Always,
    /// No refusal is a failure, 503 included: each shows that the server lives,
    /// as 429 does under [`WhenStarved`](Self::WhenStarved).
    Never,
}

/// A number of failures in a row that opens the circuit. Default: 10 over 2 s,
/// or 100 over 250 ms of calls that were admitted when the upstream was known to
/// fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRun {
    pub(super) failures: u32,
    pub(super) lasting: Duration,
    pub(super) sooner: Option<u32>,
}

impl Default for FailureRun {
    fn default() -> Self {
        Self::new(10, Duration::from_secs(2))
    }
}

impl FailureRun {
    /// At least `failures` in a row, of which the last came `lasting` or more
    /// after the first. 0 failures read as 1.
    ///
    /// The time is there because one lost connection fails every call that
    /// shared it, all in the same instant; with `lasting` at zero a single
    /// reset of a busy HTTP/2 connection opens the circuit.
    pub const fn new(failures: u32, lasting: Duration) -> Self {
        Self {
            failures,
            lasting,
            sooner: Some(100),
        }
    }

    /// Takes an eighth of the time for enough, once the run has so many failures
    /// of calls that were admitted after its first failure was known. 0 reads as
    /// 1. `None` turns it off.
    ///
    /// The calls that one lost connection fails were in flight together: they were
    /// admitted before the first of them had failed, and do not count here,
    /// however many they are. Those that do count were sent to an upstream that
    /// had just failed, and none came through. That is what an outage looks like
    /// to a busy client. Without this it would send two seconds of load into one,
    /// since the [failure rate](BreakerConfig::failure_rate) of a window full of
    /// successes rises slowly. At 200 calls a second it opens the circuit in half
    /// a second.
    ///
    /// What is left of the time, 250 ms by default, is for clients with thousands
    /// of calls a second: they would otherwise take a restart of 10 ms for an
    /// outage, and refuse for a second.
    ///
    /// Default: 100, as many calls as [`min_calls`](BreakerConfig::min_calls)
    /// takes for the least that a rate can be read from.
    #[must_use]
    pub fn sooner(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.sooner = failures.into();
        self
    }

    /// How long it must last at least with [`sooner`](Self::sooner).
    pub(super) fn sooner_lasting(&self) -> Duration {
        self.lasting / 8
    }
}

/// A share of slow calls that opens the circuit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowCalls {
    pub(super) threshold: Duration,
    pub(super) rate: Ratio,
}

impl SlowCalls {
    /// A call is slow if it took `threshold` or longer to its headers (a unary
    /// gRPC call: to its trailers). The circuit opens when `rate` of the calls
    /// in the window, or more, were slow and there are at least
    /// [`min_calls`](BreakerConfig::min_calls).
    pub const fn new(threshold: Duration, rate: Ratio) -> Self {
        Self { threshold, rate }
    }
}
