//! Admit, settle, trip and probe, with their threads in every order.
//!
//! Run by `RUSTFLAGS="--cfg weir_loom" cargo test -p tower-weir --lib loom`. The
//! flag has a name of its own, since under `--cfg loom` tokio has no `net`.
//!
//! A waker is loom's `Notify`: whoever is not woken leaves the model in a
//! deadlock, which loom reports.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use loom::{
    model,
    sync::{
        Notify,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use tokio::time::Instant;

use super::{
    count::Count,
    entry::Entry,
    gate::{Gate, Load},
    knobs::Knobs,
    permit::Permit,
    settings::Settings,
    waiter::{Entered, Patience, Waiter, Wish, enter, enter_at_once},
};
#[cfg(feature = "server")]
use crate::server::{AdmissionConfig, Goes, Pass, ServerGate, Terms};
use crate::{
    BoxError,
    aimd::{Limiter, LimiterConfig, law::FixedLimit},
    circuit_breaker::{
        Breaker, BreakerConfig, FailureRun, GateConfig, OpenFor, Probes, State, WhenOpen,
    },
    observe::Seam,
    outcome::Outcome,
    shutdown::Member,
};

const SECOND: Duration = Duration::from_secs(1);

/// The entry of a circuit, and the moments at which it is called.
#[derive(Clone)]
struct Host {
    entry: Arc<Entry<Breaker>>,
    made: Instant,
    waiting: Count,
}

impl Host {
    /// A circuit that opens with the first failure, for a second, and closes
    /// with so many good probes.
    fn new(when_open: WhenOpen, probes: u32) -> Self {
        let open_for = OpenFor::new(SECOND, SECOND).unwrap().jitter(None);
        let breaker = BreakerConfig::default()
            .failure_run(FailureRun::new(1, Duration::ZERO))
            .open_for(open_for)
            .probes(Probes::all(probes));
        let config = GateConfig {
            breaker: breaker.into(),
            when_open,
        };
        let name: Arc<str> = "a".into();
        let made = Instant::now();
        let gate = Breaker::open(&config, &name, 1, made);
        let entry = Entry::new(name, gate, Seam::default(), Arc::default(), knobs(), false);
        Self {
            entry: Arc::new(entry),
            made,
            waiting: Count::default(),
        }
    }

    /// The same with its circuit open and the open period over.
    fn tripped(when_open: WhenOpen, probes: u32) -> Self {
        let host = Self::new(when_open, probes);
        admitted(host.call(host.made)).settle(Outcome::failed(), host.made);
        host
    }

    fn call(&self, now: Instant) -> Result<Entered<Breaker>, BoxError> {
        let until = self.made + 1000 * SECOND;
        let patience = Patience {
            until,
            deadline: None,
        };
        let wish = Wish {
            patience,
            weight: 1,
            load: Load::default(),
        };
        enter(&self.entry, now, wish, || self.waiting.enter(usize::MAX))
    }

    /// When the open period is over. The circuit's own clock never runs
    /// backwards, so that the machine's plays no part from the first call on.
    fn later(&self) -> Instant {
        self.made + 100 * SECOND
    }

    fn state(&self) -> State {
        let now = self.later();
        self.entry.inspect(|gate, _| gate.snapshot(now).state)
    }

    /// Whether nothing is out, and a call is admitted.
    fn is_free(&self) -> bool {
        self.entry.is_quiet() && matches!(self.call(self.later()), Ok(Entered::Admitted(_)))
    }
}

fn admitted(entered: Result<Entered<Breaker>, BoxError>) -> Permit<Breaker> {
    match entered {
        Ok(Entered::Admitted(permit)) => permit,
        _ => panic!("it was to be admitted"),
    }
}

fn waits(entered: Result<Entered<Breaker>, BoxError>) -> Waiter<Breaker> {
    match entered {
        Ok(Entered::Waiting(waiter)) => waiter,
        _ => panic!("it was to wait"),
    }
}

#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Blocks until the waiter is admitted, or is to look again at `timer`.
fn wait<G: Gate>(mut waiter: Waiter<G>, timer: Option<Instant>) -> Option<Permit<G>> {
    let bell = Arc::new(Bell(Notify::new()));
    let waker = Waker::from(bell.clone());
    loop {
        match waiter.look(&mut Context::from_waker(&waker)) {
            Ok(permit) => return Some(permit.unwrap()),
            Err(at) if Some(at) == timer => return None,
            Err(_) => bell.0.wait(),
        }
    }
}

#[test]
fn a_trip_lets_nobody_through_afterwards_and_no_straggler_closes_it() {
    model(|| {
        let host = Host::new(WhenOpen::Refuse, 1);
        let other = host.clone();
        let good = thread::spawn(move || {
            if let Ok(entered) = other.call(other.made) {
                admitted(Ok(entered)).settle(Outcome::success(), other.made);
            }
        });
        admitted(host.call(host.made)).settle(Outcome::failed(), host.made);
        assert_eq!(host.state(), State::Open);
        assert!(host.call(host.made).is_err());
        good.join().unwrap();
        assert_eq!(host.state(), State::Open);
        assert!(host.is_free());
    });
}

#[test]
fn there_is_one_probe_at_a_time_and_its_place_is_never_lost() {
    model(|| {
        let host = Host::tripped(WhenOpen::Refuse, 1);
        let flying = Arc::new(AtomicUsize::new(0));
        let probe = |host: Host, flying: Arc<AtomicUsize>| {
            if let Ok(entered) = host.call(host.later()) {
                let permit = admitted(Ok(entered));
                assert_eq!(flying.fetch_add(1, SeqCst), 0);
                flying.fetch_sub(1, SeqCst);
                // Its caller goes away.
                drop(permit);
            }
        };
        let (other, count) = (host.clone(), flying.clone());
        let one = thread::spawn(move || probe(other, count));
        probe(host.clone(), flying);
        one.join().unwrap();
        assert_eq!(host.state(), State::HalfOpen);
        assert!(host.is_free());
    });
}

#[test]
fn a_probe_that_outlived_its_lease_moves_nothing() {
    model(|| {
        let host = Host::tripped(WhenOpen::Refuse, 1);
        let mut hanging = admitted(host.call(host.later()));
        let over = host.later() + 30 * SECOND;
        let late = thread::spawn(move || hanging.settle(Outcome::failed(), over));
        // Whoever comes first: it was replaced, or it has opened the circuit.
        if let Ok(entered) = host.call(over) {
            admitted(Ok(entered)).settle(Outcome::success(), over);
            late.join().unwrap();
            assert_eq!(host.state(), State::Closed);
        } else {
            late.join().unwrap();
            assert_eq!(host.state(), State::Open);
        }
    });
}

#[test]
fn who_waits_is_woken_when_a_good_probe_closes_the_circuit() {
    model(|| {
        let host = Host::tripped(WhenOpen::Wait, 1);
        let mut probe = admitted(host.call(host.later()));
        let waiter = waits(host.call(host.later()));
        let at = host.later();
        let settles = thread::spawn(move || probe.settle(Outcome::success(), at));
        drop(wait(waiter, None));
        settles.join().unwrap();
        assert_eq!(host.state(), State::Closed);
        assert!(host.is_free());
    });
}

#[test]
fn who_waits_is_woken_to_set_a_timer_when_a_probe_fails() {
    model(|| {
        let host = Host::tripped(WhenOpen::Wait, 1);
        let mut probe = admitted(host.call(host.later()));
        let waiter = waits(host.call(host.later()));
        let at = host.later();
        let settles = thread::spawn(move || probe.settle(Outcome::failed(), at));
        assert!(wait(waiter, Some(at + SECOND)).is_none());
        settles.join().unwrap();
        assert_eq!(host.state(), State::Open);
        assert!(host.entry.is_quiet());
    });
}

#[test]
fn a_place_granted_to_one_who_leaves_goes_to_the_next() {
    model(|| {
        let host = Host::tripped(WhenOpen::Wait, 3);
        let mut probe = admitted(host.call(host.later()));
        let leaves = waits(host.call(host.later()));
        let stays = waits(host.call(host.later()));
        let at = host.later();
        let settles = thread::spawn(move || probe.settle(Outcome::success(), at));
        let goes = thread::spawn(move || drop(leaves));
        drop(wait(stays, None));
        settles.join().unwrap();
        goes.join().unwrap();
        assert_eq!(host.state(), State::HalfOpen);
        assert!(host.is_free());
    });
}

#[test]
fn a_service_that_pends_is_woken_when_the_probe_has_settled() {
    for (outcome, state) in [
        (Outcome::success(), State::Closed),
        (Outcome::failed(), State::Open),
    ] {
        model(move || {
            let host = Host::tripped(WhenOpen::Pend, 1);
            let at = host.later();
            let mut probe = admitted(host.call(at));
            let settles = thread::spawn(move || probe.settle(outcome, at));
            let bell = Arc::new(Bell(Notify::new()));
            let waker = Waker::from(bell.clone());
            let mut place = None;
            loop {
                match host.entry.pend(place.take(), &waker, at) {
                    None => break,
                    // Its timer is set to the end of the new opening.
                    Some((taken, Some(until))) if until == at + SECOND => {
                        host.entry.unpend(taken);
                        break;
                    }
                    Some((taken, _)) => place = Some(taken),
                }
                bell.0.wait();
            }
            settles.join().unwrap();
            assert_eq!(host.state(), state);
        });
    }
}

fn knobs() -> Arc<Knobs> {
    Arc::new(Knobs::of(&Settings::default()))
}

/// A limiter of one slot.
fn one_slot(name: &Arc<str>) -> Entry<Limiter> {
    let config = LimiterConfig {
        custom: Some(Arc::new(|_, _| Box::new(FixedLimit::new(1)))),
        ..LimiterConfig::default()
    };
    let gate = Limiter::open(&config, name, 1, Instant::now());
    Entry::new(
        name.clone(),
        gate,
        Seam::default(),
        Arc::default(),
        knobs(),
        false,
    )
}

#[test]
fn calls_that_go_at_once_never_share_a_slot_and_wake_who_waits_for_it() {
    model(|| {
        let entry = Arc::new(one_slot(&"a".into()));
        let inside = Arc::new(AtomicUsize::new(0));
        let call = |entry: Arc<Entry<Limiter>>, inside: Arc<AtomicUsize>| {
            let wish = |now| Wish {
                patience: Patience {
                    until: now + 1000 * SECOND,
                    deadline: None,
                },
                weight: 1,
                load: Load::default(),
            };
            let count = Count::default();
            let entered = enter_at_once(&entry, 1, None, wish, || count.enter(usize::MAX));
            let mut permit = match entered {
                Ok(permit) => permit,
                Err(Ok(waiter)) => wait(waiter, None).unwrap(),
                Err(Err(error)) => panic!("{error}"),
            };
            assert_eq!(inside.fetch_add(1, SeqCst), 0);
            inside.fetch_sub(1, SeqCst);
            permit.settle(Outcome::success(), Instant::now());
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (entry, inside) = (entry.clone(), inside.clone());
                thread::spawn(move || call(entry, inside))
            })
            .collect();
        call(entry.clone(), inside);
        for other in others {
            other.join().unwrap();
        }
        assert!(entry.is_quiet());
    });
}

