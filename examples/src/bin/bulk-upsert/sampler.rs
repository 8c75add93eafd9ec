use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tower_weir::circuit_breaker::State;

use crate::send::Gauge;

const EVERY: Duration = Duration::from_millis(20);
const MOST_SAMPLES: usize = 1 << 14;

/// The stack at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Since the run began.
    pub(crate) at: Duration,
    pub(crate) limit: usize,
    pub(crate) in_flight: usize,
    pub(crate) circuit: Option<State>,
}

/// What was sampled in a run.
pub(crate) type Series = Vec<Sample>;

/// Looks at the stack now and then.
pub(crate) struct Sampler {
    gauge: Gauge,
    start: Instant,
    interval: Interval,
    series: Series,
    /// Of so many looks one is kept.
    keep: usize,
    looks: usize,
}

impl Sampler {
    pub(crate) fn new(gauge: Gauge, start: Instant) -> Self {
        let mut interval = interval(EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            gauge,
            start,
            interval,
            series: Vec::new(),
            keep: 1,
            looks: 0,
        }
    }

    /// Waits until it is time to look.
    pub(crate) async fn tick(&mut self) {
        self.interval.tick().await;
    }

    /// Looks, and remembers.
    pub(crate) fn sample(&mut self) -> Sample {
        let host = self.gauge.host();
        let limiter = host.as_ref().and_then(|host| host.limiter.as_ref());
        let sample = Sample {
            at: self.start.elapsed(),
            limit: limiter.map_or(0, |limiter| limiter.limit),
            in_flight: limiter.map_or(0, |limiter| limiter.in_flight),
            circuit: host
                .and_then(|host| host.circuit)
                .map(|circuit| circuit.state),
        };
        if self.looks.is_multiple_of(self.keep) {
            self.series.push(sample);
        }
        self.looks += 1;
        if self.series.len() == MOST_SAMPLES {
            // a long run is drawn as coarsely as it is looked at from afar
            let mut index = 0;
            self.series.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.keep *= 2;
        }
        sample
    }

    pub(crate) fn into_series(self) -> Series {
        self.series
    }
}
