//! Writes batches of vectors into an index that throttles, slows down and dies
//! for a while, over HTTP or gRPC, and loses none.
//!
//! Without options it starts such an index by itself. `--help` lists the rest.

mod embedded;
mod endpoint;
mod journal;
mod letters;
mod options;
mod plot;
mod progress;
mod report;
mod run;
mod sampler;
mod send;
mod source;
mod tuning;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use tower_weir::BoxError;
use tower_weir_testkit::upstream::Upstream;

use self::{
    embedded::Embedded, endpoint::Endpoint, journal::Journal, letters::Letters, options::Options,
    plot::Plot, report::Report, run::Job, source::Source, tuning::Tuning,
};

/// The run could not begin.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    match bulk_upsert(&Options::parse()) {
        Ok(report) if report.lost == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // there is nowhere else to say it
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(MISUSED)
        }
    }
}

fn bulk_upsert(options: &Options) -> Result<Report, BoxError> {
    let source = Source::open(options)?;
    let tuning = Tuning::open(options)?;
    let journal = Journal::open(options, &source)?;
    let letters = Letters::open(options)?;
    let plot = options.plot.as_deref().map(Plot::create).transpose()?;
    let (endpoint, embedded) = match options.endpoint() {
        Some(endpoint) => (endpoint, None),
        None => {
            let embedded = Embedded::start(options)?;
            let endpoint: Endpoint = embedded.upstream.url().parse()?;
            let endpoint = match options.grpc {
                true => endpoint.over_grpc(),
                false => endpoint,
            };
            (endpoint, Some(embedded))
        }
    };
    let upstream = embedded.as_ref().map(|embedded| &*embedded.upstream);

    let size = (source.batches(), source.records());
    let job = Job {
        source,
        journal,
        workers: tuning.ceiling(),
    };
    let client = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (ended, series) = client.block_on(async {
        if upstream.is_none() {
            endpoint.check().await?;
        }
        let ended = match &endpoint {
            Endpoint::Http(url) => {
                let (upsert, gauge) = send::http(url, options, &tuning, &letters)?;
                tuning.follow(gauge.handle.clone())?;
                run::run(job, upsert, gauge).await
            }
            Endpoint::Grpc(url) => {
                let (upsert, gauge) = send::grpc(url, options, &tuning, &letters)?;
                tuning.follow(gauge.handle.clone())?;
                run::run(job, upsert, gauge).await
            }
        };
        // what is on its way to the file goes with the runtime
        letters.handle().flush().await?;
        ended
    })?;

    if let Some(plot) = plot {
        plot.draw(&series, upstream.map(Upstream::time_line).as_ref())?;
    }
    let report = Report::new(size, ended, &letters.handle(), upstream);
    report.print(options.json)?;
    Ok(report)
}
