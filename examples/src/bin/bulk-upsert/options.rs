use std::{num::NonZeroUsize, path::PathBuf};

use clap::Parser;
use tower_weir_testkit::upstream::RefuseMode;

use crate::endpoint::Endpoint;

/// Writes batches of vectors into an index that throttles, slows down and dies
/// for a while, and loses none
#[derive(Debug, Parser)]
#[command(name = "bulk-upsert", version)]
pub(crate) struct Options {
    /// Where to: http://host:port/path takes POSTed JSON, grpc://host:port the
    /// VectorIndex service. Default: an upstream inside this program
    #[arg(long, value_name = "URL", conflicts_with_all = ["slots", "refuse", "story"])]
    pub(crate) url: Option<Endpoint>,
    /// One record a line: {"id": "a", "vector": [0.5], "metadata": {"k": "v"}},
    /// or a line that --dead-letters wrote. Default: made vectors
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) input: Option<PathBuf>,
    /// How many batches at most. Default: 2000 of made vectors, or the whole
    /// input
    #[arg(long, value_name = "N")]
    pub(crate) batches: Option<usize>,
    /// Records in a batch. With the default dimension a batch is over 64 KiB
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) batch_size: NonZeroUsize,
    /// Coordinates of a made vector
    #[arg(
        long,
        value_name = "N",
        default_value = "512",
        conflicts_with = "input"
    )]
    pub(crate) dimension: NonZeroUsize,
    /// The limiter's ceiling
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) max_concurrency: NonZeroUsize,
    /// The settings of the stack, instead of those for bulk work; docs/config.toml
    /// has them all. Read again at each SIGHUP
    #[arg(long, value_name = "FILE.toml", conflicts_with = "max_concurrency")]
    pub(crate) config: Option<PathBuf>,
    /// How many requests the inner upstream serves at once
    #[arg(long, value_name = "K", default_value = "8")]
    pub(crate) slots: NonZeroUsize,
    /// How the inner upstream refuses what is above its slots
    #[arg(long, value_enum, default_value_t)]
    pub(crate) refuse: RefuseMode,
    /// What happens to the inner upstream meanwhile: default (its capacity
    /// falls, it is gone for a while, it comes back with more), none, or a TOML
    /// file
    #[arg(long, value_name = "default|none|FILE.toml", default_value = "default")]
    pub(crate) story: String,
    /// Speak gRPC, whatever the URL's scheme
    #[arg(long)]
    pub(crate) grpc: bool,
    /// What made vectors, times of service and jitter follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw limit, in-flight and the upstream's capacity over time
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Where a letter goes of each request that finally failed: of what was under
    /// way when the run was interrupted, too
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) dead_letters: Option<PathBuf>,
    /// Where it is written down which batches have been delivered
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) journal: Option<PathBuf>,
    /// Go on where the run ended, or was killed, that wrote the journal: what it
    /// delivered is not sent again. Input, batch size and URL must be the same
    #[arg(long, requires = "journal")]
    pub(crate) resume: bool,
}

impl Options {
    /// Where to, unless it is the upstream inside this program.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        let url = self.url.clone();
        url.map(|url| if self.grpc { url.over_grpc() } else { url })
    }
}
