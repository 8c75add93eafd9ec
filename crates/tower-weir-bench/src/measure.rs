//! How a subject is measured: in rounds that take turns with the other
//! subjects', so that what disturbs the machine disturbs all alike.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use cpu_time::ThreadTime;
use tokio::runtime::{Builder, Runtime};

use crate::subjects::{Drive, Subject};

/// A round that takes longer has hung: nothing measured here waits for anything.
const HUNG: Duration = Duration::from_secs(20);

/// So long a round is to be, of processor time.
const ROUND: Duration = Duration::from_millis(4);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Effort {
    /// How many rounds each subject gets.
    pub rounds: usize,
    /// Only subjects whose name contains this, or after a `=` is this.
    pub only: String,
}

impl Effort {
    pub(crate) fn wants(&self, name: &str) -> bool {
        match self.only.strip_prefix('=') {
            Some(whole) => name == whole,
            None => name.contains(&self.only),
        }
    }
}

/// The middle of some numbers, and the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| sorted.get(((sorted.len() as f64 - 1.0) * part).round() as usize);
        Some(Self {
            low: *at(0.25)?,
            median: *at(0.5)?,
            high: *at(0.75)?,
        })
    }
}

/// What a call takes from the heap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allocations {
    pub(crate) count: f64,
    pub(crate) bytes: f64,
}

/// The runtime of everything that is measured on one thread.
pub fn single_thread() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime without any threads")
}

/// Runs something to its end, or says why it came to none.
pub(crate) fn bounded<T>(
    runtime: &Runtime,
    future: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let bounded = async {
        tokio::select! {
            biased;
            result = future => result,
            () = tokio::time::sleep(HUNG) => Err(format!("hung for {HUNG:?}")),
        }
    };
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(bounded)))
        .unwrap_or_else(|_| Err("panicked".to_owned()))
}

fn round(runtime: &Runtime, drive: &mut dyn Drive, calls: u64) -> Result<Duration, String> {
    bounded(runtime, async {
        let start = ThreadTime::now();
        drive.run(calls).await?;
        Ok(start.elapsed())
    })
}

/// How many calls make a round, from the time that some take. It also warms up.
pub(crate) fn calibrate(
    mut time: impl FnMut(u64) -> Result<Duration, String>,
) -> Result<u64, String> {
    let mut calls = 200;
    loop {
        let took = time(calls)?;
        if took >= ROUND / 4 || calls > 10_000_000 {
            let per_call = took.as_secs_f64() / calls as f64;
            return Ok((ROUND.as_secs_f64() / per_call).ceil() as u64);
        }
        calls *= 4;
    }
}

/// Times the subjects in turns; for each, the time of a call, or what went wrong.
pub(crate) fn in_turns(
    effort: &Effort,
    count: usize,
    mut time: impl FnMut(usize, u64) -> Result<Duration, String>,
) -> Vec<Result<Spread, String>> {
    let mut calls: Vec<Result<u64, String>> = (0..count)
        .map(|subject| calibrate(|calls| time(subject, calls)))
        .collect();
    let mut samples = vec![Vec::with_capacity(effort.rounds); count];
    for turn in 0..effort.rounds {
        for step in 0..count {
            // Another one begins each turn: who follows whom is no advantage.
            let subject = (turn + step) % count;
            let Ok(batch) = calls[subject] else { continue };
            match time(subject, batch) {
                Ok(took) => samples[subject].push(took.as_secs_f64() * 1e9 / batch as f64),
                Err(error) => calls[subject] = Err(error),
            }
        }
    }
    let spread = |(calls, samples): (Result<u64, String>, Vec<f64>)| {
        calls.and_then(|_| Spread::of(&samples).ok_or_else(|| "no round".to_owned()))
    };
    calls.into_iter().zip(samples).map(spread).collect()
}

/// Times subjects on one thread, in its processor time.
pub(crate) fn times(effort: &Effort, subjects: &mut [Subject]) -> Vec<Result<Spread, String>> {
    let runtime = single_thread();
    in_turns(effort, subjects.len(), |subject, calls| {
        round(&runtime, &mut *subjects[subject].drive, calls)
    })
}

/// Counts what a call of the subject takes from the heap, once it is warm.
pub(crate) fn allocations(subject: &mut Subject) -> Result<Allocations, String> {
    const CALLS: u64 = 1000;
    let runtime = single_thread();
    let mut count = |calls| {
        let before = densa_alloc::thread_stats();
        bounded(&runtime, subject.drive.run(calls))?;
        let stats = densa_alloc::thread_stats().since(before);
        Ok::<_, String>((stats.allocs + stats.reallocs, stats.bytes_allocated))
    };
    count(CALLS)?;
    let (idle, idle_bytes) = count(0)?;
    let (busy, busy_bytes) = count(CALLS)?;
    let per_call = |idle: u64, busy: u64| (busy as f64 - idle as f64) / CALLS as f64;
    Ok(Allocations {
        count: per_call(idle, busy),
        bytes: per_call(idle_bytes, busy_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_median_and_the_quartiles() {
        let spread = Spread::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 4.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn who_fails_is_reported_and_the_others_go_on() {
        let effort = Effort {
            rounds: 3,
            only: String::new(),
        };
        let found = in_turns(&effort, 2, |subject, calls| match subject {
            0 => Err("broken".to_owned()),
            _ => Ok(Duration::from_micros(calls)),
        });
        assert_eq!(found[0], Err("broken".to_owned()));
        assert_eq!(found[1].as_ref().unwrap().median.round(), 1000.0);
    }

    #[test]
    fn a_panic_is_reported() {
        let found = bounded(&single_thread(), async {
            if true {
                panic!("as asked");
            }
            Ok(())
        });
        assert_eq!(found, Err("panicked".to_owned()));
    }
}
