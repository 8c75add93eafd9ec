//! Servers in processes of their own, and what lets only some processes run at a
//! time.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use super::served::{Handler, Variant};
use crate::measure::single_thread;

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
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut address)?;
        }
        let address = address.trim().to_owned();
        if address.is_empty() {
            return Err(io::Error::other("the server has not begun"));
        }
        Ok(Self { child, address })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The processor time that it has used; `None` where the system does not say.
    pub(super) fn burnt(&self) -> Option<Duration> {
        // utime and stime, in hundredths of a second wherever Linux tells them.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = |n| fields.split_whitespace().nth(n)?.parse::<u64>().ok();
        Some(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    }

    pub(super) fn resident_kib(&self) -> Option<u64> {
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

/// Leaves the processors to others for a moment.
#[expect(clippy::disallowed_methods, reason = "there are no tasks here")]
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Does what it is told. If this program ends before it has ended the others, they are
/// not left behind.
const SCRIPT: &str = r#"while read -r line; do eval "$line"; done; kill -KILL $ids"#;

/// A shell, whose `kill` stops processes and lets them go on without a process of its
/// own.
pub(super) struct Shell {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    pub(super) fn new() -> io::Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (commands, answers) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        let answers = BufReader::new(answers);
        Ok(Self {
            child,
            commands,
            answers,
        })
    }

    /// Sends a signal. Returns once that is done.
    pub(super) fn signal(&mut self, name: &str, ids: &[u32]) -> io::Result<()> {
        let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
        self.run(&format!("kill -{name} {} 2> /dev/null", ids.join(" ")))
    }

    /// Ends this process when the program ends.
    pub(super) fn keep(&mut self, id: u32) -> io::Result<()> {
        self.run(&format!("ids=\"$ids {id}\""))
    }

    /// Has a process and all its threads on one processor, where the system can do
    /// that.
    pub(super) fn pin(&mut self, id: u32, processor: usize) -> io::Result<()> {
        self.run(&format!(
            "taskset -a -c -p {processor} {id} > /dev/null 2>&1"
        ))
    }

    fn run(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.commands, "{command}; echo")?;
        self.commands.flush()?;
        self.answers.read_line(&mut String::new()).map(|_| ())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
