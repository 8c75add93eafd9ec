//! Instructions that a thousand calls execute, counted by callgrind.

#![allow(missing_docs, reason = "the harness writes public items")]

use std::hint::black_box;

use gungraun::prelude::*;
use tokio::runtime::Runtime;
use tower_weir_bench::{
    single_thread,
    subjects::{self, Subject},
};

const CALLS: u64 = 1000;

fn warm(name: &str) -> (Runtime, Subject) {
    let mut all = subjects::generic();
    all.extend(subjects::over_http());
    all.extend(subjects::servers());
    all.extend(subjects::open());
    let subject = all.into_iter().find(|subject| subject.name == name);
    let mut subject = subject.expect("a subject of this name");
    let runtime = single_thread();
    runtime
        .block_on(subject.run(CALLS))
        .expect("calls that succeed");
    (runtime, subject)
}

#[library_benchmark(setup = warm)]
#[bench::nothing("nothing")]
#[bench::tower_limit("tower ConcurrencyLimit")]
#[bench::tower_retry("tower Retry + TpsBudget")]
#[bench::tower_both("tower Retry + ConcurrencyLimit")]
#[bench::resilience_retry("tower-resilience retry")]
#[bench::resilience_breaker("tower-resilience circuit breaker")]
#[bench::resilience_adaptive("tower-resilience adaptive")]
#[bench::resilience_bulkhead("tower-resilience bulkhead")]
#[bench::resilience_three("tower-resilience three")]
#[bench::recloser("recloser")]
#[bench::failsafe("failsafe")]
#[bench::congestion_limiter("congestion-limiter")]
#[bench::weir_retry("weir: retry")]
#[bench::weir_breaker("weir: breaker")]
#[bench::weir_limiter("weir: limiter")]
#[bench::weir_three_apart("weir: three apart")]
#[bench::weir_stack("weir: stack")]
#[bench::http_nothing("http: nothing")]
#[bench::http_tower_both("http: tower Retry + ConcurrencyLimit")]
#[bench::http_resilience_three("http: tower-resilience three")]
#[bench::http_weir_retry("http: weir: retry")]
#[bench::http_weir_breaker("http: weir: breaker")]
#[bench::http_weir_limiter("http: weir: limiter")]
#[bench::http_weir_stack("http: weir: stack")]
#[bench::http_weir_stack_one_host("http: weir: stack, one host")]
#[bench::server_bare("server: bare")]
#[bench::server_nothing("server: a layer that does nothing")]
#[bench::server_admission("server: admission")]
#[bench::server_patterns("server: admission, two patterns")]
#[bench::server_exempt("server: admission, exempt")]
#[bench::axum_bare("axum: bare")]
#[bench::axum_nothing("axum: a layer that does nothing")]
#[bench::axum_admission("axum: admission")]
#[bench::axum_exempt("axum: admission, exempt")]
#[bench::open_resilience("open: tower-resilience circuit breaker")]
#[bench::open_recloser("open: recloser")]
#[bench::open_failsafe("open: failsafe")]
#[bench::open_weir_breaker("open: weir: breaker")]
#[bench::open_weir_stack("open: weir: stack")]
fn thousand_calls((runtime, mut subject): (Runtime, Subject)) -> (Runtime, Subject) {
    let done = runtime.block_on(subject.run(CALLS));
    black_box(done).expect("calls that succeed");
    // Given back, so that dropping them is not counted.
    (runtime, subject)
}

library_benchmark_group!(name = calls, benchmarks = thousand_calls);
main!(library_benchmark_groups = calls);
