//! What the stack's work is made of at the least, each part by itself, and once
//! all together: no stack that does the same can cost less on this machine.

use std::{
    collections::HashMap,
    convert::Infallible,
    hint::black_box,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{Call, Subject, web};

/// One part of the work.
#[derive(Clone)]
struct Part<F>(F);

impl<F: FnMut() + Clone + Send + 'static> Call for Part<F> {
    type Error = Infallible;

    async fn call(&mut self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }

    fn future_size(&mut self) -> usize {
        0
    }
}

fn part(name: &str, part: impl FnMut() + Clone + Send + 'static) -> Subject {
    Subject::new(format!("floor: {name}"), Part(part))
}

fn clock() {
    black_box(Instant::now());
}

/// A state that calls share, on lines of its own.
#[derive(Clone, Default)]
struct Shared(Arc<Lines>);

#[derive(Default)]
#[repr(align(128))]
struct Lines {
    state: Mutex<u64>,
    sum: AtomicU64,
}

impl Shared {
    fn visit(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        *black_box(&mut *state) += 1;
    }

    fn add(&self) {
        black_box(&self.0.sum).fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) {
        drop(black_box(self.clone()));
    }
}

/// A look at the state of one of `count` hosts, in turn, by its name: so large as
/// the stack's, of which one line is looked at.
fn look_up(count: usize) -> impl FnMut() + Clone + Send + 'static {
    let names: Arc<[String]> = (0..count).map(super::ours::shard).collect();
    let state = |name: &String| (name.clone(), Arc::new(Mutex::new([0_u64; 250])));
    let states: HashMap<_, _> = names.iter().map(state).collect();
    let (states, mut next) = (Arc::new(RwLock::new(states)), 0);
    move || {
        next = (next + 1) % names.len();
        let states = states.read().unwrap_or_else(PoisonError::into_inner);
        let mut state = states[&names[next]]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        black_box(&mut *state)[0] += 1;
    }
}

pub(super) fn parts() -> Vec<Subject> {
    let shared = Shared::default();
    let head = web::request(web::HOST).into_parts().0;
    let moved = black_box([1_u8; 256]);

    let on = shared.clone();
    let lock = move || on.visit();
    let on = shared.clone();
    let add = move || on.add();
    let on = shared.clone();
    let count = move || on.count();
    let copy = move || drop(black_box(head.clone()));
    let error = || drop(black_box(Box::new([0_u64; 7])));

    // When it is; the circuit's state; the host's name in the error.
    let (visit, name) = (lock.clone(), count.clone());
    let refusal = move || {
        clock();
        visit();
        name();
        error();
    };
    // Sent and answered; let in and settled; the state, which outlives the service.
    let (visit, state) = (lock.clone(), count.clone());
    let gate = move || {
        clock();
        clock();
        visit();
        visit();
        state();
    };
    // And the policy, the service for the next attempt, the budget's deposit, each
    // of them elsewhere.
    let [policy, next, budget] = [(); 3].map(|()| Shared::default());
    let call = gate.clone();
    let stack = move || {
        call();
        policy.count();
        next.count();
        budget.add();
    };
    // And the slot that the body keeps.
    let (call, hold, head) = (stack.clone(), lock.clone(), copy.clone());
    let web = move || {
        call();
        hold();
        head();
    };
    vec![
        part("a reading of the clock", clock),
        part("a lock taken and released", lock),
        part("a shared sum added to", add),
        part("a shared count up and down", count),
        part("an error of 56 bytes boxed and dropped", error),
        part("256 bytes moved", move || {
            let mut there = moved;
            black_box(&mut there);
        }),
        part("a request's head copied and dropped", copy),
        part("a refusal", refusal),
        part("a call of a breaker, or of a limiter", gate),
        part("a call of the stack", stack),
        part("the same with a request's head copied", web),
        part("a look-up of one host", look_up(1)),
        part("a look-up among 256 hosts", look_up(256)),
    ]
}
