//! Fills a circuit's window and makes 10,000 more calls, for callgrind to count
//! the instructions of a call whatever the window holds. See
//! `docs/circuit-breaker-figures.md` for the command.

use std::{
    convert::Infallible,
    env,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tower::{Layer, Service, service_fn};
use tower_weir::{
    BoxError,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, Window},
    outcome::{Outcome, classify_fn},
};

const MEASURED: u64 = 10_000;

fn judge(result: Result<&u64, &BoxError>) -> Outcome {
    // One in ten fails, which is less than opens the circuit.
    match result {
        Ok(n) if n % 10 == 0 => Outcome::failed(),
        _ => Outcome::success(),
    }
}

async fn upstream(n: u64) -> Result<u64, Infallible> {
    Ok(n)
}

fn calls<S>(service: &mut S, from: u64, to: u64)
where
    S: Service<u64, Response = u64, Error = BoxError>,
{
    let mut context = Context::from_waker(Waker::noop());
    for n in from..to {
        let call = pin!(service.call(n));
        assert!(matches!(call.poll(&mut context), Poll::Ready(Ok(_))));
    }
}

/// What callgrind is told to count.
#[inline(never)]
fn measured<S>(service: &mut S)
where
    S: Service<u64, Response = u64, Error = BoxError>,
{
    calls(service, 0, black_box(MEASURED));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let usage = "usage: breaker_record time|calls NUMBER";
    let kind = arguments.next().ok_or(usage)?;
    let number: u32 = arguments.next().ok_or(usage)?.parse()?;
    let window = match &*kind {
        "time" => Window::default(),
        "calls" => Window::calls(number)?,
        _ => return Err(usage.into()),
    };
    tokio::time::pause();
    let config = BreakerConfig::default().window(window);
    let layer = CircuitBreakerLayer::new(classify_fn(judge)).config(config);
    let mut service = layer.layer(service_fn(upstream));

    // Through all slices of the default window, 5 minutes in 30 of them.
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(10)).await;
        calls(&mut service, 1, u64::from(number) / 29);
    }
    measured(&mut service);
    let [(_, snapshot)] = &layer.snapshot()[..] else {
        return Err("no circuit".into());
    };
    assert!(snapshot.counts.calls >= u64::from(number.min(MEASURED as u32)));
    Ok(())
}
