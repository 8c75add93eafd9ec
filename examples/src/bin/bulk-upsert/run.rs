use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{signal::ctrl_c, sync::watch, task::JoinSet, time::Instant};
use tower_weir::{BoxError, shutdown::Shutdown};

use crate::{
    journal::Journal,
    progress::Progress,
    sampler::{Sampler, Series},
    send::{Gauge, Tally, Upsert},
    source::{Batch, Source},
};

/// How long what is under way may take after an interrupt.
const GRACE: Duration = Duration::from_secs(5);

/// What there is to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) source: Source,
    pub(crate) journal: Journal,
    /// As many batches are under way or waiting at once.
    pub(crate) workers: usize,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How long each delivered batch took, its waits included.
    pub(crate) times: Vec<Duration>,
    /// Batches that an earlier run had delivered.
    pub(crate) skipped: usize,
    pub(crate) wall: Duration,
    pub(crate) tally: Tally,
}

/// What the workers share.
struct Shared {
    source: Mutex<Source>,
    journal: Journal,
    done: AtomicUsize,
    skipped: AtomicUsize,
    shutdown: Shutdown,
    /// Whether answers that are still read are given up.
    over: watch::Receiver<bool>,
}

/// Sends all batches. Ctrl-C ends it early: what is under way has some seconds to
/// end, and what waits or has not begun counts as lost. Twice ends it at once.
pub(crate) async fn run<U: Upsert>(
    job: Job,
    upsert: U,
    gauge: Gauge,
) -> Result<(Ended, Series), BoxError> {
    let progress = Progress::new(job.source.batches());
    let (end, over) = watch::channel(false);
    let shutdown = gauge.shutdown.clone();
    let shared = Arc::new(Shared {
        source: Mutex::new(job.source),
        journal: job.journal,
        done: AtomicUsize::new(0),
        skipped: AtomicUsize::new(0),
        shutdown: shutdown.clone(),
        over,
    });
    let tally = gauge.tally.clone();
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..job.workers {
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
                if shutdown.has_begun() {
                    return Err("interrupted twice: stopped at once".into());
                }
                interrupt.set(ctrl_c());
                shutdown.begin();
                let (shutdown, end) = (shutdown.clone(), end.clone());
                tokio::spawn(async move {
                    shutdown.drain(GRACE).await;
                    end.send_replace(true);
                });
            }
        }
    }
    let wall = start.elapsed();
    progress.finish();
    let ended = Ended {
        times,
        skipped: shared.skipped.load(Ordering::Relaxed),
        wall,
        tally,
    };
    Ok((ended, sampler.into_series()))
}

/// Sends batch after batch until there are no more; returns how long each took.
async fn work<U: Upsert>(shared: Arc<Shared>, upsert: U) -> Result<Vec<Duration>, BoxError> {
    let mut times = Vec::new();
    let mut over = shared.over.clone();
    while let Some(batch) = shared.next()? {
        if shared.journal.has(&batch) {
            shared.skipped.fetch_add(1, Ordering::Relaxed);
            shared.done.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let start = Instant::now();
        let result = tokio::select! {
            biased;
            result = upsert.upsert(&batch) => result,
            // the sender lives as long as the workers
            _ = over.wait_for(|over| *over) => Err("interrupted".into()),
        };
        // what failed has left its letter, and is not in the journal
        if result.is_ok() {
            shared.journal.delivered(&batch)?;
            times.push(start.elapsed());
            shared.done.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(times)
}

impl Shared {
    fn next(&self) -> Result<Option<Batch>, BoxError> {
        if self.shutdown.has_begun() {
            return Ok(None);
        }
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.next()
    }
}
