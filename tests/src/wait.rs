//! Waiting for what is bound to come.

use std::time::Duration;

use tokio::time::sleep;

/// A test that has waited this long has failed, on however busy a machine.
const LONG: Duration = Duration::from_secs(120);

/// Looks until `reached` says yes.
///
/// # Panics
/// After 120 s, with `what` was waited for.
pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let look = async {
        while !reached() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(what, look).await;
}

/// Waits for a future.
///
/// # Panics
/// After 120 s, with `what` was waited for: a hang is to fail, not to hang.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match in_time(future).await {
        Some(output) => output,
        None => panic!("waited in vain: {what}"),
    }
}

/// Waits for a future; `None` after 120 s.
pub async fn in_time<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        output = future => Some(output),
        () = sleep(LONG) => None,
    }
}
