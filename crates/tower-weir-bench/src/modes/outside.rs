//! Servers in processes of their own, under load generators that are other
//! people's programs: wrk and h2load.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use super::served::{CONNECTIONS, Handler, Variant};
use crate::{
    measure::{Effort, Spread, single_thread},
    report::{Line, Report},
};

/// How a server runs that is loaded from outside.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What its handler does.
    pub handler: Handler,
    /// How many threads it has; with one it has no others than its own.
    pub workers: usize,
}

impl Place {
    fn runtime(self) -> io::Result<Runtime> {
        match self.workers {
            0 | 1 => Ok(single_thread()),
            workers => Builder::new_multi_thread()
                .worker_threads(workers)
                .enable_all()
                .build(),
        }
    }
}

/// A server of one kind in this process, until it is killed. Its address is all it
/// says.
///
/// # Errors
///
/// Those of the runtime, of the socket and of the output.
pub fn serve(variant: Variant, place: Place) -> io::Result<()> {
    place.runtime()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut out = io::stdout();
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        variant.serve(place.handler, listener).await
    })
}

/// A server in a process of its own, which ends with this value.
pub(super) struct Process {
    child: Child,
    address: String,
}

impl Process {
    pub(super) fn new(variant: Variant, place: Place) -> io::Result<Self> {
        let name = clap::ValueEnum::to_possible_value(&variant);
        let name = name.map(|name| name.get_name().to_owned());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--handler", place.handler.name()])
            .args(["--workers", &place.workers.to_string(), "--variant"])
            .args(name)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut address)?;
        }
        let address = address.trim().to_owned();
        Ok(Self { child, address })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The processor time that it has used; `None` where the system does not say.
    pub(super) fn burnt(&self) -> Option<Duration> {
        // utime and stime, in hundredths of a second wherever Linux tells them.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = |n| fields.split_whitespace().nth(n)?.parse::<u64>().ok();
        Some(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    }

    fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A load generator, on one thread.
#[derive(Clone, Copy, Debug)]
enum Tool {
    Wrk,
    H2load,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Wrk => "wrk",
            Self::H2load => "h2load",
        }
    }

    /// Loads a server for so long. h2load is given a number of requests that takes
    /// about that, at the `rate` of a run before: with a duration, 1.52 does not
    /// always end. Returns how many requests have been answered well, and how many a
    /// second.
    fn run(self, url: &str, seconds: u64, rate: f64, files: &Files) -> Result<(u64, f64), String> {
        let mut command = Command::new(self.name());
        match self {
            Self::Wrk => command
                .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")])
                .arg("-s")
                .arg(&files.script),
            Self::H2load => command
                .args(["-t1", &format!("-c{CONNECTIONS}"), "-m1"])
                .arg(format!("-n{:.0}", rate * seconds as f64))
                .args(["-H", "content-type: application/json", "-d"])
                .arg(&files.body),
        };
        let output = command.arg(url).output();
        let output = output.map_err(|error| format!("{}: {error}", self.name()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        self.read(&said)
            .ok_or_else(|| format!("{} said: {said}", self.name()))
    }

    /// Reads what it says. `None` if not all went well.
    fn read(self, said: &str) -> Option<(u64, f64)> {
        let line = |word: &str| said.lines().find(|line| line.contains(word));
        match self {
            Self::Wrk => {
                if said.contains("Non-2xx") || said.contains("Socket errors") {
                    return None;
                }
                let requests = line(" requests in ")?.split_whitespace().next()?;
                let rate = line("Requests/sec:")?.split_whitespace().nth(1)?;
                Some((requests.parse().ok()?, rate.parse().ok()?))
            }
            Self::H2load => {
                let statuses = line("status codes:")?.strip_prefix("status codes:")?;
                let mut counts = statuses.split(',').map(|count| {
                    let number = count.split_whitespace().next()?;
                    number.parse::<u64>().ok()
                });
                let requests = counts.next()??;
                if counts.any(|count| count != Some(0)) {
                    return None;
                }
                let rate = line("finished in ")?.split(", ").nth(1)?;
                Some((requests, rate.strip_suffix(" req/s")?.parse().ok()?))
            }
        }
    }
}

/// What the load generators read.
struct Files {
    directory: PathBuf,
    script: PathBuf,
    body: PathBuf,
}

impl Files {
    fn new(body: &str) -> io::Result<Self> {
        let name = format!("tower-weir-bench-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        let write = |name: &str, text: &str| {
            let path: PathBuf = Path::join(&directory, name);
            fs::write(&path, text).map(|()| path)
        };
        let script = format!(
            "wrk.method = \"POST\"\nwrk.body = [=[{body}]=]\n\
             wrk.headers[\"content-type\"] = \"application/json\"\n"
        );
        Ok(Self {
            script: write("post.lua", &script)?,
            body: write("body", body)?,
            directory,
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What one run came to: requests a second, the server's processor time for each in
/// nanoseconds, and its memory at the end.
#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    burnt: f64,
    resident_kib: Option<u64>,
}

fn load(
    tool: Tool,
    variant: Variant,
    place: Place,
    seconds: u64,
    files: &Files,
) -> Result<Run, String> {
    let server = Process::new(variant, place).map_err(|error| error.to_string())?;
    // Warms up, and opens what it keeps.
    let url = format!("http://{}/", server.address());
    let (_, rate) = tool.run(&url, 1, 20e3, files)?;
    let before = server.burnt();
    let (requests, per_second) = tool.run(&url, seconds, rate, files)?;
    let burnt = server.burnt().zip(before);
    let burnt = burnt.map_or(f64::NAN, |(after, before)| (after - before).as_secs_f64());
    Ok(Run {
        per_second,
        burnt: burnt * 1e9 / requests as f64,
        resident_kib: server.resident_kib(),
    })
}

/// Servers in processes of their own, with 256 connections each by wrk (HTTP/1) and
/// by h2load (HTTP/2), in turns. A load generator that is not there is an error in
/// its line. The bare server is always among them.
///
/// # Errors
///
/// Those of the output and of the temporary files.
pub fn outside<W: Write>(
    report: &mut Report<W>,
    effort: &Effort,
    place: Place,
    seconds: u64,
) -> io::Result<()> {
    let files = Files::new(&place.handler.body())?;
    for tool in [Tool::Wrk, Tool::H2load] {
        let name = |variant: Variant| {
            let (tool, variant) = (tool.name(), variant.name());
            format!("{tool}, {CONNECTIONS} connections: {variant}")
        };
        let [bare, others @ ..] = Variant::ALL;
        let mut variants = vec![bare];
        variants.extend(others.into_iter().filter(|it| effort.wants(&name(*it))));
        if variants.len() == 1 {
            continue;
        }
        let mut runs: Vec<Vec<Run>> = variants.iter().map(|_| Vec::new()).collect();
        let mut failed = None;
        'runs: for round in 0..effort.rounds {
            for step in 0..runs.len() {
                let which = (round + step) % runs.len();
                match load(tool, variants[which], place, seconds, &files) {
                    Ok(run) => runs[which].push(run),
                    Err(error) => {
                        failed = Some(error);
                        break 'runs;
                    }
                }
            }
        }
        if let Some(error) = failed {
            report.line(Line::new("outside", tool.name()).with("error", error))?;
            continue;
        }
        let ratio = |own: &[Run], of: fn(&Run) -> f64| {
            let pairs = runs[0].iter().zip(own);
            let spread = Spread::of(
                &pairs
                    .map(|(bare, own)| of(own) / of(bare))
                    .collect::<Vec<_>>(),
            );
            spread.map(|spread| (spread.median * 1e3).round() / 1e3)
        };
        for (variant, own) in variants.iter().zip(&runs) {
            let name = name(*variant);
            let rates: Vec<_> = own.iter().map(|run| run.per_second).collect();
            let mut line = Line::new("outside", &name)
                .with("handler", place.handler.name())
                .with("workers", place.workers)
                .with("per_second", Spread::of(&rates).map(|it| it.median.round()))
                .with("throughput_over_bare", ratio(own, |run| run.per_second))
                .with("cpu_over_bare", ratio(own, |run| run.burnt))
                .with("resident_kib", own.last().and_then(|run| run.resident_kib));
            let burnt: Vec<_> = own.iter().map(|run| run.burnt).collect();
            line.nanos = Spread::of(&burnt);
            report.line(line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 30s test @ http://127.0.0.1:4321/
  1 threads and 256 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms  300.00us   9.00ms   90.00%
    Req/Sec   120.00k     2.00k  124.00k    70.00%
  3600123 requests in 30.00s, 425.00MB read
Requests/sec: 120004.10
Transfer/sec:     14.16MB
";

    const H2LOAD: &str = "\
finished in 30.01s, 90001.50 req/s, 3.00MB/s
requests: 2700045 total, 2700301 started, 2700045 done, 2700045 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2700045 2xx, 0 3xx, 0 4xx, 0 5xx
";

    #[test]
    fn what_the_load_generators_say_is_read() {
        assert_eq!(Tool::Wrk.read(WRK), Some((3_600_123, 120_004.1)));
        assert_eq!(Tool::H2load.read(H2LOAD), Some((2_700_045, 90_001.5)));
    }

    #[test]
    fn a_run_with_errors_is_none() {
        let errors = format!("{WRK}  Non-2xx or 3xx responses: 12\n");
        assert_eq!(Tool::Wrk.read(&errors), None);
        assert_eq!(Tool::H2load.read(&H2LOAD.replace("0 4xx", "7 4xx")), None);
        assert_eq!(Tool::H2load.read(""), None);
    }
}
