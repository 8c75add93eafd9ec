/// How much rarer probes of a known ceiling become at most. With 8 the probes
/// cost a refusal in 256 calls at 32 slots, and a ceiling that has risen is
/// found within 2 s at 100 ms a call.
const MAX_FACTOR: usize = 8;

/// Steps above the old ceiling in a row that prove it gone.
const STEPS_TO_FORGET: u32 = 3;

/// Where the upstream last refused calls, and how often to look whether it
/// still would.
///
/// Below a ceiling the limit grows by one each round, and the step beyond is
/// refused: one refusal and one idle slot each round, for ever. So steps to the
/// ceiling become rarer each time that one of ours runs into it.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Ceiling {
    /// The calls in flight at the last refusal.
    last: Option<usize>,
    /// What multiplies the successes that a step near the ceiling takes.
    factor: usize,
    /// Steps above the ceiling since the last overload.
    above: u32,
    /// Successes since the last step, counted across decreases. Each counts: what
    /// else they touch comes next.
    since_step: usize,
}

impl Ceiling {
    pub(super) fn new() -> Self {
        Self {
            last: None,
            factor: 1,
            above: 0,
            since_step: usize::MAX,
        }
    }

    pub(super) fn last(&self) -> Option<usize> {
        self.last
    }

    #[inline]
    pub(super) fn succeeded(&mut self) {
        self.since_step = self.since_step.saturating_add(1);
    }

    /// How many times more successes than elsewhere the step up from `limit`
    /// takes. Only the last steps to the ceiling are rare: from further below, a
    /// slow climb would leave slots idle.
    pub(super) fn factor(&self, limit: usize) -> usize {
        match self.last {
            Some(last) if limit <= last && 100 * (limit + 1) >= 95 * last => self.factor,
            _ => 1,
        }
    }

    /// The limit went up by one, to `limit`. True if that makes enough steps to
    /// forget the ceiling.
    pub(super) fn stepped(&mut self, limit: usize) -> bool {
        self.since_step = 0;
        if self.last.is_none_or(|last| limit <= last) {
            return false;
        }
        self.factor = 1;
        self.above += 1;
        let forget = self.above == STEPS_TO_FORGET;
        if forget {
            self.last = None;
            self.above = 0;
        }
        forget
    }

    /// An overload began with `in_flight` calls in flight.
    pub(super) fn hit(&mut self, in_flight: usize) {
        // Within 15% it is the same ceiling, seen through calls that ended or
        // cooled at that moment; one slot more, since 15% of a few slots is none.
        let near = self.last.is_some_and(|last| {
            100 * in_flight >= 85 * last && 100 * in_flight <= 115 * last + 100
        });
        // A step of ours meets its refusal within about a round; two allow for
        // calls of uneven length, and at a limit of 1 a round is too few.
        let ours = self.since_step <= (2 * in_flight).max(4);
        // A refusal that is not ours means that others share the server. Then all
        // should grow alike: with the factor halved instead, whoever came last
        // waits longest for a slot (Jain's index .97 instead of .98 for 4 clients
        // on 32 slots, and .90 instead of .93 of the goodput under random 503s).
        self.factor = match near && ours {
            true => (2 * self.factor).min(MAX_FACTOR),
            false => 1,
        };
        self.last = Some(in_flight);
        self.above = 0;
    }
}
