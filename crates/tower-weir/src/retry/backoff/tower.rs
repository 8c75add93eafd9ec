//! To tower's backoffs and from them.

use std::{
    any, fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};
use tower::retry::backoff::{Backoff as TowerBackoff, MakeBackoff};

use super::Backoff;
use crate::random::{Seed, Stream, Streams};

/// One of our backoffs for a `tower::retry::Policy` that asks for tower's
/// [`MakeBackoff`].
///
/// Every session it makes draws its own random numbers. Clones share the
/// numbering of the sessions, so theirs differ too.
#[derive(Clone, Debug)]
pub struct ToTower<B> {
    backoff: B,
    streams: Arc<Streams>,
}

impl<B: Backoff + Clone> ToTower<B> {
    /// Makes sessions of `backoff`, seeded by the system.
    pub fn new(backoff: B) -> Self {
        Self::seeded(backoff, Seed::random())
    }

    /// Starts the random numbers from `seed`: the sessions made after it, in
    /// their order, wait the same in every run. Sessions of clones made earlier
    /// are not affected.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self::seeded(self.backoff, seed.into())
    }

    fn seeded(backoff: B, seed: Seed) -> Self {
        Self {
            backoff,
            streams: Arc::new(Streams::new(seed)),
        }
    }
}

impl<B: Backoff + Clone> MakeBackoff for ToTower<B> {
    type Backoff = TowerSession<B>;

    fn make_backoff(&mut self) -> Self::Backoff {
        TowerSession {
            stream: self.streams.stream(),
            maker: self.clone(),
            retry: 0,
            prev: None,
        }
    }
}

/// The waits of one request, made by [`ToTower`].
///
/// A clone is a new session: it starts at the first retry, with random numbers
/// of its own.
#[derive(Debug)]
pub struct TowerSession<B> {
    maker: ToTower<B>,
    stream: Stream,
    retry: u32,
    prev: Option<Duration>,
}

impl<B: Backoff + Clone> Clone for TowerSession<B> {
    fn clone(&self) -> Self {
        self.maker.clone().make_backoff()
    }
}

impl<B: Backoff> TowerBackoff for TowerSession<B> {
    type Future = Sleep;

    /// # Panics
    ///
    /// Outside of a tokio runtime with its timer on, as [`sleep`] does.
    fn next_backoff(&mut self) -> Sleep {
        self.retry = self.retry.saturating_add(1);
        let u = self.stream.uniform();
        let delay = self.maker.backoff.delay(self.retry, self.prev, u);
        self.prev = Some(delay);
        sleep(delay)
    }
}

/// A tower [`MakeBackoff`] as one of our backoffs.
///
/// It must wait with tokio's [`Sleep`], as tower's `ExponentialBackoff` does,
/// for only that tells how long it is going to wait. The wait before retry `n`
/// is the `n`th of a fresh session; the 64th stands for all that follow.
///
/// `u` and `prev` are not used: the randomness is tower's own, and a session of
/// tower's `ExponentialBackoffMaker` starts from a copy of the maker's
/// generator. Two requests of one layer therefore wait equally long, which is
/// what a jitter should prevent: prefer [`ExponentialJitter`] where the choice is
/// yours.
///
/// [`ExponentialJitter`]: super::ExponentialJitter
///
/// # Panics
///
/// `delay` panics outside of a tokio runtime with its timer on, as
/// [`sleep`] does.
pub struct FromTower<M>(Mutex<M>);

impl<M> FromTower<M>
where
    M: MakeBackoff + Send,
    M::Backoff: TowerBackoff<Future = Sleep>,
{
    /// Takes its waits from the sessions that `maker` makes.
    pub const fn new(maker: M) -> Self {
        Self(Mutex::new(maker))
    }
}

impl<M> fmt::Debug for FromTower<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromTower")
            .field(&format_args!("{}", any::type_name::<M>()))
            .finish()
    }
}

impl<M> Backoff for FromTower<M>
where
    M: MakeBackoff + Send,
    M::Backoff: TowerBackoff<Future = Sleep>,
{
    fn delay(&self, retry: u32, _prev: Option<Duration>, _u: f64) -> Duration {
        let mut session = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .make_backoff();
        for _ in 1..retry.min(64) {
            drop(session.next_backoff());
        }
        // Read first: read afterwards, the time between would shorten the wait.
        let now = Instant::now();
        session.next_backoff().deadline().duration_since(now)
    }
}
