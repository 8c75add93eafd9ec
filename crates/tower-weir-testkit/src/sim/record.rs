use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use tower_weir::outcome::Verdict;

use super::Scenario;

/// The width of the slices that steps and outages are judged by.
const SLICE: Duration = Duration::from_millis(100);

/// A server counts as busy again when it is this full.
const BUSY: f64 = 0.8;

/// What a run came to. A figure that does not apply to the scenario is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The law's name.
    pub law: String,
    /// The seed of the run.
    pub seed: u64,
    /// Calls delivered, as a share of what the server could do, or of what came
    /// when that was less.
    pub goodput: Option<f64>,
    /// Refusals and timeouts for each call delivered.
    pub rejects_per_success: Option<f64>,
    /// The time from the step down of the capacity until fewer than a tenth of
    /// the answers of a second were refusals.
    pub settle_down_s: Option<f64>,
    /// The time from the step up until the server was 80% busy for half a
    /// second.
    pub settle_up_s: Option<f64>,
    /// Calls a second and client that reached the server in its outage.
    pub outage_sends_per_s: Option<f64>,
    /// The time from the end of the outage until the server was 80% busy for
    /// half a second.
    pub recovery_s: Option<f64>,
    /// Jain's index of the calls delivered by each client: 1 if all got the
    /// same, 1/n if one got all.
    pub jain: Option<f64>,
    /// The mean round trip of delivered calls, as a multiple of that of an idle
    /// server.
    pub rtt_ratio: Option<f64>,
    /// The most refusals within any 100 ms.
    pub peak_rejects_100ms: Option<u32>,
}

/// What the limits and the server looked like at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TracePoint {
    /// Seconds from the start.
    pub at_s: f64,
    /// All clients' limits together.
    pub limit: usize,
    /// The server's slots.
    pub capacity: usize,
    /// Those at work.
    pub busy: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    successes: f64,
    refusals: f64,
    busy_s: f64,
}

/// Counts what happens in a run.
pub(super) struct Recorder {
    from: Duration,
    /// Where the figures end.
    to: Duration,
    /// Calls until the run is over, where it has an end of its own.
    left: Option<usize>,
    slices: Vec<Slice>,
    successes: Vec<f64>,
    refusals: f64,
    rtt_s: f64,
    offered: f64,
    outage: Option<(Duration, Duration)>,
    outage_sends: f64,
    /// The refusals of the last 100 ms.
    recent: VecDeque<Duration>,
    peak: u32,
    busy: usize,
    busy_since: Duration,
}

impl Recorder {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            from: scenario.measured_from,
            to: scenario.duration,
            left: scenario.calls(),
            slices: vec![Slice::default(); slice_of(scenario.duration) + 1],
            successes: vec![0.0; scenario.clients],
            refusals: 0.0,
            rtt_s: 0.0,
            offered: 0.0,
            outage: scenario.server.outage,
            outage_sends: 0.0,
            recent: VecDeque::new(),
            peak: 0,
            busy: 0,
            busy_since: Duration::ZERO,
        }
    }

    pub(super) fn offered(&mut self, now: Duration) {
        if now >= self.from {
            self.offered += 1.0;
        }
    }

    pub(super) fn sent(&mut self, now: Duration) {
        if self
            .outage
            .is_some_and(|(from, to)| (from..to).contains(&now))
        {
            self.outage_sends += 1.0;
        }
    }

    pub(super) fn ended(&mut self, client: usize, now: Duration, rtt: Duration, verdict: Verdict) {
        let success = verdict == Verdict::Success;
        let slice = &mut self.slices[slice_of(now)];
        if success {
            slice.successes += 1.0;
        } else {
            slice.refusals += 1.0;
        }
        if now < self.from {
            return;
        }
        if success {
            if let Some(left) = &mut self.left {
                *left -= 1;
                self.to = if *left == 0 { now } else { self.to };
            }
            self.successes[client] += 1.0;
            self.rtt_s += rtt.as_secs_f64();
        } else {
            self.refusals += 1.0;
            while self.recent.front().is_some_and(|at| now - *at >= SLICE) {
                self.recent.pop_front();
            }
            self.recent.push_back(now);
            self.peak = self.peak.max(self.recent.len() as u32);
        }
    }

    /// Whether a run with an end of its own has reached it.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// The server works on `busy` calls from now on.
    pub(super) fn busy(&mut self, now: Duration, busy: usize) {
        while self.busy_since < now {
            let slice = slice_of(self.busy_since);
            let end = (SLICE * (slice as u32 + 1)).min(now);
            self.slices[slice].busy_s += self.busy as f64 * (end - self.busy_since).as_secs_f64();
            self.busy_since = end;
        }
        self.busy = busy;
    }

    pub(super) fn report(mut self, scenario: &Scenario, law: String, seed: u64) -> Report {
        self.busy(self.to, 0);
        let delivered: f64 = self.successes.iter().sum();
        let optimum = scenario.optimum_until(self.to);
        let optimum = match scenario.is_open() {
            true => self.offered.min(optimum),
            false => optimum,
        };
        let squares: f64 = self.successes.iter().map(|n| n * n).sum();
        let clients = self.successes.len();
        let rtt_s = scenario.unloaded_rtt().as_secs_f64();
        Report {
            scenario: scenario.name.clone(),
            law,
            seed,
            goodput: (optimum > 0.0).then(|| delivered / optimum),
            rejects_per_success: (delivered > 0.0).then(|| self.refusals / delivered),
            settle_down_s: scenario.step_down.and_then(|at| self.calm_after(at)),
            settle_up_s: scenario
                .step_up
                .and_then(|at| self.busy_after(at, scenario)),
            outage_sends_per_s: self
                .outage
                .map(|(from, to)| self.outage_sends / clients as f64 / (to - from).as_secs_f64()),
            recovery_s: self
                .outage
                .and_then(|(_, end)| self.busy_after(end, scenario)),
            jain: (clients > 1 && squares > 0.0)
                .then(|| delivered * delivered / (clients as f64 * squares)),
            rtt_ratio: (delivered > 0.0).then(|| self.rtt_s / delivered / rtt_s),
            peak_rejects_100ms: Some(self.peak),
        }
    }

    fn calm_after(&self, at: Duration) -> Option<f64> {
        let after = &self.slices[slice_of(at)..];
        let calm = after.windows(10).position(|second| {
            let refusals: f64 = second.iter().map(|slice| slice.refusals).sum();
            let answers: f64 = second.iter().map(|s| s.refusals + s.successes).sum();
            refusals < 0.1 * answers
        });
        calm.map(|slices| slices as f64 * SLICE.as_secs_f64())
    }

    fn busy_after(&self, at: Duration, scenario: &Scenario) -> Option<f64> {
        let enough = BUSY * scenario.server.capacity_at(at) as f64 * SLICE.as_secs_f64();
        let after = &self.slices[slice_of(at)..];
        let busy = after
            .windows(5)
            .position(|half| half.iter().map(|s| s.busy_s).sum::<f64>() >= 5.0 * enough);
        busy.map(|slices| slices as f64 * SLICE.as_secs_f64())
    }
}

fn slice_of(at: Duration) -> usize {
    (at.as_nanos() / SLICE.as_nanos()) as usize
}
