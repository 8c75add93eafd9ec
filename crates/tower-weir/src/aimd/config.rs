use std::time::Duration;

/// What the concurrency law may be told.
///
/// The fields are plain, so that a running limiter can be changed by a closure;
/// they are brought into range where a law takes them over
/// ([`Aimd::new`](super::law::Aimd::new) and
/// [`reconfigure`](super::law::LimitLaw::reconfigure)), never rejected:
/// a `max` of 0 counts as 1, a `min` above `max` as `max`, an `initial` outside
/// of the two as the nearer one.
///
/// ```
/// use tower_weir::aimd::LawConfig;
///
/// let mut config = LawConfig::default();
/// config.max = 5;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LawConfig {
    /// The limit to start with. Default 10: few enough not to drown a small
    /// server with the first burst, and three doublings from 80.
    pub initial: usize,
    /// The least limit. Default 1; never 0, since a limit of 0 sends nothing
    /// that could raise it again.
    ///
    /// What this crate says about a limit of 1 (its back-off, its pauses) holds
    /// for a limit of `min`.
    pub min: usize,
    /// The greatest limit. Default 256: a caller who has more than that to send
    /// at once should say so.
    pub max: usize,
    /// How far an overload lowers the limit.
    pub decrease: Decrease,
    /// How many successes at least it takes to raise the limit by one, above
    /// the point up to which it doubles. Default `None`: 4 with
    /// [`Decrease::Proportional`], 10 with [`Decrease::Halve`]. A limit greater
    /// than the streak takes as many successes as it is, one round.
    pub streak: Option<usize>,
    /// Whether round trips that become longer hold the limit down. Default
    /// `None`: they do not.
    pub latency: Option<LatencySignal>,
}

impl Default for LawConfig {
    fn default() -> Self {
        Self {
            initial: 10,
            min: 1,
            max: 256,
            decrease: Decrease::default(),
            streak: None,
            latency: None,
        }
    }
}

impl LawConfig {
    /// The same settings with each in its range.
    pub(super) fn in_range(&self) -> Self {
        let max = self.max.max(1);
        let min = self.min.clamp(1, max);
        Self {
            initial: self.initial.clamp(min, max),
            min,
            max,
            latency: self.latency.map(LatencySignal::in_range),
            ..self.clone()
        }
    }

    /// The streak in force.
    pub(super) fn least_streak(&self) -> usize {
        let streak = self.streak.unwrap_or(match self.decrease {
            Decrease::Proportional => 4,
            Decrease::Halve => 10,
        });
        streak.max(1)
    }
}

/// How far an overload lowers the limit.
///
/// It counts from what was in flight at the first refusal, not from the limit: a
/// limit of 10 falls to 1 when the only call in flight is refused. All refusals of
/// attempts that were under way then belong to the same overload (its epoch), and
/// one overload takes the limit no lower than half of what was in flight, whichever
/// is chosen. A timeout takes it to one less than was in flight, under
/// both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decrease {
    /// To one less than was in flight, and one slot for every further refusal: one
    /// refusal too many costs one slot, a server that lost half its capacity takes
    /// back half. The default.
    #[default]
    Proportional,
    /// To half of it at once, however many refusals there are. For upstreams that punish
    /// every excess; it leaves more of the server idle (about 9% instead of 1%
    /// of 32 slots).
    Halve,
}

/// How much longer round trips may become before the limit heeds it: for
/// upstreams that queue calls before they refuse any.
///
/// Such an upstream answers every call, only later and later, and a limit that
/// waits for refusals fills its queue: three times the round trip for a queue of
/// twice its slots. It is off by default, because an upstream may be slow for
/// reasons that are not our load.
///
/// Medians of a round of calls are compared with the least one of the last
/// `window`, less what chance can make of calls of uneven length.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LatencySignal {
    /// From here on the limit no longer grows: a multiple of the least median.
    /// Default 1.2. Less than 1, or no number, counts as 1.
    pub hold: f64,
    /// From here on, for two rounds, the limit shrinks by a tenth. Default 1.6.
    /// Less than `hold` counts as `hold`.
    pub shrink: f64,
    /// How long a least median holds; never less than 50 round trips. Default
    /// 10 s. After that, two rounds at half the limit renew it if the upstream
    /// seems to be queueing.
    pub window: Duration,
}

impl Default for LatencySignal {
    fn default() -> Self {
        Self {
            hold: 1.2,
            shrink: 1.6,
            window: Duration::from_secs(10),
        }
    }
}

impl LatencySignal {
    /// The same settings with each in its range.
    fn in_range(self) -> Self {
        // `max` returns the other number for one that is not a number.
        let hold = self.hold.max(1.0);
        Self {
            hold,
            shrink: self.shrink.max(hold),
            ..self
        }
    }
}
