//! Load generators that are other people's programs: wrk and h2load.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    process::{Shell, pause},
    served::CONNECTIONS,
};

/// A load generator, on one thread.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tool {
    Wrk,
    H2load,
}

impl Tool {
    pub(super) const ALL: [Self; 2] = [Self::Wrk, Self::H2load];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Wrk => "wrk",
            Self::H2load => "h2load",
        }
    }

    /// Whether it goes on until it is interrupted. h2load would then say nothing, and
    /// given a time it does not always end (1.52): it is given a number of requests.
    pub(super) const fn is_interrupted(self) -> bool {
        matches!(self, Self::Wrk)
    }

    /// Begins to load a server.
    pub(super) fn start(self, url: &str, requests: f64, files: &Files) -> Result<Child, String> {
        let mut command = Command::new(self.name());
        match self {
            Self::Wrk => command
                .args(["-t1", &format!("-c{CONNECTIONS}"), "-d10h"])
                .arg("-s")
                .arg(&files.script),
            Self::H2load => command
                .args(["-t1", &format!("-c{CONNECTIONS}"), "-m1"])
                .arg(format!("-n{requests:.0}"))
                .args(["-H", "content-type: application/json", "-d"])
                .arg(&files.body),
        };
        let command = command.arg(url).stdin(Stdio::null());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        child.map_err(|error| format!("{}: {error}", self.name()))
    }

    /// How many requests have been answered, at its end. An error if not all of them
    /// were answered well.
    pub(super) fn requests(self, mut child: Child, shell: &mut Shell) -> Result<u64, String> {
        let failed = |error: io::Error| format!("{}: {error}", self.name());
        let id = [child.id()];
        shell.signal("CONT", &id).map_err(failed)?;
        // The first thread has to see it, and another may: it is told until it has.
        while self.is_interrupted() && child.try_wait().map_err(failed)?.is_none() {
            shell.signal("INT", &id).map_err(failed)?;
            pause();
        }
        let output = child.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout);
        self.read(&said).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{} said: {said}{errors}", self.name())
        })
    }

    fn read(self, said: &str) -> Option<u64> {
        let line = |word: &str| said.lines().find(|line| line.contains(word));
        match self {
            Self::Wrk => {
                // Those it calls late were with a server that was stopped.
                let errors = line("Socket errors:");
                let is_well = |errors: &str| errors.contains("connect 0, read 0, write 0,");
                if said.contains("Non-2xx") || !errors.is_none_or(is_well) {
                    return None;
                }
                let requests = line(" requests in ")?.split_whitespace().next()?;
                requests.parse().ok()
            }
            Self::H2load => {
                // Those that got no answer have no status.
                let ends = line("requests:")?;
                if !ends.ends_with(", 0 failed, 0 errored, 0 timeout") {
                    return None;
                }
                let statuses = line("status codes:")?.strip_prefix("status codes:")?;
                let mut counts = statuses.split(',').map(|count| {
                    let number = count.split_whitespace().next()?;
                    number.parse::<u64>().ok()
                });
                let requests = counts.next()??;
                let is_well = counts.all(|count| count == Some(0)) && requests > 0;
                is_well.then_some(requests)
            }
        }
    }
}

/// What the load generators read.
pub(super) struct Files {
    directory: PathBuf,
    script: PathBuf,
    body: PathBuf,
}

impl Files {
    pub(super) fn new(body: &str) -> io::Result<Self> {
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
        assert_eq!(Tool::Wrk.read(WRK), Some(3_600_123));
        assert_eq!(Tool::H2load.read(H2LOAD), Some(2_700_045));
    }

    #[test]
    fn a_run_with_errors_is_none() {
        let errors = format!("{WRK}  Non-2xx or 3xx responses: 12\n");
        assert_eq!(Tool::Wrk.read(&errors), None);
        let broken = format!("{WRK}  Socket errors: connect 0, read 1, write 0, timeout 0\n");
        assert_eq!(Tool::Wrk.read(&broken), None);
        let late = format!("{WRK}  Socket errors: connect 0, read 0, write 0, timeout 9\n");
        assert_eq!(Tool::Wrk.read(&late), Some(3_600_123));
        assert_eq!(Tool::H2load.read(&H2LOAD.replace("0 4xx", "7 4xx")), None);
        assert_eq!(Tool::H2load.read(""), None);
        // Of requests that got no answer, h2load 1.52 says nothing among the statuses.
        let unanswered = H2LOAD.replace("0 failed, 0 errored", "9 failed, 9 errored");
        assert_eq!(Tool::H2load.read(&unanswered), None);
        assert_eq!(
            Tool::H2load.read(&H2LOAD.replace("2700045 2xx", "0 2xx")),
            None
        );
    }
}
