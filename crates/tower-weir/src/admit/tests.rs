//! A circuit held by hand under calls that wait. From outside nobody can hold
//! one yet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};
use tower::{Layer, Service, service_fn};

use super::{
    Core, Plain, Settings,
    count::Count,
    entry::Entry,
    gate::Load,
    permit::Permit,
    waiter::{Patience, Wish, enter_at_once},
};
use crate::{
    BoxError,
    circuit_breaker::{Breaker, GateConfig, WhenOpen},
    error::{CircuitOpen, QueueTimeout},
    outcome::ErrorsFail,
};

type Calls = Core<Breaker, Plain<ErrorsFail>>;

fn core(when_open: WhenOpen) -> (Calls, Arc<Entry<Breaker>>) {
    let settings = Settings {
        queue_timeout: Duration::from_secs(100),
        ..Settings::default()
    };
    let config = GateConfig {
        when_open,
        ..GateConfig::default()
    };
    let core = Core::new(settings, config, Plain::new(ErrorsFail));
    let entry = core.registry().nameless().clone();
    (core, entry)
}

fn call(core: &Calls) -> tokio::task::JoinHandle<Result<u32, BoxError>> {
    let mut service = core.layer(service_fn(|n: u32| async move {
        sleep(Duration::from_millis(5)).await;
        Ok::<_, BoxError>(n)
    }));
    tokio::spawn(service.call(1))
}

fn waiting(entry: &Entry<Breaker>) -> usize {
    entry.inspect(|_, waiting| waiting)
}

#[tokio::test(start_paused = true)]
async fn circuit_held_open_refuses_without_a_time_to_come_again() {
    let (core, entry) = core(WhenOpen::Refuse);
    let sent = call(&core);
    yield_now().await;
    entry.change(Instant::now(), |gate, _| {
        gate.circuit().force_open(Instant::now());
    });
    let error = call(&core).await.unwrap().unwrap_err();
    let open = error.downcast_ref::<CircuitOpen>().expect("another error");
    assert_eq!(open.retry_after(), None);
    assert_eq!(sent.await.unwrap().unwrap(), 1);
    // No time ends it.
    sleep(Duration::from_secs(3600)).await;
    assert!(call(&core).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_go_when_the_circuit_is_let_go() {
    for closed in [true, false] {
        let (core, entry) = core(WhenOpen::Wait);
        entry.change(Instant::now(), |gate, _| {
            gate.circuit().force_open(Instant::now());
        });
        let calls: Vec<_> = (0..5).map(|_| call(&core)).collect();
        sleep(Duration::from_secs(50)).await;
        assert_eq!(waiting(&entry), 5);
        let start = Instant::now();
        entry.change(start, |gate, _| {
            let circuit = gate.circuit();
            if closed {
                circuit.force_closed(start)
            } else {
                circuit.reset(start)
            };
        });
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), 1);
        }
        assert_eq!(start.elapsed(), Duration::from_millis(5));
    }
}

#[tokio::test(start_paused = true)]
async fn circuit_held_open_for_longer_ends_in_a_queue_timeout() {
    let (core, entry) = core(WhenOpen::Wait);
    let start = Instant::now();
    entry.change(start, |gate, _| {
        gate.circuit().force_open(start);
    });
    let error = call(&core).await.unwrap().unwrap_err();
    assert!(error.is::<QueueTimeout>());
    assert_eq!(start.elapsed(), Duration::from_secs(100));
    assert_eq!(waiting(&entry), 0);
}

/// Not ready, for good; a clone has not been asked yet.
#[derive(Default)]
struct Broken {
    failed: bool,
}

impl Clone for Broken {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<u32> for Broken {
    type Response = u32;
    type Error = BoxError;
    type Future = std::future::Ready<Result<u32, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        assert!(!std::mem::replace(&mut self.failed, true), "asked again");
        Poll::Ready(Err("broken".into()))
    }

    fn call(&mut self, _: u32) -> Self::Future {
        unreachable!("it was not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_failed_is_not_asked_again() {
    for enabled in [true, false] {
        let (core, _) = core(WhenOpen::Refuse);
        let core = core.edit(|settings, _| settings.enabled = enabled);
        let mut service = core.layer(Broken::default());
        for _ in 0..2 {
            let error = service.call(1).await.unwrap_err();
            assert_eq!(error.to_string(), "broken");
        }
    }
}

/// A task that is gone with its last waker, and looks then whether its host is
/// locked.
struct Task {
    entry: Arc<Entry<Breaker>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    locked: AtomicUsize,
    gone: AtomicUsize,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        self.seen.gone.fetch_add(1, Relaxed);
        let locked = usize::from(self.entry.is_locked());
        self.seen.locked.fetch_add(locked, Relaxed);
    }
}

/// How many of three tasks that wait in turn are gone in the end, and how many of
/// them while the host was locked.
fn tasks_gone(entry: &Arc<Entry<Breaker>>, wait: impl FnOnce(&mut dyn FnMut() -> Waker)) -> Seen {
    let seen = Arc::new(Seen::default());
    entry.change(Instant::now(), |gate, _| {
        gate.circuit().force_open(Instant::now());
    });
    wait(&mut || {
        let (entry, seen) = (entry.clone(), seen.clone());
        Waker::from(Arc::new(Task { entry, seen }))
    });
    Arc::into_inner(seen).expect("a waker is kept")
}

#[tokio::test(start_paused = true)]
async fn a_task_that_goes_with_its_waker_finds_its_host_unlocked() {
    let (calls, entry) = core(WhenOpen::Wait);
    let queue = tasks_gone(&entry, |waker| {
        let wish = |now| Wish {
            patience: Patience::new(now, Duration::from_secs(1), None),
            weight: 1,
            load: Load::default(),
        };
        let count = Count::default();
        let waiter = enter_at_once(&entry, 1, None, wish, || count.enter(1));
        let mut waiter = waiter.err().unwrap().ok().unwrap();
        for _ in 0..3 {
            let looked = waiter.look::<Permit<_>>(&mut Context::from_waker(&waker()));
            assert!(looked.is_err());
        }
    });
    let calls = calls.edit(|settings, config| {
        settings.pends = true;
        config.when_open = WhenOpen::Pend;
    });
    let entry = calls.registry().nameless().clone();
    let readiness = tasks_gone(&entry, |waker| {
        let mut service = calls.layer(Broken::default());
        for _ in 0..3 {
            let ready = service.poll_ready(&mut Context::from_waker(&waker()));
            assert!(ready.is_pending());
        }
    });
    for Seen { gone, locked } in [queue, readiness] {
        assert_eq!((gone.into_inner(), locked.into_inner()), (3, 0));
    }
}
