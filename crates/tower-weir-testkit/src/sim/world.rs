use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, Exp};
use tokio::time::Instant;
use tower_weir::outcome::{Failure, Verdict};

use super::{
    Answer, LawChoice, Limiter, Load, Report, Scenario, SlotModel, TracePoint,
    client::backoff,
    record::Recorder,
    server::{Arrival, Server},
};

/// A run and what it came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The figures.
    pub report: Report,
    /// A point each 100 ms.
    pub trace: Vec<TracePoint>,
}

/// Runs a scenario with the model of a limiter around a law.
pub fn run(scenario: &Scenario, law: LawChoice, seed: u64) -> Run {
    let start = Instant::now();
    let mut limiter = |client: usize| -> Box<dyn Limiter> {
        let law = law.make(&scenario.law, seed_of(seed, client));
        Box::new(SlotModel::new(law, start))
    };
    run_with(scenario, &law.to_string(), seed, &mut limiter)
}

/// The seed of a client's law.
pub(super) fn seed_of(seed: u64, client: usize) -> u64 {
    seed.wrapping_mul(1_000_003).wrapping_add(client as u64)
}

/// Runs a scenario with limiters of another make: `limiter` is asked for that of
/// each client.
pub fn run_with(
    scenario: &Scenario,
    law: &str,
    seed: u64,
    limiter: &mut dyn FnMut(usize) -> Box<dyn Limiter>,
) -> Run {
    run_on(scenario, law, seed, limiter, &mut |_| None)
}

