use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use tower_weir::aimd::{LatencySignal, LawConfig};

use super::{Load, Overload, Quota, ServerModel};

/// Enough workers that calls always wait, whatever the limit.
const BACKLOG: Load = Load::Workers(512);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A server, its clients, and what to measure.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: String,
    /// The server.
    pub server: ServerModel,
    /// How many clients there are.
    pub clients: usize,
    /// What each of them sends.
    pub load: Load,
    /// How long after the one before it each client begins.
    pub stagger: Duration,
    /// The time that a message takes in either direction.
    pub one_way: Duration,
    /// How long a call waits for its answer.
    pub timeout: Option<Duration>,
    /// The clients' law, as far as the scenario decides it.
    pub law: LawConfig,
    /// The figures count from here on.
    pub measured_from: Duration,
    /// The run's length.
    pub duration: Duration,
    /// When the capacity falls.
    pub step_down: Option<Duration>,
    /// When it rises again.
    pub step_up: Option<Duration>,
}

impl Default for Scenario {
    /// One client that always has work, on the default server, for a minute
    /// after 10 s to find its limit.
    fn default() -> Self {
        Self {
            name: String::new(),
            server: ServerModel::default(),
            clients: 1,
            load: BACKLOG,
            stagger: ms(100),
            one_way: Duration::from_micros(500),
            timeout: None,
            law: LawConfig::default(),
            measured_from: s(10),
            duration: s(70),
            step_down: None,
            step_up: None,
        }
    }
}

