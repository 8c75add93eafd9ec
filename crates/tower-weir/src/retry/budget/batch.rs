use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::lock;
use crate::deadline::far;

/// A request extension: what all requests of a batch together may spend on
/// retries. Clones are one budget; put one into every request.
///
/// A retry that would pass one of the limits is not made, and the result that
/// there is goes to the caller. The host's own [`Budget`](super::Budget) must
/// grant the retry too. By default there is no limit.
///
/// ```
/// use std::time::Duration;
/// use tower_weir::retry::budget::{BatchBudget, Cost};
///
/// // A nightly run that may spend 10,000 tokens of a paid API on repetitions.
/// let batch = BatchBudget::new()
///     .max_retries(500)
///     .max_time(Duration::from_secs(600))
///     .max_cost(10_000);
///
/// let mut request = http::Request::post("http://model.internal/embed").body(())?;
/// request.extensions_mut().insert(batch.clone());
/// request.extensions_mut().insert(Cost(800));
/// // ... and when all is done:
/// println!("{:?}", batch.spent());
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct BatchBudget(Arc<Batch>);

#[derive(Debug, Default)]
struct Batch {
    max_retries: Option<u64>,
    max_time: Option<Duration>,
    max_cost: Option<u64>,
    spent: Mutex<BatchSpent>,
    /// Whether it has refused a retry.
    refused: AtomicBool,
}

/// A request extension: what each retry of the request takes of a
/// [`BatchBudget`], in units of the user's own: tokens, cents, rows. A request
/// that names none costs 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost(pub u64);

impl Default for Cost {
    fn default() -> Self {
        Self(1)
    }
}

/// What was spent of a [`BatchBudget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSpent {
    /// Retries that were granted.
    pub retries: u64,
    /// The time they took: the wait before each, from its decision on, and the
    /// attempt to its response's headers.
    pub time: Duration,
    /// The sum of their [`Cost`]s.
    pub cost: u64,
}

impl BatchBudget {
    /// A budget without limits, which counts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows so many retries, over all requests. Like every setter it makes a
    /// fresh budget, of which nothing has been spent.
    #[must_use]
    pub fn max_retries(self, retries: u64) -> Self {
        self.edit(|batch| batch.max_retries = Some(retries))
    }

    /// Allows retries to take so much time together, counted for each request
    /// even where they overlap. A retry whose wait alone would pass it is
    /// refused; an attempt that is under way when it passes may end.
    #[must_use]
    pub fn max_time(self, time: Duration) -> Self {
        self.edit(|batch| batch.max_time = Some(time))
    }

    /// Allows retries of so much [`Cost`] together.
    #[must_use]
    pub fn max_cost(self, cost: u64) -> Self {
        self.edit(|batch| batch.max_cost = Some(cost))
    }

    /// What has been spent.
    pub fn spent(&self) -> BatchSpent {
        *lock(&self.0.spent)
    }

    fn edit(&self, change: impl FnOnce(&mut Batch)) -> Self {
        let mut batch = Batch {
            max_retries: self.0.max_retries,
            max_time: self.0.max_time,
            max_cost: self.0.max_cost,
            ..Batch::default()
        };
        change(&mut batch);
        Self(Arc::new(batch))
    }

    /// Whether nobody has been told yet that it refuses.
    pub(crate) fn first_refusal(&self) -> bool {
        !self.0.refused.swap(true, Ordering::Relaxed)
    }

    /// Spends a retry of `cost`, to be sent at `now + delay`; `None` if the
    /// batch cannot afford it.
    pub(crate) fn spend(&self, cost: Cost, delay: Duration, now: Instant) -> Option<BatchRetry> {
        let Batch {
            max_retries,
            max_time,
            max_cost,
            ..
        } = &*self.0;
        let mut spent = lock(&self.0.spent);
        let after = BatchSpent {
            retries: spent.retries.saturating_add(1),
            time: spent.time.saturating_add(delay),
            cost: spent.cost.saturating_add(cost.0),
        };
        let affordable = max_retries.is_none_or(|max| after.retries <= max)
            && max_time.is_none_or(|max| after.time <= max)
            && max_cost.is_none_or(|max| after.cost <= max);
        affordable.then(|| {
            *spent = after;
            BatchRetry {
                batch: self.clone(),
                cost,
                delay,
                due: far(now, delay),
                sent: false,
            }
        })
    }
}

/// A retry that a batch has paid for. When it is dropped its attempt's time is
/// added, or, if it was never [sent](Self::send), what it cost is given back.
#[derive(Debug)]
pub(crate) struct BatchRetry {
    batch: BatchBudget,
    cost: Cost,
    delay: Duration,
    /// When its wait is over, and the time of its attempt begins.
    due: Instant,
    sent: bool,
}

impl BatchRetry {
    /// Its attempt is made.
    pub(crate) fn send(&mut self) {
        self.sent = true;
    }
}

impl Drop for BatchRetry {
    fn drop(&mut self) {
        let took = self
            .sent
            .then(|| Instant::now().saturating_duration_since(self.due));
        let mut spent = lock(&self.batch.0.spent);
        match took {
            Some(took) => spent.time = spent.time.saturating_add(took),
            None => {
                spent.retries = spent.retries.saturating_sub(1);
                spent.time = spent.time.saturating_sub(self.delay);
                spent.cost = spent.cost.saturating_sub(self.cost.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spend(batch: &BatchBudget, cost: u64, delay: Duration) -> bool {
        let retry = batch.spend(Cost(cost), delay, Instant::now());
        retry.map(|mut retry| retry.send()).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_refuses_what_would_pass_it() {
        let retries = BatchBudget::new().max_retries(2);
        let granted: Vec<bool> = (0..3).map(|_| spend(&retries, 1, SECOND)).collect();
        assert_eq!(granted, [true, true, false]);

        let cost = BatchBudget::new().max_cost(10);
        assert!(spend(&cost, 7, SECOND) && !spend(&cost, 4, SECOND) && spend(&cost, 3, SECOND));
        assert!(
            spend(&cost, 0, SECOND),
            "what costs nothing is always borne"
        );

        let time = BatchBudget::new().max_time(3 * SECOND);
        assert!(spend(&time, 1, 2 * SECOND) && !spend(&time, 1, SECOND * 3 / 2));
        assert!(spend(&time, 1, SECOND));
        assert_eq!(
            time.spent(),
            BatchSpent {
                retries: 2,
                time: 3 * SECOND,
                cost: 2
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_attempt_counts_from_the_end_of_its_wait() {
        let batch = BatchBudget::new();
        let mut retry = batch.spend(Cost(1), SECOND, Instant::now()).unwrap();
        retry.send();
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(batch.spent().time, SECOND);
        drop(retry);
        assert_eq!(batch.spent().time, 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_that_is_not_made_is_given_back() {
        let batch = BatchBudget::new().max_retries(1);
        let retry = batch.spend(Cost(5), SECOND, Instant::now()).unwrap();
        drop(retry);
        assert_eq!(batch.spent(), BatchSpent::default());
        assert!(spend(&batch, 5, SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn clones_share_what_is_spent_and_a_setter_makes_it_fresh() {
        let batch = BatchBudget::new();
        assert!(spend(&batch.clone(), 1, SECOND));
        assert_eq!(batch.spent().retries, 1);
        assert_eq!(batch.max_retries(1).spent(), BatchSpent::default());
    }

    #[tokio::test(start_paused = true)]
    async fn costs_saturate() {
        let batch = BatchBudget::new();
        assert!(spend(&batch, u64::MAX, Duration::MAX / 2));
        assert!(!spend(&batch.max_cost(1), 2, SECOND));
    }
}
