use std::{
    collections::VecDeque,
    future::{Future, Pending, pending},
    io::{self, Write},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Waker},
};

use cpu_time::ThreadTime;
use tower::{Layer, Service, ServiceExt, util::ServiceFn};

use crate::{
    measure::{Effort, Spread, single_thread},
    report::{Line, Report},
    subjects::{Fault, our_slot, resilience_slot, tower_slot},
};

const QUEUES: [usize; 4] = [100, 1_000, 10_000, 100_000];

/// So many are let through, one after the other, in a round.
const WAKES: usize = 32;

/// How many calls have reached the inner service.
static SENT: AtomicUsize = AtomicUsize::new(0);

type Hung = ServiceFn<fn(u64) -> Pending<Result<u64, Fault>>>;
type Caller = Pin<Box<dyn Future<Output = bool>>>;

/// A wake among many waiters on one slot: the one who has it leaves, the next in
/// line is woken, takes it, and sends its call. A new one joins at the back.
///
/// # Errors
///
/// Those of the output.
pub fn waiters<W: Write>(report: &mut Report<W>, effort: &Effort) -> io::Result<()> {
    for waiting in QUEUES {
        show(
            report,
            effort,
            "tower ConcurrencyLimit",
            waiting,
            &tower_slot(),
        )?;
        show(
            report,
            effort,
            "tower-resilience adaptive",
            waiting,
            &resilience_slot(),
        )?;
        show(report, effort, "weir: limiter", waiting, &our_slot())?;
    }
    Ok(())
}

fn show<W, L>(
    report: &mut Report<W>,
    effort: &Effort,
    name: &str,
    waiting: usize,
    layer: &L,
) -> io::Result<()>
where
    W: Write,
    L: Layer<Hung>,
    L::Service: Service<u64> + Clone + 'static,
    <L::Service as Service<u64>>::Future: 'static,
{
    if !effort.wants(name) {
        return Ok(());
    }
    let subject = format!("{name}, {waiting} waiting");
    let mut line = Line::new("waiters", &subject).with("waiting", waiting);
    match wakes(effort, waiting, layer) {
        Ok(spread) => line.nanos = Some(spread),
        Err(error) => line = line.with("error", error),
    }
    report.line(line)
}

fn wakes<L>(effort: &Effort, waiting: usize, layer: &L) -> Result<Spread, String>
where
    L: Layer<Hung>,
    L::Service: Service<u64> + Clone + 'static,
    <L::Service as Service<u64>>::Future: 'static,
{
    fn hang(_: u64) -> Pending<Result<u64, Fault>> {
        SENT.fetch_add(1, Ordering::Relaxed);
        pending()
    }
    let runtime = single_thread();
    // Timers want a runtime around them, though nothing here lets one run.
    let _inside = runtime.enter();
    let inner: Hung = tower::service_fn(hang);
    let service = layer.layer(inner);
    let mut context = Context::from_waker(Waker::noop());
    let mut join = |queue: &mut VecDeque<Caller>| {
        let service = service.clone();
        let mut caller: Caller = Box::pin(async move { service.oneshot(1).await.is_ok() });
        let state = caller.as_mut().poll(&mut context);
        queue.push_back(caller);
        state.is_pending()
    };
    let mut queue = VecDeque::new();
    // One has the slot, the others wait for it.
    for _ in 0..=waiting {
        if !join(&mut queue) {
            return Err("a waiter was not kept waiting".to_owned());
        }
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut samples = Vec::new();
    for _ in 0..effort.rounds {
        let before = SENT.load(Ordering::Relaxed);
        let start = ThreadTime::now();
        for _ in 0..WAKES {
            drop(queue.pop_front());
            if let Some(next) = queue.front_mut() {
                let _ = next.as_mut().poll(&mut context);
            }
        }
        samples.push(start.elapsed().as_secs_f64() * 1e9 / WAKES as f64);
        if SENT.load(Ordering::Relaxed) - before != WAKES {
            return Err("the next in line was not let through".to_owned());
        }
        for _ in 0..WAKES {
            join(&mut queue);
        }
    }
    Spread::of(&samples).ok_or_else(|| "no round".to_owned())
}
