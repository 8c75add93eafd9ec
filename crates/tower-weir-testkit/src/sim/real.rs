use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, oneshot},
    time::Instant,
};
use tower::{Layer, Service, service_fn};
use tower_weir::{
    BoxError,
    admit::Plain,
    aimd::{AimdConcurrencyLayer, AimdHandle, Decrease},
    outcome::{Classify, Hint, HintSource, Outcome, Protocol},
};

use super::{Answer, LawChoice, Limiter, Naive, Run, Scenario, world};

/// How long a call may wait for its turn: longer than any run.
const PATIENCE: Duration = Duration::from_secs(1_000_000);

/// Runs a scenario with the limiter that ships, through its layer: its calls are
/// futures, on a paused clock that the simulator moves.
///
/// # Errors
///
/// If the system has no runtime for that clock.
pub fn run_real(scenario: &Scenario, law: LawChoice, seed: u64) -> io::Result<Run> {
    let clock = Clock::new()?;
    let mut limiter = |client: usize| -> Box<dyn Limiter> {
        let layer = layer(scenario, law).seed(world::seed_of(seed, client));
        Box::new(Real::new(&clock, &layer))
    };
    let mut wait = |until| clock.wait(until);
    let law = law.to_string();
    Ok(world::run_on(scenario, &law, seed, &mut limiter, &mut wait))
}

fn layer(scenario: &Scenario, law: LawChoice) -> AimdConcurrencyLayer<Plain<Verbatim>> {
    let layer = AimdConcurrencyLayer::new(Verbatim)
        .law_config(scenario.law.clone())
        .queue_timeout(PATIENCE)
        .max_waiting(usize::MAX)
        // A call that hangs is ended by the scenario.
        .attempt_timeout(None);
    match law {
        LawChoice::Proportional => layer.decrease(Decrease::Proportional),
        LawChoice::Halve => layer.decrease(Decrease::Halve),
        LawChoice::Naive => layer.law(|_| Naive::default()),
        LawChoice::Fixed(limit) => layer.fixed(limit),
    }
}

/// Takes an answer for what it says.
#[derive(Clone, Copy, Debug)]
struct Verbatim;

impl Classify<Answer> for Verbatim {
    fn classify(&self, _: Protocol, result: Result<&Answer, &BoxError>) -> Outcome {
        let Ok(answer) = result else {
            return Outcome::ignored();
        };
        let hint = answer.hint.map(|delay| Hint {
            delay,
            source: HintSource::RetryAfter,
        });
        Outcome::ignored()
            .with_verdict(answer.verdict)
            .with_hint(hint)
    }
}

/// The time of all limiters of a run, and their timers.
#[derive(Clone)]
struct Clock {
    runtime: Rc<Runtime>,
    start: Instant,
    /// Told when a call is woken.
    woken: Arc<Notify>,
}

impl Clock {
    fn new() -> io::Result<Self> {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build()?;
        let start = runtime.block_on(async { Instant::now() });
        Ok(Self {
            runtime: Rc::new(runtime),
            start,
            woken: Arc::default(),
        })
    }

    /// Moves the clock to `until`, or to the moment before it at which a call is
    /// woken.
    fn wait(&self, until: Duration) -> Option<Duration> {
        // Timers are as fine as a millisecond and late rather than early.
        let last_timer = Duration::from_millis(until.as_millis() as u64);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.woken.notified() => return Some(self.start.elapsed()),
                () = tokio::time::sleep_until(self.start + last_timer) => {}
            }
            tokio::time::advance(until.saturating_sub(self.start.elapsed())).await;
            None
        })
    }
}

/// Numbers of calls, told by tasks that are woken and calls that are sent.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<VecDeque<u64>>>);

impl Calls {
    fn push(&self, call: u64) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push_back(call);
    }

    fn pop(&self) -> Option<u64> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.pop_front()
    }
}

struct Task {
    call: u64,
    woken: Calls,
    clock: Arc<Notify>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.push(self.call);
        self.clock.notify_one();
    }
}

type Request = (u64, oneshot::Receiver<Answer>);
type Reply = Pin<Box<dyn Future<Output = Result<Answer, BoxError>>>>;

/// A layer's service, and its calls.
struct Real {
    clock: Clock,
    send: Box<dyn FnMut(Request) -> Reply>,
    handle: AimdHandle,
    calls: HashMap<u64, Call>,
    woken: Calls,
    sent: Calls,
}

struct Call {
    reply: Reply,
    /// Taken when it is answered.
    answer: Option<oneshot::Sender<Answer>>,
}

impl Real {
    fn new(clock: &Clock, layer: &AimdConcurrencyLayer<Plain<Verbatim>>) -> Self {
        let sent = Calls::default();
        let log = sent.clone();
        let server = service_fn(move |(call, answer): Request| {
            log.push(call);
            async move { Ok::<_, BoxError>(answer.await?) }
        });
        let mut service = layer.layer(server);
        Self {
            clock: clock.clone(),
            send: Box::new(move |request| Box::pin(service.call(request))),
            handle: layer.handle(),
            calls: HashMap::new(),
            woken: Calls::default(),
            sent,
        }
    }

    fn poll(&mut self, call: u64) {
        let Some(Call { reply, .. }) = self.calls.get_mut(&call) else {
            return;
        };
        let _guard = self.clock.runtime.enter();
        let waker = Waker::from(Arc::new(Task {
            call,
            woken: self.woken.clone(),
            clock: self.clock.woken.clone(),
        }));
        if reply
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            self.calls.remove(&call);
        }
    }
}

impl Limiter for Real {
    fn ask(&mut self, call: u64, _: Duration) {
        let (tell, answer) = oneshot::channel();
        let reply = {
            let _guard = self.clock.runtime.enter();
            (self.send)((call, answer))
        };
        let answer = Some(tell);
        self.calls.insert(call, Call { reply, answer });
        self.poll(call);
    }

    fn grant(&mut self, _: Duration) -> Option<u64> {
        loop {
            if let Some(call) = self.sent.pop() {
                return Some(call);
            }
            let next = self.woken.pop();
            self.poll(next?);
        }
    }

    fn settle(&mut self, call: u64, _: Duration, answer: &Answer) {
        let tell = self
            .calls
            .get_mut(&call)
            .and_then(|call| call.answer.take());
        if tell.is_some_and(|tell| tell.send(*answer).is_ok()) {
            self.poll(call);
        }
    }

    /// The limiter has timers of its own.
    fn next_grant(&self, _: Duration) -> Option<Duration> {
        None
    }

    fn limit(&self) -> usize {
        let _guard = self.clock.runtime.enter();
        let hosts = self.handle.snapshot();
        hosts.first().map_or(0, |(_, host)| host.limit)
    }
}
