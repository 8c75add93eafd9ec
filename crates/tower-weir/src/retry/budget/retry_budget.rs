#[cfg(test)]
mod tests;

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Budget, BudgetEmpty, BudgetRule, InvalidBudget, lock, share};
use crate::outcome::{Cause, Outcome, Repeat, Verdict};

/// A token, the price of a retry, in the units that are counted: fine enough
/// for any share, and one for each nanosecond of a reserve of one a second.
const TOKEN: u32 = 1_000_000_000;

/// So much later a deposit must be for its moment to be noted: each note is a wait
/// for all who make a deposit at the same time.
const BLINK: u64 = 1_000_000;

/// A slot with so much in it takes no more.
const FULL: u64 = u64::MAX / 2;

/// Deposits are forgotten a slot at a time.
const SLOTS: usize = 10;

/// Retries up to a share of the requests, and a small reserve: the rule of
/// Finagle's `RetryBudget`.
///
/// Each request that reached the upstream and ended with an answer not to be
/// retried deposits `share` of a token; a retry takes a whole one, of the oldest
/// first. A deposit is forgotten after `memory`, or up to a tenth earlier. A failed
/// request deposits nothing, so that in an outage the retries fall to the
/// reserve: it holds `per_second * memory` tokens, is full at first, and is
/// refilled evenly by `per_second` tokens a second (Finagle gives it back in
/// whole windows, and its clients' retries would come in bursts).
///
/// The default is a share of 0.2, 10 a second and a memory of 10 s, as in
/// Finagle: with 1,000 requests a second every failure is retried while up to
/// about 17% of the attempts fail, and in an outage 1% is added to the load.
///
/// The sums are of integers: a share of 0.35 grants 35 retries per 100 requests.
#[derive(Debug)]
#[repr(C)]
pub struct RetryBudget {
    // What a deposit reads comes first, and then what it writes. It takes no lock.
    origin: OnceLock<Instant>,
    open: Open,
    /// The latest moment of a deposit, in nanoseconds from the origin, or up to
    /// [`BLINK`] earlier.
    latest: AtomicU64,
    /// What is deposited at once.
    deposit: AtomicU64,
    /// What was deposited in each slot and is left; slot `n` is at `n % SLOTS`. Only
    /// who holds the lock takes from it.
    deposits: [AtomicU64; SLOTS],
    state: Mutex<State>,
}

/// The place of the newest slot, and when the next one begins, in one number: they
/// are read together. At first, and after the rule has changed, the next one has
/// begun.
#[derive(Debug, Default)]
struct Open(AtomicU64);

#[derive(Clone, Copy, Debug)]
struct Rule {
    deposit: u64,
    per_second: u32,
    /// The length of a slot in nanoseconds.
    slot: u64,
    reserve: u64,
}

#[derive(Debug)]
struct State {
    rule: Rule,
    /// The latest moment seen, from the origin, in nanoseconds.
    elapsed: u64,
    /// The slot that this moment is in.
    newest: u64,
    reserve: u64,
}

impl RetryBudget {
    /// A budget of `share` retries per request (0 to 1000; 0.2 is 20%), and of
    /// `per_second` retries in any case, which remembers for `memory` (1 to 60
    /// seconds).
    ///
    /// # Errors
    ///
    /// [`InvalidBudget`] if an argument is outside its range.
    pub fn new(memory: Duration, per_second: u32, share: f64) -> Result<Self, InvalidBudget> {
        check(memory, share)?;
        Ok(Self::of(memory, per_second, share))
    }

    fn of(memory: Duration, per_second: u32, ratio: f64) -> Self {
        let rule = Rule::of(memory, per_second, ratio);
        let state = State {
            rule,
            elapsed: 0,
            newest: 0,
            reserve: rule.reserve,
        };
        Self {
            origin: OnceLock::new(),
            open: Open::default(),
            latest: AtomicU64::new(0),
            deposit: AtomicU64::new(rule.deposit),
            deposits: Default::default(),
            state: Mutex::new(state),
        }
    }

    /// The place of the slot that this moment is in, where that is the newest.
    #[inline]
    fn open_at(&self, now: Instant) -> Option<usize> {
        let elapsed = nanos(now.saturating_duration_since(*self.origin.get()?));
        let place = self.open.at(elapsed)?;
        // Two at the same time may leave the earlier one: then time seems to have
        // stood still for a moment. Nobody minds one so short as is spared here.
        if elapsed >= self.latest.load(Relaxed).saturating_add(BLINK) {
            self.latest.store(elapsed, Relaxed);
        }
        Some(place)
    }

    #[inline]
    fn add(&self, place: usize) {
        let slot = &self.deposits[place];
        // Far from the greatest number it cannot overflow, however many add at once.
        if slot.load(Relaxed) < FULL {
            slot.fetch_add(self.deposit.load(Relaxed), Relaxed);
        }
    }

    fn left(&self) -> u64 {
        let slots = self.deposits.iter().map(|slot| slot.load(Relaxed));
        slots.fold(0, u64::saturating_add)
    }

