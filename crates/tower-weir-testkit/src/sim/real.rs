//! The limiter that ships, in the simulator: through its layer, on a clock that
//! the simulator moves. Hints are not passed on.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{runtime::Runtime, sync::oneshot};
use tower::{Layer, Service, service_fn};
use tower_weir::{
    BoxError,
    aimd::{AimdConcurrencyLayer, AimdHandle},
    outcome::{Outcome, Verdict, classify_fn},
};

use super::{Answer, LawChoice, Limiter, Load, Report, Scenario, run, run_with};

type Calls = Arc<Mutex<VecDeque<u64>>>;
type Request = (u64, oneshot::Receiver<Verdict>);
type Reply = Pin<Box<dyn Future<Output = Result<Verdict, BoxError>>>>;

/// The time of all limiters of a run.
struct Clock {
    runtime: Runtime,
    now: Duration,
}

impl Clock {
    fn move_to(&mut self, now: Duration) {
        if now > self.now {
            let by = now - self.now;
            self.runtime.block_on(tokio::time::advance(by));
            self.now = now;
        }
    }
}

struct Task {
    call: u64,
    woken: Calls,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push_back(self.call);
    }
}

struct Real {
    clock: Rc<RefCell<Clock>>,
    send: Box<dyn FnMut(Request) -> Reply>,
    handle: AimdHandle,
    calls: HashMap<u64, (Reply, oneshot::Sender<Verdict>)>,
    waiting: usize,
    woken: Calls,
    sent: Calls,
}

fn judge(result: Result<&Verdict, &BoxError>) -> Outcome {
    match result {
        Ok(verdict) => Outcome::ignored().with_verdict(*verdict),
        Err(_) => Outcome::ignored(),
    }
}

impl Real {
    fn new(clock: &Rc<RefCell<Clock>>, seed: u64) -> Self {
        let sent = Calls::default();
        let log = sent.clone();
        let server = service_fn(move |(call, answer): Request| {
            log.lock().unwrap().push_back(call);
            async move { Ok::<_, BoxError>(answer.await?) }
        });
        let layer = AimdConcurrencyLayer::new(classify_fn(judge))
            .queue_timeout(Duration::from_secs(3600))
            .seed(seed);
        let mut service = layer.layer(server);
        Self {
            clock: clock.clone(),
            send: Box::new(move |request| Box::pin(service.call(request))),
            handle: layer.handle(),
            calls: HashMap::new(),
            waiting: 0,
            woken: Calls::default(),
            sent,
        }
    }

    fn poll(&mut self, call: u64) {
        let Some((reply, _)) = self.calls.get_mut(&call) else {
            return;
        };
        let clock = self.clock.borrow();
        let _guard = clock.runtime.enter();
        let woken = self.woken.clone();
        let waker = Waker::from(Arc::new(Task { call, woken }));
        if let Poll::Ready(reply) = reply.as_mut().poll(&mut Context::from_waker(&waker)) {
            reply.expect("the simulated server does not fail");
            self.calls.remove(&call);
        }
    }
}

impl Limiter for Real {
    fn ask(&mut self, call: u64, now: Duration) {
        self.clock.borrow_mut().move_to(now);
        let (tell, answer) = oneshot::channel();
        let reply = {
            let clock = self.clock.borrow();
            let _guard = clock.runtime.enter();
            (self.send)((call, answer))
        };
        self.calls.insert(call, (reply, tell));
        self.waiting += 1;
        self.poll(call);
    }

    fn grant(&mut self, now: Duration) -> Option<u64> {
        self.clock.borrow_mut().move_to(now);
        loop {
            if let Some(call) = self.sent.lock().unwrap().pop_front() {
                self.waiting -= 1;
                return Some(call);
            }
            let next = self.woken.lock().unwrap().pop_front();
            self.poll(next?);
        }
    }

    fn settle(&mut self, call: u64, now: Duration, answer: &Answer) {
        self.clock.borrow_mut().move_to(now);
        if let Some((reply, tell)) = self.calls.remove(&call) {
            tell.send(answer.verdict).expect("the call waits for it");
            let (tell, _) = oneshot::channel();
            self.calls.insert(call, (reply, tell));
            self.poll(call);
        }
    }

    /// The limiter has a timer of its own; it goes off at a whole millisecond.
    fn next_grant(&self, now: Duration) -> Option<Duration> {
        let next = Duration::from_millis(now.as_millis() as u64 + 1);
        (self.waiting > 0).then_some(next)
    }

    fn limit(&self) -> usize {
        let hosts = self.handle.snapshot();
        hosts.first().map_or(10, |(_, host)| host.limit)
    }
}

fn real(scenario: &Scenario, seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let now = Duration::ZERO;
    let clock = Rc::new(RefCell::new(Clock { runtime, now }));
    let mut limiter =
        |client: usize| -> Box<dyn Limiter> { Box::new(Real::new(&clock, seed + client as u64)) };
    run_with(scenario, "real", seed, &mut limiter).report
}

fn compare(name: &str) {
    let mut scenario = Scenario::named(name).unwrap();
    scenario.load = Load::Workers(200);
    let real = real(&scenario, 1);
    let model = run(&scenario, LawChoice::Proportional, 1).report;
    let near = |figure: fn(&Report) -> Option<f64>| {
        let (real, model) = (figure(&real).unwrap(), figure(&model).unwrap());
        assert!((real - model).abs() <= 0.02, "{name}: {real}, not {model}");
    };
    near(|report| report.goodput);
    near(|report| report.rejects_per_success);
}

#[test]
fn a_steady_server_is_kept_as_full_as_by_the_model() {
    compare("steady-4");
    compare("steady-32");
}

#[test]
fn a_step_is_followed_as_by_the_model() {
    compare("step");
}

#[test]
fn an_outage_is_left_alone_and_its_end_is_noticed() {
    let mut scenario = Scenario::named("outage-100ms").unwrap();
    scenario.load = Load::Workers(200);
    let report = real(&scenario, 1);
    assert!(report.outage_sends_per_s.unwrap() <= 4.0, "{report:?}");
    assert!(report.recovery_s.unwrap() <= 1.5, "{report:?}");
}
