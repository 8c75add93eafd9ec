use std::{fmt, time::Duration};

/// What became of the requests since a shutdown began.
///
/// A request is counted once: those that a layer had counted in when it began
/// are `finished`, `queued`, `backoffs`, `cancelled` or `cut`, and these five add
/// up to how many there were. What a limiter or a breaker refuses that is under
/// no layer that counts is `queued` or `refused`; once a layer has counted a
/// request in for the handle, only such layers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Requests in flight that came to a result of their own, good or bad.
    pub finished: u64,
    /// New requests that were refused.
    pub refused: u64,
    /// Requests that were refused while they waited for a slot or the circuit,
    /// and those in flight that a layer further in refused for another handle.
    pub queued: u64,
    /// Requests that ended while they waited to be sent again.
    pub backoffs: u64,
    /// Requests whose callers went away, from a queue too, or whose futures were
    /// dropped because something in them panicked.
    pub cancelled: u64,
    /// Requests that were still in flight when the grace was over. The upstream
    /// may have acted on them. One whose answer comes in that instant, or whose
    /// caller goes away after it, is in here and in no other.
    pub cut: u64,
    /// Responses whose bodies were still open at the end, as limiters, breakers and
    /// admission layers count them: each its own, none under `Hold::Headers`, and
    /// none whose layer's `max_hold` was over.
    pub bodies: u64,
    /// Calls without a response at the end in limiters and breakers that are under
    /// no layer that counts. Nothing has cut them: they go on.
    pub left: u64,
    /// How long it has taken from its beginning.
    pub took: Duration,
}

impl Drained {
    /// Whether everything that was in flight came to its end: nothing was cut or
    /// left, and no response was half read. Waits that were ended do not count:
    /// their callers know that nothing was sent.
    pub const fn is_clean(&self) -> bool {
        self.cut == 0 && self.bodies == 0 && self.left == 0
    }

    /// A clean end at INFO, another at WARN.
    pub(super) fn log(&self) {
        if self.is_clean() {
            tracing::info!(
                finished = self.finished,
                refused = self.refused,
                queued = self.queued,
                backoffs = self.backoffs,
                cancelled = self.cancelled,
                took_ms = self.took.as_millis() as u64,
                "drained"
            );
        } else {
            tracing::warn!(
                finished = self.finished,
                refused = self.refused,
                queued = self.queued,
                backoffs = self.backoffs,
                cancelled = self.cancelled,
                cut = self.cut,
                bodies = self.bodies,
                left = self.left,
                took_ms = self.took.as_millis() as u64,
                "the grace was over before everything had ended"
            );
        }
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            finished,
            refused,
            queued,
            backoffs,
            cancelled,
            cut,
            bodies,
            left,
            took,
        } = self;
        write!(
            f,
            "{finished} finished, {refused} refused, {queued} ended in a queue, {backoffs} \
             between attempts, {cancelled} given up, {cut} cut, {bodies} bodies open, {left} left, \
             in {:.3} s",
            took.as_secs_f64()
        )
    }
}
