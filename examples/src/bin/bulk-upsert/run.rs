use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{signal::ctrl_c, sync::watch, task::JoinSet, time::Instant};
use tower_weir::BoxError;

use crate::{
    failed::Failed,
    progress::Progress,
    sampler::{Sampler, Series},
    send::{self, Gauge, Tally, Upsert},
    source::{Batch, Source},
};

/// What there is to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) source: Source,
    pub(crate) failed: Failed,
    /// As many batches are under way or waiting at once.
    pub(crate) workers: NonZeroUsize,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How long each delivered batch took, its waits included.
    pub(crate) times: Vec<Duration>,
    pub(crate) wall: Duration,
    pub(crate) tally: Tally,
}

/// What the workers share.
struct Shared {
    source: Mutex<Source>,
    failed: Failed,
    done: AtomicUsize,
    stop: watch::Receiver<bool>,
}

/// Sends all batches. Ctrl-C ends it early: what was under way or had not begun
/// counts as lost.
pub(crate) async fn run<U: Upsert>(
    job: Job,
    upsert: U,
    gauge: Gauge,
) -> Result<(Ended, Series), BoxError> {
    let progress = Progress::new(job.source.batches());
    let (stopper, stop) = watch::channel(false);
    let shared = Arc::new(Shared {
        source: Mutex::new(job.source),
        failed: job.failed,
        done: AtomicUsize::new(0),
        stop,
    });
    let tally = gauge.tally.clone();
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..job.workers.get() {
        workers.spawn(work(shared.clone(), upsert.clone()));
    }
    let mut sampler = Sampler::new(gauge, start);
    let mut times = Vec::new();
    // kept from one turn of the loop to the next, or what comes between is lost
    let mut interrupt = std::pin::pin!(ctrl_c());
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => times.extend(ended??),
                None => break,
            },
            () = sampler.tick() => {
                let done = shared.done.load(Ordering::Relaxed);
                progress.show(done, sampler.sample(), &tally);
            }
            interrupted = &mut interrupt => {
                interrupted?;
                if stopper.send_replace(true) {
                    return Err("interrupted twice: stopped at once".into());
                }
                interrupt.set(ctrl_c());
            }
        }
    }
    let wall = start.elapsed();
    progress.finish();
    Ok((Ended { times, wall, tally }, sampler.into_series()))
}

/// Sends batch after batch until there are no more; returns how long each took.
async fn work<U: Upsert>(shared: Arc<Shared>, upsert: U) -> Result<Vec<Duration>, BoxError> {
    let mut times = Vec::new();
    let mut stop = shared.stop.clone();
    while let Some(batch) = shared.next()? {
        let start = Instant::now();
        let result = tokio::select! {
            biased;
            // the sender lives as long as the workers
            _ = stop.wait_for(|stop| *stop) => Err("interrupted".into()),
            result = upsert.deliver(&batch) => result,
        };
        match result {
            Ok(()) => {
                times.push(start.elapsed());
                shared.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => shared.failed.write(&batch, &send::chain(error.as_ref()))?,
        }
    }
    Ok(times)
}

impl Shared {
    fn next(&self) -> Result<Option<Batch>, BoxError> {
        if *self.stop.borrow() && !self.failed.is_wanted() {
            return Ok(None);
        }
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.next()
    }
}