/// The same for limiters that have a clock of their own: `wait` moves it to a
/// moment, or to an earlier one at which a limiter has something to do, which it
/// returns.
pub(super) fn run_on(
    scenario: &Scenario,
    law: &str,
    seed: u64,
    limiter: &mut dyn FnMut(usize) -> Box<dyn Limiter>,
    wait: &mut dyn FnMut(Duration) -> Option<Duration>,
) -> Run {
    let mut world = World::new(scenario, seed, limiter);
    world.run(wait);
    Run {
        report: world.recorder.report(scenario, law.to_owned(), seed),
        trace: world.trace,
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Arrivals and bursts: the next one.
    Arrive { client: usize },
    /// A worker's next call, or a call that is sent again.
    Submit { client: usize, worker: bool },
    /// A limiter may have slots again.
    Wake { client: usize },
    /// A call reaches the server.
    AtServer { call: u64 },
    /// The server has done a call's work.
    Finish { call: u64 },
    /// The answer of a call reaches its client, or its time is up.
    Ended { call: u64, answer: Answer },
    /// The server's capacity changes.
    Step,
    /// A point for the trace.
    Trace,
}

/// An event to come. They come by time, then in the order they were planned in.
struct Planned {
    at: Duration,
    order: u64,
    event: Event,
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planned {}

struct Call {
    client: usize,
    worker: bool,
    sent: Duration,
}

struct Client {
    limiter: Box<dyn Limiter>,
    random: Xoshiro256PlusPlus,
    wake: Option<Duration>,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Duration,
    events: BinaryHeap<Planned>,
    planned: u64,
    calls: HashMap<u64, Call>,
    next_call: u64,
    clients: Vec<Client>,
    server: Server,
    recorder: Recorder,
    trace: Vec<TracePoint>,
}

impl<'a> World<'a> {
    fn new(
        scenario: &'a Scenario,
        seed: u64,
        limiter: &mut dyn FnMut(usize) -> Box<dyn Limiter>,
    ) -> Self {
        let mut seeds = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut random = || Xoshiro256PlusPlus::seed_from_u64(seeds.random());
        let server = Server::new(scenario.server.clone(), random());
        let client = |number| Client {
            limiter: limiter(number),
            random: random(),
            wake: None,
        };
        Self {
            scenario,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            planned: 0,
            calls: HashMap::new(),
            next_call: 0,
            clients: (0..scenario.clients).map(client).collect(),
            server,
            recorder: Recorder::new(scenario),
            trace: Vec::new(),
        }
    }

    fn run(&mut self, wait: &mut dyn FnMut(Duration) -> Option<Duration>) {
        self.set_off();
        while let Some(next) = self.events.peek().map(|planned| planned.at) {
            if next >= self.scenario.duration || self.recorder.is_done() {
                break;
            }
            let sooner = (next > self.now).then(|| wait(next)).flatten();
            if let Some(sooner) = sooner {
                self.now = sooner;
                for client in 0..self.clients.len() {
                    self.send_granted(client);
                }
            } else if let Some(Planned { at, event, .. }) = self.events.pop() {
                self.now = at;
                self.handle(event);
            }
        }
    }

    fn plan(&mut self, at: Duration, event: Event) {
        let order = self.planned;
        self.planned += 1;
        self.events.push(Planned { at, order, event });
    }

    fn set_off(&mut self) {
        self.plan(Duration::ZERO, Event::Trace);
        for (at, _) in &self.scenario.server.capacity {
            self.plan(*at, Event::Step);
        }
        for client in 0..self.clients.len() {
            let at = self.scenario.stagger * client as u32;
            match self.scenario.load {
                Load::Workers(workers) => self.submit_many(at, client, workers, true),
                Load::Batch(calls) => self.submit_many(at, client, calls, false),
                Load::Arrivals(_) | Load::Bursts(..) => self.plan(at, Event::Arrive { client }),
                Load::IdleThenBurst {
                    burst_at, calls, ..
                } => {
                    self.submit_many(at, client, 1, true);
                    self.submit_many(burst_at, client, calls, false);
                }
            }
        }
    }

    fn submit_many(&mut self, at: Duration, client: usize, calls: usize, worker: bool) {
        for _ in 0..calls {
            self.plan(at, Event::Submit { client, worker });
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { client } => self.arrive(client),
            Event::Submit { client, worker } => {
                let call = self.next_call;
                self.next_call += 1;
                let sent = self.now;
                self.calls.insert(
                    call,
                    Call {
                        client,
                        worker,
                        sent,
                    },
                );
                self.clients[client].limiter.ask(call, self.now);
                self.send_granted(client);
            }
            Event::Wake { client } => {
                self.clients[client].wake = None;
                self.send_granted(client);
            }
            Event::AtServer { call } => self.at_server(call),
            Event::Finish { call } => {
                self.server.finish();
                let at = self.now + self.scenario.one_way;
                let answer = Answer::of(Verdict::Success);
                self.plan(at, Event::Ended { call, answer });
                self.take_up();
            }
            Event::Ended { call, answer } => self.ended(call, answer),
            Event::Step => self.take_up(),
            Event::Trace => self.take_trace(),
        }
    }

    fn arrive(&mut self, client: usize) {
        let (calls, rate) = match self.scenario.load {
            Load::Arrivals(rate) => (1, rate),
            Load::Bursts(calls, rate) => (calls, rate),
            Load::Workers(_) | Load::Batch(_) | Load::IdleThenBurst { .. } => return,
        };
        for _ in 0..calls {
            self.recorder.offered(self.now);
        }
        self.submit_many(self.now, client, calls, false);
        if let Ok(gap) = Exp::new(rate) {
            let gap = gap.sample(&mut self.clients[client].random);
            let at = self.now + Duration::from_secs_f64(gap);
            self.plan(at, Event::Arrive { client });
        }
    }

    fn send_granted(&mut self, client: usize) {
        while let Some(call) = self.clients[client].limiter.grant(self.now) {
            if let Some(call) = self.calls.get_mut(&call) {
                call.sent = self.now;
            }
            self.plan(self.now + self.scenario.one_way, Event::AtServer { call });
            if let Some(timeout) = self.scenario.timeout {
                let answer = Answer::of(Verdict::Failed(Failure::Timeout));
                self.plan(self.now + timeout, Event::Ended { call, answer });
            }
        }
        let Client { limiter, wake, .. } = &mut self.clients[client];
        if let Some(at) = limiter.next_grant(self.now)
            && wake.is_none_or(|planned| at < planned)
        {
            *wake = Some(at);
            self.plan(at, Event::Wake { client });
        }
    }

    fn at_server(&mut self, call: u64) {
        self.recorder.sent(self.now);
        match self.server.arrive(call, self.now) {
            Arrival::Work(time) => self.work(call, time),
            Arrival::Refuse(after, answer) => {
                let at = self.now + after + self.scenario.one_way;
                self.plan(at, Event::Ended { call, answer });
            }
            Arrival::Queued | Arrival::Hang => {}
        }
    }

    fn work(&mut self, call: u64, time: Duration) {
        self.recorder.busy(self.now, self.server.busy());
        self.plan(self.now + time, Event::Finish { call });
    }

    fn take_up(&mut self) {
        self.recorder.busy(self.now, self.server.busy());
        while let Some((call, time)) = self.server.take_up(self.now) {
            self.work(call, time);
        }
    }

    fn ended(&mut self, call: u64, answer: Answer) {
        // A call that timed out may still be answered, and the other way round.
        let Some(Call {
            client,
            worker,
            sent,
        }) = self.calls.remove(&call)
        else {
            return;
        };
        let Client {
            limiter, random, ..
        } = &mut self.clients[client];
        limiter.settle(call, self.now, &answer);
        let rtt = self.now - sent;
        self.recorder.ended(client, self.now, rtt, answer.verdict);
        if answer.verdict != Verdict::Success {
            let at = self.now + backoff(random, answer.hint);
            self.plan(at, Event::Submit { client, worker });
        } else if worker && self.scenario.works_at(self.now) {
            self.plan(self.now, Event::Submit { client, worker });
        }
        self.send_granted(client);
    }

    fn take_trace(&mut self) {
        self.trace.push(TracePoint {
            at_s: self.now.as_secs_f64(),
            limit: self
                .clients
                .iter()
                .map(|client| client.limiter.limit())
                .sum(),
            capacity: self.scenario.server.capacity_at(self.now),
            busy: self.server.busy(),
        });
        self.plan(self.now + Duration::from_millis(100), Event::Trace);
    }
}
