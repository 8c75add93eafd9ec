use std::time::Duration;

use tokio::time::Instant;

/// A request extension: the moment by which the whole request, with all its
/// attempts, its waits in queues and its backoffs, must have ended.
///
/// It takes precedence over the deadline that is set on a layer where it is
/// earlier. When it passes, the attempt under way is dropped and the caller
/// gets a [`DeadlineExceeded`](crate::error::DeadlineExceeded).
///
/// ```
/// use std::time::Duration;
/// use tower_weir::Deadline;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # let _guard = runtime.enter();
/// let mut request = http::Request::get("http://index.internal/query").body(())?;
/// request.extensions_mut().insert(Deadline::after(Duration::from_secs(2)));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The moment `wait` from now.
    pub fn after(wait: Duration) -> Self {
        Self(far(Instant::now(), wait))
    }
}

/// `now + wait`, or a century from now where that is past the clock's end.
#[inline]
pub(crate) fn far(now: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(wait).unwrap_or_else(|| now + CENTURY)
}