    fn withdraw(&self, state: &mut State, now: Instant) -> Result<(), Option<Instant>> {
        let (newest, latest) = self.advance(state, now);
        let rule = state.rule;
        let mut price = u64::from(TOKEN);
        if self.left().saturating_add(state.reserve) < price {
            // Deposits may be forgotten meanwhile, the reserve is not.
            let missing = price - state.reserve;
            return Err((rule.per_second > 0).then(|| {
                let wait = missing.div_ceil(rule.per_second.into());
                latest + Duration::from_nanos(wait)
            }));
        }
        let oldest_first = (newest + 1..=newest + SLOTS).map(|slot| slot % SLOTS);
        for slot in oldest_first {
            let slot = &self.deposits[slot];
            let paid = price.min(slot.load(Relaxed));
            slot.fetch_sub(paid, Relaxed);
            price -= paid;
        }
        // What was added meanwhile is not needed.
        state.reserve -= price;
        Ok(())
    }

    fn change(&self, state: &mut State, rule: Rule) {
        if let Some(origin) = self.origin.get() {
            let latest = Duration::from_nanos(self.latest.load(Relaxed));
            self.advance(state, *origin + latest);
        }
        self.open.close();
        self.deposit.store(rule.deposit, Relaxed);
        if rule.slot != state.rule.slot {
            // Slots of another length: what is left in the old ones counts as new.
            let taken = self.deposits.iter().map(|slot| slot.swap(0, Relaxed));
            let left = taken.fold(0, u64::saturating_add);
            state.newest = state.elapsed / rule.slot;
            // Not stored: whoever has read which slot was open may add to any of them.
            self.deposits[place(state.newest)].fetch_add(left.min(FULL), Relaxed);
        }
        state.reserve = state.reserve.min(rule.reserve);
        state.rule = rule;
    }

    /// Forgets what is too old, fills the reserve up, and returns the place of
    /// the newest slot and the time. A `now` before one already seen counts as
    /// that one: threads read the clock before they wait for the lock.
    #[inline(never)]
    fn advance(&self, state: &mut State, now: Instant) -> (usize, Instant) {
        let origin = *self.origin.get_or_init(|| now);
        let elapsed = nanos(now.saturating_duration_since(origin));
        let elapsed = elapsed.max(self.latest.load(Relaxed)).max(state.elapsed);
        let rule = state.rule;
        let refill = (elapsed - state.elapsed).saturating_mul(rule.per_second.into());
        state.reserve = state.reserve.saturating_add(refill).min(rule.reserve);

        let next = |newest: u64| rule.slot.saturating_mul(newest.saturating_add(1));
        if elapsed >= next(state.newest) {
            let newest = elapsed / rule.slot;
            for slot in (state.newest + 1..=newest).rev().take(SLOTS) {
                self.deposits[place(slot)].store(0, Relaxed);
            }
            state.newest = newest;
        }
        state.elapsed = elapsed;
        let newest = place(state.newest);
        self.open.set(newest, next(state.newest));
        (newest, origin + Duration::from_nanos(elapsed))
    }
}

impl Open {
    const PLACE: u64 = 0xf;

    #[inline]
    fn at(&self, elapsed: u64) -> Option<usize> {
        let open = self.0.load(Acquire);
        (elapsed < open >> 4).then_some((open & Self::PLACE) as usize)
    }

    /// Until `next`, or for 36 years. Whoever sees it sees the slot emptied: what they
    /// add comes after that.
    fn set(&self, place: usize, next: u64) {
        let next = next.min(u64::MAX >> 4);
        self.0.store(next << 4 | place as u64, Release);
    }

    fn close(&self) {
        self.0.store(0, Relaxed);
    }
}

impl Rule {
    fn of(memory: Duration, per_second: u32, ratio: f64) -> Self {
        Self {
            deposit: share(ratio, TOKEN),
            per_second,
            slot: nanos(memory) / SLOTS as u64,
            reserve: nanos(memory).saturating_mul(per_second.into()),
        }
    }
}

fn check(memory: Duration, share: f64) -> Result<(), InvalidBudget> {
    if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&memory) {
        return Err(InvalidBudget::new(
            "memory",
            "a budget's memory must be 1 to 60 s",
        ));
    }
    if !(0.0..=1000.0).contains(&share) {
        return Err(InvalidBudget::new(
            "share",
            "a budget's share must be 0 to 1000",
        ));
    }
    Ok(())
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::of(Duration::from_secs(10), 10, 0.2)
    }
}

impl Budget for RetryBudget {
    #[inline]
    fn deposit(&self, now: Instant, outcome: &Outcome, _held: u32) {
        // A request that a fault ended had no answer, though it is not repeated: one
        // past its deadline, say.
        let fault = matches!(
            (outcome.verdict, outcome.cause),
            (Verdict::Failed(_), Cause::Fault(_))
        );
        let ended = outcome.verdict != Verdict::Ignored && outcome.repeat == Repeat::Never;
        if ended && !fault {
            let place = self.open_at(now).unwrap_or_else(|| {
                let state = &mut lock(&self.state);
                self.advance(state, now).0
            });
            self.add(place);
        }
    }

    fn try_withdraw(
        &self,
        now: Instant,
        _outcome: &Outcome,
        _held: u32,
    ) -> Result<u32, BudgetEmpty> {
        self.withdraw(&mut lock(&self.state), now)
            .map(|()| 0)
            .map_err(|retry_at| BudgetEmpty { retry_at })
    }

    fn retune(&self, rule: &BudgetRule) -> bool {
        let BudgetRule::Share {
            memory,
            per_second,
            share,
        } = *rule
        else {
            return false;
        };
        if check(memory, share).is_err() {
            return false;
        }
        let rule = Rule::of(memory, per_second, share);
        self.change(&mut lock(&self.state), rule);
        true
    }
}

fn place(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

#[inline]
fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}
