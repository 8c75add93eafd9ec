//! Runs an upstream on its own. It prints where it listens, then waits for
//! Ctrl-C and prints what it counted as JSON.

use std::{
    error::Error,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use tower_weir_testkit::upstream::{RefuseMode, ServiceTime, Story, Upstream};

/// A server that throttles, slows down and dies: HTTP/1, HTTP/2 and gRPC on one
/// port
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Requests served at once
    #[arg(long, default_value_t = 8)]
    slots: usize,
    /// Mean time of service
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    service: Duration,
    /// Coefficient of variation of the log-normal time of service; 0: constant
    #[arg(long, default_value_t = 0.3)]
    cv: f64,
    /// What becomes of a request above the slots
    #[arg(long, value_enum, default_value_t)]
    refuse: RefuseMode,
    /// What happens meanwhile: none, default or a TOML file
    #[arg(long, default_value = "none")]
    story: String,
    /// Seed of the times of service and of troubles
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0: any
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nothing is left to tell that standard error is closed
            let _ = writeln!(io::stderr(), "upstream: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let upstream = Upstream::builder()
        .addr(SocketAddr::new(args.host, args.port))
        .slots(args.slots)
        .service_time(ServiceTime::log_normal(args.service, args.cv)?)
        .refusal(args.refuse.refusal(args.slots))
        .story(Story::open(&args.story, args.slots)?)
        .seed(args.seed)
        .start()
        .await?;

    let mut out = io::stdout();
    writeln!(out, "{}\n{}", upstream.url(), upstream.grpc_url())?;
    tokio::signal::ctrl_c().await?;
    serde_json::to_writer_pretty(&out, &upstream.stats())?;
    writeln!(out)?;
    Ok(())
}