/// A server's operations that find room for one at a time, each with a body that
/// may be with its caller for a second.
#[cfg(feature = "server")]
fn one_place() -> (Arc<Entry<ServerGate>>, Instant) {
    let mut config = AdmissionConfig::default();
    config.limits.throttle_at = 1;
    config.max_hold = SECOND;
    let (name, made): (Arc<str>, _) = ("".into(), Instant::now());
    let gate = ServerGate::open(&config, &name, 1, made);
    let entry = Entry::new(name, gate, Seam::default(), Arc::default(), knobs(), false);
    (Arc::new(entry), made)
}

#[cfg(feature = "server")]
#[test]
fn a_head_says_nothing_of_the_next_operation_at_its_place() {
    at_the_place_of_one_that_is(drop);
}

#[cfg(feature = "server")]
#[test]
fn nor_does_that_of_one_whose_body_was_there_at_once() {
    at_the_place_of_one_that_is(|mut read| read.finish_at_once());
}

#[cfg(feature = "server")]
fn at_the_place_of_one_that_is(over: fn(Pass)) {
    model(move || {
        let (entry, made) = one_place();
        let operation = |now| {
            let patience = Patience {
                until: made + 1000 * SECOND,
                deadline: None,
            };
            let wish = Wish {
                patience,
                weight: 1,
                load: Load::default(),
            };
            enter::<_, Goes>(&entry, now, wish, || Count::default().enter(usize::MAX))
        };
        let at_once = || match operation(made) {
            Ok(Entered::Admitted(goes)) => goes.on(Terms::UNSAID),
            _ => panic!("there was room"),
        };
        // The place is made before: loom does not see that.
        at_once().head(made);
        let mut first = at_once();
        // Its head goes out and its body is read, at any time.
        let reads = thread::spawn(move || {
            first.head(made);
            over(first);
        });
        // Meanwhile its time is up, unless it has ended or its head is not seen yet.
        let later = made + 2 * SECOND;
        entry.reclaim(later);
        let next = operation(later);
        reads.join().unwrap();
        match next {
            Ok(Entered::Admitted(next)) => {
                let mut next = next.on(Terms::UNSAID);
                assert_eq!((entry.bodies(), entry.unanswered()), (0, 1));
                entry.reclaim(later + 100 * SECOND);
                assert_eq!(entry.unanswered(), 1, "it has no head, and all the time");
                next.head(later);
                assert_eq!((entry.bodies(), entry.unanswered()), (1, 0));
                drop(next);
            }
            Ok(Entered::Waiting(waiter)) => drop(wait(waiter, None)),
            Err(error) => panic!("{error}"),
        }
        assert!(entry.is_quiet());
        assert_eq!(entry.bodies(), 0);
    });
}
