//! Measures the layers beside the rivals. See `docs/performance.md`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use tower_weir_bench::{
    Effort, Report,
    modes::{self, Handler, Place, Variant},
};

/// Measures what the layers cost, beside the rivals.
#[derive(Parser)]
struct Options {
    /// What to measure.
    #[arg(value_enum, default_value_t = Mode::All)]
    mode: Mode,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// How many rounds each subject gets, in turn with the others.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Measure only subjects whose name contains this, or after a `=` is this.
    #[arg(long, default_value = "")]
    only: String,
    /// For how long wrk and h2load load each server in a round.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Which server `serve` is.
    #[arg(long, value_enum, default_value_t = Variant::Admission)]
    variant: Variant,
    /// What the handlers of `outside` and `serve` do.
    #[arg(long, value_enum, default_value_t)]
    handler: Handler,
    /// How many threads those servers have.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One call after another on one thread.
    Overhead,
    /// The parts of a call that no stack can do without.
    Floor,
    /// 64 tasks on 2 threads sharing one service.
    Contended,
    /// Heap allocations, and the sizes of futures.
    Allocs,
    /// Breakers over windows of several sizes.
    Window,
    /// One host, 256 hosts, and 10,000 hosts that come and go.
    Registry,
    /// One wake among up to 100,000 waiters.
    Waiters,
    /// A client and a server on the loopback.
    Http,
    /// A server with admission that is sent more than it can do.
    Server,
    /// Servers in processes of their own, under wrk and h2load.
    Outside,
    /// One of those servers, until it is killed.
    Serve,
    /// All but the last two.
    All,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    let place = Place {
        handler: options.handler,
        workers: options.workers,
    };
    if options.mode == Mode::Serve {
        return modes::serve(options.variant, place);
    }
    let mut report = Report::new(io::stdout().lock(), options.json)?;
    let effort = Effort {
        rounds: options.rounds.max(1),
        only: options.only.clone(),
    };
    let runs = |mode| options.mode == Mode::All || options.mode == mode;
    if runs(Mode::Overhead) {
        modes::overhead(&mut report, &effort)?;
    }
    if runs(Mode::Floor) {
        modes::floor(&mut report, &effort)?;
    }
    if runs(Mode::Contended) {
        modes::contended(&mut report, &effort)?;
    }
    if runs(Mode::Allocs) {
        modes::allocs(&mut report, &effort)?;
    }
    if runs(Mode::Window) {
        modes::window(&mut report, &effort)?;
    }
    if runs(Mode::Registry) {
        modes::registry(&mut report, &effort)?;
    }
    if runs(Mode::Waiters) {
        modes::waiters(&mut report, &effort)?;
    }
    if runs(Mode::Http) {
        modes::http(&mut report, &effort)?;
    }
    if runs(Mode::Server) {
        modes::server(&mut report, &effort)?;
    }
    // Not one of all: it takes half an hour, and programs that may not be there.
    if options.mode == Mode::Outside {
        modes::outside(&mut report, &effort, place, options.seconds)?;
    }
    Ok(())
}
