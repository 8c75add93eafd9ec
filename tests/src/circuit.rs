//! Circuits that open soon and stay open.

use std::time::Duration;

use tower_weir::circuit_breaker::{BreakerConfig, FailureRun, OpenFor};

/// A circuit that opens with this many failures in a row, and lets no probe
/// through however slow the machine is.
pub fn opens_after(failures: u32) -> BreakerConfig {
    let hour = Duration::from_secs(3600);
    BreakerConfig::default()
        .failure_run(FailureRun::new(failures, Duration::ZERO))
        .open_for(OpenFor::new(hour, hour).expect("an hour is a period"))
}