impl Scenario {
    /// Every scenario with a name of its own, in the order of the table.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> = [4, 16, 32, 128].into_iter().map(Self::steady).collect();
        all.push(Self::step());
        all.extend([100, 20, 5].into_iter().map(Self::outage));
        all.extend([Self::crowd(), Self::finite()]);
        all.extend([4, 8].into_iter().map(Self::share));
        all.extend([
            Self::blackhole(),
            Self::queue(),
            Self::idle_then_burst(),
            Self::whims(),
        ]);
        all.extend([
            Self::quota("quota", Quota::Window(10, s(1))),
            Self::quota("quota-bucket", Quota::Bucket(10.0, 1.0)),
            Self::quota("quota-minute", Quota::Window(600, s(60))),
        ]);
        all.extend([
            Self::heavy_tail(),
            Self::bursty(),
            Self::steady(32).hinting("hint"),
            Self::crowd().hinting("crowd-hint"),
        ]);
        all
    }

    /// The scenario of that name; `random-N` is number N of the random servers.
    pub fn named(name: &str) -> Option<Self> {
        if let Some(number) = name.strip_prefix("random-") {
            return number.parse().ok().map(Self::random);
        }
        Self::all().into_iter().find(|all| all.name == name)
    }

    fn steady(capacity: usize) -> Self {
        Self {
            server: ServerModel::with_capacity(capacity),
            ..Self::default()
        }
        .called(&format!("steady-{capacity}"))
    }

    fn step() -> Self {
        let mut server = ServerModel::default();
        server.capacity.extend([(s(30), 4), (s(60), 32)]);
        Self {
            server,
            duration: s(90),
            step_down: Some(s(30)),
            step_up: Some(s(60)),
            ..Self::default()
        }
        .called("step")
    }

    fn outage(service: u64) -> Self {
        Self {
            server: ServerModel {
                service: ms(service),
                outage: Some((s(20), s(40))),
                ..ServerModel::default()
            },
            duration: s(60),
            ..Self::default()
        }
        .called(&format!("outage-{service}ms"))
    }

    fn crowd() -> Self {
        Self {
            clients: 16,
            ..Self::steady(4)
        }
        .called("crowd")
    }

    /// The crowd with an end: each client has its calls to send, and the slots of
    /// those who are done are for the others.
    fn finite() -> Self {
        let mut scenario = Self::crowd().called("finite");
        scenario.server.service = ms(20);
        scenario.load = Load::Batch(1_000);
        scenario.measured_from = Duration::ZERO;
        scenario.duration = s(400);
        scenario
    }

    fn share(clients: usize) -> Self {
        Self {
            clients,
            measured_from: s(60),
            duration: s(120),
            ..Self::default()
        }
        .called(&format!("share-{clients}"))
    }

    fn blackhole() -> Self {
        let mut scenario = Self::steady(8).called("blackhole");
        scenario.server.overload = Overload::Hang;
        scenario.timeout = Some(s(1));
        scenario
    }

    fn queue() -> Self {
        let mut scenario = Self::steady(32).called("queue");
        scenario.server.queue = 64;
        scenario.law.latency = Some(LatencySignal::default());
        scenario
    }

    fn idle_then_burst() -> Self {
        Self {
            load: Load::IdleThenBurst {
                worker_until: s(30),
                burst_at: s(40),
                calls: 500,
            },
            ..Self::default()
        }
        .called("idle-burst")
    }

    fn whims() -> Self {
        let mut scenario = Self::steady(64).called("whims");
        scenario.server.whims = 0.005;
        scenario
    }

    fn quota(name: &str, quota: Quota) -> Self {
        Self {
            server: ServerModel {
                service: ms(20),
                quota: Some(quota),
                ..ServerModel::default()
            },
            measured_from: s(60),
            duration: s(360),
            ..Self::default()
        }
        .called(name)
    }

    /// The same server, with `Retry-After: 1` in each refusal.
    fn hinting(mut self, name: &str) -> Self {
        self.server.hint = Some(s(1));
        self.called(name)
    }

    fn heavy_tail() -> Self {
        let mut scenario = Self::steady(32).called("heavy-tail");
        scenario.server.variation = 1.5;
        scenario
    }

    /// Bursts of 40 calls, 70% of what the server can do on average.
    fn bursty() -> Self {
        let mut scenario = Self::steady(32).called("bursty");
        scenario.load = Load::Bursts(40, 0.7 * 320.0 / 40.0);
        scenario
    }

    /// A server nobody tuned the law for. The measured time is counted in round
    /// trips, which is what the law counts in.
    pub fn random(number: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(number);
        let mut spread = |from: f64, to: f64| (random.random_range(from.ln()..to.ln())).exp();
        let capacity = spread(2.0, 161.0) as usize;
        let service = Duration::from_secs_f64(spread(0.005, 3.0));
        let measured_from = (service * 50).max(s(5));
        Self {
            server: ServerModel {
                capacity: vec![(Duration::ZERO, capacity)],
                service,
                variation: random.random_range(0.0..1.5),
                queue: match random.random_bool(0.3) {
                    true => random.random_range(1..=capacity),
                    false => 0,
                },
                ..ServerModel::default()
            },
            clients: random.random_range(1..=8),
            // Next to 5 ms of work, 1 ms on the way would let more than one
            // call a slot be in flight without a refusal.
            one_way: (service / 200).min(Duration::from_micros(500)),
            measured_from,
            duration: measured_from + (service * 400).max(s(20)),
            ..Self::default()
        }
        .called(&format!("random-{number}"))
    }

    fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The round trip of a call that finds the server idle.
    pub fn unloaded_rtt(&self) -> Duration {
        self.server.service + 2 * self.one_way
    }

    /// How many calls the server can do in the measured time; 0 where that is
    /// not what the scenario is about.
    pub fn optimum(&self) -> f64 {
        self.optimum_until(self.duration)
    }

    /// The same, measured up to `end`.
    pub(super) fn optimum_until(&self, end: Duration) -> f64 {
        if matches!(self.load, Load::IdleThenBurst { .. }) {
            return 0.0;
        }
        if let Some(quota) = self.server.quota {
            return quota.rate() * (end - self.measured_from).as_secs_f64();
        }
        let up = |from: Duration, to: Duration| {
            let (out, back) = self.server.outage.unwrap_or_default();
            let out = to.min(back).saturating_sub(from.max(out));
            to.saturating_sub(from).saturating_sub(out).as_secs_f64()
        };
        let steps = &self.server.capacity;
        let ends = steps[1..].iter().map(|(end, _)| *end);
        let slot_s: f64 = steps
            .iter()
            .zip(ends.chain([end]))
            .map(|((from, slots), to)| {
                *slots as f64 * up(self.measured_from.max(*from), to.min(end))
            })
            .sum();
        slot_s / self.unloaded_rtt().as_secs_f64()
    }

    /// How many calls the run has, if it ends with the last one.
    pub(super) fn calls(&self) -> Option<usize> {
        match self.load {
            Load::Batch(calls) => Some(calls * self.clients),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.load, Load::Arrivals(_) | Load::Bursts(..))
    }

    /// Whether workers have more to send.
    pub(super) fn works_at(&self, now: Duration) -> bool {
        match self.load {
            Load::IdleThenBurst { worker_until, .. } => now < worker_until,
            _ => true,
        }
    }
}
